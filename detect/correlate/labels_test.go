package correlate_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// TestValuesPastTheBoundAreEstimated: of more values than are kept in a pane the
// number is estimated, to the error that the finding states, over panes that share
// values as over panes that do not, and whatever the order they come in.
func TestValuesPastTheBoundAreEstimated(t *testing.T) {
	const exact = 50
	for _, c := range []struct {
		name          string
		panes         int
		values, fresh int // of a pane; of them not in the pane before
	}{
		{"one pane", 1, 3000, 3000},
		{"panes with the same values", 8, 500, 0},
		{"panes with values of their own", 5, 600, 600},
		{"panes that share half", 6, 500, 250},
		{"one full pane among sparse ones", 12, 40, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			var evs []simEvent
			distinct := 0
			for p := range c.panes {
				n, from := c.values, p*c.fresh
				if c.values < exact && p == 4 {
					n, from = 1000, 1_000_000
				}
				for i := range n {
					evs = append(evs, simEvent{
						time: minutes(float64(p)), id: uint64(len(evs)+1) * 0x9e3779b97f4a7c15, key: "a", label: fmt.Sprint("v", from+i),
					})
				}
				distinct = max(distinct, from%1_000_000+n)
			}
			if c.values < exact {
				distinct = (c.panes-1)*c.values + 1000
			}
			find := func(op rule.Op, value float64, seed uint64) []detect.Finding {
				r := newRule(rule.Correlation{Type: rule.ValueCount, Timespan: time.Hour, Op: op, Value: value, Field: "f"}, 1)
				h := newHand(t, r, correlate.Options{Sources: 1, ExactIDs: exact})
				rand.New(rand.NewPCG(seed, 1)).Shuffle(len(evs), func(i, j int) { evs[i], evs[j] = evs[j], evs[i] })
				for _, ev := range evs {
					h.put(0, ev)
				}
				h.e.Finish()
				return h.findings()
			}
			peaks := map[float64]bool{}
			for seed := range uint64(2) {
				fs := find(rule.OpGTE, float64(distinct)*0.8, seed)
				if len(fs) == 0 {
					t.Fatalf("of %d values at least 80 %% were not found", distinct)
				}
				peak, estimated := 0.0, false
				for _, f := range fs {
					peak = max(peak, f.Peak)
					estimated = estimated || strings.Contains(f.Detail, `"estimated":true,"standard_error":0.0325`)
				}
				if !estimated {
					t.Errorf("no finding says that it is estimated: %s", fs[0].Detail)
				}
				if off := math.Abs(peak/float64(distinct) - 1); off > 5*0.0325 {
					t.Errorf("%v values, want about %d: off by %.1f %%", peak, distinct, 100*off)
				}
				peaks[peak] = true
			}
			if len(peaks) != 1 {
				t.Errorf("the order decides: %v", peaks)
			}
			if c.panes > 1 {
				return // some window over the outer ones does hold fewer
			}
			if fs := find(rule.OpLT, float64(distinct)*0.8, 4); len(fs) != 0 {
				t.Errorf("fewer than 80 %% were found: %+v", fs)
			}
		})
	}
}
