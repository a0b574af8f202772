package match_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// BenchmarkDecodeMatch measures decoding and matching of real CloudTrail records
// with the SigmaHQ rules, ours and the reference: encoding/json into a map, and
// the rules walked one by one. Both are checked to find the same first. The
// ratio is the metric x/reference; x/lossy is the one to the same reference with
// numbers decoded into float64, which is faster but not always right.
func BenchmarkDecodeMatch(b *testing.B) {
	needShared(b)
	for _, rules := range []struct {
		name string
		dirs []string
	}{
		{"SigmaHQ", []string{"aws"}},
		{"SigmaHQ+Suzaku", []string{"aws", "suzaku_aws"}},
	} {
		b.Run(rules.name, func(b *testing.B) {
			set := awsRules(b, rules.dirs...)
			records := decoded(awsRecords(b))
			refs := reference(b, set, plainLike)
			m := match.New(set)
			checkSame(b, set, m, refs, records)
			var size int64
			for _, r := range records {
				size += int64(len(r))
			}
			ratio := timeRatio(m, refs, records, decodeMap)
			lossy := timeRatio(m, refs, records, decodeLossy)
			b.Run("vedette", func(b *testing.B) {
				benchVedette(b, m, records, size)
				b.ReportMetric(ratio, "x/reference")
				b.ReportMetric(lossy, "x/lossy")
			})
			b.Run("reference", func(b *testing.B) {
				for b.Loop() {
					for _, r := range records {
						runReference(refs, r, decodeMap)
					}
				}
				reportEvents(b, len(records), size)
			})
		})
	}
}

func benchVedette(b *testing.B, m *match.Matcher, records [][]byte, size int64) {
	d := event.NewDecoder()
	var ev event.Event
	var hits []int32
	b.ReportAllocs()
	for b.Loop() {
		for _, r := range records {
			if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
				b.Fatal(err)
			}
			hits = m.Match(&ev, hits[:0])
		}
	}
	reportEvents(b, len(records), size)
}

func reportEvents(b *testing.B, records int, size int64) {
	n := float64(b.N * records)
	b.ReportMetric(n/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/event")
	b.ReportMetric(float64(size)/float64(records), "B/event")
}

type decodeFunc func([]byte) (any, error)

func runReference(refs []refRule, r []byte, decode decodeFunc) int {
	doc, err := decode(r)
	if err != nil {
		return -1
	}
	n := 0
	for i := range refs {
		if refs[i].holds(doc) {
			n++
		}
	}
	return n
}

// timeRatio lets the two take turns, so that both see the same machine, and
// compares the sums of their CPU times on one core: what the garbage collector
// costs is part of it, what others on the machine do is not.
func timeRatio(m *match.Matcher, refs []refRule, records [][]byte, decode decodeFunc) float64 {
	const rounds, ourPasses, theirPasses = 10, 30, 2
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	d := event.NewDecoder()
	var ev event.Event
	var hits []int32
	var ours, theirs time.Duration
	for range rounds {
		runtime.GC() // or what is left to collect of their turn would be done in ours
		start := cpuTime()
		for range ourPasses {
			for _, r := range records {
				if d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}) == nil {
					hits = m.Match(&ev, hits[:0])
				}
			}
		}
		turn := cpuTime()
		for range theirPasses {
			for _, r := range records {
				runReference(refs, r, decode)
			}
		}
		ours += turn - start
		theirs += cpuTime() - turn
	}
	return (float64(theirs) / theirPasses) / (float64(ours) / ourPasses)
}

// checkSame also warms the plans up.
func checkSame(tb testing.TB, set *rule.Set, m *match.Matcher, refs []refRule, records [][]byte) {
	tb.Helper()
	d := event.NewDecoder()
	var ev event.Event
	found := 0
	for range 3 {
		for i, r := range records {
			if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
				tb.Fatal(err)
			}
			doc, err := decodeMap(r)
			if err != nil {
				tb.Fatal(err)
			}
			got, want := matched(set, m, &ev), referenceMatched(refs, doc)
			if !slices.Equal(got, want) {
				tb.Fatalf("record %d: matched %v, reference %v\n%s", i, got, want, r)
			}
			found += len(got)
		}
	}
	if found == 0 {
		tb.Fatal("nothing matches")
	}
}

// BenchmarkStages splits the cost: decode alone, match alone, observe alone.
func BenchmarkStages(b *testing.B) {
	needShared(b)
	set := awsRules(b, "aws", "suzaku_aws")
	records := decoded(awsRecords(b))
	events := make([]*event.Event, len(records))
	for i, r := range records {
		events[i] = new(event.Event)
		if err := event.NewDecoder().Decode(events[i], event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
			b.Fatal(err)
		}
	}
	perEvent := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/event")
	}
	b.Run("decode", func(b *testing.B) {
		d := event.NewDecoder()
		var ev event.Event
		for b.Loop() {
			for _, r := range records {
				if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
					b.Fatal(err)
				}
			}
		}
		perEvent(b)
	})
	b.Run("match", func(b *testing.B) {
		m := match.New(set)
		var hits []int32
		for b.Loop() {
			for _, ev := range events {
				hits = m.Match(ev, hits[:0])
			}
		}
		perEvent(b)
	})
	b.Run("observe", func(b *testing.B) {
		m := match.New(set)
		var sink counter
		for b.Loop() {
			for _, ev := range events {
				m.Observe(ev, "default", detect.Pointer{}, ev.Time, &sink)
			}
		}
		perEvent(b)
		if sink == 0 {
			b.Fatal("nothing observed")
		}
	})
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			match.New(set)
		}
	})
}

type counter int

func (c *counter) Observe(*rule.Rule, string, []byte, detect.Observation) { *c++ }

func ExampleMatcher() {
	set, _, err := rule.FromSources(map[string][]byte{"root.yml": []byte(`
title: Root login
id: 5d2b0a0e-5f3a-4e0c-9f7e-0d9a4f2d1c11
logsource: {product: aws, service: cloudtrail}
detection:
  login: {eventName: ConsoleLogin}
  root: {userIdentity.type: Root}
  condition: login and root
`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	var ev event.Event
	record := `{"eventTime":"2026-01-02T03:04:05Z","eventSource":"signin.amazonaws.com","eventName":"ConsoleLogin","userIdentity":{"type":"Root"}}`
	if err := event.NewDecoder().Decode(&ev, event.Record{Data: []byte(record)}); err != nil {
		fmt.Println(err)
		return
	}
	for _, i := range match.New(set).Match(&ev, nil) {
		fmt.Println(set.Detections[i].Title)
	}
	// Output: Root login
}
