package match

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/vedette-sec/vedette/detect/rule"
)

const (
	eachHigh = 0x8080808080808080
	eachOne  = 0x0101010101010101
)

// appendFolded appends src with every letter replaced by the one that stands
// for all that are equal to it without regard to case: for those with an ASCII
// letter among them the lower-case one (so k for the Kelvin sign too), otherwise
// the least. Bytes that are no UTF-8 are copied.
func appendFolded(dst, src []byte) []byte {
	i := 0
	for ; i+8 <= len(src); i += 8 {
		w := binary.LittleEndian.Uint64(src[i:])
		if w&eachHigh != 0 {
			break
		}
		// In each byte the high bit of w+(128-'A') says c ≥ 'A', that of
		// w+(127-'Z') says c > 'Z'; no byte carries into the next.
		upper := (w + (128-'A')*eachOne) &^ (w + (127-'Z')*eachOne) & eachHigh
		dst = binary.LittleEndian.AppendUint64(dst, w|upper>>2)
	}
	for i < len(src) {
		c := src[i]
		if c < utf8.RuneSelf {
			if c-'A' < 26 {
				c |= 0x20
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, c)
		} else {
			dst = utf8.AppendRune(dst, foldRune(r))
		}
		i += n
	}
	return dst
}

// foldRune picks the representative of the runes equal to r without regard to case.
func foldRune(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	if least-'A' >= 0 && least-'A' < 26 {
		least |= 0x20
	}
	return least
}

// globMatch reports whether the whole of s is like the glob g, which holds
// rule.AnyText and rule.AnyRune.
func globMatch(g string, s []byte) bool {
	// Where the last AnyText stood, and how far into s it has been stretched: only
	// the last one ever needs to be tried longer.
	star, stretched := -1, 0
	gi, si := 0, 0
	for si < len(s) {
		switch {
		case gi < len(g) && g[gi] == rule.AnyText:
			star, stretched = gi, si
			gi++
			continue
		case gi < len(g) && g[gi] == rule.AnyRune:
			_, n := utf8.DecodeRune(s[si:])
			gi++
			si += n
			continue
		case gi < len(g) && g[gi] == s[si]:
			gi++
			si++
			continue
		case star < 0:
			return false
		}
		_, n := utf8.DecodeRune(s[stretched:])
		stretched += n
		gi, si = star+1, stretched
	}
	for gi < len(g) && g[gi] == rule.AnyText {
		gi++
	}
	return gi == len(g)
}

// num is a number as exact as it can cheaply be.
type num struct {
	f     float64
	i     int64
	isInt bool
}

// parseNum reads a number as JSON writes it. It does not allocate for numbers
// of ordinary length.
func parseNum(b []byte) (num, bool) {
	if len(b) == 0 {
		return num{}, false
	}
	neg := b[0] == '-'
	digits := b
	if neg {
		digits = b[1:]
	}
	var n int64
	i := 0
	for ; i < len(digits) && digits[i]-'0' <= 9; i++ {
		if i < 18 {
			n = n*10 + int64(digits[i]-'0')
		}
	}
	if i == 0 || i > 1 && digits[0] == '0' {
		return num{}, false
	}
	if i == len(digits) && i <= 18 {
		if neg {
			n = -n
		}
		return num{f: float64(n), i: n, isInt: true}, true
	}
	if !isFraction(digits[i:]) || len(b) > maxNumber {
		return num{}, false
	}
	// Out of range is still a number: the infinity that comes with the error.
	f, err := strconv.ParseFloat(string(b), 64)
	return num{f: f}, err == nil || math.IsInf(f, 0)
}

// maxNumber is the longest text that is read as a number.
const maxNumber = 400

// isFraction reports whether b is what may follow the digits of a JSON number.
func isFraction(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && b[n]-'0' <= 9 {
			n++
		}
		b = b[n:]
		return n > 0
	}
	if len(b) > 0 && b[0] == '.' {
		b = b[1:]
		if !digits() {
			return false
		}
	}
	if len(b) > 0 && b[0]|0x20 == 'e' {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}

// cmp is negative, 0 or positive as a is less than, equal to or greater than b.
func (a num) cmp(b num) int {
	switch {
	case a.isInt && b.isInt && a.i < b.i, !(a.isInt && b.isInt) && a.f < b.f:
		return -1
	case a.isInt && b.isInt && a.i == b.i, !(a.isInt && b.isInt) && a.f == b.f:
		return 0
	}
	return 1
}
