package correlate

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// evaluate looks at all windows over a touched pane and fires the panes that they
// make hot. Windows are seen in the pane's generation and the one before, and in
// it and the one after: within lateness no window holds events of all three.
func (w *windowed) evaluate(t touch) {
	p := t.t.pane(t.slot, t.q)
	full := t.t.keys.key(t.slot)
	if p.hot() {
		w.fire(full, t.t, p, w.delta(full, t.q), w.least)
	}
	if !t.fresh {
		return
	}
	alone := true
	for _, d := range [...]int64{-1, 1} {
		n := w.table(t.t.gen + d)
		if n == nil {
			continue
		}
		if slot, ok := n.keys.find(t.t.keys.refs.at(t.slot).hash, full); ok {
			alone = false
			w.view(full, t.q, [3]*table{t.t, n}, [3]uint32{t.slot, slot})
		}
	}
	if alone {
		w.view(full, t.q, [3]*table{t.t}, [3]uint32{t.slot})
	}
}

// view fires at once what the windows over q in the tables given make hot.
func (w *windowed) view(full []byte, q int64, ts [3]*table, slots [3]uint32) {
	var events uint32
	for i, t := range ts {
		if t != nil {
			events += t.slots.at(slots[i]).events
		}
	}
	if !w.numbers && float64(events) < w.value {
		return
	}
	if !w.collect(q, ts, slots) {
		return
	}
	w.measure()
	if !w.spread() {
		return
	}
	var d *delta
	from := q - int64(w.m) + 1
	for i, v := range w.best {
		if w.counts[i] == 0 || !compare(v, w.op, w.value) {
			continue
		}
		if at := from + int64(i); d == nil || d.Tile != w.tile(at) {
			d = w.delta(full, at)
		}
		for j, p := range w.recs[i] {
			if p != nil {
				w.fire(full, w.in[j], p, d, v)
			}
		}
	}
}

// judge decides about a pane all of whose windows are settled, once.
func (w *windowed) judge(d dueJudge) {
	own := w.table(d.gen)
	if own == nil {
		return
	}
	ts, slots := [3]*table{own}, [3]uint32{d.slot}
	n := 1
	full := own.keys.key(d.slot)
	for _, off := range [...]int64{-1, 1} {
		t := w.table(d.gen + off)
		if t == nil {
			continue
		}
		if slot, ok := t.keys.find(own.keys.refs.at(d.slot).hash, full); ok {
			ts[n], slots[n] = t, slot
			n++
		}
	}
	w.collect(d.q, ts, slots)
	w.measure()
	peak, hot := w.least, false
	for _, v := range w.win {
		if compare(v, w.op, w.value) {
			peak, hot = max(peak, v), true
		}
	}
	if p := own.pane(d.slot, d.q); hot || p.hot() { // what fired before keeps what comes late
		w.fire(full, own, p, w.delta(full, d.q), peak)
	}
}

// collect gathers the panes that share a window with q, index m−1 being q itself.
// It reports whether there is anything to decide.
func (w *windowed) collect(q int64, ts [3]*table, slots [3]uint32) bool {
	clear(w.counts)
	clear(w.mask)
	clear(w.recs)
	w.in, w.slots = ts, slots
	from, to := q-int64(w.m)+1, q+int64(w.m)-1
	var mask uint64
	cold := false
	for k, t := range ts {
		if t == nil {
			continue
		}
		ps := t.of(slots[k])
		for i := search(ps, from); i < len(ps) && ps[i].q <= to; i++ {
			p := &ps[i]
			at := p.q - from
			w.counts[at] += t.total(p)
			w.recs[at][k] = p
			if w.byRef {
				refs := t.refs(p)
				w.mask[at] |= refs
				mask |= refs
			}
			cold = cold || !p.hot() || p.done < p.n
		}
	}
	if w.byRef {
		// What they measure is at its greatest once it fires.
		return mask&w.all == w.all && cold
	}
	return true
}

// measure fills win: window k holds the panes k to k+m−1.
func (w *windowed) measure() {
	switch {
	case w.labels:
		w.measureLabels()
	case w.numbers:
		w.measureNumbers()
	case w.ordered:
		w.measureOrdered()
	case w.byRef:
		for k := range w.win {
			var m uint64
			for _, r := range w.mask[k : k+w.m] {
				m |= r
			}
			w.win[k] = float64(bits.OnesCount64(m & w.all))
		}
	default:
		var n int64
		for _, c := range w.counts[:w.m] {
			n += c
		}
		w.win[0] = float64(n)
		for k := 1; k < w.m; k++ {
			n += w.counts[k+w.m-1] - w.counts[k-1]
			w.win[k] = float64(n)
		}
	}
}

// spread fills best: for each pane the greatest of the windows over it and over
// the pane in the middle. It reports whether any meets the condition.
func (w *windowed) spread() bool {
	top := math.Inf(-1)
	for k, v := range w.win { // windows over pane k ≤ m−1 are 0 … k
		top = max(top, v)
		w.best[k] = top
	}
	any := compare(top, w.op, w.value)
	top = math.Inf(-1)
	for k := w.m - 1; k > 0; k-- { // windows over pane k+m−1 are k … m−1
		top = max(top, w.win[k])
		w.best[k+w.m-1] = top
	}
	if w.m > 0 { // the middle is in all of them
		w.best[w.m-1] = max(top, w.win[0])
	}
	return any
}

