package rule

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/event"
)

// searchParser reads the selections of one detection.
type searchParser struct {
	attrs bool // fields are attributes of the normalised event
}

// parseDetection reads the detection section. It returns the selections that no
// condition uses.
func parseDetection(n *yaml.Node, attrs bool) (*Detection, []string, error) {
	p := searchParser{attrs}
	es, err := entries(n, "detection")
	if err != nil {
		return nil, nil, err
	}
	sel := &selections{byName: map[string]*Node{}, used: map[string]bool{}}
	var condition *yaml.Node
	var timeframe *entry
	for i, e := range es {
		switch e.key {
		case "condition":
			condition = e.value
			continue
		case "timeframe":
			timeframe = &es[i]
			continue
		}
		if strings.ContainsAny(e.key, " \t()|*") || e.key == "" {
			return nil, nil, atLine(e.line, "detection: %q is no name that a condition can use", e.key)
		}
		node, err := p.search(e.value, e.key)
		if err != nil {
			return nil, nil, err
		}
		sel.byName[e.key] = node
		sel.names = append(sel.names, e.key)
	}
	if condition == nil {
		return nil, nil, at(n, "detection: want a condition")
	}
	if len(sel.names) == 0 {
		return nil, nil, at(n, "detection: want at least one selection")
	}
	cs, err := texts(condition, "condition")
	if err != nil {
		return nil, nil, err
	}
	if len(cs) == 0 {
		return nil, nil, at(condition, "condition: want an expression, it is empty")
	}
	var kids []*Node
	for _, c := range cs {
		node, err := parseCondition(c, sel)
		if err != nil {
			return nil, nil, at(condition, "%v", err)
		}
		kids = append(kids, node)
	}
	if timeframe != nil {
		return nil, nil, atLine(timeframe.line, "timeframe: counting within a rule is of old rules, which Sigma has given up; "+
			"name this rule and write a correlation rule with timespan: %s that refers to it", timeframe.value.Value)
	}
	return &Detection{Condition: join(OpOr, kids)}, sel.unused(), nil
}

// search reads one selection: a map (and), a list of maps (or), or keywords.
func (p searchParser) search(n *yaml.Node, name string) (*Node, error) {
	switch n.Kind {
	case yaml.MappingNode:
		return p.fields(n, name)
	case yaml.SequenceNode:
		ns, err := items(n, name)
		if err != nil {
			return nil, err
		}
		return p.list(n, ns, name)
	}
	if isNull(n) {
		return nil, at(n, "%s: want a map, a list of maps or keywords, it is empty", name)
	}
	return p.keywords([]*yaml.Node{n}, name)
}

// list reads a list whose elements are alternatives.
func (p searchParser) list(n *yaml.Node, ns []*yaml.Node, name string) (*Node, error) {
	if len(ns) == 0 {
		return nil, at(n, "%s: want at least one element, the list is empty", name)
	}
	var kids []*Node
	var words []*yaml.Node
	for _, v := range ns {
		if v.Kind == yaml.MappingNode {
			k, err := p.fields(v, name)
			if err != nil {
				return nil, err
			}
			kids = append(kids, k)
			continue
		}
		words = append(words, v)
	}
	if len(words) > 0 {
		k, err := p.keywords(words, name)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
	}
	return join(OpOr, kids), nil
}

// keywords are alternatives of which one is somewhere in the record.
func (p searchParser) keywords(ns []*yaml.Node, name string) (*Node, error) {
	return p.values("", modifiers{kind: "contains"}, ns, name)
}

// fields reads fields that have to hold together.
func (p searchParser) fields(n *yaml.Node, name string) (*Node, error) {
	es, err := entries(n, name)
	if err != nil {
		return nil, err
	}
	if len(es) == 0 {
		return nil, at(n, "%s: want at least one field, the map is empty", name)
	}
	kids := make([]*Node, 0, len(es))
	for _, e := range es {
		field, m, err := parseField(e.key, e.line)
		if err != nil {
			return nil, err
		}
		if field == "" {
			if !strings.HasPrefix(e.key, "|") {
				return nil, atLine(e.line, "%s: want the name of a field, it is empty", name)
			}
			if m.kind == "" {
				m.kind = "contains" // a keyword is found anywhere
			}
		}
		if err := p.known(field, e.line); err != nil {
			return nil, err
		}
		ns, err := items(e.value, e.key)
		if err != nil {
			return nil, err
		}
		if len(ns) == 0 {
			return nil, at(e.value, "%s: want at least one value, the list is empty", e.key)
		}
		k, err := p.values(field, m, ns, e.key)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
	}
	return join(OpAnd, kids), nil
}

// values makes the test of one field. What one value expands to are
// alternatives, also where all values have to hold.
func (p searchParser) values(field string, m modifiers, ns []*yaml.Node, what string) (*Node, error) {
	if m.kind == "exists" && len(ns) > 1 {
		return nil, at(ns[1], "%s: want one of true and false, not a list", what)
	}
	test := &Test{Field: field, All: m.all, Not: m.neq}
	var expanded []*Node // one a value, where that is needed
	for _, v := range ns {
		ps, err := m.patterns(v, what)
		if err != nil {
			return nil, err
		}
		if field == "" && ps[0].Kind == Null {
			return nil, at(v, "%s: want a keyword, not null", what)
		}
		if m.ref {
			if err := p.known(ps[0].Text, v.Line); err != nil {
				return nil, err
			}
		}
		test.Patterns = append(test.Patterns, ps...)
		if m.all && len(ps) > 1 {
			expanded = append(expanded, &Node{Test: &Test{Field: field, Patterns: ps}})
		}
	}
	if expanded == nil {
		return &Node{Test: test}, nil
	}
	n := join(OpAnd, expanded)
	if m.neq {
		n = &Node{Op: OpNot, Kids: []*Node{n}}
	}
	return n, nil
}

// known refuses a field that the normalised event does not have.
func (p searchParser) known(field string, line int) error {
	if !p.attrs || field == "" {
		return nil
	}
	if _, ok := event.ParseAttr(field); !ok {
		return atLine(line, "%s: the normalised event has no such attribute", field)
	}
	return nil
}
