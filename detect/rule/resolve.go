package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/vedette-sec/vedette/event"
)

// resolver ties the documents of all files together: references, what is
// silent or inactive, and versions.
type resolver struct {
	docs     []*document
	byID     map[string]*document
	byName   map[string][]*document
	byTitle  map[string][]*document
	meaning  map[*Rule]string // hash of a detection by itself
	warnings []Warning
}

func newResolver(docs []*document) *resolver {
	return &resolver{
		docs: docs, byID: map[string]*document{}, byName: map[string][]*document{},
		byTitle: map[string][]*document{}, meaning: map[*Rule]string{},
	}
}

func (rs *resolver) warn(r *Rule, msg string) {
	rs.warnings = append(rs.warnings, Warning{File: r.File, Line: r.Line, Rule: r.Title, Msg: msg})
}

func (rs *resolver) resolve() []error {
	var errs []error
	for _, d := range rs.docs {
		r := d.rule
		if other := rs.byID[r.ID]; other != nil {
			errs = append(errs, &Error{File: r.File, Line: r.Line, Msg: fmt.Sprintf(
				"id %s is already that of %q in %s:%d; a copy needs an id of its own", r.ID, other.rule.Title, other.rule.File, other.rule.Line)})
			continue
		}
		rs.byID[r.ID] = d
		rs.byTitle[r.Title] = append(rs.byTitle[r.Title], d)
		if r.Name != "" {
			rs.byName[r.Name] = append(rs.byName[r.Name], d)
		}
		for _, w := range d.warn {
			rs.warn(r, w)
		}
		if r.Detection != nil {
			rs.activate(r)
		}
	}
	referred := map[*Rule]bool{}
	standalone := map[*Rule]bool{}
	for _, d := range rs.docs {
		if d.refs == nil {
			continue
		}
		if err := rs.correlation(d); err != nil {
			errs = append(errs, inFile(d.rule.File, err))
			continue
		}
		for _, r := range d.rule.Correlation.Rules {
			referred[r] = true
			if d.rule.Correlation.Generate {
				standalone[r] = true
			}
		}
	}
	if len(errs) > 0 {
		return errs
	}
	for _, d := range rs.docs {
		r := d.rule
		if r.Detection == nil {
			continue
		}
		r.Silent = referred[r] && !standalone[r]
		r.Version = rs.meaning[r]
		if r.Silent || r.Inactive != "" {
			continue
		}
		route, _ := r.Logsource.Route()
		r.Correlation = &Correlation{
			Type: EventCount, Rules: []*Rule{r}, GroupBy: route.entities(),
			Timespan: implicitTimespan, Op: OpGTE, Value: 1, Implicit: true,
		}
		r.Version = hash("rule", r.ID, rs.correlationMeaning(r.Correlation))
	}
	for _, d := range rs.docs {
		if c := d.rule.Correlation; c != nil && d.rule.Detection == nil {
			d.rule.Version = hash("rule", d.rule.ID, rs.correlationMeaning(c))
		}
	}
	return nil
}

// activate finds out whether a detection can match anything here.
func (rs *resolver) activate(r *Rule) {
	rs.meaning[r] = hash("detection", r.ID, r.Logsource.String(), r.Detection.String())
	_, reason := r.Logsource.Route()
	if reason == "" && r.Status == statusUnsupported {
		reason = "its status is unsupported"
	}
	if reason != "" {
		r.Inactive = reason
		rs.warn(r, "inactive: "+reason)
	}
}

// correlation resolves what one correlation refers to and checks that its
// fields mean something for each of these rules.
func (rs *resolver) correlation(d *document) error {
	c := d.rule.Correlation
	for _, ref := range d.refs {
		to, err := rs.find(ref, d)
		if err != nil {
			return err
		}
		if to.rule.Detection == nil {
			return atLine(ref.line, "rules: %q is a correlation; correlations of correlations are not supported yet", ref.name)
		}
		c.Rules = append(c.Rules, to.rule)
		if to.rule.Inactive != "" && d.rule.Inactive == "" {
			d.rule.Inactive = fmt.Sprintf("it refers to %q, which is inactive: %s", to.rule.Title, to.rule.Inactive)
			rs.warn(d.rule, "inactive: "+d.rule.Inactive)
		}
	}
	for i, r := range c.Rules {
		for _, other := range c.Rules[:i] {
			if r == other {
				return atLine(d.line, "rules: %q is there twice, under different names", r.Title)
			}
		}
	}
	if err := rs.names(d); err != nil {
		return err
	}
	return rs.fields(d)
}

