package ingest

import (
	"encoding/binary"
	"math/bits"
)

// maxDepth is the deepest nesting that is followed. It lies far above what
// decoders accept, so that they, not the splitter, refuse a deep record.
const maxDepth = 1024

// verdict is what a scanner says after a run over some bytes.
type verdict uint8

const (
	more   verdict = iota // all bytes were consumed, the value goes on
	value                 // a wanted field's value begins right after the consumed bytes
	closed                // the value ended with the last byte consumed
	broken                // the last byte consumed cannot stand there
)

// field is one of the fields at depth 1 whose place a scanner notes.
type field uint8

const (
	fieldNone field = iota
	fieldRecords
	fieldMessageType
	fieldOwner
	fieldLogGroup
	fieldLogStream
	fieldLogEvents
	fieldID
	fieldTimestamp
	fieldMessage
	numFields
)

func fieldOf(key []byte) field {
	switch string(key) {
	case "Records":
		return fieldRecords
	case "messageType":
		return fieldMessageType
	case "owner":
		return fieldOwner
	case "logGroup":
		return fieldLogGroup
	case "logStream":
		return fieldLogStream
	case "logEvents":
		return fieldLogEvents
	case "id":
		return fieldID
	case "timestamp":
		return fieldTimestamp
	case "message":
		return fieldMessage
	}
	return fieldNone
}

// span is a range of offsets from the first byte of the value.
type span struct{ from, to int }

// maxKey is the longest key that can be a wanted field.
const maxKey = 11

// scanner finds the end of one JSON object or array, a run of bytes at a time.
// It knows just enough grammar to notice a value that was cut off and ran into
// the next one: brackets must match and open only where a value may stand, and
// a string holds no line break. All else is the decoder's to refuse.
type scanner struct {
	off      int // bytes consumed
	depth    int
	objects  [maxDepth / 64]uint64 // bit d: the container at depth d+1 is an object
	inString bool
	escaped  bool
	prev     byte // last significant byte; '"' after a string
	oneLine  bool // a line break ends the value: broken

	key     [maxKey]byte
	keyLen  int // −1: not a key, or too long
	current field
	spans   [numFields]span
	dup     bool // a wanted field came twice
}

func (s *scanner) reset(oneLine bool) {
	*s = scanner{oneLine: oneLine, keyLen: -1}
}

// resume readies the scanner for the rest of an object, behind a field's value.
func (s *scanner) resume() {
	s.reset(false)
	s.depth = 1
	s.objects[0] = 1
	s.prev = ']'
}

func (s *scanner) inObject() bool {
	d := s.depth - 1
	return d >= 0 && s.objects[d/64]&(1<<(d%64)) != 0
}

// open enters a container, if one may stand here.
func (s *scanner) open(b byte) bool {
	if s.depth == maxDepth {
		return false
	}
	switch {
	case s.depth == 0:
	case s.inObject():
		if s.prev != ':' {
			return false
		}
	case s.prev != '[' && s.prev != ',':
		return false
	}
	d := s.depth
	s.depth++
	if b == '{' {
		s.objects[d/64] |= 1 << (d % 64)
	} else {
		s.objects[d/64] &^= 1 << (d % 64)
	}
	return true
}

// endField closes the span of the field at depth 1 whose value ended before the
// byte at offset to.
func (s *scanner) endField(to int) {
	if s.current != fieldNone {
		s.spans[s.current].to = to
		s.current = fieldNone
	}
}

// run consumes bytes of b and returns how many. After value, the caller may go
// on with the rest.
func (s *scanner) run(b []byte) (int, verdict) {
	base := s.off
	for i := 0; i < len(b); i++ {
		c := b[i]
		if s.inString {
			i = s.runString(b, i)
			if i == len(b) {
				break
			}
			if b[i] == '\n' {
				s.off = base + i + 1
				return i + 1, broken
			}
			s.inString = false
			s.prev = '"'
			continue
		}
		switch c {
		case ' ', '\t', '\r':
			continue
		case '\n':
			if s.oneLine {
				s.off = base + i + 1
				return i + 1, broken
			}
			continue
		case '"':
			s.keyLen = -1
			if s.depth == 1 && (s.prev == '{' || s.prev == ',') && s.inObject() {
				s.keyLen = 0
			}
			s.inString = true
			continue
		case '{', '[':
			if !s.open(c) {
				s.off = base + i + 1
				return i + 1, broken
			}
		case '}', ']':
			if s.depth == 0 || s.inObject() != (c == '}') {
				s.off = base + i + 1
				return i + 1, broken
			}
			if s.depth == 1 {
				s.endField(base + i)
			}
			s.depth--
			if s.depth == 0 {
				s.off = base + i + 1
				return i + 1, closed
			}
		case ',':
			if s.depth == 1 {
				s.endField(base + i)
			}
		case ':':
			if s.depth == 1 && s.keyLen > 0 && s.prev == '"' {
				f := fieldOf(s.key[:s.keyLen])
				s.keyLen = -1
				if f != fieldNone {
					s.dup = s.dup || s.spans[f].from != 0
					s.current = f
					s.spans[f] = span{from: base + i + 1}
					s.prev = c
					s.off = base + i + 1
					return i + 1, value
				}
			}
		}
		s.prev = c
	}
	s.off = base + len(b)
	return len(b), more
}

// runString goes on inside a string from b[i] and returns the offset of the
// quote that ends it or of a line break in it, or len(b).
func (s *scanner) runString(b []byte, i int) int {
	for ; i < len(b); i++ {
		if s.keyLen < 0 && !s.escaped {
			if i = plainText(b, i); i == len(b) {
				break
			}
		}
		c := b[i]
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"', c == '\n':
			return i
		}
		if s.keyLen >= 0 {
			if s.keyLen < maxKey {
				s.key[s.keyLen] = c
				s.keyLen++
			} else {
				s.keyLen = -1
			}
		}
	}
	return i
}

// plainText passes bytes that mean nothing within a string, eight at a time, and
// stops at or before the first quote, backslash or line break.
func plainText(b []byte, i int) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		q, e, n := w^(ones*'"'), w^(ones*'\\'), w^(ones*'\n')
		// The high bit of a byte that is zero, and of none below the lowest such.
		zero := ((q-ones)&^q | (e-ones)&^e | (n-ones)&^n) & high
		if zero != 0 {
			return i + bits.TrailingZeros64(zero)/8
		}
		i += 8
	}
	return i
}

// trimSpace cuts JSON white space off both ends.
func trimSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
