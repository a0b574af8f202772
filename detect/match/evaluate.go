package match

import (
	"bytes"
	"encoding/json"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// maxArena is how much memory for texts is kept between events.
const maxArena = 1 << 20

// scratch is what is known of the event at hand. Nothing in it is computed
// before a test asks, and nothing twice.
type scratch struct {
	ev     *event.Event
	gen    uint32        // counts events; what bears another number is of an earlier one
	memo   []uint32      // by test: gen<<1, plus 1 if it holds
	fields []loaded      // by field
	values []event.Value // of the fields loaded
	texts  []texts       // of values
	arena  []byte
	key    []byte
	label  []byte
	hits   []int32
}

// loaded is where the values of a field are, if gen is the event's.
type loaded struct {
	gen      uint32
	from, to int32
}

// texts of a value, as they are needed.
type texts struct {
	plain, folded       []byte
	hasPlain, hasFolded bool
}

// begin forgets the event before.
func (m *Matcher) begin(ev *event.Event) {
	m.ev = ev
	m.gen++
	if m.gen == 1<<31 {
		clear(m.memo)
		clear(m.fields)
		m.gen = 1
	}
	m.values, m.texts = m.values[:0], m.texts[:0]
	if cap(m.arena) > maxArena {
		m.arena = nil
	}
	m.arena = m.arena[:0]
}

// load finds the values of a field: indexes into m.values.
func (m *Matcher) load(field int32) (from, to int32) {
	l := &m.fields[field]
	if l.gen == m.gen {
		return l.from, l.to
	}
	l.gen = m.gen
	l.from = int32(len(m.values))
	f := &m.prog.fields[field]
	switch f.kind {
	case rawField:
		m.values = m.ev.Values(m.values, f.path)
	case attrField:
		if v := m.ev.Attr(f.attr); v != nil {
			m.values = append(m.values, event.Value{Kind: event.KindString, Raw: v})
		}
	case recordField:
		m.values = append(m.values, record(m.ev))
	}
	for len(m.texts) < len(m.values) {
		m.texts = append(m.texts, texts{})
	}
	l.to = int32(len(m.values))
	return l.from, l.to
}

// record is the whole record as a value.
func record(ev *event.Event) event.Value {
	switch {
	case ev.Doc != nil:
		return event.Value{Kind: event.KindObject, Raw: ev.Doc}
	case json.Valid(ev.Raw):
		return event.Value{Kind: event.KindObject, Raw: ev.Raw}
	}
	return event.Value{Kind: event.KindString, Raw: ev.Raw}
}

// plain is the text of a value, its escapes undone.
func (m *Matcher) plain(i int32) []byte {
	t := &m.texts[i]
	if !t.hasPlain {
		t.hasPlain = true
		if v := &m.values[i]; v.Plain() {
			t.plain = v.Raw
		} else {
			// Growing leaves the older texts where they are: they stay valid.
			from := len(m.arena)
			m.arena = v.AppendText(m.arena)
			t.plain = m.arena[from:len(m.arena):len(m.arena)]
		}
	}
	return t.plain
}

// folded is the text of a value without regard to case.
func (m *Matcher) folded(i int32) []byte {
	t := &m.texts[i]
	if !t.hasFolded {
		text := m.plain(i)
		from := len(m.arena)
		m.arena = appendFolded(m.arena, text)
		t.folded, t.hasFolded = m.arena[from:len(m.arena):len(m.arena)], true
	}
	return t.folded
}

// holds evaluates a test, or remembers what it was for this event.
func (m *Matcher) holds(i int32) bool {
	if known := m.memo[i]; known>>1 == m.gen {
		return known&1 == 1
	}
	t := &m.prog.tests[i]
	h := m.evaluate(t) != t.not
	known := m.gen << 1
	if h {
		known |= 1
	}
	m.memo[i] = known
	return h
}

func (m *Matcher) evaluate(t *test) bool {
	from, to := m.load(t.field)
	if t.set != nil {
		for i := from; i < to; i++ {
			if m.values[i].Kind == event.KindNull {
				continue
			}
			if _, ok := t.set[string(m.folded(i))]; ok {
				return true
			}
		}
	}
	for j := t.from; j < t.to; j++ {
		if m.any(&m.prog.patterns[j], from, to) != t.all {
			return !t.all
		}
	}
	return t.all
}

// any reports whether a pattern holds for any of the values.
func (m *Matcher) any(p *pattern, from, to int32) bool {
	switch p.kind {
	case rule.Exists, rule.Null:
		for i := from; i < to; i++ {
			if m.values[i].Kind != event.KindNull {
				return p.kind == rule.Exists
			}
		}
		return p.kind == rule.Null
	}
	for i := from; i < to; i++ {
		if m.values[i].Kind != event.KindNull && m.matches(p, i) {
			return true
		}
	}
	return false
}

// matches compares one value, which is not null, with a pattern.
func (m *Matcher) matches(p *pattern, i int32) bool {
	switch p.kind {
	case rule.Equal, rule.Prefix, rule.Suffix, rule.Contains:
		return compare(p.kind, m.text(i, p.cased), p.bytes)
	case rule.Glob:
		return globMatch(p.text, m.text(i, p.cased))
	case rule.Regexp:
		return m.regexp(p, i)
	case rule.CIDR:
		a, ok := parseAddr(m.plain(i))
		return ok && p.prefix.Contains(a)
	case rule.Number:
		if m.values[i].Kind == event.KindNumber {
			n, ok := parseNum(m.values[i].Raw)
			return ok && n.cmp(p.num) == 0
		}
		return bytes.Equal(m.folded(i), p.bytes)
	case rule.FieldRef:
		return m.fieldRef(p, i)
	}
	k := m.values[i].Kind
	if k != event.KindNumber && k != event.KindString {
		return false
	}
	n, ok := parseNum(m.plain(i))
	if !ok {
		return false
	}
	c := n.cmp(p.num)
	switch p.kind {
	case rule.Less:
		return c < 0
	case rule.LessEqual:
		return c <= 0
	case rule.Greater:
		return c > 0
	case rule.GreaterEqual:
		return c >= 0
	}
	return false
}

func (m *Matcher) text(i int32, cased bool) []byte {
	if cased {
		return m.plain(i)
	}
	return m.folded(i)
}

func compare(kind rule.PatternKind, text, part []byte) bool {
	switch kind {
	case rule.Equal:
		return bytes.Equal(text, part)
	case rule.Prefix:
		return bytes.HasPrefix(text, part)
	case rule.Suffix:
		return bytes.HasSuffix(text, part)
	}
	return bytes.Contains(text, part)
}

// regexp runs an expression only where a text that it needs is there.
func (m *Matcher) regexp(p *pattern, i int32) bool {
	if p.needed == nil {
		return p.re.Match(m.plain(i))
	}
	folded := m.folded(i)
	for _, lit := range p.needed {
		if bytes.Contains(folded, lit) {
			return p.re.Match(m.plain(i))
		}
	}
	return false
}

func (m *Matcher) fieldRef(p *pattern, i int32) bool {
	from, to := m.load(p.field)
	for j := from; j < to; j++ {
		a, b := &m.values[i], &m.values[j]
		if b.Kind == event.KindNull {
			continue
		}
		if p.ref == rule.Equal && a.Kind == event.KindNumber && b.Kind == event.KindNumber {
			x, okx := parseNum(a.Raw)
			y, oky := parseNum(b.Raw)
			if okx && oky && x.cmp(y) == 0 {
				return true
			}
			continue
		}
		if compare(p.ref, m.text(i, p.cased), m.text(j, p.cased)) {
			return true
		}
	}
	return false
}
