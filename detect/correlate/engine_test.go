package correlate_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// hand drives an engine by hand: each record is a section of its own.
type hand struct {
	t    *testing.T
	e    *correlate.Engine
	r    *rule.Rule
	next map[int]int64
	led  *ledger
}

func newHand(t *testing.T, r *rule.Rule, o correlate.Options) *hand {
	if o.EvidenceLimit == 0 {
		o.EvidenceLimit = 10
	}
	h := &hand{t: t, e: correlate.NewEngine(o), r: r, next: map[int]int64{}, led: newLedger()}
	if err := h.e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
		t.Fatal(err)
	}
	return h
}

func minutes(m float64) int64 { return start + int64(m*float64(time.Minute)) }

// put applies one record of source 0, appended at the minute given.
func (h *hand) put(stamp float64, evs ...simEvent) {
	h.on(0, stamp, nil, minutes(stamp), evs...)
}

func (h *hand) on(src int, stamp float64, progress []detect.Progress, seen int64, evs ...simEvent) {
	h.t.Helper()
	var b detect.SectionBuilder
	for _, ev := range evs {
		b.Add(tenant, h.r.Version, keyOf(ev.key), detect.Observation{
			Pointer: detect.Pointer{Source: source(src), Offset: h.next[src]},
			Time:    ev.time, Stamp: minutes(stamp), IDHash: ev.id, Ref: ev.ref, Number: ev.number, Label: ev.label,
		})
	}
	sec := detect.Section{
		Source: source(src), From: h.next[src], To: h.next[src] + 1, Clock: minutes(stamp), Progress: progress,
		Seen: []detect.Seen{{Type: string(event.TypeAPIGateway), Time: seen}}, Groups: b.Groups(),
	}
	h.next[src]++
	if got := h.e.Apply(&sec, false); got != correlate.Applied {
		h.t.Fatalf("section of source %d at minute %v: %v", src, stamp, got)
	}
}

// findings flushes and returns what has been found so far, by first time.
func (h *hand) findings() []detect.Finding {
	fs, _ := h.e.Flush()
	h.led.merge(fs, 10)
	out := slices.Collect(func(yield func(detect.Finding) bool) {
		for _, f := range h.led.findings {
			if !yield(f) {
				return
			}
		}
	})
	slices.SortFunc(out, func(a, b detect.Finding) int { return int(a.First - b.First) })
	return out
}

func countRule(n float64, span time.Duration) *rule.Rule {
	return newRule(rule.Correlation{Type: rule.EventCount, Timespan: span, Op: rule.OpGTE, Value: n}, 1)
}

func TestApplyTakesEachOffsetOnce(t *testing.T) {
	r := countRule(1, time.Minute)
	e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 100})
	if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for i, c := range []struct {
		from, to int64
		want     correlate.Result
		next     int64
		count    int64
	}{
		{1, 3, correlate.Gap, 0, 0},
		{0, 0, correlate.Repeat, 0, 0},
		{0, 3, correlate.Applied, 3, 3},
		{0, 3, correlate.Repeat, 3, 3},
		{1, 2, correlate.Repeat, 3, 3},
		{1, 5, correlate.Applied, 5, 5},
		{6, 7, correlate.Gap, 5, 5},
		{5, 7, correlate.Applied, 7, 7},
	} {
		var b detect.SectionBuilder
		for off := c.from; off < c.to; off++ {
			b.Add(tenant, r.Version, keyOf("a"), detect.Observation{
				Pointer: detect.Pointer{Source: source(0), Offset: off}, Time: start + off, Stamp: start + off, IDHash: uint64(off),
			})
		}
		got := e.Apply(&detect.Section{Source: source(0), From: c.from, To: c.to, Clock: start + c.to, Groups: b.Groups()}, false)
		fs, _ := e.Flush()
		for _, f := range fs {
			total += f.Count
		}
		if got != c.want || e.Next(source(0)) != c.next || total != c.count {
			t.Errorf("%d: [%d, %d): %v, next %d, %d events; want %v, %d, %d", i, c.from, c.to, got, e.Next(source(0)), total, c.want, c.next, c.count)
		}
	}
}

