package rule

import (
	"fmt"
	"sort"
	"strings"
)

// maxNesting is how deep parentheses and negations of a condition may nest.
const maxNesting = 64

// selections are the search identifiers of a detection by name.
type selections struct {
	byName map[string]*Node
	names  []string // in the order written
	used   map[string]bool
}

// conditionParser reads a Sigma condition by recursive descent:
//
//	or    = and { "or" and }
//	and   = not { "and" not }
//	not   = "not" not | unit
//	unit  = "(" or ")" | ("1" | "any" | "all") "of" ("them" | pattern) | identifier
type conditionParser struct {
	tokens []string
	sel    *selections
	depth  int
}

// parseCondition reads one condition. Its errors say what was expected, without a place.
func parseCondition(src string, sel *selections) (*Node, error) {
	if i := strings.IndexByte(src, '|'); i >= 0 {
		return nil, fmt.Errorf("condition: %q is the aggregation of old rules, which Sigma has given up; "+
			"name this rule and write a correlation rule (type event_count, value_count or temporal) that refers to it",
			strings.TrimSpace(src[i:]))
	}
	p := &conditionParser{tokens: conditionTokens(src), sel: sel}
	if len(p.tokens) == 0 {
		return nil, fmt.Errorf("condition: want an expression over %s, it is empty", p.known())
	}
	n, err := p.or()
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	if t := p.peek(); t != "" {
		return nil, fmt.Errorf("condition: want and, or or the end, not %q", t)
	}
	return n, nil
}

// conditionTokens splits at white space, parentheses being tokens of their own.
func conditionTokens(src string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(src))
}

func (p *conditionParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *conditionParser) next() string {
	t := p.peek()
	if t != "" {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *conditionParser) isWord(word string) bool { return strings.EqualFold(p.peek(), word) }

func (p *conditionParser) known() string {
	if len(p.sel.names) == 0 {
		return "selections"
	}
	return strings.Join(p.sel.names, ", ")
}

func (p *conditionParser) or() (*Node, error)  { return p.chain("or", OpOr, p.and) }
func (p *conditionParser) and() (*Node, error) { return p.chain("and", OpAnd, p.not) }

// chain reads operands of one operator into a single node.
func (p *conditionParser) chain(word string, op NodeOp, operand func() (*Node, error)) (*Node, error) {
	first, err := operand()
	if err != nil {
		return nil, err
	}
	kids := []*Node{first}
	for p.isWord(word) {
		p.next()
		n, err := operand()
		if err != nil {
			return nil, err
		}
		kids = append(kids, n)
	}
	return join(op, kids), nil
}

// join makes a node of its operands; of one it is that.
func join(op NodeOp, kids []*Node) *Node {
	if len(kids) == 1 {
		return kids[0]
	}
	return &Node{Op: op, Kids: kids}
}

func (p *conditionParser) not() (*Node, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, fmt.Errorf("nested more than %d deep", maxNesting)
	}
	defer func() { p.depth-- }()
	if p.isWord("not") {
		p.next()
		n, err := p.not()
		if err != nil {
			return nil, err
		}
		return &Node{Op: OpNot, Kids: []*Node{n}}, nil
	}
	return p.unit()
}

func (p *conditionParser) unit() (*Node, error) {
	t := p.next()
	switch {
	case t == "":
		return nil, fmt.Errorf("want a selection or an opening parenthesis at the end")
	case t == "(":
		n, err := p.or()
		if err != nil {
			return nil, err
		}
		if c := p.next(); c != ")" {
			if c == "" {
				return nil, fmt.Errorf("want a closing parenthesis at the end")
			}
			return nil, fmt.Errorf("want and, or or a closing parenthesis, not %q", c)
		}
		return n, nil
	case p.isWord("of"):
		return p.quantified(t)
	}
	if n := p.sel.byName[t]; n != nil {
		p.sel.used[t] = true
		return n, nil
	}
	if t == ")" || strings.EqualFold(t, "and") || strings.EqualFold(t, "or") {
		return nil, fmt.Errorf("want a selection or an opening parenthesis, not %q", t)
	}
	return nil, fmt.Errorf("want one of the selections %s, not %q", p.known(), t)
}

// quantified reads what follows the number of "1 of x*"; the next token is "of".
func (p *conditionParser) quantified(quantity string) (*Node, error) {
	var op NodeOp
	switch strings.ToLower(quantity) {
	case "1", "any":
		op = OpOr
	case "all":
		op = OpAnd
	default:
		return nil, fmt.Errorf("want 1 of or all of, not %q of", quantity)
	}
	p.next()
	pattern := p.next()
	if pattern == "" || pattern == "(" || pattern == ")" {
		return nil, fmt.Errorf("want them or a pattern such as selection* after %s of", quantity)
	}
	var kids []*Node
	for _, name := range p.sel.names {
		if strings.EqualFold(pattern, "them") {
			if strings.HasPrefix(name, "_") {
				continue
			}
		} else if !wildcardMatch(pattern, name) {
			continue
		}
		p.sel.used[name] = true
		kids = append(kids, p.sel.byName[name])
	}
	if len(kids) == 0 {
		return nil, fmt.Errorf("%s of %s: there is no such selection among %s", quantity, pattern, p.known())
	}
	return join(op, kids), nil
}

// wildcardMatch reports whether name is like pattern, in which * stands for any text.
func wildcardMatch(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	last := len(parts) - 1
	if !strings.HasPrefix(name, parts[0]) {
		return false
	}
	name = name[len(parts[0]):]
	for _, part := range parts[1:last] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return strings.HasSuffix(name, parts[last])
}

// unused lists the selections that no condition names.
func (s *selections) unused() []string {
	var names []string
	for _, n := range s.names {
		if !s.used[n] {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names
}
