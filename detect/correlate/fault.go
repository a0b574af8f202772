package correlate

import (
	"fmt"
	"runtime/debug"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// Fault is a panic of a rule's code. What the rule held in its windows is in no
// known state then, and is dropped; its profiles, and all other rules, stay. Where
// [rule.VisibilityLost] runs, it fires: nobody else would tell what was not judged.
type Fault struct {
	Rule  *rule.Rule
	Panic string
	Stack string
}

// maxFaults bounds the faults that wait to be taken.
const maxFaults = 16

// Faults returns what has happened since it was last asked, the first few.
func (e *Engine) Faults() []Fault {
	fs := e.faults
	e.faults = nil
	return fs
}

func (e *Engine) applyGroup(er *entryRule, g *detect.Group, next int64) {
	defer e.guard(er)
	for i := range g.Obs {
		if o := &g.Obs[i]; o.Offset >= next && er.detector.isLate(o) {
			e.stats.Late++
		}
	}
	er.detector.apply(g, next)
}

func (e *Engine) advanceRule(er *entryRule) {
	defer e.guard(er)
	er.detector.advance()
}

// guard is deferred around a rule's code. A rebuild meets the same section again,
// fails in the same way and so ends with the same windows.
func (e *Engine) guard(er *entryRule) {
	p := recover()
	if p == nil {
		return
	}
	e.stats.Panics++
	if len(e.faults) < maxFaults {
		e.faults = append(e.faults, Fault{Rule: er.rule, Panic: fmt.Sprint(p), Stack: string(debug.Stack())})
	}
	er.detector.reset()
	e.faulty = append(e.faulty, er)
}

// tellFaults has VisibilityLost fire for the rules that failed in the section.
func (e *Engine) tellFaults(sec *detect.Section) {
	faulty := e.faulty
	e.faulty = nil
	lost, ok := e.byVer[rule.VisibilityLost().Version]
	if !ok {
		return
	}
	for _, er := range faulty {
		if er == lost {
			continue
		}
		key := detect.AppendKey(nil, []byte(rule.LostRule(er.rule, sec.Source, sec.From, sec.To)))
		g := detect.Group{Tenant: detect.DefaultTenant, RuleVersion: lost.rule.Version, Key: key, Obs: []detect.Observation{{
			Pointer: detect.Pointer{Source: sec.Source, Offset: sec.To - 1},
			Time:    sec.Clock, Stamp: sec.Clock, IDHash: detect.KeyHash(lost.rule.Version, key),
		}}}
		e.applyGroup(lost, &g, sec.From)
	}
}
