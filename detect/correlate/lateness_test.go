package correlate_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// displaced has a fifth of the deliveries come up to ten minutes late and, of the
// rest, a few by hours.
func displaced(by time.Duration) func(r *rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		switch n := r.IntN(100); {
		case n < 20:
			return time.Duration(r.IntN(601)) * time.Second
		case n < 27:
			return time.Duration(in(r, 3600, int64(by/time.Second))) * time.Second
		}
		return 0
	}
}

// With a lateness that covers the displacement, findings of every type are those of
// the ordered run.
func TestHoursLate(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			events, by := 60, 6*time.Hour
			if k.rule.Correlation.Type == rule.Baseline { // buckets within it are not judged by
				events, by = 140, 2*time.Hour
			}
			k.rule.Correlation.Lateness = by
			k.delay, k.displace = by, displaced(by)
			checkKind(t, k, events)
		})
	}
}

// Where one event alone decides no lateness is needed: however late it comes, what is
// found is the same, and the finding says how many were late. Only the peak is that
// of what arrived together.
func TestDaysLate(t *testing.T) {
	for _, k := range kinds() {
		c := k.rule.Correlation
		if c.Type != rule.EventCount || c.Op != rule.OpGTE || c.Value != 1 {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			late := false
			k.once, k.peaks = true, true
			k.displace = func(r *rand.Rand) time.Duration {
				if r.IntN(3) > 0 {
					return 0
				}
				late = true
				return time.Duration(in(r, 0, 3*24*3600)) * time.Second
			}
			checkKind(t, k, 60)
			if !late {
				t.Error("nothing came late")
			}
		})
	}
}

func checkKind(t *testing.T, k kind, events int) {
	t.Helper()
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		// Rapid shrinks the number of events; the rest follows from the seed.
		n, diff := check(t, k, rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, events).Draw(t, "events"), sound)
		if diff != "" {
			t.Fatal(diff)
		}
		found += n
	})
	if found == 0 {
		t.Error("nothing was found in any run: the property is empty")
	}
}

// The property of TestHoursLate rests on the lateness: without it an engine that drops
// or misplaces what comes by hours is noticed.
func TestHoursLateIsNoticedWithoutLateness(t *testing.T) {
	for _, k := range kinds() {
		switch k.rule.Correlation.Type {
		case rule.EventCount, rule.ValueCount, rule.Temporal, rule.TemporalOrdered:
		default:
			continue
		}
		if k.name == "event_count_one" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			k.delay, k.displace = 6*time.Hour, displaced(6*time.Hour)
			for seed := range uint64(300) {
				if _, diff := check(t, k, seed, 40, sound); diff != "" {
					return
				}
			}
			t.Error("not noticed in 300 runs")
		})
	}
}

// What settled is amended by what comes after, and says so; a pane that settled
// without a finding may still get one.
func TestLateAfterSettled(t *testing.T) {
	at := func(m float64, id uint64) simEvent { return simEvent{time: minutes(m), id: id, key: "a"} }
	for _, c := range []struct {
		name        string
		op          rule.Op
		events      []simEvent
		late        []simEvent
		before      int // findings
		count, said int64
	}{
		{"hot", rule.OpLT, []simEvent{at(0, 1)}, []simEvent{at(0.01, 2), at(0.02, 3), at(0.03, 4)}, 1, 4, 3},
		{"cold", rule.OpEQ, []simEvent{at(0, 1), at(0.5, 2)}, []simEvent{at(0.2, 3)}, 0, 3, 1},
		{"alone", rule.OpLT, nil, []simEvent{at(0.2, 3)}, 0, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHand(t, newRule(rule.Correlation{Type: rule.EventCount, Timespan: time.Minute, Op: c.op, Value: 3}, 1), correlate.Options{Sources: 1})
			h.put(0.6, c.events...)
			h.put(10)
			if fs := h.findings(); len(fs) != c.before {
				t.Fatalf("%d findings when settled, want %d", len(fs), c.before)
			}
			h.put(10.1, simEvent{time: minutes(10), id: 99, key: "other"})
			for i, ev := range c.late {
				h.put(15.5+float64(i), ev)
			}
			var got detect.Finding
			for _, f := range h.findings() {
				if string(f.Key) == string(keyOf("a")) {
					got = f
				}
			}
			if got.Count != c.count || got.Late != c.said || len(got.Evidence) != int(c.count) {
				t.Errorf("count %d, late %d, evidence %d; want %d, %d, %[4]d", got.Count, got.Late, len(got.Evidence), c.count, c.said)
			}
		})
	}
}

