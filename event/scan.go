package event

import (
	"encoding/binary"
	"math/bits"
)

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds. KindNone is the zero Value's: nothing there.
const (
	KindNone Kind = iota
	KindNull
	KindBool
	KindNumber
	KindString
	KindObject
	KindArray
)

// fault is a Reason in one byte, for the scanner's return values.
type fault uint8

const (
	faultNone fault = iota
	faultTruncated
	faultTrailing
	faultSyntax
	faultControl
	faultEscape
	faultNumber
	faultDepth
	faultDuplicate
	faultUTF8
)

var faultReasons = [...]Reason{
	faultTruncated: ReasonTruncated,
	faultTrailing:  ReasonTrailing,
	faultSyntax:    ReasonSyntax,
	faultControl:   ReasonControl,
	faultEscape:    ReasonEscape,
	faultNumber:    ReasonNumber,
	faultDepth:     ReasonDepth,
	faultDuplicate: ReasonDuplicate,
	faultUTF8:      ReasonUTF8,
}

// span is where a value lies in the document scanned, strings without their quotes.
type span struct {
	start, end uint32
	kind       Kind
	esc        bool // a string that has escapes
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks the high bit of each byte of w that is a quote, a backslash or a
// control character. The lowest mark is exact; those above it may be borrows.
func special(w uint64) uint64 {
	// Turning over bit 1 takes a quote to 0x20, right above what it leaves below
	// 0x20, the control characters: one comparison finds both.
	q, s := w^ones*0x02, w^ones*'\\'
	return ((q - ones*0x21) | (s - ones)) &^ w & highs
}

// strEnd finds the closing quote of the string whose first byte is b[i], looks
// into every escape and refuses control characters. On a fault the index is
// where it lies. Where high has no byte's high bit set, the string is ASCII; it
// may be set by what follows the string, too.
func strEnd(b []byte, i int) (end int, esc bool, high uint64, f fault) {
	for {
		// That i is not negative is said for the compiler, which then sees that the
		// index is in bounds.
		for i >= 0 && i <= len(b)-8 {
			w := binary.LittleEndian.Uint64(b[i:])
			high |= w
			m := special(w)
			if m == 0 {
				i += 8
				continue
			}
			at := bits.TrailingZeros64(m) &^ 7
			i += at >> 3
			if w>>at&0xff == '"' {
				return i, esc, high, faultNone
			}
			goto special
		}
		for ; i < len(b); i++ {
			c := b[i]
			high |= uint64(c)
			if c == '"' {
				return i, esc, high, faultNone
			}
			if c == '\\' || c < 0x20 {
				goto special
			}
		}
		return len(b), esc, high, faultTruncated
	special:
		if b[i] != '\\' {
			return i, esc, high, faultControl
		}
		esc = true
		if i, f = escEnd(b, i); f != faultNone {
			return i, esc, high, f
		}
	}
}

// escEnd is the index after the escape at b[i].
func escEnd(b []byte, i int) (int, fault) {
	if i+1 >= len(b) {
		return len(b), faultTruncated
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, faultNone
	case 'u':
		for j := i + 2; j < i+6; j++ {
			if j >= len(b) {
				return len(b), faultTruncated
			}
			if unhex(b[j]) < 0 {
				return j, faultEscape
			}
		}
		return i + 6, faultNone
	}
	return i, faultEscape
}

// unhex is the value of a hexadecimal digit, −1 if it is none.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// space skips white space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// at is b[i], or 0 behind the end.
func at(b []byte, i int) byte {
	if uint(i) < uint(len(b)) {
		return b[i]
	}
	return 0
}

// token is the first byte at or after b[i] that is not white space, and where it
// is; 0 and len(b) if there is none.
func token(b []byte, i int) (int, byte) {
	for uint(i) < uint(len(b)) {
		c := b[i]
		if c > ' ' || c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return i, c
		}
		i++
	}
	return len(b), 0
}

