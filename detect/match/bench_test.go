package match_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// BenchmarkDecodeMatch measures decoding and matching of real CloudTrail records
// with the SigmaHQ rules against the obvious way to do it: encoding/json into a
// map[string]any, and the rules walked one by one. Both are first checked to find
// the same. How many times as fast we are is the metric x/encoding-json.
func BenchmarkDecodeMatch(b *testing.B) {
	needShared(b)
	for _, rules := range []struct {
		name string
		set  *rule.Set
	}{
		{"SigmaHQ", awsRules(b, "aws")},
		{"SigmaHQ+Suzaku", awsRules(b, "aws", "suzaku_aws")},
		{"varied", varied(b, awsRules(b, "aws", "suzaku_aws"), 790)},
	} {
		b.Run(rules.name, func(b *testing.B) {
			set := rules.set
			records := decoded(awsRecords(b))
			refs := reference(b, set, plainLike)
			m := match.New(set)
			checkSame(b, set, m, refs, records)
			d, ev, hits := event.NewDecoder(), new(event.Event), []int32(nil)
			ours := func() {
				for _, r := range records {
					if err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
						b.Fatal(err)
					}
					hits = m.Match(ev, hits[:0])
				}
			}
			sink := counter(0)
			observed := func() {
				for _, r := range records {
					if err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
						b.Fatal(err)
					}
					m.Observe(ev, "default", detect.Pointer{}, ev.Time, &sink)
				}
			}
			theirs := func() {
				for _, r := range records {
					runReference(refs, r)
				}
			}
			ratio := timeRatio(ours, theirs)
			b.Run("vedette", func(b *testing.B) {
				benchEvents(b, records, ours)
				b.ReportMetric(ratio, "x/encoding-json")
			})
			// And with the observations of what matches made, as the owner makes them.
			b.Run("observed", func(b *testing.B) {
				observed()
				benchEvents(b, records, observed)
				if sink == 0 {
					b.Fatal("nothing observed")
				}
			})
			b.Run("encoding-json", func(b *testing.B) { benchEvents(b, records, theirs) })
		})
	}
}

// benchEvents measures a pass over some records, in what the process computes on
// one core: what the garbage collector costs is part of it, what others on the
// machine do is not.
func benchEvents(b *testing.B, records [][]byte, pass func()) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	size := 0
	for _, r := range records {
		size += len(r)
	}
	b.ReportAllocs()
	start := cpuTime()
	for b.Loop() {
		pass()
	}
	spent, n := cpuTime()-start, float64(b.N*len(records))
	b.ReportMetric(n/spent.Seconds(), "events/cpu-s")
	b.ReportMetric(float64(spent.Nanoseconds())/n, "cpu-ns/event")
	b.ReportMetric(float64(size)/float64(len(records)), "B/event")
}

func runReference(refs []refRule, r []byte) int {
	doc, err := decodeMap(r)
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
// compares their CPU times on one core. It is the median of the turns' ratios.
func timeRatio(ours, theirs func()) float64 {
	const turns, ourPasses, theirPasses = 11, 50, 3
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	ratios := make([]float64, turns)
	for i := range ratios {
		runtime.GC() // or what is left to collect of their turn would be done in ours
		start := cpuTime()
		for range ourPasses {
			ours()
		}
		turn := cpuTime()
		for range theirPasses {
			theirs()
		}
		end := cpuTime()
		ratios[i] = float64(end-turn) / theirPasses / (float64(turn-start) / ourPasses)
	}
	slices.Sort(ratios)
	return ratios[turns/2]
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
	b.Run("decode", func(b *testing.B) {
		d := event.NewDecoder()
		var ev event.Event
		benchEvents(b, records, func() {
			for _, r := range records {
				if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("match", func(b *testing.B) {
		m := match.New(set)
		var hits []int32
		pass := func() {
			for _, ev := range events {
				hits = m.Match(ev, hits[:0])
			}
		}
		pass()
		pass() // by now every kind of event has its plan
		benchEvents(b, records, pass)
	})
	b.Run("observe", func(b *testing.B) {
		m := match.New(set)
		var sink counter
		pass := func() {
			for _, ev := range events {
				m.Observe(ev, "default", detect.Pointer{}, ev.Time, &sink)
			}
		}
		pass()
		pass()
		benchEvents(b, records, pass)
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
