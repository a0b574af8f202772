package match

import "net/netip"

// parseAddr reads an IP address as netip does, without a zone; an IPv4 address
// within IPv6 is the IPv4 one. Unlike netip it takes bytes and allocates
// nothing, not even for what is no address.
func parseAddr(b []byte) (netip.Addr, bool) {
	if a, ok := parse4(b); ok {
		return netip.AddrFrom4(a), true
	}
	if a, ok := parse6(b); ok {
		return netip.AddrFrom16(a).Unmap(), true
	}
	return netip.Addr{}, false
}

// parse4 reads four decimal numbers without leading zeros.
func parse4(b []byte) (a [4]byte, ok bool) {
	for i := range a {
		if i > 0 {
			if len(b) == 0 || b[0] != '.' {
				return a, false
			}
			b = b[1:]
		}
		n, digits := 0, 0
		for digits < len(b) && digits < 3 && b[digits]-'0' <= 9 {
			n = n*10 + int(b[digits]-'0')
			digits++
		}
		if digits == 0 || n > 255 || digits > 1 && b[0] == '0' {
			return a, false
		}
		a[i] = byte(n)
		b = b[digits:]
	}
	return a, len(b) == 0
}

// parse6 reads groups of hexadecimal digits, of which one run may be left out
// and the last two may be an IPv4 address.
func parse6(b []byte) (a [16]byte, ok bool) {
	if len(b) < 2 || len(b) > len("0000:0000:0000:0000:0000:0000:255.255.255.255") {
		return a, false
	}
	at, gap := 0, -1
	if b[0] == ':' {
		if b[1] != ':' {
			return a, false
		}
		gap, b = 0, b[2:]
	}
	for len(b) > 0 {
		if at == len(a) {
			return a, false
		}
		if at <= len(a)-4 {
			if v4, ok := parse4(b); ok {
				at += copy(a[at:], v4[:])
				break
			}
		}
		group, digits := 0, 0
		for digits < len(b) && digits < 5 && unhex(b[digits]) >= 0 {
			group = group<<4 | unhex(b[digits])
			digits++
		}
		if digits == 0 || digits > 4 {
			return a, false
		}
		a[at], a[at+1] = byte(group>>8), byte(group)
		at += 2
		if b = b[digits:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return a, false
		}
		if b = b[1:]; b[0] == ':' {
			if gap >= 0 {
				return a, false
			}
			gap, b = at, b[1:]
		}
	}
	if gap < 0 {
		return a, at == len(a)
	}
	if at == len(a) {
		return a, false
	}
	moved := copy(a[len(a)-(at-gap):], a[gap:at])
	clear(a[gap : len(a)-moved])
	return a, true
}

func unhex(c byte) int {
	switch {
	case c-'0' <= 9:
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
