package correlate

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/vedette-sec/vedette/detect"
)

const chunkBits = 10

// slab is a growing array that does not copy what it holds, but for its first
// chunk, which starts small: most rules see little. A pointer from at holds until
// the next add.
type slab[T any] struct {
	chunks [][]T
	n      uint32
}

func (s *slab[T]) at(i uint32) *T { return &s.chunks[i>>chunkBits][i&(1<<chunkBits-1)] }

func (s *slab[T]) add() (uint32, *T) {
	i := s.n
	switch c := i >> chunkBits; {
	case i == 0:
		s.chunks = append(s.chunks, make([]T, 8))
	case c == 0 && int(i) == len(s.chunks[0]):
		first := make([]T, 2*i)
		copy(first, s.chunks[0])
		s.chunks[0] = first
	case c == uint32(len(s.chunks)):
		s.chunks = append(s.chunks, make([]T, 1<<chunkBits))
	}
	s.n++
	return i, s.at(i)
}

// keyTable gives each key a slot number. It holds no pointers but to its arrays.
type keyTable struct {
	index []uint32 // open addressing: 1 + slot, 0 empty; a power of two long
	refs  slab[keyRef]
	arena [][]byte
	held  int64    // bytes of the arena's chunks
	waste int64    // of them, of keys that were removed
	free  []uint32 // slots of such keys
}

type keyRef struct {
	hash uint32
	at   uint32 // chunk of the arena << chunkSize | place within it
}

// gone stands for the place of a key that was removed; no key can be there, see full.
const gone = math.MaxUint32

// A chunk of the arena holds keys, each behind its length. A longer key gets a
// chunk of its own.
const (
	chunkSize  = 15 // bits
	arenaChunk = 1 << chunkSize
	maxChunks  = 1 << (32 - chunkSize)
)

func (t *keyTable) len() int { return int(t.refs.n) - len(t.free) }

// full reports whether there is no room for another key, whatever their number:
// they are very long.
func (t *keyTable) full() bool { return len(t.arena) >= maxChunks-1 }

func (t *keyTable) key(slot uint32) []byte {
	at := t.refs.at(slot).at
	c := t.arena[at>>chunkSize][at&(arenaChunk-1):]
	n, w := binary.Uvarint(c)
	return c[w : w+int(n)]
}

func (t *keyTable) find(hash uint32, key []byte) (uint32, bool) {
	if len(t.index) == 0 {
		return 0, false
	}
	mask := uint32(len(t.index) - 1)
	for i := hash & mask; t.index[i] != 0; i = (i + 1) & mask {
		slot := t.index[i] - 1
		if t.refs.at(slot).hash == hash && bytes.Equal(t.key(slot), key) {
			return slot, true
		}
	}
	return 0, false
}

// add adds a key that find did not find.
func (t *keyTable) add(hash uint32, key []byte) uint32 {
	if 4*(t.len()+1) > 3*len(t.index) {
		t.grow()
	}
	var slot uint32
	var r *keyRef
	if n := len(t.free); n > 0 {
		slot = t.free[n-1]
		t.free, r = t.free[:n-1], t.refs.at(slot)
	} else {
		slot, r = t.refs.add()
	}
	r.hash = hash
	t.store(r, key)
	t.place(hash, slot)
	return slot
}

// remove takes a key out. Its slot goes to a key that is added later.
func (t *keyTable) remove(slot uint32) {
	r := t.refs.at(slot)
	mask := uint32(len(t.index) - 1)
	i := r.hash & mask
	for t.index[i] != slot+1 {
		i = (i + 1) & mask
	}
	// What was pushed on past the place moves up (Knuth, "The Art of Computer
	// Programming", volume 3, 6.4, algorithm R).
	for j := (i + 1) & mask; t.index[j] != 0; j = (j + 1) & mask {
		home := t.refs.at(t.index[j]-1).hash & mask
		if (j-home)&mask >= (j-i)&mask {
			t.index[i] = t.index[j]
			i = j
		}
	}
	t.index[i] = 0
	t.waste += int64(len(t.key(slot)))
	r.at = gone
	t.free = append(t.free, slot)
	switch size := len(t.index); {
	case t.len() == 0:
		*t = keyTable{}
	case size >= 1024 && t.len() < size/8:
		t.rehash(size / 4)
	}
	if t.waste > 2*arenaChunk && t.waste > t.held/2 {
		t.compact()
	}
}

// compact drops from the arena the keys that were removed.
func (t *keyTable) compact() {
	old := *t
	t.arena, t.held, t.waste = nil, 0, 0
	for slot := range t.refs.n {
		if r := t.refs.at(slot); r.at != gone {
			t.store(r, old.key(slot))
		}
	}
}

