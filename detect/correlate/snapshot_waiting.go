package correlate

import (
	"maps"
	"math"
	"slices"
)

// snapshot writes the events of each join value. Which of them wait, and until when
// they are held, follows.
func (n *unmatched) snapshot(w *snapshotWriter) {
	w.params(n.before, n.after, n.retain, n.hold, n.forced)
	w.uvarint(uint64(len(n.tab)))
	for full, v := range n.tab {
		w.key(n.base, []byte(full))
		for _, events := range [...][]*joinEvent{v.left, v.right} {
			w.uvarint(uint64(len(events)))
			for _, ev := range events {
				w.evidence(&ev.Evidence)
				w.varint(ev.stamp)
				flags := byte(ev.side) << 2
				if ev.late {
					flags |= 1
				}
				if ev.done {
					flags |= 2
				}
				w.byte(flags)
				w.string(ev.rollup)
				w.item()
			}
		}
	}
}

func (n *unmatched) load(r *snapshotReader) {
	r.same(n.before, n.after, n.retain, n.hold)
	n.forced = r.varint()
	for values := r.uvarint(); values > 0 && r.err == nil; values-- {
		full := string(r.key(n.base))
		if _, ok := n.tab[full]; ok {
			r.fail()
			return
		}
		v := n.value(full)
		for _, right := range [...]bool{false, true} {
			var last *joinEvent
			for events := r.below(maxJoin + 1); events > 0 && r.err == nil; events-- {
				ev := &joinEvent{Evidence: r.evidence(), full: v.full, stamp: r.varint()}
				flags := r.byte()
				ev.rollup = r.string()
				ev.side, ev.late, ev.done = side(flags>>2), flags&1 != 0, flags&2 != 0
				ev.until = ev.Time + n.retain
				if r.err != nil || ev.side > sideUnknown || (ev.side == sideRight) != right || last != nil && compareEvents(last, ev) >= 0 {
					r.fail()
					return
				}
				last = ev
				at := v.of(ev.side)
				*at = append(*at, ev)
				n.text += int64(len(ev.rollup))
				n.expire.push(ev)
				if !right && !ev.done {
					n.due.push(ev)
				}
			}
		}
		if len(v.left)+len(v.right) == 0 {
			r.fail()
		}
	}
}

// snapshot writes the events that wait, by value.
func (n *newValue) snapshot(w *snapshotWriter) {
	w.params(n.maxOpen, n.grid, n.forced)
	waiting := map[valueOf][]*valueEvent{}
	for _, ev := range n.waiting.items {
		waiting[ev.valueOf] = append(waiting[ev.valueOf], ev)
	}
	w.uvarint(uint64(len(waiting)))
	for v, events := range waiting {
		w.key(n.base, []byte(v.full))
		w.string(v.value)
		w.evidence(&n.pending[v].least)
		w.uvarint(uint64(len(events)))
		for _, ev := range events {
			w.evidence(&ev.Evidence)
			w.varint(ev.stamp)
			late := byte(0)
			if ev.late {
				late = 1
			}
			w.byte(late)
			w.item()
		}
	}
}

func (n *newValue) load(r *snapshotReader) {
	r.same(n.maxOpen, n.grid)
	n.forced = r.varint()
	for values := r.uvarint(); values > 0 && r.err == nil; values-- {
		v := valueOf{full: string(r.key(n.base))}
		v.value = r.string()
		least := r.evidence()
		if _, ok := n.pending[v]; ok {
			r.fail()
			return
		}
		p := n.await(v)
		p.least = least
		for events := r.uvarint(); events > 0 && r.err == nil; events-- {
			ev := &valueEvent{Evidence: r.evidence(), valueOf: v, stamp: r.varint()}
			ev.late = r.byte() != 0
			if r.err != nil {
				return
			}
			n.waiting.push(ev)
			p.n++
		}
		if p.n == 0 {
			r.fail()
			return
		}
	}
}

// snapshot writes the open buckets. What the profiles say is in the ledger.
func (n *baseline) snapshot(w *snapshotWriter) {
	w.params(n.size, n.behind, n.maxOpen, n.forced)
	w.uvarint(uint64(len(n.open)))
	for _, b := range n.open {
		w.key(n.base, n.profiles.keys.key(b.slot))
		w.varint(b.k)
		w.varint(b.stamp)
		w.varint(b.first)
		w.varint(b.last)
		w.uvarint(uint64(b.counts[0]))
		w.uvarint(uint64(b.counts[1]))
		w.uvarint(uint64(len(b.over.count)))
		for _, at := range slices.Sorted(maps.Keys(b.over.count)) {
			w.varint(int64(at))
			w.uvarint(uint64(b.over.count[at]))
		}
		w.uvarint(uint64(len(b.events)))
		for i := range b.events {
			ev := &b.events[i]
			w.evidence(&ev.Evidence)
			w.fixed64(math.Float64bits(ev.number))
			flags := ev.ref << 1
			if ev.late {
				flags |= 1
			}
			w.byte(flags)
			w.item()
		}
	}
}

func (n *baseline) load(r *snapshotReader) {
	r.same(n.size, n.behind, n.maxOpen)
	n.forced = r.varint()
	for buckets := r.uvarint(); buckets > 0 && r.err == nil; buckets-- {
		full := slices.Clone(r.key(n.base))
		slot, ok := n.profiles.slot(full, func() *bucketProfile { return &bucketProfile{} })
		k := r.varint()
		b := &bucket{stamp: always, first: always, last: never}
		// What the profiles, which may be of a later place, have closed since is not open.
		if ok = ok && r.err == nil; ok {
			p := n.profiles.list[slot]
			ok = !p.known || k > p.closed
		}
		if ok {
			if n.open[bucketID{slot, k}] != nil {
				r.fail()
				return
			}
			b = n.bucket(slot, k, full)
		}
		b.stamp, b.first, b.last = r.varint(), r.varint(), r.varint()
		b.counts = [2]int{int(r.below(math.MaxInt64)), int(r.below(math.MaxInt64))}
		for c := r.uvarint(); c > 0 && r.err == nil; c-- {
			at, times := int32(r.varint()), uint32(r.below(math.MaxUint32))
			if at != math.MinInt32 && (at < bucketOf(1e-9)-1 || at > bucketOf(math.MaxFloat64)) {
				r.fail()
				return
			}
			if b.over.count == nil {
				b.over.count = map[int32]uint32{}
			}
			b.over.count[at] += times
			b.over.n += int(times)
		}
		n.held += b.over.bytes()
		for events := r.uvarint(); events > 0 && r.err == nil; events-- {
			ev := bucketEvent{Evidence: r.evidence(), number: math.Float64frombits(r.fixed64())}
			flags := r.byte()
			ev.ref, ev.late = flags>>1, flags&1 != 0
			if r.err != nil || ev.ref > 1 {
				r.fail()
				return
			}
			b.keep(n, ev)
		}
	}
}

var _ = [...]snapshotted{(*windowed)(nil), (*unmatched)(nil), (*newValue)(nil), (*baseline)(nil)}
