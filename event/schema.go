package event

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// slot names a field that the scanner notes down; 0 is none.
type slot uint8

const maxSlots = 128

// The slots that every schema begins with: the CloudWatch Logs event that a
// record may have come in.
const (
	envOwner slot = iota + 1
	envGroup
	envStream
	envID
	envTime
	envMessage
	firstSlot
)

// maxKey is the length of the longest key of a schema: with the quote after it,
// it is maxWords words of eight bytes.
const (
	maxWords = 4
	maxKey   = 8*maxWords - 1
)

// field puts a dotted path of a schema into a slot.
type field struct {
	path string
	slot slot
}

// schema is the fields of one log type that the scanner notes down. It is
// immutable.
type schema struct {
	root *node
}

// node is one object of a schema: its keys in a table without collisions, so
// that a key costs one comparison.
type node struct {
	mul   uint64
	index [256]uint8 // into keys; 0 is none
	keys  []entry
}

// entry is a key of a node.
type entry struct {
	want  [maxWords]uint64 // the key and the quote after it, as words
	mask  [maxWords]uint64 // which of their bits count
	key   string
	slot  slot
	child *node
}

func newEntry(f field, key string) entry {
	var want, mask [8 * maxWords]byte
	for i := range copy(want[:], key+`"`) {
		mask[i] = 0xff
	}
	e := entry{key: key, slot: f.slot}
	for i := range e.want {
		e.want[i] = binary.LittleEndian.Uint64(want[8*i:])
		e.mask[i] = binary.LittleEndian.Uint64(mask[8*i:])
	}
	return e
}

// begins reports whether the key, which has nothing to escape, and its closing
// quote are what stands from b[i] on. Near the end of b it may not notice.
func (e *entry) begins(b []byte, i int) bool {
	if len(b)-i < 8*maxWords {
		return false
	}
	w := b[i:]
	return (binary.LittleEndian.Uint64(w)^e.want[0])&e.mask[0]|
		(binary.LittleEndian.Uint64(w[8:])^e.want[1])&e.mask[1]|
		(binary.LittleEndian.Uint64(w[16:])^e.want[2])&e.mask[2]|
		(binary.LittleEndian.Uint64(w[24:])^e.want[3])&e.mask[3] == 0
}

// newSchema builds the tables. A path's parents come before it.
func newSchema(fields []field) *schema {
	s := &schema{root: new(node)}
	envelope := []field{
		{"owner", envOwner},
		{"logGroup", envGroup},
		{"logStream", envStream},
		{"id", envID},
		{"timestamp", envTime},
		{"message", envMessage},
	}
	for _, f := range append(envelope, fields...) {
		n, key := s.root, f.path
		for {
			head, rest, nested := strings.Cut(key, ".")
			if !nested {
				break
			}
			e := n.byName(head)
			if e.child == nil {
				e.child = new(node)
			}
			n, key = e.child, rest
		}
		if len(n.keys) == 0 {
			n.keys = make([]entry, 1)
		}
		if len(key) > maxKey {
			panic("event: schema: " + key + " is too long")
		}
		n.keys = append(n.keys, newEntry(f, key))
	}
	s.root.seal()
	return s
}

func (n *node) byName(key string) *entry {
	for i := range n.keys {
		if n.keys[i].key == key && i > 0 {
			return &n.keys[i]
		}
	}
	panic("event: schema: " + key + " is used before it is declared")
}

// seal looks for a multiplier under which no two keys meet.
func (n *node) seal() {
	n.mul = 0x9e3779b97f4a7c15
	for tries := 0; !n.fill(); tries++ {
		if tries == 1<<20 {
			panic("event: schema: keys that no multiplier tells apart")
		}
		n.mul += 0xd1342543de82ef96
	}
	for i := range n.keys {
		if n.keys[i].child != nil {
			n.keys[i].child.seal()
		}
	}
}

func (n *node) fill() bool {
	n.index = [256]uint8{}
	for i := 1; i < len(n.keys); i++ {
		h := keyHash([]byte(n.keys[i].key), n.mul)
		if n.index[h] != 0 {
			return false
		}
		n.index[h] = uint8(i)
	}
	return true
}

