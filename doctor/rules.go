package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// maxListed bounds how many things of a kind are named.
const maxListed = 20

func (d *doctor) loadRules(context.Context) {
	c := d.check("rules")
	set, warnings, err := d.o.Rules()
	errs := each(err)
	for i, err := range errs {
		if i == maxListed {
			c.fail("`vedette replay` prints them all", "and %d more errors", len(errs)-i)
			break
		}
		c.fail("correct the rule, or take its file out of rules.paths", "%v", err)
	}
	if err != nil {
		return
	}
	// What the engine holds for a rule is the engine's to say.
	engine := correlate.NewEngine(correlate.Options{Sources: 1, EvidenceLimit: d.o.Config.Incidents.Evidence})
	if err := engine.AddRules(set); err != nil {
		c.fail("correct the rule, or take its file out of rules.paths", "%v", err)
	}
	d.rules, d.keep = set, engine.Keep()
	for i, w := range warnings {
		if i == maxListed && len(warnings) > maxListed+1 {
			c.warn("`vedette replay` prints them all", "and %d more warnings", len(warnings)-i)
			break
		}
		c.warn("correct the rule, if it is meant to fire", "%v", w)
	}
	if len(set.Correlations) == 0 {
		c.fail("set rules.shipped, or name some in rules.paths", "no rule can fire")
		return
	}
	detail := fmt.Sprintf("%s can fire", plural(len(set.Correlations), "rule"))
	if n := inactive(set); n > 0 {
		detail += fmt.Sprintf(", %d inactive", n)
	}
	d.ok("rules", "%s; state is kept for %v", detail, d.keep)
}

// each takes joined errors apart.
func each(err error) []error {
	switch j := err.(type) {
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		return j.Unwrap()
	}
	return []error{err}
}

func inactive(set *rule.Set) int {
	n := 0
	for _, r := range set.Rules {
		if r.Inactive != "" {
			n++
		}
	}
	return n
}

// blindRules names the rules that ask for what nothing is configured to know.
func (d *doctor) blindRules(context.Context) {
	c := d.check("blind rules")
	if d.rules == nil {
		d.skip(c.name, "the rules do not load")
		return
	}
	e, err := enrich.New(enrich.Options{Databases: d.o.Config.Enrich.GeoDatabases, Inventory: d.o.Inventory})
	if err != nil {
		d.skip(c.name, "the databases or the inventory do not load: %v", err)
		return
	}
	for _, a := range e.Blind() {
		var names []string
		for _, r := range d.rules.Correlations {
			if asks(r, a.String(), map[*rule.Rule]bool{}) {
				names = append(names, r.Title)
			}
		}
		if len(names) == 0 {
			continue
		}
		remedy := "name a database that knows it in enrich.geo_databases"
		if a == event.AttrFunctionEntry || a == event.AttrFunctionCaller {
			remedy = "describe the functions in enrich.inventory"
		}
		c.warn(remedy+", or switch the rules off", "%s is never known, and %s for it: %s",
			a, map[bool]string{true: "1 rule asks", false: fmt.Sprintf("%d rules ask", len(names))}[len(names) == 1], some(names))
	}
	if c.clean() {
		c.ok("none: what the rules ask for is known")
	}
}

// asks says whether a rule, or one that it refers to, reads an attribute.
func asks(r *rule.Rule, name string, seen map[*rule.Rule]bool) bool {
	if seen[r] || r.Inactive != "" {
		return false
	}
	seen[r] = true
	if r.Detection != nil && r.Logsource.Product == "vedette" && slices.Contains(r.Detection.Fields(), name) {
		return true
	}
	c := r.Correlation
	if c == nil {
		return false
	}
	if c.Field == name || slices.Contains(c.GroupBy, name) {
		return true
	}
	for _, fields := range c.Aliases {
		for _, f := range fields {
			if f == name {
				return true
			}
		}
	}
	for _, fields := range c.Join {
		if slices.Contains(fields, name) {
			return true
		}
	}
	return slices.ContainsFunc(c.Rules, func(r *rule.Rule) bool { return asks(r, name, seen) })
}

// some names the first of many.
func some(names []string) string {
	if n := len(names) - maxListed; n > 0 {
		return strings.Join(names[:maxListed], "; ") + fmt.Sprintf("; and %d more", n)
	}
	return strings.Join(names, "; ")
}