// What came is kept as long as a rule's lateness asks, so that retention is checked
// against it.
func TestKeepFollowsLateness(t *testing.T) {
	for _, k := range kinds() {
		keep := func(lateness time.Duration) time.Duration {
			k.rule.Correlation.Lateness = lateness
			e := correlate.NewEngine(correlate.Options{})
			if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{k.rule}}); err != nil {
				t.Fatal(err)
			}
			return e.Keep()
		}
		if short, long := keep(0), keep(6*time.Hour); long < short+6*time.Hour-15*time.Minute {
			t.Errorf("%s: keeps %v with a lateness of 6h, %v without", k.name, long, short)
		}
	}
}

// After a gap in the log A moves on by hours at once, while a collector's promise may
// still be an old one. What waits to settle is judged then, not dropped with its
// generation; values are taken in their order, whichever was appended first.
func TestWaitingIsJudgedBeforeItIsDropped(t *testing.T) {
	promise := func(m float64) []detect.Progress {
		return []detect.Progress{{Origin: "file", Type: string(event.TypeAPIGateway), Through: minutes(m)}}
	}
	t.Run("event_count_lt", func(t *testing.T) {
		h := newHand(t, newRule(rule.Correlation{Type: rule.EventCount, Timespan: time.Minute, Op: rule.OpLT, Value: 3}, 1), correlate.Options{Sources: 1})
		h.on(0, 0, promise(-10), 0)
		h.put(1, simEvent{time: minutes(1), id: 1, key: "a"})
		h.on(0, 2*24*60, promise(-5), 0)
		if fs := h.findings(); len(fs) != 1 || fs[0].Count != 1 {
			t.Errorf("found %+v, want the one event", fs)
		}
		if n := h.e.Stats().Forced; n != 1 {
			t.Errorf("%d judged before they settled, want 1", n)
		}
	})
	t.Run("event_count_eq with a neighbour that is dropped", func(t *testing.T) {
		h := newHand(t, newRule(rule.Correlation{Type: rule.EventCount, Timespan: time.Minute, Op: rule.OpEQ, Value: 3}, 1), correlate.Options{Sources: 1})
		keep := h.e.Keep().Minutes()
		border := (math.Floor(float64(start)/float64(h.e.Keep())) + 1) * float64(h.e.Keep())
		b := (border - float64(start)) / float64(time.Minute)
		h.on(0, b-10, promise(b-30), 0)
		h.put(b-0.03, simEvent{time: minutes(b - 0.03), id: 1, key: "a"})
		h.put(b-0.02, simEvent{time: minutes(b - 0.02), id: 2, key: "a"})
		h.put(b+0.02, simEvent{time: minutes(b + 0.02), id: 3, key: "a"})
		h.on(0, b+keep+1, promise(b-20), 0) // the first two are dropped
		h.on(0, b+keep+2, promise(b+keep), 0)
		if fs := h.findings(); len(fs) != 1 || fs[0].Count != 3 {
			t.Errorf("found %+v, want one of three events", fs)
		}
	})
	t.Run("new_value", func(t *testing.T) {
		h := newHand(t, newRule(rule.Correlation{Type: rule.NewValue, Field: "country", Learning: time.Minute, Forget: 90 * 24 * time.Hour}, 1), correlate.Options{Sources: 1})
		h.on(0, 0, promise(-30), 0)
		h.put(1, simEvent{time: minutes(-20), id: 1, key: "a", label: "DE"})
		h.put(2, simEvent{time: minutes(2), id: 2, key: "a", label: "FR"})
		h.put(12, simEvent{time: minutes(1), id: 3, key: "a", label: "IT"}) // appended last
		h.on(0, 2+2*60+15, promise(-25), 0)
		h.on(0, 2*24*60, promise(2*24*60), 0)
		known := map[string]string{}
		for _, f := range h.findings() {
			known[f.Detail[len(`{"value":"`):len(`{"value":"`)+2]] = f.Detail
		}
		if !strings.Contains(known["FR"], `"IT"`) || strings.Contains(known["IT"], `"FR"`) {
			t.Errorf("found %v, want IT before FR", known)
		}
	})
}
