package event

import (
	"encoding/binary"
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

// maxKey is the length of the longest key of a schema.
const maxKey = 32

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

type entry struct {
	key   string
	slot  slot
	child *node
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
		n.keys = append(n.keys, entry{key: key, slot: f.slot})
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
	for n.mul = 0x9e3779b97f4a7c15; !n.fill(); n.mul += 0xd1342543de82ef96 {
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

func keyHash(k []byte, mul uint64) uint8 {
	var w uint64
	switch n := len(k); {
	case n >= 8:
		w = binary.LittleEndian.Uint64(k) ^ binary.LittleEndian.Uint64(k[n-8:])<<1
	case n >= 4:
		w = uint64(binary.LittleEndian.Uint32(k)) | uint64(binary.LittleEndian.Uint32(k[n-4:]))<<32
	case n > 0:
		w = uint64(k[0]) | uint64(k[n/2])<<8 | uint64(k[n-1])<<16
	}
	return uint8((w + uint64(len(k))) * mul >> 56)
}

// scanner is one pass over one document: it checks all of it, and notes where
// the fields of a schema lie.
type scanner struct {
	b     []byte
	spans *[maxSlots]span
	seen  *[maxSlots / 64]uint64
	other *keySet
	fault fault
	at    int // where the fault lies
	key   [maxKey]byte

	// message, if it is not nil, is given the content of envMessage, its escapes
	// undone on the way: most of a CloudWatch Logs event is its message.
	message *[]byte
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
	if i = s.object(i, root, 1); i < 0 {
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
// returns the index after it, or −1. It and those around it are depth deep.
func (s *scanner) object(i int, n *node, depth int) int {
	b := s.b
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) {
			return s.fail(len(b), faultTruncated)
		}
		if b[i] != '"' {
			return s.fail(i, faultSyntax)
		}
		start := i + 1
		end, esc, f := strEnd(b, start)
		if f != faultNone {
			return s.fail(end, f)
		}
		key := b[start:end]
		if esc {
			key = s.unescapedKey(key)
		}
		i = end + 1
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= len(b) {
			return s.fail(len(b), faultTruncated)
		}
		if b[i] != ':' {
			return s.fail(i, faultSyntax)
		}
		i++
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= len(b) {
			return s.fail(len(b), faultTruncated)
		}
		h := keyHash(key, n.mul)
		e := n.find(key, h)
		var sp span
		if i, sp = s.value(i, e, depth); i < 0 {
			return -1
		}
		if e != nil {
			w, bit := &s.seen[e.slot>>6&1], uint64(1)<<(e.slot&63)
			if *w&bit != 0 {
				return s.fail(start, faultDuplicate)
			}
			*w |= bit
			s.spans[e.slot&(maxSlots-1)] = sp
		} else {
			s.other.add(h)
		}
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= len(b) {
			return s.fail(len(b), faultTruncated)
		}
		switch b[i] {
		case ',':
			i++
			if i < len(b) && b[i] <= ' ' {
				i = space(b, i)
			}
		case '}':
			return i + 1
		default:
			return s.fail(i, faultSyntax)
		}
	}
}

// value reads the value at b[i], of the schema's entry e or of none.
func (s *scanner) value(i int, e *entry, depth int) (int, span) {
	b, start := s.b, i
	switch b[i] {
	case '"':
		var end int
		var esc bool
		var f fault
		if e != nil && e.slot == envMessage && s.message != nil {
			*s.message, end, f = appendChecked((*s.message)[:0], b, i+1)
			esc = len(*s.message) != end-start-1 // every escape is longer than what it stands for
		} else {
			end, esc, f = strEnd(b, i+1)
		}
		if f != faultNone {
			return s.fail(end, f), span{}
		}
		return end + 1, span{uint32(start + 1), uint32(end), KindString, esc}
	case '{':
		if e != nil && e.child != nil {
			i = s.object(i, e.child, depth+1)
			return i, span{uint32(start), uint32(i), KindObject, false}
		}
		end, f := skip(b, i, depth)
		if f != faultNone {
			return s.fail(end, f), span{}
		}
		return end, span{uint32(start), uint32(end), KindObject, false}
	case '[':
		end, f := skip(b, i, depth)
		if f != faultNone {
			return s.fail(end, f), span{}
		}
		return end, span{uint32(start), uint32(end), KindArray, false}
	}
	end, k, f := scalar(b, i)
	if f != faultNone {
		return s.fail(end, f), span{}
	}
	return end, span{uint32(start), uint32(end), k, false}
}

// unescapedKey undoes the escapes of a key, if it can be one of a schema's.
func (s *scanner) unescapedKey(raw []byte) []byte {
	if len(raw) > 6*maxKey {
		return nil // longer than any schema's, even if all of it is escaped
	}
	return appendUnescaped(s.key[:0], raw)
}