func TestClockIsTheSlowestSource(t *testing.T) {
	h := newHand(t, countRule(1, time.Minute), correlate.Options{Sources: 2})
	h.put(10)
	if c := h.e.Clock(); c != math.MinInt64 {
		t.Errorf("one of two sources heard: clock %d", c)
	}
	if c := h.e.RebuildClock(); c != math.MinInt64 {
		t.Errorf("one of two sources heard: rebuild from %d", c)
	}
	h.on(1, 4, nil, 0)
	if got, want := h.e.Clock(), minutes(4); got != want {
		t.Errorf("clock %d, want %d", got, want)
	}
	if got, want := h.e.Settled(event.TypeAPIGateway), minutes(1); got != want {
		t.Errorf("access logs settled to %d, want %d", got, want)
	}
	if got, want := h.e.Settled(event.TypeCloudTrail), minutes(4-20); got != want {
		t.Errorf("CloudTrail settled to %d, want %d", got, want)
	}
	again := newHand(t, countRule(1, time.Minute), correlate.Options{Sources: 2})
	if err := again.e.Reset(h.e.State()); err != nil {
		t.Fatal(err)
	}
	if again.e.Clock() != h.e.Clock() || again.e.Next(source(0)) != 1 || again.e.Settled(event.TypeLambda) != h.e.Settled(event.TypeLambda) {
		t.Errorf("reset to a state: clock %d, next %d", again.e.Clock(), again.e.Next(source(0)))
	}
	if string(again.e.State()) != string(h.e.State()) {
		t.Error("a state read back encodes differently")
	}
}

func TestSettlingWaitsForOrigins(t *testing.T) {
	h := newHand(t, countRule(1, time.Minute), correlate.Options{Sources: 2})
	through := func(m float64) []detect.Progress {
		return []detect.Progress{{Origin: "file", Type: string(event.TypeAPIGateway), Through: minutes(m)}}
	}
	settled := func(when string, want int64) {
		t.Helper()
		if got := h.e.Settled(event.TypeAPIGateway); got != want {
			t.Errorf("%s: settled to minute %v, want %v", when, time.Duration(got-start).Minutes(), time.Duration(want-start).Minutes())
		}
	}
	h.put(10)
	h.on(1, 10, nil, 0)
	settled("no origin", minutes(7))
	h.on(0, 11, through(-3000), 0)
	settled("declared on one source", math.MinInt64)
	h.on(1, 11, through(-4000), 0)
	settled("the least over the sources", minutes(-4000))
	if got, want := h.e.Settled(event.TypeLambda), minutes(8); got != want {
		t.Errorf("the other type is held back: %v, want %v", got, want)
	}
	h.on(0, 12, through(9.5), 0)
	h.on(1, 12, through(9.5), 0)
	settled("the clock is behind", minutes(9))
	h.on(0, 131, through(9.5), 0)
	h.on(1, 131, through(9.5), 0)
	settled("not renewed, within hold", minutes(9.5))
	h.put(133)
	h.on(1, 133, nil, 0)
	settled("not renewed for longer than hold", minutes(130))
	h.on(0, 134, through(50), 0)
	settled("back on one source", minutes(9.5))
	h.on(1, 134, through(60), 0)
	settled("back", minutes(50))
}

