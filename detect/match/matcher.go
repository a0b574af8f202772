package match

import (
	"encoding/binary"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// maxPlans bounds the plans cached for a log type.
const maxPlans = 1 << 13

// maxPlanKey is the longest discriminator that is worth a plan of its own, in bytes.
const maxPlanKey = 512

// Matcher evaluates the detections of a rule set on events. The conditions are
// evaluated in part once for each kind of event (for CloudTrail, service and
// operation), so that an event costs one look-up and the few tests that are
// left for its kind, each evaluated once however many rules share it. Evaluation
// does not allocate.
//
// A Matcher is not safe for concurrent use; see [Matcher.Clone].
type Matcher struct {
	prog  *program
	types []typePlans
	scratch
}

// typePlans caches the plans of one log type.
type typePlans struct {
	near   [1 << 12]*plan // the plans last used, by a hash of parts of the kind: cheaper than byKind
	byKind map[string]*plan
	whole  map[event.Class]*plan // nothing but the class decided, for kinds without a plan
	once   [1 << 10]uint32       // hashes of kinds seen once: the second sight is worth a plan
}

// nearHash mixes the ends of a discriminator's parts.
func nearHash(a, b []byte) uint64 {
	h := (ends(a)*0x9e3779b97f4a7c15 ^ ends(b)) * 0xd6e8feb86659fd93
	return h ^ h>>32
}

func ends(s []byte) uint64 {
	if len(s) >= 8 {
		return binary.LittleEndian.Uint64(s) + 31*binary.LittleEndian.Uint64(s[len(s)-8:]) + uint64(len(s))
	}
	var h uint64
	for _, c := range s {
		h = h<<8 | uint64(c)
	}
	return h
}

// New compiles a rule set.
func New(set *rule.Set) *Matcher {
	m := &Matcher{prog: compile(set)}
	m.init()
	return m
}

// Clone returns a matcher of the same rules for another goroutine. They share
// what is immutable.
func (m *Matcher) Clone() *Matcher {
	c := &Matcher{prog: m.prog}
	c.init()
	return c
}

func (m *Matcher) init() {
	m.types = make([]typePlans, len(m.prog.types))
	for i := range m.types {
		m.types[i].byKind = map[string]*plan{}
		m.types[i].whole = map[event.Class]*plan{}
	}
	m.fields = make([]loaded, len(m.prog.fields))
	m.memo = make([]uint32, len(m.prog.tests))
}

// Match appends to hits the indexes into the set's Detections of those that
// match, in rising order.
func (m *Matcher) Match(ev *event.Event, hits []int32) []int32 {
	m.begin(ev)
	p := m.plan(ev)
	if p == nil {
		return hits
	}
	code := p.code
	for _, e := range p.entries {
		pc := e.start
		for pc >= 0 {
			in := &code[pc]
			if m.holds(in.test) {
				pc = in.yes
			} else {
				pc = in.no
			}
		}
		if pc == ended {
			hits = append(hits, e.rule)
		}
	}
	return hits
}

// plan finds the plan for the event's kind; nil if no rule sees events of its type.
func (m *Matcher) plan(ev *event.Event) *plan {
	t := -1
	for i, typ := range m.prog.types {
		if typ == ev.Type {
			t = i
		}
	}
	if t < 0 || len(m.prog.routed[t]) == 0 {
		return nil
	}
	a, b := ev.Discriminator()
	if a == nil || b == nil || len(a)+len(b) > maxPlanKey {
		return m.wholePlan(t, ev.Class)
	}
	near := &m.types[t].near[nearHash(a, b)%uint64(len(m.types[t].near))]
	if p := *near; p != nil && p.class == ev.Class && p.a == string(a) && p.b == string(b) {
		return p
	}
	return m.farPlan(t, ev.Class, a, b, near)
}

// farPlan finds the plan for a kind in the whole cache, or makes one.
func (m *Matcher) farPlan(t int, class event.Class, a, b []byte, near **plan) *plan {
	key := binary.LittleEndian.AppendUint16(m.key[:0], uint16(class))
	key = binary.LittleEndian.AppendUint16(key, uint16(len(a)))
	key = append(key, a...)
	key = append(key, b...)
	m.key = key
	tp := &m.types[t]
	if p := tp.byKind[string(key)]; p != nil {
		*near = p
		return p
	}
	// A kind seen for the first time may be one of very many: whoever can make
	// them up must not have us plan for each.
	h := uint32(2166136261)
	for _, c := range key {
		h = (h ^ uint32(c)) * 16777619
	}
	seen := &tp.once[h%uint32(len(tp.once))]
	if *seen != h {
		*seen = h
		return m.wholePlan(t, class)
	}
	if len(tp.byKind) >= maxPlans {
		for k := range tp.byKind {
			delete(tp.byKind, k)
			break
		}
	}
	p := newPlan(m.prog, m.ofClass(t, class), func(i int32) verdict {
		if !m.prog.tests[i].decidable {
			return open
		}
		if m.holds(i) {
			return holds
		}
		return fails
	})
	p.class, p.a, p.b = class, string(a), string(b)
	tp.byKind[string(key)] = p
	*near = p
	return p
}

func (m *Matcher) wholePlan(t int, class event.Class) *plan {
	whole := m.types[t].whole
	p := whole[class]
	if p == nil {
		p = newPlan(m.prog, m.ofClass(t, class), func(int32) verdict { return open })
		whole[class] = p
	}
	return p
}

// ofClass lists the rules that see events of a type and class.
func (m *Matcher) ofClass(t int, class event.Class) []int32 {
	var rules []int32
	for _, r := range m.prog.routed[t] {
		if c := m.prog.rules[r].class; c == 0 || c == class {
			rules = append(rules, r)
		}
	}
	return rules
}
