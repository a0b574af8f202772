package rule

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// maxRules is how many rules a correlation may refer to: Observation.Ref is a byte.
const maxRules = 255

// maxTimespan bounds windows and learning periods.
const maxTimespan = 5 * 365 * 24 * time.Hour

// parseCorrelation reads the correlation section; it returns the names of the
// rules referred to, which are resolved when all files are read.
func parseCorrelation(n *yaml.Node) (*Correlation, []reference, error) {
	es, err := entries(n, "correlation")
	if err != nil {
		return nil, nil, err
	}
	c := &Correlation{}
	var refs []reference
	var condition, own *yaml.Node
	for _, e := range es {
		switch e.key {
		case "type":
			c.Type, err = correlationType(e.value)
		case "rules":
			refs, err = references(e.value)
		case "group-by":
			c.GroupBy, err = fieldNames(e.value, "group-by")
		case "timespan":
			c.Timespan, err = timespan(e.value, "timespan")
		case "condition":
			condition = e.value
		case "aliases":
			c.Aliases, err = parseAliases(e.value)
		case "generate":
			c.Generate, err = boolean(e.value, "generate")
		case "vedette":
			own = e.value
		default:
			err = atLine(e.line, "correlation: unknown key %q; known are type, rules, group-by, timespan, condition, aliases, generate, vedette", e.key)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if c.Type == "" {
		return nil, nil, at(n, "correlation: want a type")
	}
	if len(refs) == 0 {
		return nil, nil, at(n, "correlation: want rules, the names or ids of at least one rule")
	}
	if err := c.complete(n, condition, own, len(refs)); err != nil {
		return nil, nil, err
	}
	return c, refs, nil
}

// complete reads what depends on the type: the condition and our own parameters.
func (c *Correlation) complete(n, condition, own *yaml.Node, rules int) error {
	ours := strings.HasPrefix(string(c.Type), "vedette.")
	switch {
	case c.Type == ValueSum:
		if err := c.readParameters(own, boolParameter("signed", &c.Signed)); err != nil {
			return err
		}
	case !ours:
		if err := c.readParameters(own); err != nil {
			return err
		}
	}
	if c.Timespan == 0 && c.Type != NewValue {
		return at(n, "correlation: want a timespan such as 10m")
	}
	switch c.Type {
	case EventCount, ValueCount, ValueSum, ValueAvg, ValuePercentile:
		if condition == nil {
			return at(n, "correlation: want a condition such as gte: 10")
		}
		if err := c.parseCondition(condition); err != nil {
			return err
		}
		if c.Type != EventCount && c.Field == "" {
			return at(condition, "condition: %s wants a field whose values it takes", c.Type)
		}
		if c.Type == ValuePercentile && c.Percentile == 0 {
			return at(condition, "condition: value_percentile wants a percentile, such as percentile: 95")
		}
		if c.Type == EventCount && c.Field != "" {
			return at(condition, "condition: event_count takes no field; to count the values of %s use value_count", c.Field)
		}
	case Temporal, TemporalOrdered:
		return c.completeTemporal(condition, n, rules)
	case NewValue:
		return c.completeNewValue(n, condition, own)
	case Baseline:
		return c.completeBaseline(n, condition, own, rules)
	case Unmatched:
		return c.completeUnmatched(n, condition, own, rules)
	}
	return nil
}

func correlationType(n *yaml.Node) (CorrelationType, error) {
	s, err := text(n, "type")
	if err != nil {
		return "", err
	}
	switch t := CorrelationType(s); t {
	case EventCount, ValueCount, ValueSum, ValueAvg, ValuePercentile, Temporal, TemporalOrdered, NewValue, Baseline, Unmatched:
		return t, nil
	}
	const known = "event_count, value_count, value_sum, value_avg, value_percentile, temporal, temporal_ordered, vedette.new_value, vedette.baseline, vedette.unmatched"
	switch s {
	case "value_median",
		"temporal_extended", "temporal_ordered_extended", "vedette.geo_velocity", "vedette.silence":
		return "", at(n, "type: %s is not supported yet; supported are %s", s, known)
	}
	return "", at(n, "type: want one of %s, not %q", known, s)
}

// reference names a rule a correlation refers to.
type reference struct {
	name string
	line int
}

func references(n *yaml.Node) ([]reference, error) {
	ns, err := items(n, "rules")
	if err != nil {
		return nil, err
	}
	if len(ns) > maxRules {
		return nil, at(n, "rules: %d of them, at most %d are supported", len(ns), maxRules)
	}
	refs := make([]reference, 0, len(ns))
	seen := map[string]bool{}
	for _, v := range ns {
		s, err := text(v, "rules")
		if err != nil {
			return nil, err
		}
		if seen[s] {
			return nil, at(v, "rules: %q is there twice", s)
		}
		seen[s] = true
		refs = append(refs, reference{s, v.Line})
	}
	return refs, nil
}

func fieldNames(n *yaml.Node, what string) ([]string, error) {
	fs, err := texts(n, what)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, f := range fs {
		if err := fieldName(f, n, what); err != nil {
			return nil, err
		}
		if seen[f] {
			return nil, at(n, "%s: field %q is there twice", what, f)
		}
		seen[f] = true
	}
	return fs, nil
}

func fieldName(f string, n *yaml.Node, what string) error {
	switch {
	case f == "":
		return at(n, "%s: want the name of a field, it is empty", what)
	case strings.Contains(f, "|"):
		return at(n, "%s: want the plain name of a field, not %q with modifiers", what, f)
	case strings.HasPrefix(f, "."), strings.HasSuffix(f, "."), strings.Contains(f, ".."):
		return at(n, "%s: field %q has an empty part between its dots", what, f)
	}
	return nil
}

// timespan reads a number and a unit: s, m, h, d, w or M (30 days).
func timespan(n *yaml.Node, what string) (time.Duration, error) {
	s, err := text(n, what)
	if err != nil {
		return 0, err
	}
	const day = 24 * time.Hour
	units := map[byte]time.Duration{
		's': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': day, 'w': 7 * day, 'M': 30 * day,
	}
	if len(s) >= 2 {
		unit, ok := units[s[len(s)-1]]
		count, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
		if ok && err == nil && count > 0 && !strings.HasPrefix(s, "+") {
			if count > uint64(maxTimespan/unit) {
				return 0, at(n, "%s: %s is longer than the %d days that are supported", what, s, maxTimespan/day)
			}
			return time.Duration(count) * unit, nil
		}
	}
	return 0, at(n, "%s: want a whole number and one of s, m, h, d, w, M, such as 90m, not %q", what, s)
}

func parseAliases(n *yaml.Node) (map[string]map[string]string, error) {
	es, err := entries(n, "aliases")
	if err != nil {
		return nil, err
	}
	aliases := map[string]map[string]string{}
	for _, e := range es {
		if err := fieldName(e.key, e.value, "aliases"); err != nil {
			return nil, err
		}
		fs, err := entries(e.value, "aliases: "+e.key)
		if err != nil {
			return nil, err
		}
		m := map[string]string{}
		for _, f := range fs {
			name, err := text(f.value, "aliases: "+e.key)
			if err != nil {
				return nil, err
			}
			if err := fieldName(name, f.value, "aliases: "+e.key); err != nil {
				return nil, err
			}
			m[f.key] = name
		}
		aliases[e.key] = m
	}
	return aliases, nil
}

// parseCondition reads one comparison and, beside it, a field.
func (c *Correlation) parseCondition(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		return at(n, "condition: expressions over rules are not supported; want a comparison such as gte: 10")
	}
	es, err := entries(n, "condition")
	if err != nil {
		return err
	}
	for _, e := range es {
		switch op := Op(e.key); op {
		case OpGT, OpGTE, OpLT, OpLTE, OpEQ, OpNEQ:
			if c.Op != "" {
				return atLine(e.line, "condition: ranges (%s and %s) are not supported; want one comparison", c.Op, op)
			}
			v, err := number(e.value, "condition: "+e.key)
			if err != nil {
				return err
			}
			c.Op, c.Value = op, v
		case "percentile":
			if c.Type != ValuePercentile {
				return atLine(e.line, "condition: percentile belongs to value_percentile, not to %s", c.Type)
			}
			v, err := number(e.value, "condition: percentile")
			if err != nil {
				return err
			}
			if v == 0 || v > 100 {
				return at(e.value, "condition: percentile: want more than 0 and at most 100, not %v", v)
			}
			c.Percentile = v
		case "field":
			fs, err := fieldNames(e.value, "condition: field")
			if err != nil {
				return err
			}
			if len(fs) != 1 {
				return at(e.value, "condition: field: want one field, %d are not supported", len(fs))
			}
			c.Field = fs[0]
		default:
			return atLine(e.line, "condition: want one of gt, gte, lt, lte, eq, neq and field, not %q", e.key)
		}
	}
	if c.Op == "" && c.Type != NewValue {
		return at(n, "condition: want a comparison such as gte: 10")
	}
	if c.Op == OpGTE && c.Value <= 0 || c.Op == OpGT && c.Value < 0 {
		return at(n, "condition: %s: %v holds without any event", c.Op, c.Value)
	}
	return nil
}

// number reads a non-negative number.
func number(n *yaml.Node, what string) (float64, error) {
	if n.Kind == yaml.ScalarNode && isNumber(n.Value) {
		v, err := strconv.ParseFloat(n.Value, 64)
		if err == nil && v >= 0 && !math.IsInf(v, 0) {
			return v, nil
		}
	}
	return 0, at(n, "%s: want a number of at least 0, not %s", what, describe(n))
}

func count(n *yaml.Node, what string) (int, error) {
	v, err := number(n, what)
	if err != nil {
		return 0, err
	}
	if v != math.Trunc(v) || v > math.MaxInt32 {
		return 0, at(n, "%s: want a whole number, not %s", what, describe(n))
	}
	return int(v), nil
}

// completeTemporal takes a condition only if it says what the type says anyway.
func (c *Correlation) completeTemporal(condition, n *yaml.Node, rules int) error {
	if rules < 2 {
		return at(n, "correlation: %s wants at least two rules", c.Type)
	}
	if condition != nil {
		if err := c.parseCondition(condition); err != nil {
			return err
		}
		all := c.Value == float64(rules) && (c.Op == OpGTE || c.Op == OpEQ) ||
			c.Value == float64(rules-1) && c.Op == OpGT
		if !all || c.Field != "" {
			return at(condition, "condition: %s fires when all of its %d rules have matched; nothing but gte: %d is supported", c.Type, rules, rules)
		}
	}
	c.Op, c.Value = OpGTE, float64(rules)
	return nil
}

// String says what the correlation is, for people; see Rule.Summary.
func (c *Correlation) String() string {
	var b strings.Builder
	switch c.Type {
	case EventCount:
		fmt.Fprintf(&b, "%s within %s", quantity(c.Op, c.Value, "event"), shortDuration(c.Timespan))
	case ValueCount:
		fmt.Fprintf(&b, "%s of %s within %s", quantity(c.Op, c.Value, "distinct value"), c.Field, shortDuration(c.Timespan))
	case ValueSum, ValueAvg, ValuePercentile:
		fmt.Fprintf(&b, "%s of %s within %s %s", c.numberName(), c.Field, shortDuration(c.Timespan), comparison(c.Op, c.Value))
	case Temporal:
		fmt.Fprintf(&b, "%s, all within %s", titles(c.Rules, " and "), shortDuration(c.Timespan))
	case TemporalOrdered:
		fmt.Fprintf(&b, "%s, in this order within %s", titles(c.Rules, ", then "), shortDuration(c.Timespan))
	case NewValue:
		fmt.Fprintf(&b, "a value of %s not seen in %s, once %s of history are known",
			c.Field, shortDuration(c.Forget), shortDuration(c.Learning))
	case Baseline:
		b.WriteString(c.baselineSummary())
	case Unmatched:
		fmt.Fprintf(&b, "%s without %s from %s before to %s after it",
			titles(c.Rules[:1], ""), titles(c.Partners(), " or "), shortDuration(c.Before), shortDuration(c.Timespan))
	}
	if len(c.GroupBy) > 0 {
		b.WriteString(" per " + strings.Join(c.GroupBy, ", "))
	}
	return b.String()
}

// numberName says what is made of the numbers.
func (c *Correlation) numberName() string {
	switch c.Type {
	case ValueSum:
		return "the sum"
	case ValueAvg:
		return "the average"
	}
	return "the percentile " + strconv.FormatFloat(c.Percentile, 'f', -1, 64)
}

func comparison(op Op, v float64) string {
	n := strconv.FormatFloat(v, 'f', -1, 64)
	switch op {
	case OpGT:
		return "above " + n
	case OpGTE:
		return n + " or above"
	case OpLT:
		return "below " + n
	case OpLTE:
		return n + " or below"
	case OpNEQ:
		return "other than " + n
	}
	return "exactly " + n
}

func quantity(op Op, v float64, noun string) string {
	n := strconv.FormatFloat(v, 'f', -1, 64)
	nouns := noun + "s"
	if v == 1 {
		nouns = noun
	}
	switch op {
	case OpGT:
		return "more than " + n + " " + nouns
	case OpGTE:
		return n + " or more " + noun + "s"
	case OpLT:
		return "fewer than " + n + " " + noun + "s"
	case OpLTE:
		return "at most " + n + " " + nouns
	case OpNEQ:
		return "any number but " + n + " of " + noun + "s"
	}
	return "exactly " + n + " " + nouns
}

func titles(rules []*Rule, sep string) string {
	ts := make([]string, len(rules))
	for i, r := range rules {
		ts[i] = strconv.Quote(r.Title)
	}
	return strings.Join(ts, sep)
}

// shortDuration writes a duration as rules do, in the largest unit that divides it.
func shortDuration(d time.Duration) string {
	const day = 24 * time.Hour
	units := []struct {
		of   time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for _, u := range units {
		if d >= u.of && d%u.of == 0 {
			return strconv.FormatInt(int64(d/u.of), 10) + u.name
		}
	}
	return d.String()
}

// FieldOf resolves a name used in GroupBy or Field for the rule Rules[ref]: an
// alias stands for the field it has for that rule, any other name for itself.
// The second result is false if the alias has none for it.
func (c *Correlation) FieldOf(ref int, name string) (string, bool) {
	fields, ok := c.Aliases[name]
	if !ok {
		return name, true
	}
	for key, f := range fields {
		if c.Rules[ref].isCalled(key) {
			return f, true
		}
	}
	return "", false
}

// JoinFields returns the fields of Rules[ref] whose values join.
func (c *Correlation) JoinFields(ref int) []string {
	for key, fs := range c.Join {
		if c.Rules[ref].isCalled(key) {
			return fs
		}
	}
	return nil
}

// IsUnknown reports whether Rules[ref] is one of those that Unknown names.
func (c *Correlation) IsUnknown(ref int) bool {
	return slices.ContainsFunc(c.Unknown, c.Rules[ref].isCalled)
}

// IsLeft reports, for unmatched, whether events of Rules[ref] want a partner.
func (c *Correlation) IsLeft(ref int) bool { return ref == 0 || c.IsUnknown(ref) }

// Partners are, for unmatched, the rules of the right side.
func (c *Correlation) Partners() []*Rule {
	var right []*Rule
	for ref, r := range c.Rules {
		if !c.IsLeft(ref) {
			right = append(right, r)
		}
	}
	return right
}

// isCalled reports whether a rule file may refer to r by this name.
func (r *Rule) isCalled(name string) bool {
	return name != "" && (name == r.ID || name == r.Name || name == r.Title)
}
