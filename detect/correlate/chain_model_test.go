package correlate_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// A raw event of a chain has two values in its key, k1 and k2, and its ref says which
// of the chain's detections matched.

func fieldOf(ev simEvent, name string) string {
	k1, k2, _ := strings.Cut(ev.key, "/")
	switch name {
	case "k1":
		return k1
	case "k2":
		return k2
	}
	return ev.label
}

func keyBy(groupBy []string, value func(string) string) string {
	var vs []string
	for _, g := range groupBy {
		vs = append(vs, value(g))
	}
	return strings.Join(vs, "/")
}

// chain is rules of which some refer to others, those that are referred to first.
type chain struct {
	rules      []*rule.Rule
	detections []*rule.Rule
	settles    bool // something in it waits to settle
}

// drawChain draws two or three levels of rules.
func drawChain(r *rand.Rand) *chain {
	c := &chain{}
	for i := range 3 {
		c.detections = append(c.detections, &rule.Rule{Name: fmt.Sprint("d", i), Logsource: logsource()})
	}
	level := func() rule.Correlation {
		n := float64(in(r, 1, 4))
		switch in(r, 0, 9) {
		case 0, 1:
			return rule.Correlation{Type: rule.ValueCount, Op: rule.OpGTE, Value: float64(in(r, 1, 3)), Field: "k2"}
		case 2:
			return rule.Correlation{Type: rule.EventCount, Op: rule.OpLT, Value: n + 1}
		case 3, 4:
			return rule.Correlation{Type: rule.Temporal}
		case 5, 6:
			return rule.Correlation{Type: rule.TemporalOrdered}
		}
		return rule.Correlation{Type: rule.EventCount, Op: rule.OpGTE, Value: n}
	}
	add := func(span time.Duration, from ...*rule.Rule) *rule.Rule {
		co := level()
		co.Rules = from
		co.Timespan = span
		if co.Type == rule.Temporal || co.Type == rule.TemporalOrdered {
			if len(from) < 2 {
				co.Type = rule.EventCount
				co.Value = float64(in(r, 1, 3))
			} else {
				co.Value = float64(len(from))
			}
			co.Op = rule.OpGTE
		}
		co.GroupBy = pick(r, []string{"k1"}, []string{"k1", "k2"}, []string{"k2", "k1"})
		for _, in := range from {
			if in.Correlates() && !slices.Contains(in.Correlation.GroupBy, "k2") {
				co.GroupBy = []string{"k1"}
				if co.Field == "k2" {
					co.Field = "k1"
				}
			}
		}
		c.settles = c.settles || co.Op == rule.OpLT
		n := len(c.rules)
		rl := &rule.Rule{
			ID: fmt.Sprint("id", n), Title: fmt.Sprint("rule ", n), Version: fmt.Sprint("v", n),
			Logsource: logsource(), Correlation: &co, Silent: r.IntN(2) == 0,
		}
		c.rules = append(c.rules, rl)
		return rl
	}
	some := func(rs []*rule.Rule) []*rule.Rule {
		rs = slices.Clone(rs)
		r.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
		return rs[:in(r, 0, min(2, len(rs)))]
	}
	var below []*rule.Rule
	for range in(r, 1, 2) {
		below = append(below, add(time.Minute, c.detections[:in(r, 1, 2)]...))
	}
	for level := range in(r, 1, 2) {
		from := append(slices.Clone(below[len(below)-1:]), some(c.detections)...)
		if more := some(below[:len(below)-1]); len(more) > 0 {
			from = append(from, more[0])
		}
		r.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		below = append(below, add(time.Duration(in(r, 1, 5+5*level))*time.Minute, from...))
	}
	c.rules[len(c.rules)-1].Silent = false
	return c
}

// take gives what a raw event is for a rule, if it takes it.
func (c *chain) take(r *rule.Rule, ev simEvent) (simEvent, bool) {
	i := slices.Index(r.Correlation.Rules, c.detections[ev.ref])
	if i < 0 {
		return ev, false
	}
	field := func(name string) string { return fieldOf(ev, name) }
	mine := ev
	mine.ref, mine.key, mine.label = uint8(i), keyBy(r.Correlation.GroupBy, field), field(r.Correlation.Field)
	return mine, true
}

// model gives the findings: each rule takes raw events and the hot panes of those
// that it refers to.
func (c *chain) model(raw []simEvent, ps map[[2]int64]detect.Pointer, limit int) map[detect.FindingID]detect.Finding {
	out := map[detect.FindingID]detect.Finding{}
	hot := map[*rule.Rule][]simEvent{} // with the keys of the rule that derives
	for _, r := range c.rules {
		co := r.Correlation
		var evs []simEvent
		for _, ev := range raw {
			if mine, ok := c.take(r, ev); ok {
				evs = append(evs, mine)
			}
		}
		for ref, in := range co.Rules {
			for _, ev := range hot[in] {
				values := strings.Split(ev.key, "/")
				field := func(name string) string {
					if i := slices.Index(in.Correlation.GroupBy, name); i >= 0 {
						return values[i]
					}
					return ""
				}
				mine := ev
				mine.ref, mine.key, mine.label = uint8(ref), keyBy(co.GroupBy, field), field(co.Field)
				evs = append(evs, mine)
			}
		}
		for key, all := range byKey(evs) {
			for q := range hotPanes(co, all) {
				at := q * paneOf(co)
				id := detect.NewFindingID(tenant, r.Version, keyOf(key), at)
				hot[r] = append(hot[r], simEvent{time: at, id: binary.LittleEndian.Uint64(id[:]), key: key})
			}
		}
		if !r.Silent {
			maps.Copy(out, modelWindowed(r, evs, ps, limit))
		}
	}
	return out
}
