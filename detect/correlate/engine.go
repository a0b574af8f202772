// Package correlate turns observations into findings: windows, distinct counts,
// sequences, joins and baselines, on event time.
//
// [Engine] is pure: no I/O, no wall clock, no goroutines. One engine is the
// state of one partition of vedette.observations; what it emits is a function of
// the sections it is given. Its owner reads the partition, and commits what
// [Engine.Flush] returns together with the position and [Engine.State].
//
// # Which sections count
//
// The engine keeps, for each source, the offset it expects next. A section
// [From, To) is applied if From ≤ next < To, and of it only what stands at next or
// above; then next is To. So repeats, overlaps and any division of the stream
// into sections come to the same. A section above next is a gap: nothing of it is
// applied, and the source has to be rewound.
//
// # Time
//
// A, the clock, is the least of the sources' append clocks. A log type is settled
// up to A minus the time its records take, or less if a collector's progress is
// behind. Windows live in generations on the append stamp, each rule's as long as
// its window and lateness: an observation sees its own generation and those beside
// it; whole tables are dropped. A stamp must be the running maximum on its source.
// Nothing is too late: what comes later than the lateness counts with whatever
// arrived near it, and the finding says how many such events it holds.
//
// # What fires
//
// A pane is a sixtieth of the window, at least a second; a window is as many
// panes as the timespan holds, from any pane; a pane is hot if it holds events and
// some window over it meets the condition. A finding is a rule, a key and a tile
// with a hot pane. What can no longer be undone fires at once, the rest when it is
// settled. Distinct events are told apart by event time and id.
//
// # Rebuild
//
// Windows are rebuilt from the log: [Engine.Restore] the profiles of the
// checkpoint, [Engine.Reset] to a mark whose clock is at most
// [Engine.RebuildClock] of the checkpoint, Apply with rebuild up to the
// checkpoint's position, and go on without. While rebuilding nothing is emitted
// and no profile changes; what had been judged is passed over at the same places
// of the stream.
package correlate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// Options configure an Engine. Zero fields take the defaults named.
type Options struct {
	// Sources is how many partitions of vedette.logs have to be heard before the
	// clock moves; 1.
	Sources int
	// EvidenceLimit is how many events a finding points at. 0 keeps all, and then
	// counts everything exactly whatever it costs: for replay.
	EvidenceLimit int
	// ExactIDs is how many event ids of a key are kept in one pane (for baseline
	// eight times that in a bucket); beyond it distinct events are estimated and the
	// finding says so; labels and rules not seen in the pane before still count, up
	// to as many again. 1024.
	ExactIDs int
	// MaxKeys bounds the keys of a rule in one generation; past it keys fold into
	// one whose values are all OtherKey, and the finding says so. Past it profiles
	// learn no new keys, and unmatched events are unknown. 1 << 20.
	MaxKeys int
	// Skew is how far a source's clock may be ahead of A: match sees to it. 15 min.
	Skew time.Duration
	// Layout and Partitions, of vedette.observations, say which sources of what
	// chains derive have to be heard before the rules above them can be sure of
	// anything, see [detect.DerivedSource]. 0 and 1.
	Layout     int64
	Partitions int
}

// OtherKey is the value, for each group-by field, of the key into which keys past
// the bound fold.
const OtherKey = "other"

func (o Options) withDefaults() Options {
	o.Sources = cmp.Or(max(o.Sources, 0), 1)
	o.Partitions = cmp.Or(max(o.Partitions, 0), 1)
	o.MaxKeys = cmp.Or(max(o.MaxKeys, 0), 1<<20)
	o.Skew = cmp.Or(max(o.Skew, 0), 15*time.Minute)
	o.ExactIDs = cmp.Or(max(o.ExactIDs, 0), 1024)
	if o.EvidenceLimit <= 0 {
		o.EvidenceLimit, o.ExactIDs = 0, 1<<30
	}
	return o
}

// Result says what became of a section.
type Result uint8

// The results of Apply.
const (
	Applied Result = iota // it, or what was new in it, has been applied
	Repeat                // all of it had been applied before
	Gap                   // it begins above what was applied; nothing of it was
)

func (r Result) String() string {
	return [...]string{"applied", "repeat", "gap"}[r]
}

// Stats count since the engine was made, rebuilds included.
type Stats struct {
	Observations int64 // applied
	Duplicates   int64 // of them, events delivered again
	Late         int64 // of them, later than their rule reckons with
	Closed       int64 // of them, of a baseline's bucket that had closed: they do not count
	Folded       int64 // of them, past a bound on keys
	UnknownRule  int64 // of rule versions that were not loaded: passed over
	Forced       int64 // judged because what they waited for did not settle in time
	Panics       int64 // times a rule's windows, or what it had found, were dropped because its code failed
}