func TestNewValueFiresAtOnce(t *testing.T) {
	r := newRule(rule.Correlation{Type: rule.NewValue, Field: "country", Learning: 24 * time.Hour, Forget: 90 * 24 * time.Hour}, 1)
	h := newHand(t, r, correlate.Options{Sources: 1})
	const day = 24 * 60
	h.put(0, simEvent{time: minutes(0), id: 1, key: "a", label: "DE"})
	h.put(day-1, simEvent{time: minutes(day - 1), id: 2, key: "a", label: "FR"})
	h.put(day+1, simEvent{time: minutes(day + 1), id: 3, key: "a", label: "NL"})
	if fs := h.findings(); len(fs) > 0 {
		t.Fatalf("within the settling time of the learning period's end: %+v", fs)
	}
	h.put(day + 5)
	if fs := h.findings(); len(fs) != 1 || !strings.Contains(fs[0].Detail, `"value":"NL"`) {
		t.Fatalf("settled: %+v", fs)
	}
	h.put(2*day, simEvent{time: minutes(2 * day), id: 4, key: "a", label: "NZ"})
	fs := h.findings()
	if len(fs) != 2 || fs[1].Count != 1 || fs[1].Evidence[0].IDHash != 4 || !strings.Contains(fs[1].Detail, `"settled":false`) {
		t.Fatalf("at once: %+v", fs)
	}
	h.put(2*day+1, simEvent{time: minutes(2*day - 1), id: 5, key: "a", label: "NZ"})
	h.put(2*day+2, simEvent{time: minutes(2*day + 2), id: 6, key: "a", label: "NZ"})
	if fs = h.findings(); len(fs) != 2 || fs[1].Evidence[0].IDHash != 5 {
		t.Fatalf("an earlier one came later: %+v", fs)
	}
	h.put(2*day + 10)
	const want = `{"value":"NZ","field":"country","known":["FR","NL","DE"],"learned_days":1.9,"settled":true}`
	if fs = h.findings(); len(fs) != 2 || fs[1].Detail != want || fs[1].Evidence[0].IDHash != 5 {
		t.Fatalf("settled: %+v\nwant detail %s", fs, want)
	}
}

// History read from files settles step by step as the collector's progress moves.
func TestBaselineLearnsFromHistory(t *testing.T) {
	r := newRule(rule.Correlation{
		Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "p95", Field: "duration",
		Learning: 2 * time.Hour, MinVolume: 5, MinBuckets: 10, Factor: 4, Deviations: 6, Floor: 250,
	}, 1)
	h := newHand(t, r, correlate.Options{Sources: 1})
	through := func(m float64) []detect.Progress {
		return []detect.Progress{{Origin: "file", Through: minutes(m)}}
	}
	const now = 10_000 // minutes after the history
	h.on(0, now, through(0), 0)
	id := uint64(0)
	for m := range 240 {
		var evs []simEvent
		for range 3 {
			id++
			ev := simEvent{time: minutes(float64(m)), id: id, key: "f", number: 80 + float64(id%7)}
			if m == 200 || m == 202 {
				ev.number = 4000 + float64(id%3)
			}
			evs = append(evs, ev)
		}
		at := now + float64(m)/100 // all of it in a few minutes of append time
		h.on(0, at, nil, minutes(float64(m)), evs...)
		if m%20 == 19 {
			h.on(0, at, through(float64(m)), minutes(float64(m)))
		}
	}
	fs := h.findings()
	if len(fs) != 1 {
		t.Fatalf("%d findings, want 1: %+v", len(fs), fs)
	}
	f := fs[0]
	for _, want := range []string{`"measure":"p95"`, `"field":"duration"`, `"value":400`, `"median":86`, `"volume":15`} {
		if !strings.Contains(f.Detail, want) {
			t.Errorf("detail %s lacks %s", f.Detail, want)
		}
	}
	for _, ev := range f.Evidence {
		if m := time.Duration(ev.Time - start).Minutes(); m != 200 && m != 202 {
			t.Errorf("evidence of minute %v is not slow", m)
		}
	}
	if s := h.e.Stats(); s.Closed != 0 || s.Forced != 0 {
		t.Errorf("%d events came after their bucket had closed, %d were forced", s.Closed, s.Forced)
	}
	h.on(0, now+10, nil, 0, simEvent{time: minutes(3), id: 1 << 40, key: "f", number: 1})
	if s := h.e.Stats(); s.Closed != 1 {
		t.Errorf("an event of a closed bucket: %d counted", s.Closed)
	}
}

