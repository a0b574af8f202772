package match

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// program is a rule set compiled: fields, tests and patterns in tables of their
// own, each kept once however many rules use it. It is immutable and shared.
type program struct {
	fields   []field
	tests    []test
	patterns []pattern
	rules    []compiled // by index into Set.Detections
	feeds    [][]feed   // by the same
	types    []event.Type
	routed   [][]int32 // for each of types, the rules that see its events
}

// fieldKind says where a field's values come from.
type fieldKind uint8

const (
	rawField    fieldKind = iota // a path of the record
	attrField                    // an attribute of the event
	recordField                  // the whole record, for keywords
)

type field struct {
	kind fieldKind
	attr event.Attr
	path *event.Path
}

// test is a rule.Test over tables.
type test struct {
	field     int32
	from, to  int32               // patterns
	set       map[string]struct{} // folded texts of many patterns of kind equal, in their place
	all, not  bool
	decidable bool // by an event's discriminator alone
	cost      int
}

type pattern struct {
	kind   rule.PatternKind
	ref    rule.PatternKind
	cased  bool
	text   string // folded unless cased
	bytes  []byte // the same
	field  int32  // of a fieldref
	num    num
	re     *regexp.Regexp
	needed [][]byte // folded; the expression matches only where one of them is; nil: unknown
	prefix netip.Prefix
}

type compiled struct {
	class event.Class
	root  node
}

// node is a condition over tests.
type node struct {
	op   rule.NodeOp
	test int32
	kids []node
	cost int
}

// compiler builds a program.
type compiler struct {
	*program
	fieldIndex map[string]int32
	testIndex  map[string]int32
}

func compile(set *rule.Set) *program {
	c := &compiler{
		program:    &program{types: event.Types()},
		fieldIndex: map[string]int32{},
		testIndex:  map[string]int32{},
	}
	c.routed = make([][]int32, len(c.types))
	for i, r := range set.Detections {
		route, _ := r.Logsource.Route()
		c.rules = append(c.rules, compiled{class: route.Class, root: c.node(r.Detection.Condition, route)})
		for t, typ := range c.types {
			if route.Type == "" || route.Type == typ {
				c.routed[t] = append(c.routed[t], int32(i))
			}
		}
	}
	c.feedAll(set)
	return c.program
}

func (c *compiler) node(n *rule.Node, route rule.Route) node {
	if n.Op == rule.OpTest {
		t := c.test(n.Test, route)
		return node{op: rule.OpTest, test: t, cost: c.tests[t].cost}
	}
	out := node{op: n.Op}
	for _, k := range n.Kids {
		kid := c.node(k, route)
		out.cost += kid.cost
		out.kids = append(out.kids, kid)
	}
	// The order does not change what holds, so the cheap come first.
	slices.SortStableFunc(out.kids, func(a, b node) int { return a.cost - b.cost })
	return out
}

// fieldOf finds or adds a field; the empty name is the whole record.
func (c *compiler) fieldOf(name string, route rule.Route) int32 {
	f := field{kind: rawField}
	switch {
	case name == "":
		f.kind = recordField
	case route.Attrs:
		f.kind = attrField
		f.attr, _ = event.ParseAttr(name) // the parser refuses names that are none
	}
	key := fmt.Sprintf("%d %s", f.kind, name)
	if i, ok := c.fieldIndex[key]; ok {
		return i
	}
	if f.kind == rawField {
		f.path = event.CompilePath(name)
	}
	i := int32(len(c.fields))
	c.fields = append(c.fields, f)
	c.fieldIndex[key] = i
	return i
}

// setSize is how many equal patterns are looked up in a table rather than one by one.
const setSize = 8

func (c *compiler) test(t *rule.Test, route rule.Route) int32 {
	key := fmt.Sprintf("%v %s", route.Attrs, t)
	if i, ok := c.testIndex[key]; ok {
		return i
	}
	out := test{field: c.fieldOf(t.Field, route), all: t.All, not: t.Not}
	out.decidable = route.Type == event.TypeCloudTrail && !route.Attrs && (t.Field == "eventSource" || t.Field == "eventName")
	var set map[string]struct{}
	if n := countFunc(t.Patterns, isPlainEqual); n >= setSize && !t.All {
		set = make(map[string]struct{}, n)
	}
	out.from = int32(len(c.patterns))
	for i := range t.Patterns {
		p := &t.Patterns[i]
		if set != nil && isPlainEqual(p) {
			set[string(appendFolded(nil, []byte(p.Text)))] = struct{}{}
			continue
		}
		compiled := c.pattern(p, route)
		// The discriminator tells texts, not the kinds of values that numbers and
		// other fields are compared with.
		if p.Kind == rule.FieldRef || p.Kind >= rule.Number && p.Kind <= rule.GreaterEqual {
			out.decidable = false
		}
		out.cost += patternCost(p.Kind)
		c.patterns = append(c.patterns, compiled)
	}
	out.to, out.set = int32(len(c.patterns)), set
	switch {
	case t.Field == "":
		out.cost += 200
	case !out.decidable:
		out.cost += 10
	}
	i := int32(len(c.tests))
	c.tests = append(c.tests, out)
	c.testIndex[key] = i
	return i
}

func isPlainEqual(p *rule.Pattern) bool { return p.Kind == rule.Equal && !p.Cased }

func countFunc(ps []rule.Pattern, f func(*rule.Pattern) bool) int {
	n := 0
	for i := range ps {
		if f(&ps[i]) {
			n++
		}
	}
	return n
}

func patternCost(k rule.PatternKind) int {
	switch k {
	case rule.Null, rule.Exists:
		return 1
	case rule.Equal, rule.Prefix, rule.Suffix, rule.Number, rule.Less, rule.LessEqual, rule.Greater, rule.GreaterEqual:
		return 2
	case rule.Contains, rule.CIDR:
		return 4
	case rule.Regexp:
		return 60
	}
	return 15
}

func (c *compiler) pattern(p *rule.Pattern, route rule.Route) pattern {
	out := pattern{kind: p.Kind, ref: p.Ref, cased: p.Cased, text: p.Text}
	switch p.Kind {
	case rule.FieldRef:
		out.field = c.fieldOf(p.Text, route)
		return out
	case rule.Regexp:
		out.re = regexp.MustCompile(p.Text) // the parser has compiled it before
		out.needed = neededLiterals(p.Text)
		return out
	case rule.CIDR:
		out.prefix = netip.MustParsePrefix(p.Text)
		return out
	case rule.Number, rule.Less, rule.LessEqual, rule.Greater, rule.GreaterEqual:
		out.num, _ = parseNum([]byte(p.Text))
	}
	if !p.Cased {
		out.text = string(appendFolded(nil, []byte(p.Text)))
	}
	out.bytes = []byte(out.text)
	return out
}
