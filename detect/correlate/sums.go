package correlate

import (
	"cmp"
	"math"
	"slices"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// newNumbers prepares w for a type that measures the events' numbers.
func (w *windowed) newNumbers() {
	w.numbers = true
	w.least = math.Inf(-1) // a peak may be less than 0
}

// maxNumber keeps sums finite: a number beyond it counts as that.
const maxNumber = 1e290

// numberOf is an event's number. Where it is not said that they may be negative, one
// below 0 counts as 0.
func (w *windowed) numberOf(o *detect.Observation) uint64 {
	n := max(-maxNumber, min(o.Number, maxNumber))
	if w.c.Type == rule.ValueSum && !w.c.Signed {
		n = max(n, 0)
	}
	return math.Float64bits(n)
}

func (t *table) number(i uint32) float64 { return math.Float64frombits(*t.aux.at(i)) }

// weight is for how many events an entry of a pane stands: more than one if the pane
// holds more than are kept.
func (t *table) weight(p *pane) float64 { return float64(t.total(p)) / float64(p.n) }

// measureNumbers fills win with the sum, average or percentile of each window. What
// it comes to is a function of the set of events to the last bit: the numbers of a
// pane are added without an error, and panes in their order.
func (w *windowed) measureNumbers() {
	if w.c.Type == rule.ValuePercentile {
		w.measurePercentile()
		return
	}
	if w.sums == nil {
		w.sums = make([]float64, len(w.recs))
	}
	for at := range w.recs {
		w.sums[at] = w.sumPanes(at)
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

// sumPanes is the sum of what the generations hold of one of the panes gathered.
func (w *windowed) sumPanes(at int) float64 {
	all := exactSum{w.parts[:0]}
	for k, p := range w.recs[at] {
		if p == nil || p.n == 0 {
			continue
		}
		t := w.in[k]
		s := t.sum(w.slots[k], p, &w.few)
		if weight := t.weight(p); weight != 1 {
			all.add(float64(s.value() * weight)) // converted: not to be fused with the addition
			continue
		}
		for _, part := range s.parts {
			all.add(part)
		}
	}
	w.parts = all.parts
	return all.value()
}

// paneAt is a pane of a table.
type paneAt struct {
	slot uint32
	q    int64
}

// paneSum is the sum of a pane's first n entries.
type paneSum struct {
	exactSum
	n uint32
}

// sum is the sum of a pane's entries. Of more than a few it is remembered, so that
// only what was added since is read; few is to work with.
func (t *table) sum(slot uint32, p *pane, few *paneSum) *exactSum {
	s := few
	if p.n > walk {
		if s = t.sums[paneAt{slot, p.q}]; s == nil {
			s = &paneSum{}
			if t.sums == nil {
				t.sums = map[paneAt]*paneSum{}
			}
			t.sums[paneAt{slot, p.q}] = s
		}
	} else {
		s.n, s.parts = 0, s.parts[:0]
	}
	for i := p.head; s.n < p.n; s.n++ { // the latest first: those that are new
		s.add(t.number(i - 1))
		i = t.entries.at(i - 1).next
	}
	return &s.exactSum
}

// numberAt is an event's number in one of the panes gathered, and for how many events
// it stands.
type numberAt struct {
	number float64
	weight float64
	at     int32
}

// measurePercentile takes the nearest rank: the least number that at least so many
// per cent of the window's events do not exceed.
func (w *windowed) measurePercentile() {
	w.nums = w.nums[:0]
	for at := range w.recs {
		for k, p := range w.recs[at] {
			if p == nil || p.n == 0 {
				continue
			}
			t := w.in[k]
			weight := t.weight(p)
			for i := p.head; i != 0; i = t.entries.at(i - 1).next {
				w.nums = append(w.nums, numberAt{t.number(i - 1), weight, int32(at)})
			}
		}
	}
	slices.SortFunc(w.nums, func(a, b numberAt) int { return cmp.Compare(a.number, b.number) })
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