// find is the entry of a key whose hash is h; nil if there is none.
func (n *node) find(k []byte, h uint8) *entry {
	if i := n.index[h]; i != 0 {
		if e := &n.keys[i]; string(k) == e.key {
			return e
		}
	}
	return nil
}

// keyHash is a key's hash within a node: of its beginning, its last byte and its
// length.
func keyHash(k []byte, mul uint64) uint8 {
	if len(k) == 0 {
		return 0
	}
	var w [8]byte
	copy(w[:], k)
	return hashWord(binary.LittleEndian.Uint64(w[:]), k[len(k)-1], len(k), mul)
}

// hashWord is keyHash of a key of n bytes whose first bytes are w, filled up with
// zeros.
func hashWord(w uint64, last byte, n int, mul uint64) uint8 {
	return uint8((w + uint64(n) + uint64(last)<<8) * mul >> 56)
}

// scanner is one pass over one document: it checks all of it, and notes where
// the fields of a schema lie.
type scanner struct {
	b     []byte
	spans *[maxSlots]span
	seen  *[maxSlots / 64]uint64
	other *keySet
	habit *habit // of the schema at hand
	high  uint64 // has some byte's high bit set if the document is not ASCII
	fault fault
	at    int // where the fault lies
	key   [maxKey]byte

	// message, if it is not nil, is given the content of envMessage, its escapes
	// undone on the way: most of a CloudWatch Logs event is its message.
	message *[]byte
}

// habit is in what order the records of one schema had their keys lately. A
// writer keeps to its order, so the next key is mostly the one that came next
// the last time: one comparison tells, and the key need not be read.
type habit struct {
	first [maxSlots]*entry // by the slot of an object, 0 for the whole: the first of its keys
	after [maxSlots]*entry // by the slot of a key: the key that came after it in the same object
}

// keySet is a Bloom filter of the keys seen beside those of a schema, by their
// hash within their node: rules ask for far more fields than records have.
type keySet [4]uint64

func (s *keySet) add(h uint8)      { s[h>>6] |= 1 << (h & 63) }
func (s *keySet) has(h uint8) bool { return s[h>>6]&(1<<(h&63)) != 0 }

// scan reads a document that is one object.
func (s *scanner) scan(root *node) bool {
	i := space(s.b, 0)
	if i >= len(s.b) {
		return s.fail(i, faultTruncated) == 0
	}
	if s.b[i] != '{' {
		return s.fail(i, faultSyntax) == 0
	}
	if i = s.object(i, root, 0, 1); i < 0 {
		return false
	}
	if i = space(s.b, i); i != len(s.b) {
		return s.fail(i, faultTrailing) == 0
	}
	return true
}

func (s *scanner) fail(at int, f fault) int {
	s.at, s.fault = at, f
	return -1
}

// object reads the object that opens at b[i], of which the schema has keys, and
// returns the index after it, or −1. It is the value of the slot own, and with
// those around it depth deep.
func (s *scanner) object(i int, n *node, own slot, depth int) int {
	b := s.b
	i, c := token(b, i+1)
	if c == '}' {
		return i + 1
	}
	next := &s.habit.first[own&(maxSlots-1)]
	for {
		if c != '"' {
			return s.unexpected(i)
		}
		start := i + 1
		e, h := *next, uint8(0)
		if e != nil && e.begins(b, start) {
			i = start + len(e.key) + 1
		} else {
			if i, e, h = s.lookUp(start, n); i < 0 {
				return -1
			}
			if e != nil {
				*next = e
			}
		}
		if c = at(b, i); c <= ' ' {
			i, c = token(b, i)
		}
		if c != ':' {
			return s.unexpected(i)
		}
		i++
		if c = at(b, i); c <= ' ' {
			i, c = token(b, i)
		}
		var sp span
		if c == '"' && (e == nil || e.slot != envMessage) {
			// Most strings have nothing special before their closing quote: for them
			// this is strEnd, without the call.
			j, high, m := i+1, uint64(0), uint64(0)
			for j >= 0 && j <= len(b)-8 {
				w := binary.LittleEndian.Uint64(b[j:])
				high |= w
				if m = special(w); m != 0 {
					j += bits.TrailingZeros64(m) >> 3
					break
				}
				j += 8
			}
			esc := false
			if at(b, j) != '"' {
				var rest uint64
				var f fault
				j, esc, rest, f = strEnd(b, j)
				if high |= rest; f != faultNone {
					s.high |= high
					return s.fail(j, f)
				}
			}
			s.high |= high
			sp = span{uint32(i + 1), uint32(j), KindString, esc}
			i = j + 1
		} else if i, sp = s.value(i, c, e, depth); i < 0 {
			return -1
		}
		if e != nil {
			w, bit := &s.seen[e.slot>>6&1], uint64(1)<<(e.slot&63)
			if *w&bit != 0 {
				return s.fail(start, faultDuplicate)
			}
			*w |= bit
			s.spans[e.slot&(maxSlots-1)] = sp
			next = &s.habit.after[e.slot&(maxSlots-1)]
		} else {
			s.other.add(h)
		}
		if c = at(b, i); c <= ' ' {
			i, c = token(b, i)
		}
		switch c {
		case ',':
			i++
			if c = at(b, i); c <= ' ' {
				i, c = token(b, i)
			}
		case '}':
			return i + 1
		default:
			return s.unexpected(i)
		}
	}
}

