package rule

import (
	"encoding/base64"
	"net/netip"
	"regexp"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v4"
)

// modifiers is what stands behind a field name.
type modifiers struct {
	kind     string // how to compare: contains, re, lt …; empty: equal, with wildcards
	ref      bool
	all      bool
	neq      bool
	cased    bool
	flags    string   // of re
	encoders []string // base64 and the like, in order
}

// parseField splits "field|modifier|…" and checks that the modifiers go together.
func parseField(key string, line int) (string, modifiers, error) {
	parts := strings.Split(key, "|")
	field := parts[0]
	var m modifiers
	fail := func(format string, args ...any) (string, modifiers, error) {
		return "", m, atLine(line, "%s: "+format, append([]any{key}, args...)...)
	}
	for i, name := range parts[1:] {
		switch name {
		case "contains", "startswith", "endswith", "re", "cidr", "exists", "lt", "lte", "gt", "gte":
			if m.kind != "" {
				return fail("modifiers %s and %s do not go together", m.kind, name)
			}
			m.kind = name
		case "fieldref":
			m.ref = true
		case "all":
			m.all = true
		case "neq":
			m.neq = true
		case "cased":
			m.cased = true
		case "i", "m", "s":
			if m.kind != "re" {
				return fail("modifier %s only follows re", name)
			}
			if !strings.Contains(m.flags, name) {
				m.flags += name
			}
		case "windash", "base64", "base64offset", "wide", "utf16le", "utf16be", "utf16":
			if m.kind != "" {
				return fail("modifier %s has to stand before %s", name, m.kind)
			}
			m.encoders = append(m.encoders, name)
		case "expand":
			return fail("modifier expand: placeholders are not supported; write the values out")
		case "minute", "hour", "day", "week", "month", "year":
			return fail("time modifier %s is not supported", name)
		case "":
			return fail("modifier %d is empty", i+1)
		default:
			return fail("unknown modifier %q; known are contains, startswith, endswith, all, re (i, m, s), cidr, "+
				"exists, cased, neq, lt, lte, gt, gte, fieldref, windash, base64, base64offset, wide, utf16le, utf16be, utf16", name)
		}
	}
	if msg := m.conflict(); msg != "" {
		return fail("%s", msg)
	}
	if field == "" && (m.ref || m.neq || m.kind == "exists" || m.kind == "cidr" || m.numeric()) {
		return fail("a keyword takes only all, contains, re, cased and the encodings")
	}
	if strings.HasPrefix(field, ".") || strings.HasSuffix(field, ".") || strings.Contains(field, "..") {
		return fail("field %q has an empty part between its dots", field)
	}
	return field, m, nil
}

func (m *modifiers) numeric() bool {
	switch m.kind {
	case "lt", "lte", "gt", "gte":
		return true
	}
	return false
}

// conflict says what is wrong with the combination, or nothing.
func (m *modifiers) conflict() string {
	part := m.kind == "contains" || m.kind == "startswith" || m.kind == "endswith"
	switch {
	case m.ref && m.kind != "" && !part:
		return "fieldref does not go together with " + m.kind
	case m.cased && m.kind != "" && !part:
		return "cased does not go together with " + m.kind
	case m.ref && len(m.encoders) > 0:
		return "fieldref does not go together with " + m.encoders[0]
	case m.kind == "exists" && (m.all || m.neq):
		return "exists takes true or false and no further modifier"
	}
	for i, e := range m.encoders {
		switch e {
		case "windash":
			if i > 0 {
				return "windash has to stand before " + m.encoders[0]
			}
		case "base64offset":
			if m.kind != "contains" {
				return "base64offset finds a part of an encoded text, so it has to be followed by contains"
			}
			fallthrough
		case "base64":
			if i != len(m.encoders)-1 {
				return "after " + e + " no further encoding can follow"
			}
		default:
			if i == len(m.encoders)-1 {
				return e + " yields bytes that no text holds; it has to be followed by base64 or base64offset"
			}
			if i > 0 && m.encoders[i-1] != "windash" {
				return e + " does not follow another encoding"
			}
		}
	}
	return ""
}

