package correlate

import (
	"fmt"
	"runtime/debug"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// Fault is a panic of a rule's code. What the rule held in its windows is in no
// known state then, and is dropped; its profiles, and all other rules, stay. If it
// fails while it is flushed, what it had found since the last Flush is dropped. Where
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

// flushRule flushes a rule. If its code fails then, what it had found since the last
// Flush is dropped, or it would fail at each from now on. Its windows stay: a rebuild,
// which flushes nothing, has them as well.
func (e *Engine) flushRule(er *entryRule, fs []detect.Finding, ps []Page) (outF []detect.Finding, outP []Page) {
	defer func() {
		if p := recover(); p != nil {
			e.fail(er, p)
			er.detector.forget()
			outF, outP = fs, ps
		}
	}()
	return er.detector.flush(fs, ps)
}

// guard is deferred around a rule's code. A rebuild meets the same section again,
// fails in the same way and so ends with the same windows.
func (e *Engine) guard(er *entryRule) {
	if p := recover(); p != nil {
		e.fail(er, p)
		er.detector.reset()
	}
}

func (e *Engine) fail(er *entryRule, p any) {
	e.stats.Panics++
	if len(e.faults) < maxFaults {
		e.faults = append(e.faults, Fault{Rule: er.rule, Panic: fmt.Sprint(p), Stack: string(debug.Stack())})
	}
	e.faulty = append(e.faulty, er)
}

// tellFaults has VisibilityLost fire for the rules that have failed since the section
// before the last, or in it.
func (e *Engine) tellFaults() {
	faulty, sec := e.faulty, &e.last
	e.faulty = nil
	lost, ok := e.byVer[rule.VisibilityLost().Version]
	if !ok {
		return
	}
	for _, er := range faulty {
		if er == lost {
			continue
		}
		at := sec.Clock
		if sec.Source.Derived() {
			at = e.c.a // its own clock may be far behind
		}
		key := detect.AppendKey(nil, []byte(rule.LostRule(er.rule, sec.Source, sec.From, sec.To)))
		g := detect.Group{Tenant: detect.DefaultTenant, RuleVersion: lost.rule.Version, Key: key, Obs: []detect.Observation{{
			Pointer: detect.Pointer{Source: sec.Source, Offset: sec.To - 1},
			Time:    at, Stamp: at, IDHash: detect.KeyHash(lost.rule.Version, key),
		}}}
		e.applyGroup(lost, &g, sec.From)
	}
}
