package match

import (
	"bytes"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// Sink takes observations. It must not keep key beyond the call.
type Sink interface {
	Observe(r *rule.Rule, tenant string, key []byte, o detect.Observation)
}

// maxAhead is how far an event's time may be ahead of its append stamp.
const maxAhead = int64(time.Minute)

// feed says what a detection's match contributes to one correlation.
type feed struct {
	rule     *rule.Rule // the one that may fire
	ref      uint8      // the detection's place in its Rules
	implicit bool
	group    []int32 // fields of the key; for unmatched, of the roll-up key
	label    int32   // field of Label, or −1
	number   int32   // field of Number, or −1
	duration bool    // Number is the event's duration
	joins    []int32 // unmatched: fields of the join value
}

// feedAll compiles what each detection feeds.
func (c *compiler) feedAll(set *rule.Set) {
	index := make(map[*rule.Rule]int, len(set.Detections))
	for i, r := range set.Detections {
		index[r] = i
	}
	c.feeds = make([][]feed, len(set.Detections))
	for _, r := range set.Correlations {
		for ref, d := range r.Correlation.Rules {
			i, ok := index[d]
			if !ok {
				continue // a correlation: correlate feeds the rule
			}
			c.feeds[i] = append(c.feeds[i], c.feed(r, ref))
		}
	}
}

func (c *compiler) feed(r *rule.Rule, ref int) feed {
	cor := r.Correlation
	route, _ := cor.Rules[ref].Logsource.Route()
	resolve := func(name string) int32 {
		f, _ := cor.FieldOf(ref, name) // the parser refuses an alias without a field
		return c.fieldOf(f, route)
	}
	f := feed{rule: r, ref: uint8(ref), implicit: cor.Implicit, label: -1, number: -1}
	if cor.Type != rule.Unmatched || cor.IsLeft(ref) {
		for _, name := range cor.GroupBy {
			f.group = append(f.group, resolve(name))
		}
	}
	switch cor.Type {
	case rule.ValueCount, rule.NewValue:
		f.label = resolve(cor.Field)
	case rule.ValueSum, rule.ValueAvg, rule.ValuePercentile:
		c.numberOf(&f, resolve(cor.Field))
	case rule.Baseline:
		if cor.Measure != "ratio" {
			c.numberOf(&f, resolve(cor.Field))
		}
	case rule.Unmatched:
		for _, name := range cor.JoinFields(ref) {
			f.joins = append(f.joins, c.fieldOf(name, route))
		}
	}
	return f
}

// numberOf has f take its number from a field.
func (c *compiler) numberOf(f *feed, field int32) {
	f.number = field
	fld := &c.fields[field]
	f.duration = fld.kind == attrField && fld.attr == event.AttrDuration
}

// Observe matches an event and hands sink what each match contributes to the
// correlations it feeds. ptr says where the record stands, stamp when it was
// appended (ns).
//
// An event that lacks a group-by value contributes nothing, but to the implicit
// correlation of a single-event rule, where the value is empty. Of several
// values the first is taken. For vedette.unmatched there is one observation for
// each distinct join value, keyed by it; a left side's label is the roll-up
// key, in which a value that is lacking is empty too.
func (m *Matcher) Observe(ev *event.Event, tenant string, ptr detect.Pointer, stamp int64, sink Sink) {
	m.hits = m.Match(ev, m.hits[:0])
	if len(m.hits) == 0 {
		return
	}
	o := detect.Observation{Pointer: ptr, Time: ev.Time, Stamp: stamp, IDHash: event.HashID(ev.Attr(event.AttrUID))}
	if o.Time == 0 {
		o.Time = stamp
	}
	o.Time = min(o.Time, stamp+maxAhead)
	for _, hit := range m.hits {
		for i := range m.prog.feeds[hit] {
			m.observe(&m.prog.feeds[hit][i], tenant, o, sink)
		}
	}
}

func (m *Matcher) observe(f *feed, tenant string, o detect.Observation, sink Sink) {
	o.Ref = f.ref
	if f.joins != nil {
		m.observeJoins(f, tenant, o, sink)
		return
	}
	key, complete := m.groupKey(m.key[:0], f.group)
	m.key = key
	if !complete && !f.implicit {
		return
	}
	if f.label >= 0 {
		v, ok := m.first(f.label)
		if !ok {
			return
		}
		o.Label = string(v)
	}
	switch {
	case f.duration:
		if m.ev.Duration == 0 {
			return
		}
		o.Number = m.ev.Duration
	case f.number >= 0:
		v, _ := m.first(f.number)
		n, ok := parseNum(v)
		if !ok {
			return
		}
		o.Number = n.f
	}
	sink.Observe(f.rule, tenant, key, o)
}

func (m *Matcher) observeJoins(f *feed, tenant string, o detect.Observation, sink Sink) {
	if f.group != nil {
		m.label, _ = m.groupKey(m.label[:0], f.group)
		o.Label = string(m.label)
	}
	for at, field := range f.joins {
		from, to := m.load(field)
		for i := from; i < to; i++ {
			if m.values[i].Kind == event.KindNull {
				continue
			}
			v := m.plain(i)
			if len(v) == 0 || m.joined(f.joins[:at], v) || m.among(from, i, v) {
				continue
			}
			m.key = detect.AppendKey(m.key[:0], v)
			sink.Observe(f.rule, tenant, m.key, o)
		}
	}
}

// joined reports whether v is among the values of some fields.
func (m *Matcher) joined(fields []int32, v []byte) bool {
	for _, field := range fields {
		if from, to := m.load(field); m.among(from, to, v) {
			return true
		}
	}
	return false
}

func (m *Matcher) among(from, to int32, v []byte) bool {
	for i := from; i < to; i++ {
		if m.values[i].Kind != event.KindNull && bytes.Equal(m.plain(i), v) {
			return true
		}
	}
	return false
}

// groupKey appends the key over some fields; it is incomplete if one has no value.
func (m *Matcher) groupKey(dst []byte, fields []int32) (key []byte, complete bool) {
	complete = true
	for _, f := range fields {
		v, ok := m.first(f)
		complete = complete && ok
		dst = detect.AppendKey(dst, v)
	}
	return dst, complete
}

// first is the text of a field's first value.
func (m *Matcher) first(field int32) ([]byte, bool) {
	from, to := m.load(field)
	for i := from; i < to; i++ {
		if m.values[i].Kind != event.KindNull {
			return m.plain(i), true
		}
	}
	return nil, false
}