// find resolves a reference by id, name or title; among equals the one in the
// same file is meant.
func (rs *resolver) find(ref reference, from *document) (*document, error) {
	if d := rs.byID[ref.name]; d != nil {
		return d, nil
	}
	for _, ds := range [][]*document{rs.byName[ref.name], rs.byTitle[ref.name]} {
		if len(ds) == 0 {
			continue
		}
		var here []*document
		for _, d := range ds {
			if d.rule.File == from.rule.File {
				here = append(here, d)
			}
		}
		if len(here) == 0 {
			here = ds
		}
		if len(here) > 1 {
			a, b := here[0].rule, here[1].rule
			return nil, atLine(ref.line, "rules: %q may be %s:%d or %s:%d; refer to it by id", ref.name, a.File, a.Line, b.File, b.Line)
		}
		return here[0], nil
	}
	return nil, atLine(ref.line, "rules: no loaded rule has the id, name or title %q", ref.name)
}

// names checks that aliases and joins speak of the correlation's own rules.
func (rs *resolver) names(d *document) error {
	c := d.rule.Correlation
	check := func(what string, names []string) error {
		named := map[*Rule]string{}
		for _, name := range names {
			i := slices.IndexFunc(c.Rules, func(r *Rule) bool { return r.isCalled(name) })
			if i < 0 {
				return atLine(d.line, "%s: %q is none of the correlation's rules", what, name)
			}
			if other, ok := named[c.Rules[i]]; ok {
				return atLine(d.line, "%s: %q and %q are the same rule", what, other, name)
			}
			named[c.Rules[i]] = name
		}
		return nil
	}
	for _, alias := range sortedKeys(c.Aliases) {
		if err := check("aliases: "+alias, sortedKeys(c.Aliases[alias])); err != nil {
			return err
		}
	}
	if err := check("join", sortedKeys(c.Join)); err != nil {
		return err
	}
	if err := check("unknown", c.Unknown); err != nil {
		return err
	}
	if c.Type == Unmatched {
		if c.IsUnknown(0) {
			return atLine(d.line, "unknown: %q is the first of the rules, whose events are judged", c.Rules[0].Title)
		}
		if len(c.Partners()) == 0 {
			return atLine(d.line, "unknown: want at least one rule that is not named there, where a partner may be")
		}
		for i, r := range c.Rules {
			if c.JoinFields(i) == nil {
				return atLine(d.line, "join: want the fields of %q whose values join", r.Title)
			}
		}
	}
	return nil
}

// fields checks the fields a correlation reads of each rule's events.
func (rs *resolver) fields(d *document) error {
	c := d.rule.Correlation
	for ref, r := range c.Rules {
		var read []string
		if c.Type != Unmatched || c.IsLeft(ref) {
			read = append(read, c.GroupBy...)
		}
		if c.Field != "" {
			read = append(read, c.Field)
		}
		route, _ := r.Logsource.Route()
		for _, name := range read {
			f, ok := c.FieldOf(ref, name)
			if !ok {
				return atLine(d.line, "aliases: %s: want the field it stands for in %q", name, r.Title)
			}
			if err := isAttr(d.line, route, f, r); err != nil {
				return err
			}
		}
		for _, f := range c.JoinFields(ref) {
			if err := isAttr(d.line, route, f, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func isAttr(line int, route Route, field string, r *Rule) error {
	if !route.Attrs {
		return nil
	}
	if _, ok := event.ParseAttr(field); !ok {
		return atLine(line, "%s: the normalised event, which %q reads, has no such attribute", field, r.Title)
	}
	return nil
}

// correlationMeaning writes all that a correlation's findings depend on.
func (rs *resolver) correlationMeaning(c *Correlation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q %d %s %v %q %v", c.Type, c.GroupBy, c.Timespan, c.Op, c.Value, c.Field, c.Implicit)
	fmt.Fprintf(&b, " %d %d %q %d %d %v %v %v %d %d", c.Learning, c.Forget, c.Measure, c.MinVolume, c.MinBuckets,
		c.Factor, c.Deviations, c.Floor, c.Before, c.Hold)
	if c.Signed {
		b.WriteString(" signed")
	}
	if c.Percentile > 0 {
		fmt.Fprintf(&b, " percentile %v", c.Percentile)
	}
	if c.Lateness > 0 {
		fmt.Fprintf(&b, " late %d", c.Lateness)
	}
	for i, r := range c.Rules {
		fmt.Fprintf(&b, " [%s %q", rs.meaning[r], c.JoinFields(i))
		if c.IsUnknown(i) {
			b.WriteString(" unknown")
		}
		for _, alias := range sortedKeys(c.Aliases) {
			f, _ := c.FieldOf(i, alias)
			fmt.Fprintf(&b, " %q=%q", alias, f)
		}
		b.WriteByte(']')
	}
	return b.String()
}

// hash identifies a meaning by 128 bits of the SHA-256 of its parts.
func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Summary says in words what it takes for the rule to fire, such as "60 or more
// events within 5m per src_endpoint.ip".
func (r *Rule) Summary() string {
	switch {
	case r.Correlation == nil:
		return "nothing by itself; it only feeds correlations"
	case r.Correlation.Implicit:
		return "any matching event"
	}
	return r.Correlation.String()
}
