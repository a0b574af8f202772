package correlate

import "math"

// snapshot writes each generation's keys with their panes and events, the earliest
// applied first, and what waits to be judged.
func (w *windowed) snapshot(s *snapshotWriter) {
	s.params(w.pane, int64(w.m), w.gen)
	s.uvarint(uint64(len(w.tables)))
	var chain []uint32
	for _, t := range w.tables {
		s.varint(t.gen)
		s.uvarint(uint64(t.keys.len()))
		for slot := range uint32(t.keys.len()) {
			s.key(w.base, t.keys.key(slot))
			ps := t.of(slot)
			s.uvarint(uint64(t.slots.at(slot).events))
			s.uvarint(uint64(len(ps)))
			for i := range ps {
				chain = w.snapshotPane(s, t, &ps[i], chain)
				s.item()
			}
			s.item()
		}
	}
	s.uvarint(uint64(len(w.due.items)))
	for _, d := range w.due.items {
		s.varint(d.q)
		s.varint(d.gen)
		s.uvarint(uint64(d.slot))
		s.item()
	}
}

// maxReserve bounds what is made ready because a snapshot says that it will be needed.
const maxReserve = 1 << 22

const (
	paneHot  = 1 << iota // it is hot
	paneOver             // it has a sketch
)

func (w *windowed) snapshotPane(s *snapshotWriter, t *table, p *pane, chain []uint32) []uint32 {
	s.varint(p.q)
	s.uvarint(uint64(p.n))
	s.uvarint(uint64(p.done))
	flags := byte(0)
	if p.hot() {
		flags |= paneHot
	}
	over := t.over(p)
	if over != nil {
		flags |= paneOver
	}
	s.byte(flags)
	chain = chain[:0]
	for i := p.head; i != 0; i = t.entries.at(i - 1).next {
		chain = append(chain, i-1)
	}
	for k := len(chain) - 1; k >= 0; k-- {
		e := t.entries.at(chain[k])
		s.uvarint(e.at >> 16)
		s.uvarint(uint64(e.source()))
		s.uvarint(e.where)
		s.fixed32(e.crc)
		s.fixed64(e.id)
		if w.labels || w.numbers {
			s.fixed64(*t.aux.at(chain[k]))
		}
	}
	if over != nil {
		over.snapshot(s)
	}
	return chain
}

func (w *windowed) load(r *snapshotReader) {
	r.same(w.pane, int64(w.m), w.gen)
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		t := &table{gen: r.varint()}
		if w.table(t.gen) != nil {
			r.fail()
		}
		w.tables = append(w.tables, t)
		keys := r.uvarint()
		t.keys.reserve(int(min(keys, uint64(w.e.opts.MaxKeys), maxReserve)))
		for ; keys > 0 && r.err == nil; keys-- {
			w.loadKey(r, t)
		}
	}
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		d := dueJudge{q: r.varint(), gen: r.varint()}
		t := w.table(d.gen)
		if t == nil {
			r.fail()
			return
		}
		d.slot = uint32(r.below(uint64(t.keys.len())))
		if r.err != nil || t.pane(d.slot, d.q) == nil {
			r.fail()
			return
		}
		w.due.push(d)
	}
}

func (w *windowed) loadKey(r *snapshotReader, t *table) {
	full := r.key(w.base)
	hash := w.hash(full)
	events, panes := r.below(math.MaxUint32), r.uvarint()
	if _, ok := t.keys.find(hash, full); ok || t.keys.full() {
		r.fail()
	}
	if r.err != nil {
		return
	}
	slot := t.slot(hash, full)
	t.slots.at(slot).events = uint32(events)
	for ; panes > 0 && r.err == nil; panes-- {
		w.loadPane(r, t, slot)
	}
}

func (w *windowed) loadPane(r *snapshotReader, t *table, slot uint32) {
	q, n := r.varint(), r.below(math.MaxUint32)
	done, flags := r.uvarint(), r.byte()
	if done > n {
		r.fail()
	}
	if r.err != nil {
		return
	}
	p, made := t.makePane(slot, q)
	if !made {
		r.fail()
		return
	}
	if flags&paneHot != 0 {
		p.heat()
	}
	for ; n > 0 && r.err == nil; n-- {
		at, src := r.below(uint64(w.pane)), r.below(uint64(len(r.sources)))
		e := entry{where: r.uvarint(), crc: r.fixed32(), id: r.fixed64(), next: p.head}
		var aux uint64
		switch {
		case w.labels, w.numbers:
			aux = r.fixed64()
		case w.byRef:
			aux = t.refs(p) | 1<<e.ref()
		}
		if r.err != nil {
			return
		}
		e.at = at<<16 | uint64(uint16(r.sources[src]))
		i, to := t.entries.add()
		*to = e
		if w.labels || w.byRef || w.numbers {
			_, a := t.aux.add()
			*a = aux
		}
		p.head = i + 1
		p.n++
	}
	p.done = uint32(done)
	if p.n > walk {
		for i := p.head; i != 0; i = t.entries.at(i - 1).next {
			w.indexEntry(t, slot, p, i-1)
		}
	}
	if flags&paneOver != 0 {
		t.addOver(p, loadSketch(r))
	}
}

func (s *sketch) snapshot(w *snapshotWriter) {
	for _, n := range s.kept {
		w.uvarint(uint64(n))
	}
	w.uvarint(uint64(s.count))
	w.uvarint(uint64(s.done))
	w.uvarint(s.deliveries)
	w.varint(s.last)
	s.hll.snapshot(w)
	labels := s.labels
	if labels == nil {
		labels = &hyperLogLog{}
	}
	labels.snapshot(w)
}

func loadSketch(r *snapshotReader) *sketch {
	s := &sketch{}
	for i := range s.kept {
		s.kept[i] = uint32(r.below(math.MaxUint32))
	}
	s.count, s.done = uint32(r.below(math.MaxUint32)), uint32(r.below(math.MaxUint32))
	s.deliveries, s.last = r.uvarint(), r.varint()
	s.hll.load(r)
	var labels hyperLogLog
	if labels.load(r); labels.init {
		s.labels = &labels
	}
	return s
}

// The sum is written to the last bit: adding it up in another order might round an
// estimate otherwise.
func (h *hyperLogLog) snapshot(w *snapshotWriter) {
	if !h.init {
		w.byte(0)
		return
	}
	w.byte(1)
	w.fixed64(math.Float64bits(h.sum))
	w.b = append(w.b, h.reg[:]...)
}

func (h *hyperLogLog) load(r *snapshotReader) {
	if r.byte() == 0 {
		return
	}
	h.init, h.sum = true, math.Float64frombits(r.fixed64())
	copy(h.reg[:], r.take(len(h.reg)))
	for _, n := range h.reg {
		if n == 0 {
			h.zeros++
		}
	}
}
