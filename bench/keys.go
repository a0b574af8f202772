package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"text/tabwriter"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// MaxKeys bounds the keys that are measured, at about as many bytes of memory as
// a large machine has.
const MaxKeys = 20_000_000

// valuesPerKey is how many values a key of value_count gets: each in a pane of its
// own, which is what costs most.
const valuesPerKey = 30

// KeysOptions say how much state to measure.
type KeysOptions struct {
	Keys     int            // live at the same time
	Progress func(Progress) // may be nil
}

// KeysReport is what state costs.
type KeysReport struct {
	Machine    Machine  `json:"machine"`
	Keys       int      `json:"keys"`
	EventCount KeyCost  `json:"event_count"`
	ValueCount KeyCost  `json:"value_count"`
	Takeover   Takeover `json:"takeover"`
}

// KeyCost is what the keys of one rule cost. RSS is of the whole process, with
// what decoding leaves to be collected; 0: the system does not tell.
type KeyCost struct {
	PerKey      int     `json:"events_per_key"`
	BytesPerKey float64 `json:"bytes_per_key"`
	BytesPerEv  float64 `json:"bytes_per_event"`
	HeapBytes   int64   `json:"heap_bytes"`
	RSS         int64   `json:"rss_bytes"`
	PeakRSS     int64   `json:"peak_rss_bytes"`
	NsPerEvent  float64 `json:"cpu_ns_per_event"` // decode and apply
}

// Takeover is how long a new owner took from taking a partition over, whose owner
// had been killed, to being live with all windows rebuilt.
type Takeover struct {
	Observations int64   `json:"observations"`
	LogBytes     int64   `json:"log_bytes"` // read again, uncompressed
	Seconds      float64 `json:"seconds"`
	CPUSeconds   float64 `json:"cpu_seconds"`

	// The same with a snapshot that was five minutes old when the owner was killed.
	FromSnapshot  float64 `json:"from_snapshot_seconds"`
	SnapshotBytes int64   `json:"snapshot_bytes"`
	SnapshotPause float64 `json:"snapshot_pause_seconds"` // of the owner that gathered it
}

// Keys measures what the state of live keys costs, and a takeover of them.
func Keys(ctx context.Context, o KeysOptions) (*KeysReport, error) {
	if o.Keys < 1000 || o.Keys > MaxKeys {
		return nil, fmt.Errorf("bench: %d keys: want 1,000 to %d", o.Keys, MaxKeys)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	r := &KeysReport{
		Machine: Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH},
		Keys:    o.Keys,
	}
	var err error
	if r.EventCount, err = keyCost(ctx, &o, "event_count", keyRule("type: event_count", "condition: {gte: 1000000}"), 1); err != nil {
		return nil, fmt.Errorf("bench: event_count: %w", err)
	}
	if r.ValueCount, err = keyCost(ctx, &o, "value_count", keyRule("type: value_count", "condition: {field: gateway.route, gte: 1000000}"), valuesPerKey); err != nil {
		return nil, fmt.Errorf("bench: value_count: %w", err)
	}
	if r.Takeover, err = takeOver(ctx, &o); err != nil {
		return nil, fmt.Errorf("bench: takeover: %w", err)
	}
	return r, nil
}

// keyRule is a rule over an hour, by address, that does not fire.
func keyRule(typ, condition string) string {
	return `title: Bench Request
id: 0f5b6a30-6a55-4f3e-9a4e-000000000003
name: bench_request
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {layer: gateway}, condition: sel}
---
title: Bench Keys
id: 0f5b6a30-6a55-4f3e-9a4e-000000000004
status: test
level: medium
correlation: {` + typ + `, rules: [bench_request], group-by: [src_endpoint.ip], timespan: 1h, ` + condition + `}
`
}

func oneRule(text string) (*rule.Set, *rule.Rule, error) {
	set, _, err := rule.FromSources(map[string][]byte{"keys.yml": []byte(text)})
	if err != nil {
		return nil, nil, err
	}
	if len(set.Correlations) != 1 {
		return nil, nil, fmt.Errorf("%d rules, want one", len(set.Correlations))
	}
	return set, set.Correlations[0], nil
}

// sections makes sections of observations in which each key has one event a round,
// and rounds follow one another in event time.
type sections struct {
	b    detect.SectionBuilder
	rule *rule.Rule
	keys int
	at   int64 // offset
	from int64 // time of the first, ns
	step int64 // ns between two rounds
}

