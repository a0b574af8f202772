package match

import (
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// plan is what is left to be evaluated of the rules of one log type for events
// of one kind: those with the same class and discriminator.
type plan struct {
	entries []planEntry
	code    []instruction
	class   event.Class // with a and b the kind it is for
	a, b    string
}

// planEntry is a rule that may match. It matches if the code from start on ends in yes.
type planEntry struct {
	rule  int32
	start int32
}

// instruction evaluates a test and goes on at yes or no.
type instruction struct {
	test    int32
	yes, no int32
}

// Where code ends.
const (
	ended    = -1 // the rule matches; the other way is anything less
	endedNot = -2
)

// verdict is what is known of a test before an event of the kind is seen.
type verdict uint8

const (
	open verdict = iota
	holds
	fails
)

// newPlan evaluates the conditions of some rules as far as decide does.
func newPlan(p *program, rules []int32, decide func(test int32) verdict) *plan {
	out := new(plan)
	for _, r := range rules {
		n, v := reduce(&p.rules[r].root, decide)
		switch v {
		case fails:
		case holds:
			out.entries = append(out.entries, planEntry{rule: r, start: ended})
		default:
			out.entries = append(out.entries, planEntry{rule: r, start: out.emit(&n, ended, endedNot)})
		}
	}
	return out
}

// reduce drops from a condition what is decided.
func reduce(n *node, decide func(test int32) verdict) (node, verdict) {
	switch n.op {
	case rule.OpTest:
		return *n, decide(n.test)
	case rule.OpNot:
		kid, v := reduce(&n.kids[0], decide)
		switch v {
		case holds:
			return node{}, fails
		case fails:
			return node{}, holds
		}
		return node{op: rule.OpNot, kids: []node{kid}}, open
	}
	neutral, final := holds, fails
	if n.op == rule.OpOr {
		neutral, final = fails, holds
	}
	out := node{op: n.op}
	for i := range n.kids {
		kid, v := reduce(&n.kids[i], decide)
		switch v {
		case final:
			return node{}, final
		case open:
			out.kids = append(out.kids, kid)
		}
	}
	switch len(out.kids) {
	case 0:
		return node{}, neutral
	case 1:
		return out.kids[0], open
	}
	return out, open
}

// emit writes code for a condition, its end first, and returns where it starts.
func (p *plan) emit(n *node, yes, no int32) int32 {
	switch n.op {
	case rule.OpNot:
		return p.emit(&n.kids[0], no, yes)
	case rule.OpAnd:
		for i := len(n.kids) - 1; i >= 0; i-- {
			yes = p.emit(&n.kids[i], yes, no)
		}
		return yes
	case rule.OpOr:
		for i := len(n.kids) - 1; i >= 0; i-- {
			no = p.emit(&n.kids[i], yes, no)
		}
		return no
	}
	p.code = append(p.code, instruction{test: n.test, yes: yes, no: no})
	return int32(len(p.code) - 1)
}