func (t *keyTable) store(r *keyRef, key []byte) {
	last := len(t.arena) - 1
	need := len(key) + binary.MaxVarintLen32
	if last < 0 || len(t.arena[last])+need > cap(t.arena[last]) {
		size := arenaChunk
		if last < 6 {
			size = 256 << (last + 1)
		}
		t.arena = append(t.arena, make([]byte, 0, max(size, need)))
		t.held += int64(max(size, need))
		last++
	}
	r.at = uint32(last)<<chunkSize | uint32(len(t.arena[last]))
	t.arena[last] = detect.AppendKey(t.arena[last], key)
}

func (t *keyTable) place(hash, slot uint32) {
	mask := uint32(len(t.index) - 1)
	i := hash & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = slot + 1
}

// reserve makes room in the index of an empty table for so many keys.
func (t *keyTable) reserve(keys int) {
	t.index = make([]uint32, max(16, 1<<bits.Len(uint(keys+keys/3))))
}

func (t *keyTable) grow() { t.rehash(max(16, 2*len(t.index))) }

func (t *keyTable) rehash(size int) {
	t.index = make([]uint32, size)
	for slot := range t.refs.n {
		if r := t.refs.at(slot); r.at != gone {
			t.place(r.hash, slot)
		}
	}
}

// idTable finds entries by a 64-bit fingerprint, keyed so that nobody can aim at
// collisions.
type idTable struct {
	fp  []uint64 // 0 empty
	ent []uint32
	n   int
}

func (t *idTable) find(fp uint64) (uint32, bool) {
	if len(t.fp) == 0 {
		return 0, false
	}
	mask := uint64(len(t.fp) - 1)
	for i := fp & mask; t.fp[i] != 0; i = (i + 1) & mask {
		if t.fp[i] == fp {
			return t.ent[i], true
		}
	}
	return 0, false
}

func (t *idTable) add(fp uint64, ent uint32) {
	if 3*(t.n+1) > 2*len(t.fp) {
		old := *t
		size := max(64, 2*len(t.fp))
		t.fp, t.ent = make([]uint64, size), make([]uint32, size)
		for i, f := range old.fp {
			if f != 0 {
				t.place(f, old.ent[i])
			}
		}
	}
	t.place(fp, ent)
	t.n++
}

func (t *idTable) place(fp uint64, ent uint32) {
	mask := uint64(len(t.fp) - 1)
	i := fp & mask
	for t.fp[i] != 0 {
		i = (i + 1) & mask
	}
	t.fp[i], t.ent[i] = fp, ent
}

// mix is a keyed 64-bit mix; never 0.
func mix(seed, a, b, c uint64) uint64 {
	h := seed
	for _, v := range [...]uint64{a, b, c} {
		hi, lo := bits.Mul64(h^v, 0x9e3779b97f4a7c15)
		h = hi ^ lo ^ bits.RotateLeft64(h, 29)
	}
	h ^= h >> 32
	return max(h, 1)
}

// paneSlab holds the panes of keys as sorted runs whose capacity is a power of
// two; freed runs are used again.
type paneSlab struct {
	class [32]struct {
		runs [][]pane // chunks of perChunk runs
		free []uint32
		n    uint32
	}
}

// run addresses a run of panes: its class and number.
type run struct {
	num   uint32
	class uint8
}

// classOf is the class of the smallest run that holds n panes.
func classOf(n uint32) uint8 { return uint8(bits.Len32(max(n, 1) - 1)) }

// perChunk is how many runs of a class share an array.
func perChunk(class uint8) uint32 {
	const panes = 6 // a chunk holds 1 << panes of them, or one run
	return 1 << (panes - min(class, panes))
}

func (s *paneSlab) panes(r run) []pane {
	per := perChunk(r.class)
	c := s.class[r.class].runs[r.num/per]
	at := (r.num % per) << r.class
	return c[at : at+1<<r.class]
}

func (s *paneSlab) alloc(class uint8) run {
	c := &s.class[class]
	if n := len(c.free); n > 0 {
		num := c.free[n-1]
		c.free = c.free[:n-1]
		return run{num, class}
	}
	per := perChunk(class)
	if c.n%per == 0 {
		c.runs = append(c.runs, make([]pane, int(per)<<class))
	}
	c.n++
	return run{c.n - 1, class}
}

func (s *paneSlab) release(r run) {
	c := &s.class[r.class]
	c.free = append(c.free, r.num)
}

func (t *idTable) has(fp uint64) bool {
	_, ok := t.find(fp)
	return ok
}