func (s *sections) next() []byte {
	const n = 1000
	s.b.Reset()
	src := detect.Source{Incarnation: 1}
	sec := detect.Section{Source: src, From: s.at, To: s.at + n, Generation: generationName}
	var key [24]byte
	for off := s.at; off < s.at+n; off++ {
		round, k := off/int64(s.keys), off%int64(s.keys)
		stamp := s.from + round*s.step + s.step*k/int64(s.keys)
		o := detect.Observation{
			Pointer: detect.Pointer{Source: src, Offset: off, CRC: uint32(off)}, Time: stamp, Stamp: stamp,
			IDHash: uint64(off+1) * 0x9e3779b97f4a7c15,
		}
		if s.rule.Correlation.Type == rule.ValueCount {
			o.Label = labels[round%int64(len(labels))]
		}
		b := appendIP(key[1:1], byte(10+k>>17), uint32(k))
		key[0] = byte(len(b))
		s.b.Add("default", s.rule.Version, key[:1+len(b)], o)
		sec.Clock = stamp
	}
	sec.Groups = s.b.Groups()
	s.at += n
	return detect.AppendBatch(nil, []detect.Section{sec})
}

var labels = func() (l [valuesPerKey]string) {
	for i := range l {
		l[i] = fmt.Sprintf("GET /orders/v1/resource%d", i)
	}
	return l
}()

// keep is a generation of the rules: the window and how late an access log line
// may be. The first is that of the epoch.
const keep = int64(time.Hour + 15*time.Minute)

// start is when a generation begins.
var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC).UnixNano() / keep * keep

func keyCost(ctx context.Context, o *KeysOptions, stage, text string, rounds int) (KeyCost, error) {
	set, r, err := oneRule(text)
	if err != nil {
		return KeyCost{}, err
	}
	e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 10, MaxKeys: o.Keys})
	if err := e.AddRules(set); err != nil {
		return KeyCost{}, err
	}
	s := &sections{rule: r, keys: o.Keys, from: start, step: int64(time.Hour) / int64(rounds)}
	debug.FreeOSMemory()
	resetPeak()
	before := heapBytes()
	total := int64(o.Keys) * int64(rounds)
	var spent time.Duration
	var l lap
	for s.at < total {
		if ctx.Err() != nil {
			return KeyCost{}, ctx.Err()
		}
		b := s.next()
		l.take()
		secs, err := detect.DecodeBatch(b)
		if err != nil {
			return KeyCost{}, err
		}
		if res := e.Apply(&secs[0], false); res != correlate.Applied {
			return KeyCost{}, fmt.Errorf("section: %v", res)
		}
		spent += l.take()
		if s.at%100_000 == 0 {
			e.Flush()
			o.Progress(Progress{Stage: stage, Done: int(s.at), Of: int(total)})
		}
	}
	if st := e.Stats(); st.Folded > 0 || st.Duplicates > 0 || st.Observations != s.at {
		return KeyCost{}, fmt.Errorf("the state is not what it should be: %+v", st)
	}
	c := KeyCost{PerKey: rounds, NsPerEvent: float64(spent) / float64(s.at)}
	c.RSS, c.PeakRSS = resident()
	c.HeapBytes = heapBytes() - before
	c.BytesPerKey = float64(c.HeapBytes) / float64(o.Keys)
	c.BytesPerEv = c.BytesPerKey / float64(rounds)
	runtime.KeepAlive(e)
	return c, nil
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// JSON writes the report as indented JSON.
func (r *KeysReport) JSON(w io.Writer) error { return writeJSON(w, r) }

// Table writes the report for people.
func (r *KeysReport) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "machine\t%d CPUs, %s, %s\n", r.Machine.CPUs, r.Machine.Platform, r.Machine.Go)
	fmt.Fprintf(t, "live keys\t%d\n", r.Keys)
	for _, x := range []struct {
		name string
		c    KeyCost
	}{{"event_count", r.EventCount}, {"value_count", r.ValueCount}} {
		fmt.Fprintf(t, "  %s\t%d events a key\t%.0f bytes a key\t%.0f ns/event\theap %.0f MiB\tRSS %.0f MiB\tpeak %.0f MiB\n",
			x.name, x.c.PerKey, x.c.BytesPerKey, x.c.NsPerEvent, mib(x.c.HeapBytes), mib(x.c.RSS), mib(x.c.PeakRSS))
	}
	fmt.Fprintf(t, "takeover\t%d observations\t%.0f MiB read\t%.1f s\t%.1f CPU s\n",
		r.Takeover.Observations, mib(r.Takeover.LogBytes), r.Takeover.Seconds, r.Takeover.CPUSeconds)
	fmt.Fprintf(t, "  from a snapshot\t%.1f s\t%.0f MiB, for which nothing was applied for %.0f ms\n",
		r.Takeover.FromSnapshot, mib(r.Takeover.SnapshotBytes), r.Takeover.SnapshotPause*1e3)
	return t.Flush()
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// generationName is the digest of the only generation.
const generationName = "bench"

// oneGeneration has the rules of the only generation.
type oneGeneration struct{ set *rule.Set }

func (g oneGeneration) Rules(_ context.Context, digest string) (*rule.Set, error) {
	if digest != generationName {
		return nil, errors.New("no such generation")
	}
	return g.set, nil
}