// patterns turns one value of a rule into the patterns any of which may hold.
func (m *modifiers) patterns(n *yaml.Node, what string) ([]Pattern, error) {
	if n.Kind != yaml.ScalarNode {
		return nil, at(n, "%s: want a value or a list of values, not %s", what, describe(n))
	}
	tag := n.ShortTag()
	if tag == "!!binary" {
		return nil, at(n, "%s: binary values are not supported", what)
	}
	if m.ref {
		return m.fieldRef(n, what)
	}
	switch {
	case m.kind == "exists":
		yes, err := boolean(n, what)
		if err != nil {
			return nil, err
		}
		if yes {
			return []Pattern{{Kind: Exists}}, nil
		}
		return []Pattern{{Kind: Null}}, nil
	case tag == "!!null":
		if m.kind != "" || m.cased || len(m.encoders) > 0 {
			return nil, at(n, "%s: null takes no modifier; want a value", what)
		}
		return []Pattern{{Kind: Null}}, nil
	case m.kind == "re":
		return m.regexp(n, what)
	case m.kind == "cidr":
		return cidr(n, what)
	case m.numeric():
		if !isNumber(n.Value) || tag == "!!str" {
			return nil, at(n, "%s: want a number, not %s", what, describe(n))
		}
		kinds := map[string]PatternKind{"lt": Less, "lte": LessEqual, "gt": Greater, "gte": GreaterEqual}
		return []Pattern{{Kind: kinds[m.kind], Text: n.Value}}, nil
	case len(m.encoders) > 0:
		return m.encoded(n, what)
	}
	s := n.Value
	switch tag {
	case "!!bool":
		s = strings.ToLower(s)
	case "!!int", "!!float":
		if m.kind == "" && isNumber(s) {
			return []Pattern{{Kind: Number, Text: s}}, nil
		}
	}
	return []Pattern{textPattern(m.wild(parseWildcards(s)), m.cased)}, nil
}

// wild puts the wildcards of contains, startswith and endswith around a glob.
func (m *modifiers) wild(glob string) string {
	if m.kind == "contains" || m.kind == "endswith" {
		glob = string([]byte{AnyText}) + glob
	}
	if m.kind == "contains" || m.kind == "startswith" {
		glob += string([]byte{AnyText})
	}
	return glob
}

func (m *modifiers) fieldRef(n *yaml.Node, what string) ([]Pattern, error) {
	name, err := text(n, what)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, at(n, "%s: want the name of a field, not an empty text", what)
	}
	kinds := map[string]PatternKind{"": Equal, "contains": Contains, "startswith": Prefix, "endswith": Suffix}
	return []Pattern{{Kind: FieldRef, Text: name, Ref: kinds[m.kind], Cased: m.cased}}, nil
}

func (m *modifiers) regexp(n *yaml.Node, what string) ([]Pattern, error) {
	src := n.Value
	if m.flags != "" {
		src = "(?" + m.flags + ")" + src
	}
	if _, err := regexp.Compile(src); err != nil {
		return nil, at(n, "%s: %v; expressions are RE2, without look-around and back-references", what, err)
	}
	return []Pattern{{Kind: Regexp, Text: src, Cased: true}}, nil
}

