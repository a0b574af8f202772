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

// strEnd finds the closing quote of the string whose first byte is b[i], looks
// into every escape and refuses control characters. On a fault the index is
// where it lies.
func strEnd(b []byte, i int) (end int, esc bool, f fault) {
	for {
		for i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			q := w ^ (ones * '"')
			s := w ^ (ones * '\\')
			// The lowest bit set is exact: a quote, a backslash or a byte below
			// 0x20. Higher ones may be borrows and are looked at again.
			m := (((q - ones) & ^q) | ((s - ones) & ^s) | ((w - ones*0x20) & ^w)) & highs
			if m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				goto special
			}
			i += 8
		}
		for ; i < len(b); i++ {
			if c := b[i]; c == '"' || c == '\\' || c < 0x20 {
				goto special
			}
		}
		return len(b), esc, faultTruncated
	special:
		switch b[i] {
		case '"':
			return i, esc, faultNone
		case '\\':
			esc = true
			if i, f = escEnd(b, i); f != faultNone {
				return i, esc, f
			}
		default:
			return i, esc, faultControl
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

// scalar reads the number or literal at b[i], which must exist.
func scalar(b []byte, i int) (end int, k Kind, f fault) {
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
// how many are open around it.
func skip(b []byte, i, depth int) (int, fault) {
	var stack uint64 // a bit for each container open, 1 for an object
	base, n := depth, len(b)
	var f fault
open:
	if depth == MaxDepth {
		return i, faultDepth
	}
	stack <<= 1
	depth++
	if b[i] == '{' {
		stack |= 1
		if i = space(b, i+1); i >= n {
			return n, faultTruncated
		}
		if b[i] == '}' {
			goto closing
		}
		goto key
	}
	if i = space(b, i+1); i >= n {
		return n, faultTruncated
	}
	if b[i] == ']' {
		goto closing
	}
	goto value
key:
	if b[i] != '"' {
		return i, faultSyntax
	}
	if i, _, f = strEnd(b, i+1); f != faultNone {
		return i, f
	}
	i++
	if i < n && b[i] <= ' ' {
		i = space(b, i)
	}
	if i >= n {
		return n, faultTruncated
	}
	if b[i] != ':' {
		return i, faultSyntax
	}
	i++
	if i < n && b[i] <= ' ' {
		i = space(b, i)
	}
	if i >= n {
		return n, faultTruncated
	}
value:
	switch b[i] {
	case '"':
		if i, _, f = strEnd(b, i+1); f != faultNone {
			return i, f
		}
		i++
	case '{', '[':
		goto open
	default:
		if i, _, f = scalar(b, i); f != faultNone {
			return i, f
		}
	}
after:
	if i < n && b[i] <= ' ' {
		i = space(b, i)
	}
	if i >= n {
		return n, faultTruncated
	}
	switch b[i] {
	case ',':
		i++
		if i < n && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= n {
			return n, faultTruncated
		}
		if stack&1 == 1 {
			goto key
		}
		goto value
	case '}':
		if stack&1 != 1 {
			return i, faultSyntax
		}
	case ']':
		if stack&1 != 0 {
			return i, faultSyntax
		}
	default:
		return i, faultSyntax
	}
closing:
	i++
	stack >>= 1
	depth--
	if depth == base {
		return i, faultNone
	}
	goto after
}