func TestUnmatchedVerdicts(t *testing.T) {
	unmatchedRule := func() *rule.Rule {
		return newRule(rule.Correlation{Type: rule.Unmatched, Timespan: 2 * time.Minute, Before: time.Minute, Hold: 2 * time.Hour}, 2)
	}
	left := simEvent{time: minutes(0), id: 1, key: "req", label: string(keyOf("orders"))}
	for _, c := range []struct {
		name    string
		run     func(h *hand)
		verdict string
		reason  string
	}{
		{"partner", func(h *hand) {
			h.put(1, simEvent{time: minutes(0.5), id: 2, key: "req", ref: 1})
			h.put(20)
		}, "", ""},
		{"partner too late", func(h *hand) {
			h.put(3, simEvent{time: minutes(2.1), id: 2, key: "req", ref: 1})
			h.put(20)
		}, detect.VerdictBypass, ""},
		{"nobody", func(h *hand) { h.put(20) }, detect.VerdictBypass, ""},
		{"right side stale", func(h *hand) {
			h.on(0, 20, nil, minutes(-30))
		}, detect.VerdictUnknown, "stale"},
		{"right side does not settle", func(h *hand) {
			for m := 1; m < 125; m++ { // it moves, but stays behind
				h.on(0, float64(m), []detect.Progress{{Origin: "x", Through: minutes(-200 + float64(m))}}, minutes(float64(m)))
			}
		}, detect.VerdictUnknown, "unsettled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHand(t, unmatchedRule(), correlate.Options{Sources: 1})
			h.on(0, 0, nil, math.MinInt64, left)
			c.run(h)
			fs := h.findings()
			if c.verdict == "" {
				if len(fs) > 0 {
					t.Fatalf("found %+v", fs)
				}
				return
			}
			if len(fs) != 1 || fs[0].Verdict != c.verdict || fs[0].Count != 1 {
				t.Fatalf("found %+v, want verdict %s", fs, c.verdict)
			}
			want := keyOf("orders")
			if c.verdict == detect.VerdictUnknown {
				want = nil
				if !strings.Contains(fs[0].Detail, fmt.Sprintf(`"reason":"%s"`, c.reason)) {
					t.Errorf("detail %s, want reason %s", fs[0].Detail, c.reason)
				}
			}
			if string(fs[0].Key) != string(want) {
				t.Errorf("key %q, want %q", fs[0].Key, want)
			}
		})
	}
}

func TestTenantsAreApart(t *testing.T) {
	r := countRule(2, time.Minute)
	e := correlate.NewEngine(correlate.Options{EvidenceLimit: 5})
	if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
		t.Fatal(err)
	}
	for off, tenant := range []string{"x", "y", "x"} {
		var b detect.SectionBuilder
		b.Add(tenant, r.Version, keyOf("a"), detect.Observation{
			Pointer: detect.Pointer{Source: source(0), Offset: int64(off)}, Time: start, Stamp: start, IDHash: uint64(off),
		})
		e.Apply(&detect.Section{Source: source(0), From: int64(off), To: int64(off) + 1, Clock: start, Groups: b.Groups()}, false)
	}
	fs, _ := e.Flush()
	if len(fs) != 1 || fs[0].Tenant != "x" || fs[0].Count != 2 {
		t.Errorf("found %+v, want both events of tenant x", fs)
	}
}

func TestKeysPastTheBoundFold(t *testing.T) {
	h := newHand(t, countRule(3, time.Minute), correlate.Options{Sources: 1, MaxKeys: 4})
	for i := range 10 {
		h.put(0, simEvent{time: minutes(0), id: uint64(i + 1), key: fmt.Sprint("k", i)})
	}
	fs := h.findings()
	if len(fs) != 1 || string(fs[0].Key) != string(keyOf(correlate.OtherKey)) || fs[0].Count != 6 || !strings.Contains(fs[0].Detail, `"folded":true`) {
		t.Errorf("found %+v, want the six events past the fourth key under %q", fs, correlate.OtherKey)
	}
	if s := h.e.Stats(); s.Folded != 6 {
		t.Errorf("%d folded, want 6", s.Folded)
	}
}