// labelAt is a label in a pane.
type labelAt struct {
	label uint64
	at    int32
}

// measureLabels counts distinct labels: each is in the windows that begin at most
// m−1 panes before one of its panes. If a pane has more than are kept, all windows
// are estimated.
func (w *windowed) measureLabels() {
	w.pairs = w.pairs[:0]
	for at := range w.recs {
		for k, p := range w.recs[at] {
			if p == nil {
				continue
			}
			if over := w.in[k].over(p); over != nil && over.labels != nil {
				w.estimateLabels()
				return
			}
			for i := p.head; i != 0; {
				w.pairs = append(w.pairs, labelAt{*w.in[k].aux.at(i - 1), int32(at)})
				i = w.in[k].entries.at(i - 1).next
			}
		}
	}
	slices.SortFunc(w.pairs, func(a, b labelAt) int {
		return cmp.Or(cmp.Compare(a.label, b.label), cmp.Compare(a.at, b.at))
	})
	clear(w.win)
	m := int32(w.m)
	var label uint64
	covered := int32(0) // windows below it have the label
	for i, p := range w.pairs {
		if i == 0 || p.label != label {
			label, covered = p.label, 0
		}
		from, to := max(p.at-m+1, covered), min(p.at, m-1)
		if from > to {
			continue
		}
		w.win[from]++ // differences: summed below
		if int(to)+1 < w.m {
			w.win[to+1]--
		}
		covered = to + 1
	}
	for k := 1; k < w.m; k++ {
		w.win[k] += w.win[k-1]
	}
}

// estimateLabels fills win by sketches. All windows hold the pane in the middle: what
// lies left of it is put together once, from there outwards, and what lies right of it
// as the windows move on.
func (w *windowed) estimateLabels() {
	if w.left == nil {
		w.left = make([]hyperLogLog, w.m)
	}
	var left, right hyperLogLog
	for k := w.m - 1; k >= 0; k-- {
		w.sketchLabels(&left, k)
		w.left[k] = left
	}
	for k := range w.win {
		if k > 0 {
			w.sketchLabels(&right, k+w.m-1)
		}
		all := w.left[k]
		all.union(&right)
		w.win[k] = float64(all.estimate())
	}
}

// sketchLabels adds the labels of one of the panes gathered.
func (w *windowed) sketchLabels(to *hyperLogLog, at int) {
	for k, p := range w.recs[at] {
		if p == nil {
			continue
		}
		if over := w.in[k].over(p); over != nil && over.labels != nil {
			to.union(over.labels)
		} else {
			w.in[k].addLabels(to, p)
		}
	}
}

// orderedEvent is an event that a sequence may take.
type orderedEvent struct {
	time int64
	id   uint64
	at   int32
	ref  uint8
}

// measureOrdered finds how many of the rules have matched in order, each by an
// event of its own, equal times in either order.
func (w *windowed) measureOrdered() {
	w.events = w.events[:0]
	for at := range w.recs {
		for k, p := range w.recs[at] {
			if p == nil {
				continue
			}
			for i := p.head; i != 0; {
				e := w.in[k].entries.at(i - 1)
				w.events = append(w.events, orderedEvent{w.timeOf(p.q, e), e.id, int32(at), e.ref()})
				i = e.next
			}
		}
	}
	slices.SortFunc(w.events, func(a, b orderedEvent) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.id, b.id), cmp.Compare(a.ref, b.ref))
	})
	clear(w.win)
	first := 0
	for k := range w.win {
		if w.counts[k] == 0 {
			continue // the window from the next pane with events holds all of this one's
		}
		for first < len(w.events) && int(w.events[first].at) < k {
			first++
		}
		end := first
		var mask uint64
		for end < len(w.events) && int(w.events[end].at) < k+w.m {
			mask |= 1 << w.events[end].ref
			end++
		}
		if mask&w.all == w.all {
			w.win[k] = float64(inOrder(w.events[first:end], len(w.c.Rules)))
		}
	}
}

// inOrder gives how many of the refs 0, 1, … the events (by time) match in order.
// The longest beginning is the best at each time, whatever it used before; among
// events of one time it takes as many refs as a matching of refs to events allows.
func inOrder(events []orderedEvent, refs int) int {
	n := 0
	for i := 0; i < len(events) && n < refs; {
		j := i + 1
		for j < len(events) && events[j].time == events[i].time {
			j++
		}
		if j == i+1 {
			if int(events[i].ref) == n {
				n++
			}
		} else {
			n += matchRefs(events[i:j], n, refs)
		}
		i = j
	}
	return n
}

// matchRefs gives how many of the refs from n on can each be given an event of its
// own, by augmenting paths. An event that matched several rules is there once for
// each; its id is what can be used only once.
func matchRefs(events []orderedEvent, n, refs int) int {
	owner := map[uint64]int{} // event id → ref
	var give func(ref int, seen map[uint64]bool) bool
	give = func(ref int, seen map[uint64]bool) bool {
		for _, e := range events {
			if int(e.ref) != ref || seen[e.id] {
				continue
			}
			seen[e.id] = true
			if o, taken := owner[e.id]; !taken || give(o, seen) {
				owner[e.id] = ref
				return true
			}
		}
		return false
	}
	k := 0
	for n+k < refs && give(n+k, map[uint64]bool{}) {
		k++
	}
	return k
}
