package correlate_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// newUnlistedHand drives a rule whose ref 0 is judged, 1 the right side, and 2
// unknown in any case.
func newUnlistedHand(t *testing.T, o correlate.Options) *hand {
	o.Sources = 1
	return newHand(t, newRule(rule.Correlation{
		Type: rule.Unmatched, Timespan: 2 * time.Minute, Before: time.Minute, Hold: 2 * time.Hour, Unknown: []string{"r2"},
	}, 3), o)
}

func TestUnlistedVerdict(t *testing.T) {
	left := simEvent{time: minutes(0), id: 1, key: "req", ref: 2, label: string(keyOf("orders"))}
	settled := func(h *hand) { h.put(20) }
	for _, c := range []struct {
		name  string
		first int64 // newest of the right side's log at the start
		run   func(h *hand)
		count int64
	}{
		{"partner", minutes(0), func(h *hand) {
			h.put(1, simEvent{time: minutes(0.5), id: 2, key: "req", ref: 1})
			h.put(20)
		}, 0},
		{"nobody", minutes(0), settled, 1},
		{"right side stale", minutes(-30), func(h *hand) { h.on(0, 20, nil, minutes(-30)) }, 1},
		{"right side does not settle", minutes(0), func(h *hand) {
			for m := 1; m < 125; m++ {
				h.on(0, float64(m), []detect.Progress{{Origin: "x", Through: minutes(-200 + float64(m))}}, minutes(float64(m)))
			}
		}, 1},
		{"twice", minutes(0), func(h *hand) { h.put(1, left); h.put(20) }, 1},
		{"partner of another", minutes(0), func(h *hand) {
			other := left
			other.id, other.ref = 0, 0 // before it in order
			h.put(1, simEvent{time: minutes(0.5), id: 2, key: "req", ref: 1}, other)
			h.put(20)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newUnlistedHand(t, correlate.Options{})
			h.on(0, 0, nil, c.first, left)
			c.run(h)
			fs := h.findings()
			if c.count == 0 {
				if len(fs) > 0 {
					t.Fatalf("found %+v", fs)
				}
				return
			}
			if len(fs) != 1 || fs[0].Verdict != detect.VerdictUnknown || fs[0].Count != c.count || len(fs[0].Key) != 0 {
				t.Fatalf("found %+v", fs)
			}
			if want := `{"partners":0,"before":"1m0s","after":"2m0s","verdict":"unknown","reason":"no inventory","examples":["orders"]}`; fs[0].Detail != want {
				t.Errorf("detail %s, want %s", fs[0].Detail, want)
			}
		})
	}
}

// TestUnlistedWithoutAGateway: where the right side's log is not collected at all
// there is nothing that a call could have gone past.
func TestUnlistedWithoutAGateway(t *testing.T) {
	h := newUnlistedHand(t, correlate.Options{})
	h.on(0, 0, nil, math.MinInt64, simEvent{time: minutes(0), id: 1, key: "req", ref: 2, label: string(keyOf("orders"))})
	h.on(0, 200, nil, math.MinInt64)
	if fs := h.findings(); len(fs) != 0 {
		t.Errorf("found %+v", fs)
	}
}

// TestUnlistedDoNotFlood: however many they are, and though their keys are past
// the bound, they are one finding a day, apart from what is judged.
func TestUnlistedDoNotFlood(t *testing.T) {
	h := newUnlistedHand(t, correlate.Options{MaxKeys: 50})
	const n = 3000
	for i := range n {
		at := float64(i) / 2 // 25 hours, from 09:47
		h.put(at, simEvent{time: minutes(at), id: uint64(i + 1), key: fmt.Sprint("req", i), ref: 2, label: string(keyOf(fmt.Sprintf("f%02d", i%40)))})
	}
	at := float64(n) / 2
	h.put(at, simEvent{time: minutes(at), id: n + 1, key: "judged", label: string(keyOf("f00"))})
	h.put(at + 60)
	h.put(at + 240)
	total := int64(0)
	bypass := 0
	fs := h.findings()
	for _, f := range fs {
		if f.Verdict == detect.VerdictBypass {
			bypass++
			continue
		}
		total += f.Count
		if f.Verdict != detect.VerdictUnknown || f.Tile%int64(24*time.Hour) != 0 || len(f.Evidence) != 10 ||
			!strings.HasSuffix(f.Detail, `"examples":["f00","f01","f02","f03","f04"]}`) {
			t.Errorf("finding %+v", f)
		}
	}
	if total != n || bypass != 1 || len(fs) != 3 {
		t.Errorf("%d findings, %d of them bypasses, %d events; want one finding for each of two days with %d in all, and one bypass", len(fs), bypass, total, n)
	}
}