func TestCountsPastTheBoundAreEstimated(t *testing.T) {
	h := newHand(t, countRule(50, time.Minute), correlate.Options{Sources: 1, ExactIDs: 100})
	const n = 5000
	for i := range n {
		ev := simEvent{time: minutes(0), id: uint64(i+1) * 0x9e3779b97f4a7c15, key: "a"}
		h.put(0, ev)
		h.put(0, ev) // a second delivery counts once, as well as a sketch can tell
	}
	fs := h.findings()
	if len(fs) != 1 || !strings.Contains(fs[0].Detail, `"estimated":true`) {
		t.Fatalf("found %+v", fs)
	}
	if c := float64(fs[0].Count); c < n*0.9 || c > n*1.1 || c != fs[0].Peak {
		t.Errorf("%v events, peak %v, want about %d", c, fs[0].Peak, n)
	}
}

// A flood must not hide what comes behind it in the same pane.
func TestFloodHidesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		corr rule.Correlation
		last simEvent
	}{
		{"temporal_ordered", rule.Correlation{Type: rule.TemporalOrdered, Timespan: time.Hour}, simEvent{ref: 1}},
		{"value_count", rule.Correlation{Type: rule.ValueCount, Timespan: time.Hour, Op: rule.OpGTE, Value: 2, Field: "f"}, simEvent{label: "new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHand(t, newRule(c.corr, 2), correlate.Options{Sources: 1, ExactIDs: 20})
			for i := range 100 {
				h.put(0, simEvent{time: minutes(0) + int64(i), id: uint64(i + 1), key: "a"})
			}
			if fs := h.findings(); len(fs) != 0 {
				t.Fatalf("after the flood: %+v", fs)
			}
			c.last.time, c.last.id, c.last.key = minutes(0.1), 1000, "a"
			h.put(0.1, c.last)
			if fs := h.findings(); len(fs) != 1 || fs[0].Count < 90 || fs[0].Peak != 2 {
				t.Errorf("after it: %+v", fs)
			}
		})
	}
}

func TestUnlimitedEvidenceIsExact(t *testing.T) {
	r := countRule(1, time.Minute)
	e := correlate.NewEngine(correlate.Options{})
	if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
		t.Fatal(err)
	}
	const n = 3000
	var b detect.SectionBuilder
	for i := range int64(n) {
		b.Add(tenant, r.Version, keyOf("a"), detect.Observation{
			Pointer: detect.Pointer{Source: source(0), Offset: i}, Time: start, Stamp: start, IDHash: uint64(i),
		})
	}
	e.Apply(&detect.Section{Source: source(0), To: n, Clock: start, Groups: b.Groups()}, false)
	e.Finish()
	fs, _ := e.Flush()
	if len(fs) != 1 || fs[0].Count != n || len(fs[0].Evidence) != n {
		t.Errorf("%d findings; want one of %d events with all evidence", len(fs), n)
	}
}

func TestFinishSettlesEverything(t *testing.T) {
	r := newRule(rule.Correlation{Type: rule.EventCount, Timespan: time.Minute, Op: rule.OpLT, Value: 2}, 1)
	h := newHand(t, r, correlate.Options{Sources: 1})
	h.put(0, simEvent{time: minutes(0), id: 1, key: "a"})
	if fs := h.findings(); len(fs) != 0 {
		t.Fatalf("before it settled: %+v", fs)
	}
	h.e.Finish()
	if fs := h.findings(); len(fs) != 1 || fs[0].Count != 1 {
		t.Errorf("after: %+v", fs)
	}
}