// detector is one rule's state.
type detector interface {
	// apply takes the observations of g at or above next.
	apply(g *detect.Group, next int64)
	// advance drops and judges what the clocks allow.
	advance()
	// horizon is the append stamp from which a rebuild at A has to read.
	horizon(a int64) int64
	// isLate reports whether an event came later than its rule reckons with.
	isLate(*detect.Observation) bool
	// holds is what is held now.
	holds() Size
	// idle reports whether no window state is held.
	idle() bool
	// reset drops windows, not profiles.
	reset()
	// flush appends findings and dirty pages, and forgets both.
	flush([]detect.Finding, []Page) ([]detect.Finding, []Page)
	// forget drops what flush would append.
	forget()
	// restore reads a page that flush wrote.
	restore(Page) error
	// through is up to which event time all is there that the rule derives.
	through() int64
	// shared is what it has in common with the others.
	shared() *base
}

// Engine is the correlation state of one partition. It is not safe for
// concurrent use.
type Engine struct {
	opts  Options
	c     clocks
	byVer map[string]*entryRule
	list  []*entryRule      // in the order in which they were added
	pages map[string][]Page // restored for rules not added yet
	keep  time.Duration
	stats Stats

	silent bool           // rebuilding
	src    int            // index of the source being applied
	last   detect.Section // that was applied, without what it holds

	height  int              // levels that have rules in force above them
	derived [][]DerivedEvent // by level, since the last FlushDerived
	before  []int64          // A by level before the section being applied
	loop    *loop            // nil: what is derived goes to the ledger

	faulty []*entryRule // that panicked in the section being applied
	faults []Fault      // not taken yet
}

// entryRule is a rule with its detector.
type entryRule struct {
	rule     *rule.Rule
	detector detector
	current  bool // in the latest set
}

// NewEngine makes an engine without rules at the beginning of its partition.
func NewEngine(o Options) *Engine {
	o = o.withDefaults()
	e := &Engine{opts: o, c: newClocks(o.Sources), byVer: map[string]*entryRule{}, pages: map[string][]Page{}}
	e.c.layout, e.c.partitions = o.Layout, o.Partitions
	return e
}

// AddRules puts a set into force. Rules that the engine has keep their state;
// those of an earlier set that vanished go on until their state has aged out. The
// error names rules that cannot be run; the others run.
func (e *Engine) AddRules(set *rule.Set) error {
	return e.addRules(set.Correlations)
}

func (e *Engine) addRules(rules []*rule.Rule) error {
	for _, er := range e.list {
		er.current = false
	}
	var errs []error
	for _, r := range rules {
		if er, ok := e.byVer[r.Version]; ok {
			er.current = true
			continue
		}
		d, err := e.newDetector(r)
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %s (%s): %w", r.ID, r.Title, err))
			continue
		}
		for _, p := range e.pages[r.Version] {
			if err := d.restore(p); err != nil {
				errs = append(errs, fmt.Errorf("rule %s (%s): profile page %d: %w", r.ID, r.Title, p.Number, err))
			}
		}
		delete(e.pages, r.Version)
		er := &entryRule{rule: r, detector: d, current: true}
		e.byVer[r.Version] = er
		e.list = append(e.list, er)
	}
	e.chain()
	return errors.Join(errs...)
}

// newDetector makes the state of a rule.
func (e *Engine) newDetector(r *rule.Rule) (detector, error) {
	b, err := newBase(e, r)
	if err != nil {
		return nil, err
	}
	defer func() { e.keep = max(e.keep, b.keep) }() // the type may need more
	switch c := r.Correlation; c.Type {
	case rule.EventCount, rule.ValueCount, rule.ValueSum, rule.ValueAvg, rule.ValuePercentile, rule.Temporal, rule.TemporalOrdered:
		return newWindowed(b)
	case rule.NewValue:
		return newNewValue(b), nil
	case rule.Baseline:
		return newBaseline(b)
	case rule.Unmatched:
		return newUnmatched(b), nil
	default:
		return nil, fmt.Errorf("correlation type %q is not supported", c.Type)
	}
}

// Restore loads the profiles that earlier Flushes returned: of each rule version
// and number the latest page. Pages of rules that are not loaded wait for AddRules.
func (e *Engine) Restore(pages []Page) error {
	for _, p := range pages {
		er, ok := e.byVer[p.RuleVersion]
		if !ok {
			e.pages[p.RuleVersion] = append(e.pages[p.RuleVersion], p)
			continue
		}
		if err := er.detector.restore(p); err != nil {
			return fmt.Errorf("restore page %d of rule version %s: %w", p.Number, p.RuleVersion, err)
		}
	}
	return nil
}