func cidr(n *yaml.Node, what string) ([]Pattern, error) {
	p, err := netip.ParsePrefix(n.Value)
	if err != nil {
		a, aerr := netip.ParseAddr(n.Value)
		if aerr != nil || a.Zone() != "" {
			return nil, at(n, "%s: want a network such as 10.0.0.0/8, not %s", what, describe(n))
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return []Pattern{{Kind: CIDR, Text: p.Masked().String()}}, nil
}

// encoded applies windash, base64 and the UTF-16 encodings to a value.
func (m *modifiers) encoded(n *yaml.Node, what string) ([]Pattern, error) {
	globs, encoders := []string{parseWildcards(n.Value)}, m.encoders
	if encoders[0] == "windash" {
		encoders = encoders[1:]
		if globs = dashes(globs[0]); globs == nil {
			return nil, at(n, "%s: the value has too many dashes for windash, at most %d are supported", what, maxDashes)
		}
	}
	var ps []Pattern
	for _, glob := range globs {
		texts := []string{glob}
		if len(encoders) > 0 {
			if strings.IndexByte(glob, AnyText) >= 0 || strings.IndexByte(glob, AnyRune) >= 0 {
				return nil, at(n, "%s: a value to be encoded may not hold wildcards; escape them with \\", what)
			}
			if texts = encode(glob, encoders); texts == nil {
				return nil, at(n, "%s: the value is too short to be found within base64", what)
			}
		}
		for _, t := range texts {
			ps = append(ps, textPattern(m.wild(t), m.cased))
		}
	}
	return ps, nil
}

// encode applies the encodings in order; base64offset gives a text for each
// place in a block of three bytes where the value may begin.
func encode(value string, encoders []string) []string {
	data := []byte(value)
	var texts []string
	for _, e := range encoders {
		switch e {
		case "wide", "utf16le":
			data = encodeUTF16(value, false, false)
		case "utf16be":
			data = encodeUTF16(value, true, false)
		case "utf16":
			data = encodeUTF16(value, false, true)
		case "base64":
			texts = append(texts, base64.StdEncoding.EncodeToString(data))
		case "base64offset":
			// Of the blocks of four characters, those that the neighbours also shape are cut off.
			starts, ends := [3]int{0, 2, 3}, [3]int{0, 3, 2}
			for i := range 3 {
				s := base64.StdEncoding.EncodeToString(append(make([]byte, i), data...))
				from, to := starts[i], len(s)-ends[(len(data)+i)%3]
				if from >= to {
					return nil
				}
				texts = append(texts, s[from:to])
			}
		}
	}
	return texts
}

// maxDashes bounds what windash expands: five spellings for each dash.
const maxDashes = 3

// dashes are all spellings of a value whose words may begin with any of the
// dashes that Windows programs take; nil if there are too many.
func dashes(glob string) []string {
	spellings := [...]string{"-", "/", "–", "—", "―"}
	all := []string{""}
	found := 0
	for i := range len(glob) {
		c := glob[i]
		if c != '-' && c != '/' || i > 0 && isWord(glob[i-1]) || i+1 == len(glob) || !isWord(glob[i+1]) {
			for j := range all {
				all[j] += glob[i : i+1]
			}
			continue
		}
		if found++; found > maxDashes {
			return nil
		}
		longer := make([]string, 0, len(all)*len(spellings))
		for _, s := range all {
			for _, d := range spellings {
				longer = append(longer, s+d)
			}
		}
		all = longer
	}
	return all
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func encodeUTF16(s string, bigEndian, mark bool) []byte {
	units := utf16.Encode([]rune(s))
	if mark {
		units = append([]uint16{0xfeff}, units...)
	}
	b := make([]byte, 0, 2*len(units))
	for _, u := range units {
		if bigEndian {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return b
}

// parseWildcards undoes Sigma's escapes and writes wildcards as AnyText and AnyRune.
func parseWildcards(s string) string {
	if !strings.ContainsAny(s, `\*?`) {
		return s
	}
	b := make([]byte, 0, len(s))
	escaped := false
	for i := range len(s) {
		c := s[i]
		switch {
		case escaped:
			if c != '*' && c != '?' && c != '\\' {
				b = append(b, '\\')
			}
			b = append(b, c)
			escaped = false
		case c == '\\':
			escaped = true
		case c == '*':
			b = append(b, AnyText)
		case c == '?':
			b = append(b, AnyRune)
		default:
			b = append(b, c)
		}
	}
	if escaped {
		b = append(b, '\\')
	}
	return string(b)
}

// textPattern picks the cheapest kind for a glob.
func textPattern(glob string, cased bool) Pattern {
	// Runs of * are one *, and in a run of both the ? come first.
	b := make([]byte, 0, len(glob))
	for i := 0; i < len(glob); {
		if glob[i] != AnyText && glob[i] != AnyRune {
			b = append(b, glob[i])
			i++
			continue
		}
		star := false
		for ; i < len(glob) && (glob[i] == AnyText || glob[i] == AnyRune); i++ {
			if glob[i] == AnyText {
				star = true
			} else {
				b = append(b, AnyRune)
			}
		}
		if star {
			b = append(b, AnyText)
		}
	}
	inner := b
	left := len(inner) > 0 && inner[0] == AnyText
	if left {
		inner = inner[1:]
	}
	right := len(inner) > 0 && inner[len(inner)-1] == AnyText
	if right {
		inner = inner[:len(inner)-1]
	}
	for _, c := range inner {
		if c == AnyText || c == AnyRune {
			return Pattern{Kind: Glob, Text: string(b), Cased: cased}
		}
	}
	p := Pattern{Kind: Equal, Text: string(inner), Cased: cased}
	switch {
	case left && (right || len(inner) == 0):
		p.Kind = Contains
	case left:
		p.Kind = Suffix
	case right:
		p.Kind = Prefix
	}
	return p
}

// isNumber reports whether s is a number as JSON writes it.
func isNumber(s string) bool {
	i := 0
	digits := func() bool {
		from := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	zero := i < len(s) && s[i] == '0'
	from := i
	if !digits() || zero && i > from+1 {
		return false
	}
	if i < len(s) && s[i] == '.' {
		i++
		if !digits() {
			return false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(s)
}
