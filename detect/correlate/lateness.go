package correlate

import (
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/event"
)

// isLate reports whether an event came later than its rule reckons with: it counts
// with whatever arrived near it, and the finding says how many such there are.
func (b *base) isLate(o *detect.Observation) bool { return o.Stamp-o.Time > b.late }

func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// settledAll is how far the types, and what the rules below it derive, are settled for
// the rule. One that sets a lateness of its own waits as long.
func (b *base) settledAll(types []event.Type) int64 {
	c := &b.e.c
	s := c.settledAll(types)
	for _, in := range b.inner {
		s = min(s, c.settledDerived(in.typ, in.level))
	}
	if b.c.Lateness > 0 && s != never {
		s = min(s, sub(b.a(), int64(b.c.Lateness)))
	}
	return s
}

// lateBit marks an entry whose event came late, by the earliest of its deliveries.
const lateBit = 1 << 6

func (e *entry) late() bool { return e.where&lateBit != 0 }

// inTime takes the mark from an event that has come late and, on another source, in
// time.
func (w *windowed) inTime(full []byte, t *table, p *pane, e *entry, o *detect.Observation) {
	if !e.late() || w.isLate(o) {
		return
	}
	e.where &^= lateBit
	if !p.hot() || e.echo() {
		return
	}
	for i, n := p.head, p.n-p.done; n > 0; n-- {
		waiting := t.entries.at(i - 1)
		if waiting == e {
			return // not counted yet
		}
		i = waiting.next
	}
	if d := w.delta(full, p.q); d != nil {
		d.Late--
		at := w.timeOf(p.q, e)
		d.First, d.Last = min(d.First, at), max(d.Last, at)
	}
}

// await has a new event's pane judged once its windows are settled. If they are,
// the event is late, and what it bears on is judged again: a pane that is hot stays
// hot and counts the event, one that is not may become so.
func (w *windowed) await(c *cursor, q int64, made bool) {
	if s := w.settledAll(w.types); s == never || (q+int64(w.m))*w.pane > s {
		if made {
			w.due.push(dueJudge{q: q, gen: c.gen, slot: c.slot[1] - 1})
		}
		return
	}
	at := dueJudge{q: q, gen: c.gen, slot: c.slot[1] - 1}
	if at == w.awaited {
		return // it is judged behind the section
	}
	w.awaited = at
	for i, t := range c.t {
		if t == nil || c.slot[i] == 0 {
			continue
		}
		ps := t.of(c.slot[i] - 1)
		for j := search(ps, q-int64(w.m)+1); j < len(ps) && ps[j].q < q+int64(w.m); j++ {
			w.due.push(dueJudge{q: ps[j].q, gen: t.gen, slot: c.slot[i] - 1})
		}
	}
}