// unexpected is for a byte at b[i] that cannot stand there, or the end of b.
func (s *scanner) unexpected(i int) int {
	if i >= len(s.b) {
		return s.fail(len(s.b), faultTruncated)
	}
	return s.fail(i, faultSyntax)
}

// lookUp reads the key whose first byte is b[i], and returns the index after its
// quote, or −1, its entry, nil if the schema has none, and its hash in n.
func (s *scanner) lookUp(i int, n *node) (int, *entry, uint8) {
	b := s.b
	end, esc, high, f := strEnd(b, i)
	if s.high |= high; f != faultNone {
		return s.fail(end, f), nil, 0
	}
	if esc || end == i || i < 0 || i > len(b)-8*maxWords {
		key := b[i:end]
		if esc {
			key = s.unescapedKey(key)
		}
		h := keyHash(key, n.mul)
		return end + 1, n.find(key, h), h
	}
	w := binary.LittleEndian.Uint64(b[i:])
	if end-i < 8 {
		w &= 1<<(8*(end-i)&63) - 1
	}
	h := hashWord(w, b[end-1], end-i, n.mul)
	if k := n.index[h]; k != 0 {
		if e := &n.keys[k]; e.begins(b, i) {
			return end + 1, e, h
		}
	}
	return end + 1, nil, h
}

// value reads the value at b[i], which begins with c, of the schema's entry e or
// of none.
func (s *scanner) value(i int, c byte, e *entry, depth int) (int, span) {
	b, start := s.b, i
	kind := KindArray
	switch c {
	case 0:
		return s.unexpected(i), span{}
	case '"':
		return s.text(i+1, e)
	case '{':
		if kind = KindObject; e != nil && e.child != nil {
			i = s.object(i, e.child, e.slot, depth+1)
			return i, span{uint32(start), uint32(i), KindObject, false}
		}
		fallthrough
	case '[':
		end, high, f := skip(b, i, depth)
		if s.high |= high; f != faultNone {
			return s.fail(end, f), span{}
		}
		return end, span{uint32(start), uint32(end), kind, false}
	}
	end, k, f := scalar(b, i)
	if f != faultNone {
		return s.fail(end, f), span{}
	}
	return end, span{uint32(start), uint32(end), k, false}
}

// text reads the string whose first byte is b[i].
func (s *scanner) text(i int, e *entry) (int, span) {
	var end int
	var esc bool
	var high uint64
	var f fault
	if e != nil && e.slot == envMessage && s.message != nil {
		*s.message, end, high, f = appendChecked((*s.message)[:0], s.b, i)
		esc = len(*s.message) != end-i // every escape is longer than what it stands for
	} else {
		end, esc, high, f = strEnd(s.b, i)
	}
	if s.high |= high; f != faultNone {
		return s.fail(end, f), span{}
	}
	return end + 1, span{uint32(i), uint32(end), KindString, esc}
}

// unescapedKey undoes the escapes of a key, if it can be one of a schema's.
func (s *scanner) unescapedKey(raw []byte) []byte {
	if len(raw) > 6*maxKey {
		return nil // longer than any schema's, even if all of it is escaped
	}
	return appendUnescaped(s.key[:0], raw)
}
