package correlate

import (
	"cmp"
	"math"
	"slices"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// newNumbers prepares w for a type that measures the events' numbers. All but a sum
// that only grows have to wait until they are settled: an event still to come could
// undo them.
func (w *windowed) newNumbers() {
	w.numbers = true
	w.least = math.Inf(-1) // a peak may be less than 0
	w.settled = w.c.Type != rule.ValueSum || w.c.Signed
}

// numberOf is an event's number. Where it is not said that they may be negative, one below 0 counts as 0.
func (w *windowed) numberOf(o *detect.Observation) uint64 {
	if w.c.Type == rule.ValueSum && !w.c.Signed {
		return math.Float64bits(max(o.Number, 0))
	}
	return math.Float64bits(o.Number)
}

// numberAt is an event's number in one of the panes gathered, and for how many events
// it stands: more than one if its pane holds more than are kept.
type numberAt struct {
	number float64
	weight float64
	at     int32
}

// measureNumbers fills win with the sum, average or percentile of each window. What
// it comes to is a function of the set of events to the last bit: panes are summed in
// the order of their numbers, windows in that of panes, whatever order they came in.
func (w *windowed) measureNumbers() {
	w.nums = w.nums[:0]
	for at := range w.recs {
		for k, p := range w.recs[at] {
			if p == nil || p.n == 0 {
				continue
			}
			weight := float64(w.in[k].total(p)) / float64(p.n)
			for i := p.head; i != 0; {
				w.nums = append(w.nums, numberAt{math.Float64frombits(*w.in[k].aux.at(i - 1)), weight, int32(at)})
				i = w.in[k].entries.at(i - 1).next
			}
		}
	}
	slices.SortFunc(w.nums, func(a, b numberAt) int { return cmp.Compare(a.number, b.number) })
	if w.c.Type == rule.ValuePercentile {
		w.measurePercentile()
		return
	}
	if w.sums == nil {
		w.sums = make([]float64, len(w.recs))
	}
	clear(w.sums)
	for _, n := range w.nums {
		w.sums[n.at] += n.number * n.weight
	}
	for k := range w.win {
		sum, events := 0.0, int64(0)
		for at := k; at < k+w.m; at++ {
			sum += w.sums[at]
			events += w.counts[at]
		}
		if w.win[k] = sum; w.c.Type == rule.ValueAvg {
			w.win[k] /= float64(events) // every window holds the pane it is about
		}
	}
}

// measurePercentile takes the nearest rank: the least number that at least so many
// per cent of the window's events do not exceed.
func (w *windowed) measurePercentile() {
	for k := range w.win {
		var events int64
		for _, n := range w.counts[k : k+w.m] {
			events += n
		}
		const rounding = 1e-9
		rank := math.Ceil(w.c.Percentile*float64(events)/100 - rounding)
		seen := 0.0
		for _, n := range w.nums {
			if int(n.at) < k || int(n.at) >= k+w.m {
				continue
			}
			w.win[k] = n.number
			if seen += n.weight; seen >= rank {
				break
			}
		}
	}
}