func TestVanishedRulesAgeOut(t *testing.T) {
	h := newHand(t, countRule(2, time.Minute), correlate.Options{Sources: 1})
	h.put(0, simEvent{time: minutes(0), id: 1, key: "a"})
	other := countRule(7, time.Hour)
	other.Version = "other"
	if err := h.e.AddRules(&rule.Set{Correlations: []*rule.Rule{other}}); err != nil {
		t.Fatal(err)
	}
	h.put(0.1, simEvent{time: minutes(0), id: 2, key: "a"})
	if fs := h.findings(); len(fs) != 1 || fs[0].Count != 2 {
		t.Errorf("the rule's last window: %+v", fs)
	}
	h.put(100)
	if got := h.e.Versions(); !slices.Equal(got, []string{"other"}) {
		t.Errorf("after its windows were dropped there are rules %v", got)
	}
	h.put(101, simEvent{time: minutes(101), id: 3, key: "a"})
	if s := h.e.Stats(); s.UnknownRule != 1 {
		t.Errorf("%d observations of unknown rules, want 1", s.UnknownRule)
	}
}

func TestAddRulesNamesWhatItCannotRun(t *testing.T) {
	bad := newRule(rule.Correlation{Type: "vedette.silence", Timespan: time.Minute}, 1)
	good := countRule(1, time.Minute)
	e := correlate.NewEngine(correlate.Options{})
	if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{bad, good}}); err == nil || !strings.Contains(err.Error(), "vedette.silence") {
		t.Errorf("error %v does not name the type", err)
	}
	if got := e.Versions(); !slices.Equal(got, []string{good.Version}) {
		t.Errorf("rules %v run", got)
	}
	if got, want := e.Keep(), 16*time.Minute; got != want {
		t.Errorf("keep %s, want %s", got, want)
	}
}

func FuzzReset(f *testing.F) {
	e := correlate.NewEngine(correlate.Options{Sources: 1})
	f.Add(e.State())
	e.Apply(&detect.Section{
		Source: source(3), To: 5, Clock: 7, Seen: []detect.Seen{{Type: "y", Time: 4}},
		Progress: []detect.Progress{{Origin: "o", Type: "y", Through: 9}},
	}, false)
	f.Add(e.State())
	f.Fuzz(func(t *testing.T, b []byte) {
		e := correlate.NewEngine(correlate.Options{Sources: 1})
		if e.Reset(b) != nil {
			return
		}
		again := correlate.NewEngine(correlate.Options{Sources: 1})
		once := e.State()
		if err := again.Reset(once); err != nil {
			t.Fatal(err)
		}
		if string(again.State()) != string(once) {
			t.Fatal("a state read back encodes differently")
		}
	})
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte{1, 0}, true)
	f.Add([]byte{1, 1, 1, 't', 2, 1, 'a', 2, 1, 1, 'v', 0, 2}, true)
	f.Add([]byte{1, 1, 1, 't', 2, 1, 'a', 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, values bool) {
		c := rule.Correlation{Type: rule.Baseline, Timespan: time.Minute, Measure: "p95"}
		if values {
			c = rule.Correlation{Type: rule.NewValue, Learning: time.Hour, Forget: 24 * time.Hour}
		}
		r := newRule(c, 1)
		e := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: 1})
		if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{r}}); err != nil {
			t.Fatal(err)
		}
		if e.Restore([]correlate.Page{{RuleVersion: r.Version, Data: b}}) != nil {
			return
		}
		var sb detect.SectionBuilder
		for i := range 3 {
			sb.Add(tenant, r.Version, keyOf("a"), detect.Observation{
				Pointer: detect.Pointer{Source: source(0)}, Time: start + int64(i), Stamp: start, IDHash: uint64(i), Label: "v",
			})
		}
		e.Apply(&detect.Section{Source: source(0), To: 1, Clock: start, Groups: sb.Groups()}, false)
		e.Finish()
		e.Flush()
	})
}
