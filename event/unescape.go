package event

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// appendUnescaped appends a JSON string's content with its escapes undone. The
// content has been checked. Half a surrogate pair becomes U+FFFD, as in
// encoding/json.
func appendUnescaped(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...)
		}
		var n int
		dst, n = appendEscape(append(dst, raw[:i]...), raw[i:])
		raw = raw[i+n:]
	}
}

// appendEscape appends what the checked escape at the front of raw stands for,
// and returns its length.
func appendEscape(dst, raw []byte) ([]byte, int) {
	switch c := raw[1]; c {
	case 'b':
		return append(dst, '\b'), 2
	case 'f':
		return append(dst, '\f'), 2
	case 'n':
		return append(dst, '\n'), 2
	case 'r':
		return append(dst, '\r'), 2
	case 't':
		return append(dst, '\t'), 2
	case 'u':
	default:
		return append(dst, c), 2
	}
	r := hex4(raw[2:])
	if !utf16.IsSurrogate(r) {
		return utf8.AppendRune(dst, r), 6
	}
	if len(raw) >= 12 && raw[6] == '\\' && raw[7] == 'u' && isHex4(raw[8:12]) {
		if pair := utf16.DecodeRune(r, hex4(raw[8:])); pair != utf8.RuneError {
			return utf8.AppendRune(dst, pair), 12
		}
	}
	return utf8.AppendRune(dst, utf8.RuneError), 6
}

// appendChecked is strEnd and appendUnescaped in one: it appends the content of
// the string whose first byte is b[i].
func appendChecked(dst, b []byte, i int) (_ []byte, end int, high uint64, f fault) {
	n := len(dst)
	// No escape is shorter than what it stands for; words are stored whole.
	out := slices.Grow(dst, len(b)-i+8)
	out = out[:cap(out)]
	for {
		n, i = copyQuoted(out, b, n, i)
		for i >= 0 && i <= len(b)-8 {
			w := binary.LittleEndian.Uint64(b[i:])
			high |= w
			m := special(w)
			binary.LittleEndian.PutUint64(out[n:], w)
			if m != 0 {
				k := bits.TrailingZeros64(m) >> 3
				n, i = n+k, i+k
				goto special
			}
			n, i = n+8, i+8
		}
		for ; i < len(b); i++ {
			c := b[i]
			high |= uint64(c)
			if c == '"' || c == '\\' || c < 0x20 {
				goto special
			}
			out[n] = c
			n++
		}
		return out[:n], len(b), high, faultTruncated
	special:
		switch b[i] {
		case '"':
			return out[:n], i, high, faultNone
		case '\\':
		default:
			return out[:n], i, high, faultControl
		}
		if end, f := escEnd(b, i); f != faultNone {
			return out[:n], end, high, f
		}
		text, skipped := appendEscape(out[:n], b[i:])
		n, i = len(text), i+skipped
	}
}

// copyQuoted copies words from b[i] to out[n] as long as they are ASCII with
// nothing special in it but \", by far the most frequent escape in JSON within
// JSON. It looks at all of a word's escapes at once, so that none has to wait for
// the one before.
func copyQuoted(out, b []byte, n, i int) (n2, i2 int) {
	escaped := uint64(0) // 0x80 if the word before ended in a backslash
	for i >= 0 && i <= len(b)-8 && n >= 0 && n <= len(out)-8 {
		w := binary.LittleEndian.Uint64(b[i:])
		// Of ASCII bytes, all these comparisons are exact: no byte borrows.
		slashes := (highs - (w ^ ones*'\\')) & highs
		quotes := (highs - (w ^ ones*'"')) & highs
		if quotes^(slashes<<8|escaped)|(w|^(w+ones*(0x80-0x20)))&highs != 0 {
			break
		}
		escaped = slashes >> 63 << 7
		i += 8
		kept := 8
		for slashes != 0 {
			// Close the gap where the lowest one stands.
			below := (slashes&-slashes - 1) >> 7
			w = w&below | w>>8&^below
			slashes = slashes & (slashes - 1) >> 8
			kept--
		}
		binary.LittleEndian.PutUint64(out[n:], w)
		n += kept
	}
	if escaped != 0 {
		i-- // back to the backslash
	}
	return n, i
}

func isHex4(b []byte) bool {
	return unhex(b[0]) >= 0 && unhex(b[1]) >= 0 && unhex(b[2]) >= 0 && unhex(b[3]) >= 0
}

func hex4(b []byte) rune {
	return rune(unhex(b[0])<<12 | unhex(b[1])<<8 | unhex(b[2])<<4 | unhex(b[3]))
}

// appendCompact appends checked JSON without the white space between tokens and
// with the escapes within strings undone: text to search in, no longer JSON.
func appendCompact(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case ' ', '\t', '\n', '\r':
			i++
		case '"':
			end, esc, _, _ := strEnd(raw, i+1)
			dst = append(dst, '"')
			if esc {
				dst = appendUnescaped(dst, raw[i+1:end])
			} else {
				dst = append(dst, raw[i+1:end]...)
			}
			dst = append(dst, '"')
			i = end + 1
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. It escapes what JSON must have
// escaped, and <, > and & as well, so that the result may stand in HTML.
func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' && c != 0x7f {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