// Reset drops all windows and sets the vector and the clocks to a mark's state;
// profiles stay. An empty state is the beginning of the partition. What has not
// been flushed stays too, so Flush first, or take a new engine.
func (e *Engine) Reset(state []byte) error {
	if err := e.c.decode(state); err != nil {
		return err
	}
	for _, er := range e.list {
		er.detector.reset()
	}
	return nil
}

// Apply applies a section. With rebuild it fills windows only: nothing is emitted
// and no profile changes. The engine keeps no reference to sec.
func (e *Engine) Apply(sec *detect.Section, rebuild bool) Result {
	next := e.c.next(sec.Source)
	switch {
	case sec.From > next:
		return Gap
	case sec.To <= next:
		return Repeat
	}
	e.silent = rebuild
	e.src = e.c.source(sec.Source)
	e.begin()
	for i := range sec.Groups {
		g := &sec.Groups[i]
		er, ok := e.byVer[g.RuleVersion]
		if !ok {
			e.stats.UnknownRule += int64(len(g.Obs))
			continue
		}
		e.applyGroup(er, g, next)
	}
	e.last = detect.Section{Source: sec.Source, From: sec.From, To: sec.To, Clock: sec.Clock}
	e.c.take(sec)
	e.advance()
	e.tellFaults()
	e.feedBack()
	return Applied
}

func (e *Engine) advance() {
	for _, er := range e.list {
		e.advanceRule(er)
	}
	e.list = slices.DeleteFunc(e.list, func(er *entryRule) bool {
		gone := !er.current && (er.detector.idle() || er.detector.shared().ended())
		if gone {
			delete(e.byVer, er.rule.Version)
		}
		return gone
	})
}

// Finish sets the clock to infinity: everything is settled. For replay, where
// nothing follows.
func (e *Engine) Finish() {
	e.silent = false
	e.begin()
	e.c.finish = true
	e.c.update()
	e.advance()
	e.tellFaults()
	e.feedBack()
}

// Flush returns the findings (as deltas, see [detect.Finding.Add], ordered by
// tenant and id) and the profile pages that changed since the last Flush. They
// belong into one transaction with State and the position.
func (e *Engine) Flush() ([]detect.Finding, []Page) {
	var fs []detect.Finding
	var ps []Page
	lost := e.byVer[rule.VisibilityLost().Version]
	for _, er := range e.list {
		if er != lost {
			fs, ps = e.flushRule(er, fs, ps)
		}
	}
	e.tellFaults()
	if lost != nil { // behind all that may fail
		fs, ps = e.flushRule(lost, fs, ps)
	}
	slices.SortFunc(fs, func(a, b detect.Finding) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), slices.Compare(a.ID[:], b.ID[:]))
	})
	return fs, ps
}

// State is the vector and the clocks, to be given to Reset.
func (e *Engine) State() []byte { return e.c.append(nil) }

// Clock is A, ns; the least int64 until every source has been heard.
func (e *Engine) Clock() int64 { return e.c.a }

// Next is the offset expected next of a source.
func (e *Engine) Next(s detect.Source) int64 { return e.c.next(s) }

// Settled is up to when (event time, ns) a log type is settled.
func (e *Engine) Settled(t event.Type) int64 {
	if s, ok := e.c.settled[t]; ok {
		return s
	}
	return never
}

// Keep is the longest generation of any rule: window and lateness.
func (e *Engine) Keep() time.Duration { return e.keep }

// RebuildClock is the greatest clock of a mark from which everything can be
// rebuilt that is held at the present clock: for windows three generations back,
// for what waits to settle as long as it may wait, and in either case Skew more.
// A mark whose clock had not started says nothing of what came before it and is
// never good enough; without a mark that is, rebuild from the beginning, and so until
// what chains derive has been heard from all partitions.
func (e *Engine) RebuildClock() int64 {
	if e.c.a == never {
		return never
	}
	h := e.c.a
	for _, er := range e.list {
		a := e.c.at(er.detector.shared().level)
		if a == never {
			return never
		}
		h = min(h, er.detector.horizon(a))
	}
	return h - 1 - int64(e.opts.Skew)
}

// Stats returns counts for metrics.
func (e *Engine) Stats() Stats { return e.stats }

// Versions are the rule versions that the engine holds state for, sorted.
func (e *Engine) Versions() []string { return slices.Sorted(maps.Keys(e.byVer)) }
