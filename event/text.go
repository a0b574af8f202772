package event

import (
	"math"
	"strconv"
)

// The years that a time in ns since the Unix epoch can be in.
const (
	minYear = 1970
	maxYear = 2261

	maxMillis = math.MaxInt64 / 1_000_000
)

// parseTime reads RFC 3339 with any number of fractional digits, and its common
// departures: a space for the T, a zone without colon, no zone (UTC). The result
// is in ns since the Unix epoch.
func parseTime(b []byte) (ns int64, ok bool) {
	if len(b) < 19 || b[4] != '-' || b[7] != '-' || b[13] != ':' || b[16] != ':' ||
		b[10] != 'T' && b[10] != ' ' && b[10] != 't' {
		return 0, false
	}
	year, ok1 := digits2(b[0], b[1])
	year2, ok2 := digits2(b[2], b[3])
	month, ok3 := digits2(b[5], b[6])
	day, ok4 := digits2(b[8], b[9])
	hour, ok5 := digits2(b[11], b[12])
	minute, ok6 := digits2(b[14], b[15])
	second, ok7 := digits2(b[17], b[18])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) {
		return 0, false
	}
	sec, ok := unixSeconds(year*100+year2, month, day, hour, minute, second)
	if !ok {
		return 0, false
	}
	b = b[19:]
	var frac int64
	if len(b) > 0 && (b[0] == '.' || b[0] == ',') {
		i, scale := 1, int64(1e8)
		for i < len(b) && b[i]-'0' <= 9 {
			frac += int64(b[i]-'0') * scale
			scale /= 10
			i++
		}
		if i == 1 {
			return 0, false
		}
		b = b[i:]
	}
	offset, ok := zone(b)
	if !ok {
		return 0, false
	}
	return (sec-offset)*1e9 + frac, true
}

// parseCLFTime reads the time of the Common Log Format: 02/Mar/2026:10:05:11 +0000.
func parseCLFTime(b []byte) (ns int64, ok bool) {
	if len(b) < 21 || b[2] != '/' || b[6] != '/' || b[11] != ':' || b[14] != ':' || b[17] != ':' || b[20] != ' ' {
		return 0, false
	}
	const months = "JanFebMarAprMayJunJulAugSepOctNovDec"
	month := 0
	for i := 0; i < len(months); i += 3 {
		if months[i:i+3] == string(b[3:6]) {
			month = i/3 + 1
		}
	}
	day, ok1 := digits2(b[0], b[1])
	year, ok2 := digits2(b[7], b[8])
	year2, ok3 := digits2(b[9], b[10])
	hour, ok4 := digits2(b[12], b[13])
	minute, ok5 := digits2(b[15], b[16])
	second, ok6 := digits2(b[18], b[19])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) {
		return 0, false
	}
	sec, ok := unixSeconds(year*100+year2, month, day, hour, minute, second)
	if !ok {
		return 0, false
	}
	offset, ok := zone(b[21:])
	return (sec - offset) * 1e9, ok
}

func digits2(a, b byte) (int, bool) {
	return int(a-'0')*10 + int(b-'0'), a-'0' <= 9 && b-'0' <= 9
}

// unixSeconds is the time of a UTC date, which has to exist.
func unixSeconds(year, month, day, hour, minute, second int) (int64, bool) {
	// A leap second is taken for the first second after it.
	if year < minYear || year > maxYear || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour > 23 || minute > 59 || second > 60 {
		return 0, false
	}
	// Days since 1970-01-01, with years that begin in March.
	y, m := year, month
	if m <= 2 {
		y--
		m += 12
	}
	days := 365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + day - 1 - 719468
	return int64(days)*86400 + int64(hour*3600+minute*60+second), true
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// zone reads a zone's offset in seconds.
func zone(b []byte) (int64, bool) {
	switch {
	case len(b) == 0 || string(b) == "Z" || string(b) == "z" || string(b) == " UTC":
		return 0, true
	case len(b) == 6 && b[3] == ':':
	case len(b) == 5:
	default:
		return 0, false
	}
	h, ok1 := digits2(b[1], b[2])
	m, ok2 := digits2(b[len(b)-2], b[len(b)-1])
	if !ok1 || !ok2 || h > 23 || m > 59 {
		return 0, false
	}
	s := int64(h*3600 + m*60)
	switch b[0] {
	case '+':
		return s, true
	case '-':
		return -s, true
	}
	return 0, false
}

// parseInt reads a whole decimal number.
func parseInt(b []byte) (int64, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if neg {
		n = -n
	}
	return n, true
}

// parseFloat reads a decimal number of at most 32 bytes that is finite and not
// negative.
func parseFloat(b []byte) (float64, bool) {
	if len(b) == 0 || len(b) > 32 || b[0]-'0' > 9 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, false
	}
	return f, true
}

// parseEpoch reads a Unix time in ms, or in seconds where it would be too small
// for that, possibly with a fraction. The result is in ns.
func parseEpoch(b []byte) (int64, bool) {
	n, ok := parseInt(b)
	if !ok {
		f, ok := parseFloat(b)
		if !ok || f <= 0 || f > maxMillis {
			return 0, false
		}
		if f < 1e11 {
			f *= 1e3
		}
		n = int64(f)
	} else if n > 0 && n < 1e11 {
		n *= 1e3
	}
	if n <= 0 || n > maxMillis {
		return 0, false
	}
	return n * 1e6, true
}

// isIP says whether b is an IPv4 or IPv6 address without a zone.
func isIP(b []byte) bool {
	for i, c := range b {
		switch {
		case c == '.':
			return i > 0 && isIPv4(b)
		case c == ':':
			return isIPv6(b)
		}
	}
	return false
}

func isIPv4(b []byte) bool {
	parts, n, width := 1, 0, 0
	for _, c := range b {
		switch {
		case c-'0' <= 9:
			if width > 0 && n == 0 {
				return false // a leading zero
			}
			n = n*10 + int(c-'0')
			if width++; n > 255 {
				return false
			}
		case c == '.' && width > 0:
			parts++
			n, width = 0, 0
		default:
			return false
		}
	}
	return parts == 4 && width > 0
}

func isIPv6(b []byte) bool {
	groups, gap := 0, false
	if len(b) >= 2 && b[0] == ':' {
		if b[1] != ':' {
			return false
		}
		gap = true
		b = b[2:]
		if len(b) == 0 {
			return true
		}
	}
	for {
		i := 0
		for i < len(b) && i < 5 && unhex(b[i]) >= 0 {
			i++
		}
		if i == 0 || i > 4 {
			return false
		}
		if i < len(b) && b[i] == '.' {
			return isIPv4(b) && (groups == 6 && !gap || groups < 6 && gap)
		}
		groups++
		b = b[i:]
		if len(b) == 0 {
			return groups == 8 && !gap || groups < 8 && gap
		}
		if b[0] != ':' || groups == 8 {
			return false
		}
		b = b[1:]
		if len(b) == 0 {
			return false
		}
		if b[0] == ':' {
			if gap {
				return false
			}
			gap = true
			b = b[1:]
			if len(b) == 0 {
				return groups < 8
			}
		}
	}
}
