package correlate

import (
	"math/bits"
	"unsafe"
)

// Size is what a rule holds in memory.
type Size struct {
	Keys  int64 // one that two generations of windows hold counts twice
	Bytes int64 // of what is allocated for them, room to grow included
}

// Sizes calls yield with what each rule holds, in no particular order. It takes
// time by the number of rules, not of what they hold.
func (e *Engine) Sizes(yield func(RuleSize)) {
	for _, er := range e.list {
		yield(RuleSize{ID: er.rule.ID, Type: string(er.rule.Correlation.Type), Size: er.detector.holds()})
	}
}

// RuleSize is what a rule of that id and correlation type holds. Two versions of a
// rule may be in force at once.
type RuleSize struct {
	ID, Type string
	Size
}

func sizeOf[T any]() int64 {
	var v T
	return int64(unsafe.Sizeof(v))
}

const sliceHeader = 3 * bits.UintSize / 8

// mapBytes is about what n entries take in a map of the language, which is between
// 7/16 and 7/8 full.
func mapBytes[K comparable, V any](n int) int64 {
	return int64(n) * (sizeOf[K]() + sizeOf[V]() + 1) * 3 / 2
}

func (s *slab[T]) bytes() int64 {
	if len(s.chunks) == 0 {
		return 0
	}
	items := len(s.chunks[0]) + (len(s.chunks)-1)<<chunkBits
	return int64(items)*sizeOf[T]() + int64(cap(s.chunks))*sliceHeader
}

func (t *keyTable) bytes() int64 {
	return int64(cap(t.index))*4 + t.refs.bytes() + t.held + int64(cap(t.arena))*sliceHeader + int64(cap(t.free))*4
}

func (t *idTable) bytes() int64 { return int64(cap(t.fp))*8 + int64(cap(t.ent))*4 }

func (s *paneSlab) bytes() int64 {
	n := int64(0)
	for class := range s.class {
		c := &s.class[class]
		n += int64(len(c.runs))*int64(perChunk(uint8(class)))<<class*sizeOf[pane]() + int64(cap(c.runs))*sliceHeader + int64(cap(c.free))*4
	}
	return n
}

func (t *table) bytes() int64 {
	n := t.keys.bytes() + t.slots.bytes() + t.panes.bytes() + t.entries.bytes() + t.aux.bytes() + t.ids.bytes()
	n += int64(len(t.sketches)) * (sizeOf[*sketch]() + sizeOf[sketch]())
	for _, s := range t.sketches {
		if s.labels != nil {
			n += sizeOf[hyperLogLog]()
		}
	}
	return n + mapBytes[paneAt, *paneSum](len(t.sums)) + int64(len(t.sums))*2*sizeOf[paneSum]()
}

func (w *windowed) holds() Size {
	s := Size{Bytes: int64(cap(w.due.items)) * sizeOf[dueJudge]()}
	for _, t := range w.tables {
		s.Keys += int64(t.keys.len())
		s.Bytes += t.bytes()
	}
	return s
}

func (n *unmatched) holds() Size {
	events := int64(n.expire.len())
	return Size{
		Keys: int64(len(n.tab)),
		Bytes: mapBytes[string, *joinValue](len(n.tab)) + int64(len(n.tab))*sizeOf[joinValue]() + n.text +
			events*(sizeOf[joinEvent]()+sizeOf[*joinEvent]()) + int64(cap(n.due.items)+cap(n.expire.items))*sizeOf[*joinEvent](),
	}
}

func (n *newValue) holds() Size {
	return Size{
		Keys: int64(n.profiles.keys.len()),
		Bytes: n.profiles.bytes() + int64(cap(n.waiting.items))*sizeOf[*valueEvent]() + int64(n.waiting.len())*sizeOf[valueEvent]() +
			mapBytes[valueOf, *pendingValue](len(n.pending)) + int64(len(n.pending))*sizeOf[pendingValue]() + n.text,
	}
}

func (n *baseline) holds() Size {
	return Size{
		Keys:  int64(n.profiles.keys.len()),
		Bytes: n.profiles.bytes() + mapBytes[bucketID, *bucket](len(n.open)) + int64(cap(n.due.items))*sizeOf[*bucket]() + n.held,
	}
}