// scalar reads the number or literal at b[i], which must exist.
func scalar(b []byte, i int) (end int, k Kind, f fault) {
	if i >= 0 && i <= len(b)-4 {
		switch string(b[i : i+4]) {
		case "true":
			return i + 4, KindBool, faultNone
		case "null":
			return i + 4, KindNull, faultNone
		}
	}
	switch b[i] {
	case 't':
		end, f = literal(b, i, "true")
		return end, KindBool, f
	case 'f':
		end, f = literal(b, i, "false")
		return end, KindBool, f
	case 'n':
		end, f = literal(b, i, "null")
		return end, KindNull, f
	}
	end, f = number(b, i)
	return end, KindNumber, f
}

func literal(b []byte, i int, word string) (int, fault) {
	for j := range len(word) {
		if i+j >= len(b) {
			return len(b), faultTruncated
		}
		if b[i+j] != word[j] {
			return i, faultSyntax
		}
	}
	return i + len(word), faultNone
}

func number(b []byte, i int) (int, fault) {
	start := i
	if b[i] == '-' {
		i++
	} else if b[i]-'0' > 9 {
		return i, faultSyntax
	}
	switch {
	case i >= len(b):
		return i, faultTruncated
	case b[i] == '0':
		i++
	case b[i]-'1' <= 8:
		i = digits(b, i)
	default:
		return start, faultNumber
	}
	if i < len(b) && b[i] == '.' {
		j := digits(b, i+1)
		if j == i+1 {
			return start, missingDigits(b, j)
		}
		i = j
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		j := digits(b, i)
		if j == i {
			return start, missingDigits(b, j)
		}
		i = j
	}
	return i, faultNone
}

func missingDigits(b []byte, i int) fault {
	if i >= len(b) {
		return faultTruncated
	}
	return faultNumber
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// skip checks and passes over the object or array that opens at b[i]; depth is
// how many are open around it. high is as strEnd's.
func skip(b []byte, i, depth int) (end int, high uint64, f fault) {
	var stack uint64 // a bit for each container open, 1 for an object
	base, n := depth, len(b)
	var h uint64
open:
	if depth == MaxDepth {
		return i, high, faultDepth
	}
	stack <<= 1
	depth++
	if b[i] == '{' {
		stack |= 1
		if i = space(b, i+1); i >= n {
			return n, high, faultTruncated
		}
		if b[i] == '}' {
			goto closing
		}
		goto key
	}
	if i = space(b, i+1); i >= n {
		return n, high, faultTruncated
	}
	if b[i] == ']' {
		goto closing
	}
	goto value
key:
	if b[i] != '"' {
		return i, high, faultSyntax
	}
	i, _, h, f = strEnd(b, i+1)
	if high |= h; f != faultNone {
		return i, high, f
	}
	i++
	if i < n && b[i] <= ' ' {
		i = space(b, i)
	}
	if i >= n {
		return n, high, faultTruncated
	}
	if b[i] != ':' {
		return i, high, faultSyntax
	}
	i++
	if i < n && b[i] <= ' ' {
		i = space(b, i)
	}
	if i >= n {
		return n, high, faultTruncated
	}
value:
	switch b[i] {
	case '"':
		if i >= 0 && i <= len(b)-9 {
			w := binary.LittleEndian.Uint64(b[i+1:])
			if m := special(w); m != 0 {
				if j := i + 1 + bits.TrailingZeros64(m)>>3; at(b, j) == '"' {
					high |= w
					i = j + 1
					goto after
				}
			}
		}
		i, _, h, f = strEnd(b, i+1)
		if high |= h; f != faultNone {
			return i, high, f
		}
		i++
	case '{', '[':
		goto open
	default:
		if i, _, f = scalar(b, i); f != faultNone {
			return i, high, f
		}
	}
after:
	if i < n && b[i] <= ' ' {
		i = space(b, i)
	}
	if i >= n {
		return n, high, faultTruncated
	}
	switch b[i] {
	case ',':
		i++
		if i < n && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= n {
			return n, high, faultTruncated
		}
		if stack&1 == 1 {
			goto key
		}
		goto value
	case '}':
		if stack&1 != 1 {
			return i, high, faultSyntax
		}
	case ']':
		if stack&1 != 0 {
			return i, high, faultSyntax
		}
	default:
		return i, high, faultSyntax
	}
closing:
	i++
	stack >>= 1
	depth--
	if depth == base {
		return i, high, faultNone
	}
	goto after
}
