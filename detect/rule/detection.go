package rule

import (
	"strconv"
	"strings"
)

// Detection is the detection section of a rule, parsed: one condition over
// tests of fields.
type Detection struct {
	Condition *Node
}

// NodeOp says what a Node does with its children.
type NodeOp uint8

// The operators of a condition. OpTest is a leaf.
const (
	OpTest NodeOp = iota
	OpAnd
	OpOr
	OpNot
)

// Node is one node of a condition. Nodes are shared where a condition names a
// selection twice, and are not changed once parsed.
type Node struct {
	Op   NodeOp
	Kids []*Node // of OpAnd and OpOr at least one, of OpNot exactly one
	Test *Test   // of OpTest
}

// Test compares the values of one field with patterns. It holds if any pattern
// holds for any value, or with All, if each pattern holds for any value; Not
// negates that.
type Test struct {
	Field    string // empty: the keyword search over the whole record
	Patterns []Pattern
	All      bool
	Not      bool
}

// PatternKind says how a Pattern compares.
type PatternKind uint8

// The kinds of patterns.
const (
	Equal        PatternKind = iota // the text is Text
	Prefix                          // the text begins with Text
	Suffix                          // the text ends with Text
	Contains                        // Text occurs in the text
	Glob                            // the text as a whole is like Text, which holds AnyText and AnyRune
	Regexp                          // the expression Text occurs in the text
	CIDR                            // the text is an address in the network Text
	Number                          // a JSON number equal to Text; of a string, its text is Text
	Less                            // the number is less than Text
	LessEqual                       // the number is at most Text
	Greater                         // the number is greater than Text
	GreaterEqual                    // the number is at least Text
	Null                            // there is no value
	Exists                          // there is a value
	FieldRef                        // the text compares with that of the field Text as Ref says
)

var kindNames = [...]string{
	"equal", "prefix", "suffix", "contains", "glob", "re", "cidr", "number",
	"lt", "lte", "gt", "gte", "null", "exists", "fieldref",
}

func (k PatternKind) String() string { return kindNames[k] }

// The wildcards within the Text of a Glob: bytes that no UTF-8 text holds.
const (
	AnyText = '\xff' // Sigma's *
	AnyRune = '\xfe' // Sigma's ?
)

// Pattern is one value of a rule, its escapes and wildcards undone.
type Pattern struct {
	Kind  PatternKind
	Text  string
	Cased bool        // compare with regard to case
	Ref   PatternKind // of FieldRef: Equal, Prefix, Suffix or Contains
}

// String writes the condition in one canonical form, which Version hashes.
func (d *Detection) String() string {
	var b strings.Builder
	d.Condition.write(&b)
	return b.String()
}

func (n *Node) write(b *strings.Builder) {
	switch n.Op {
	case OpTest:
		n.Test.write(b)
		return
	case OpAnd:
		b.WriteString("(and")
	case OpOr:
		b.WriteString("(or")
	case OpNot:
		b.WriteString("(not")
	}
	for _, k := range n.Kids {
		b.WriteByte(' ')
		k.write(b)
	}
	b.WriteByte(')')
}

func (t *Test) write(b *strings.Builder) {
	if t.Not {
		b.WriteString("(not ")
	}
	b.WriteByte('(')
	b.WriteString(strconv.Quote(t.Field))
	if t.All {
		b.WriteString(" all")
	}
	for i := range t.Patterns {
		p := &t.Patterns[i]
		b.WriteByte(' ')
		b.WriteString(p.Kind.String())
		if p.Kind == FieldRef {
			b.WriteByte('-')
			b.WriteString(p.Ref.String())
		}
		if p.Cased {
			b.WriteString("-cased")
		}
		b.WriteByte(' ')
		b.WriteString(strconv.Quote(p.Text))
	}
	b.WriteByte(')')
	if t.Not {
		b.WriteByte(')')
	}
}

// String writes the test in canonical form; equal strings are equal tests.
func (t *Test) String() string {
	var b strings.Builder
	t.write(&b)
	return b.String()
}

// Fields appends the names of all fields the condition reads, each once.
func (d *Detection) Fields() []string {
	var names []string
	seen := map[string]bool{}
	add := func(f string) {
		if f != "" && !seen[f] {
			seen[f] = true
			names = append(names, f)
		}
	}
	var walk func(n *Node)
	walk = func(n *Node) {
		if n.Op == OpTest {
			add(n.Test.Field)
			for i := range n.Test.Patterns {
				if n.Test.Patterns[i].Kind == FieldRef {
					add(n.Test.Patterns[i].Text)
				}
			}
		}
		for _, k := range n.Kids {
			walk(k)
		}
	}
	walk(d.Condition)
	return names
}
