package correlate

import (
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

// entry is one distinct event of a key.
type entry struct {
	time   int64
	id     uint64
	aux    uint64 // hash of the label, for value_count
	offset int64
	crc    uint32
	next   uint32 // 1 + the entry before it in its pane
	src    uint16 // index of the source
	ref    uint8
	echo   bool // the event stands in the pane already, under another ref
}

// pane is a key's events in one pane of one generation.
type pane struct {
	q    int64  // event time / pane
	refs uint64 // bit set of the refs seen
	n    uint32 // entries
	done uint32 // of them counted in a finding
	head uint32 // 1 + the latest entry
	over uint16 // 1 + the sketch of what came past the bound on entries
	hot  bool
}

// keySlot is a key in one generation: its panes, sorted.
type keySlot struct {
	run    run
	n      uint32 // panes in use
	events uint32
}

// sketch estimates distinct events past the bound. What a flood must not hide is
// kept exactly beyond it, to a bound of its own: events of other refs, and labels
// not seen before.
type sketch struct {
	kept       [64]uint32 // entries by ref; for value_count labels past the bound, at 0
	hll        hyperLogLog
	count      uint32 // estimate
	done       uint32 // of it counted in a finding
	deliveries uint64
	last       int64 // greatest event time
}

// table is one generation of a rule's windows.
type table struct {
	gen     int64
	keys    keyTable
	slots   slab[keySlot]
	panes   paneSlab
	entries slab[entry]
	ids     idTable
	over    []*sketch
}

// walk is how many entries of a pane are looked through one by one before they
// are indexed.
const walk = 16

func (t *table) slot(hash uint64, key []byte) uint32 {
	slot := t.keys.add(hash, key)
	_, s := t.slots.add()
	s.run = t.panes.alloc(0)
	return slot
}

func (t *table) of(slot uint32) []pane {
	s := t.slots.at(slot)
	return t.panes.panes(s.run)[:s.n]
}

// search finds the first pane at or after q.
func search(ps []pane, q int64) int {
	if n := len(ps); n > 0 && ps[n-1].q < q {
		return n
	}
	i, _ := slices.BinarySearchFunc(ps, q, func(p pane, q int64) int {
		switch {
		case p.q < q:
			return -1
		case p.q > q:
			return 1
		}
		return 0
	})
	return i
}

func (t *table) pane(slot uint32, q int64) *pane {
	ps := t.of(slot)
	if i := search(ps, q); i < len(ps) && ps[i].q == q {
		return &ps[i]
	}
	return nil
}

// makePane finds or makes a pane; made tells which. The pointer holds until the
// next makePane of the table.
func (t *table) makePane(slot uint32, q int64) (p *pane, made bool) {
	s := t.slots.at(slot)
	all := t.panes.panes(s.run)
	i := search(all[:s.n], q)
	if i < int(s.n) && all[i].q == q {
		return &all[i], false
	}
	if int(s.n) == len(all) {
		bigger := t.panes.alloc(s.run.class + 1)
		to := t.panes.panes(bigger)
		copy(to, all)
		t.panes.release(s.run)
		s.run, all = bigger, to
	}
	copy(all[i+1:s.n+1], all[i:s.n])
	all[i] = pane{q: q}
	s.n++
	return &all[i], true
}

// find looks for an event in a pane. disc is what else tells its observations
// apart, see windowed.disc.
func (w *windowed) find(t *table, slot uint32, p *pane, o *detect.Observation, disc uint64) *entry {
	if p.n > walk {
		if i, ok := t.ids.find(mix(w.salt^disc, uint64(slot), uint64(o.Time), o.IDHash)); ok {
			return t.entries.at(i)
		}
		return nil
	}
	for i := p.head; i != 0; {
		e := t.entries.at(i - 1)
		if e.time == o.Time && e.id == o.IDHash && w.discOf(e) == disc {
			return e
		}
		i = e.next
	}
	return nil
}

// hasLabel reports whether an event of the pane has the label.
func (w *windowed) hasLabel(t *table, slot uint32, p *pane, label uint64) bool {
	if p.n > walk {
		_, ok := t.ids.find(mix(w.salt+1, uint64(slot), uint64(p.q), label))
		return ok
	}
	for i := p.head; i != 0; {
		e := t.entries.at(i - 1)
		if e.aux == label {
			return true
		}
		i = e.next
	}
	return false
}

// insert adds an event to a pane; past the bound only to its sketch.
func (w *windowed) insert(t *table, slot uint32, p *pane, o *detect.Observation, src int, aux uint64, echo bool) {
	s := t.slots.at(slot)
	if int(p.n) >= w.e.opts.ExactIDs {
		over := w.sketch(t, p)
		if over == nil {
			return
		}
		if !w.keepAnyway(t, slot, p, over, o, aux) {
			s.events += over.add(o)
			return
		}
	}
	i, e := t.entries.add()
	*e = entry{
		time: o.Time, id: o.IDHash, aux: aux, offset: o.Offset, crc: o.CRC,
		next: p.head, src: uint16(src), ref: o.Ref, echo: echo,
	}
	p.head = i + 1
	p.n++
	p.refs |= 1 << (o.Ref & 63)
	s.events++
	switch {
	case p.n == walk+1:
		for j := p.head; j != 0; {
			e := t.entries.at(j - 1)
			w.indexEntry(t, slot, p, e, j-1)
			j = e.next
		}
	case p.n > walk:
		w.indexEntry(t, slot, p, e, i)
	}
}

func (w *windowed) indexEntry(t *table, slot uint32, p *pane, e *entry, i uint32) {
	t.ids.add(mix(w.salt^w.discOf(e), uint64(slot), uint64(e.time), e.id), i)
	if w.labels {
		if fp := mix(w.salt+1, uint64(slot), uint64(p.q), e.aux); !t.ids.has(fp) {
			t.ids.add(fp, i)
		}
	}
}

// sketch finds or makes a pane's sketch; there may be too many of them.
func (w *windowed) sketch(t *table, p *pane) *sketch {
	if p.over != 0 {
		return t.over[p.over-1]
	}
	if len(t.over) == 1<<16-1 {
		return nil
	}
	s := &sketch{last: never}
	if w.byRef {
		for i := p.head; i != 0; {
			e := t.entries.at(i - 1)
			s.kept[e.ref&63]++
			i = e.next
		}
	}
	t.over = append(t.over, s)
	p.over = uint16(len(t.over))
	return s
}

// keepAnyway reports whether an event past the bound is one that a flood of others
// must not hide.
func (w *windowed) keepAnyway(t *table, slot uint32, p *pane, s *sketch, o *detect.Observation, aux uint64) bool {
	var kept *uint32
	switch {
	case w.byRef:
		kept = &s.kept[o.Ref&63]
	case w.labels && !w.hasLabel(t, slot, p, aux):
		kept = &s.kept[0]
	default:
		return false
	}
	if int(*kept) >= w.e.opts.ExactIDs {
		return false
	}
	*kept++
	return true
}

// add counts an event past the bound, as well as a sketch can, and returns by how
// much the estimate grew.
func (s *sketch) add(o *detect.Observation) uint32 {
	s.deliveries++
	s.last = max(s.last, o.Time)
	s.hll.add(mix(0x5bd1e995, o.IDHash, uint64(o.Time), 0))
	n := max(s.hll.estimate(), s.count)
	grew := n - s.count
	s.count = n
	return grew
}

// total is the distinct events of a pane.
func (t *table) total(p *pane) int64 {
	n := int64(p.n)
	if p.over != 0 {
		n += int64(t.over[p.over-1].count)
	}
	return n
}
