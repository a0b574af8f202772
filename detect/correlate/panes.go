package correlate

import (
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

// entry is one distinct event of a key. There are as many as events, so it is
// packed; what a value_count or a temporal rule needs beside it is in table.aux.
type entry struct {
	at    uint64 // ns from its pane's start << 16 | index of the source
	id    uint64
	where uint64 // offset << 8 | echo << 7 | ref
	crc   uint32
	next  uint32 // 1 + the entry before it in its pane
}

// maxPane is the longest pane, in ns, that an entry's time fits into.
const maxPane = 1<<48 - 1

const echoBit = 1 << 7 // the event stands in the pane already, under another ref

func (w *windowed) pack(o *detect.Observation, q int64, src int, echo bool) entry {
	e := entry{at: uint64(o.Time-q*w.pane)<<16 | uint64(uint16(src)), id: o.IDHash, crc: o.CRC}
	e.where = uint64(o.Offset)<<8 | uint64(o.Ref&63)
	if echo {
		e.where |= echoBit
	}
	if w.isLate(o) {
		e.where |= lateBit
	}
	return e
}

// timeOf is the time of an entry of pane q.
func (w *windowed) timeOf(q int64, e *entry) int64 { return q*w.pane + int64(e.at>>16) }

func (e *entry) ref() uint8    { return uint8(e.where & 63) }
func (e *entry) echo() bool    { return e.where&echoBit != 0 }
func (e *entry) source() int   { return int(uint16(e.at)) }
func (e *entry) offset() int64 { return int64(e.where >> 8) }

// pane is a key's events in one pane of one generation.
type pane struct {
	q    int64  // event time / pane
	n    uint32 // entries
	done uint32 // of them counted in a finding
	head uint32 // 1 + the latest entry
	more uint32 // hotBit, and 1 + the sketch of what came past the bound on entries
}

const hotBit = 1 << 31

func (p *pane) hot() bool { return p.more&hotBit != 0 }

func (p *pane) heat() { p.more |= hotBit }

// over is a pane's sketch; nil: it has none.
func (t *table) over(p *pane) *sketch {
	if i := p.more &^ hotBit; i != 0 {
		return t.sketches[i-1]
	}
	return nil
}

// addOver gives a pane a sketch.
func (t *table) addOver(p *pane, s *sketch) {
	t.sketches = append(t.sketches, s)
	p.more |= uint32(len(t.sketches))
}

// keySlot is a key in one generation: its panes, sorted, in a run of their class.
type keySlot struct {
	num    uint32 // of the run
	n      uint32 // panes in use
	events uint32
}

func (s *keySlot) run() run { return run{s.num, classOf(s.n)} }

// sketch estimates distinct events past the bound. What a flood must not hide is
// kept exactly beyond it, to a bound of its own: events of other refs, and labels
// not seen before.
type sketch struct {
	kept       [64]uint32 // entries by ref; for value_count labels past the bound, at 0
	hll        hyperLogLog
	labels     *hyperLogLog // of all labels in the pane, once there are more than are kept
	count      uint32       // estimate
	done       uint32       // of it counted in a finding
	deliveries uint64
	last       int64 // greatest event time
}

// table is one generation of a rule's windows.
type table struct {
	gen      int64
	keys     keyTable
	slots    slab[keySlot]
	panes    paneSlab
	entries  slab[entry]
	aux      slab[uint64] // beside entries: for value_count the hash of the label, for temporal the refs in the pane up to it
	ids      idTable
	sketches []*sketch
	sums     map[paneAt]*paneSum
}

// walk is how many entries of a pane are looked through one by one before they
// are indexed.
const walk = 16

func (t *table) slot(hash uint32, key []byte) uint32 {
	slot := t.keys.add(hash, key)
	_, s := t.slots.add()
	s.num = t.panes.alloc(0).num
	return slot
}

func (t *table) of(slot uint32) []pane {
	s := t.slots.at(slot)
	return t.panes.panes(s.run())[:s.n]
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
	all := t.panes.panes(s.run())
	i := search(all[:s.n], q)
	if i < int(s.n) && all[i].q == q {
		return &all[i], false
	}
	if int(s.n) == len(all) {
		bigger := t.panes.alloc(classOf(s.n + 1))
		to := t.panes.panes(bigger)
		copy(to, all)
		t.panes.release(s.run())
		s.num, all = bigger.num, to
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
	time := uint64(o.Time - p.q*w.pane)
	for i := p.head; i != 0; {
		e := t.entries.at(i - 1)
		if e.id == o.IDHash && e.at>>16 == time && w.discOf(t, i-1) == disc {
			return e
		}
		i = e.next
	}
	return nil
}

// refs is the bit set of the refs in a pane.
func (t *table) refs(p *pane) uint64 {
	if p.head == 0 {
		return 0
	}
	return *t.aux.at(p.head - 1)
}

// hasLabel reports whether an event of the pane has the label.
func (w *windowed) hasLabel(t *table, slot uint32, p *pane, label uint64) bool {
	if p.n > walk {
		_, ok := t.ids.find(mix(w.salt+1, uint64(slot), uint64(p.q), label))
		return ok
	}
	for i := p.head; i != 0; {
		if *t.aux.at(i - 1) == label {
			return true
		}
		i = t.entries.at(i - 1).next
	}
	return false
}

// insert adds an event to a pane; past the bound only to its sketch.
func (w *windowed) insert(t *table, slot uint32, p *pane, o *detect.Observation, src int, aux uint64, echo bool) {
	s := t.slots.at(slot)
	if int(p.n) >= w.e.opts.ExactIDs {
		over := w.sketch(t, p)
		if !w.keepAnyway(t, slot, p, over, o, aux) {
			s.events += over.add(o)
			return
		}
	}
	if w.byRef {
		aux = t.refs(p) | 1<<(o.Ref&63)
	}
	i, e := t.entries.add()
	*e = w.pack(o, p.q, src, echo)
	e.next = p.head
	if w.labels || w.byRef || w.numbers {
		_, a := t.aux.add()
		*a = aux
	}
	p.head = i + 1
	p.n++
	s.events++
	switch {
	case p.n == walk+1:
		for j := p.head; j != 0; {
			w.indexEntry(t, slot, p, j-1)
			j = t.entries.at(j - 1).next
		}
	case p.n > walk:
		w.indexEntry(t, slot, p, i)
	}
}

func (w *windowed) indexEntry(t *table, slot uint32, p *pane, i uint32) {
	e := t.entries.at(i)
	t.ids.add(mix(w.salt^w.discOf(t, i), uint64(slot), uint64(w.timeOf(p.q, e)), e.id), i)
	if w.labels {
		if fp := mix(w.salt+1, uint64(slot), uint64(p.q), *t.aux.at(i)); !t.ids.has(fp) {
			t.ids.add(fp, i)
		}
	}
}

// sketch finds or makes a pane's sketch.
func (w *windowed) sketch(t *table, p *pane) *sketch {
	if s := t.over(p); s != nil {
		return s
	}
	s := &sketch{last: never}
	if w.byRef {
		for i := p.head; i != 0; {
			e := t.entries.at(i - 1)
			s.kept[e.ref()]++
			i = e.next
		}
	}
	t.addOver(p, s)
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
		if w.labels {
			s.addLabel(t, p, aux)
		}
		return false
	}
	*kept++
	return true
}

// addLabel counts a label past the bound on labels.
func (s *sketch) addLabel(t *table, p *pane, label uint64) {
	if s.labels == nil {
		s.labels = &hyperLogLog{}
		t.addLabels(s.labels, p)
	}
	s.labels.add(label)
}

// addLabels adds the labels of a pane's entries.
func (t *table) addLabels(to *hyperLogLog, p *pane) {
	for i := p.head; i != 0; i = t.entries.at(i - 1).next {
		to.add(*t.aux.at(i - 1))
	}
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
	if over := t.over(p); over != nil {
		n += int64(over.count)
	}
	return n
}
