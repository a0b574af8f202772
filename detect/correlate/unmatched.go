package correlate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// unmatched is the state of vedette.unmatched: the left events of each join value,
// and the right ones that may be their partners.
//
// A left event at t is judged once the right side is settled beyond t + timespan
// and the left beyond t, in order of (time, id): it takes the earliest right event
// in [t − before, t + timespan] that no left before it took. If there is none it
// fires, rolled up by the key in its label. If the right side's newest event is
// older than t, or it has not settled after hold, the verdict is unknown instead,
// and goes to one finding a tile with an empty key: a gap in what can be seen, not
// a list of suspects. So it is with left events of rules that are unknown in any
// case, see [unlisted].
type unmatched struct {
	*base
	before, after int64
	sides         []side // by ref
	left, right   []event.Type
	stale         []event.Type // right types whose newest event is asked for
	retain        int64        // of event time that a judged event stays, for deliveries to come
	hold          int64
	forced        int64
	tab           map[string]*joinValue
	text          int64            // bytes of keys and labels
	due           heap[*joinEvent] // left, by time
	expire        heap[*joinEvent] // all, by time
	unlisted      unlisted
}

// side is what an event's rule makes it.
type side uint8

const (
	sideRight   side = iota
	sideLeft         // wants a partner
	sideUnknown      // wants a partner, but is never more than unknown
)

// joinValue is the events of one join value, each side sorted.
type joinValue struct {
	full        string
	left, right []*joinEvent
}

// maxJoin bounds the events of one side of a join value: past it nothing can be
// said about it.
const maxJoin = 4096

type joinEvent struct {
	detect.Evidence
	full   string
	rollup string
	stamp  int64
	until  int64 // event time at which it may go
	side   side
	late   bool
	done   bool // judged, or taken by a left event
}

func newUnmatched(b *base) *unmatched {
	n := &unmatched{
		base: b, before: int64(b.c.Before), after: int64(b.c.Timespan), forced: never,
		left: b.types, right: b.types, tab: map[string]*joinValue{}, unlisted: newUnlisted(b),
	}
	var left []*rule.Rule
	for ref, r := range b.c.Rules {
		s := sideRight
		switch {
		case b.c.IsUnknown(ref):
			s = sideUnknown
		case b.c.IsLeft(ref):
			s = sideLeft
		}
		if n.sides = append(n.sides, s); s != sideRight {
			left = append(left, r)
		}
	}
	if right := b.c.Partners(); len(right) > 0 {
		n.left, n.right = typesOf(left), typesOf(right)
		for _, r := range right {
			if route, reason := r.Logsource.Route(); reason == "" && route.Type != "" && !slices.Contains(n.stale, route.Type) {
				n.stale = append(n.stale, route.Type)
			}
		}
	}
	n.hold = int64(b.hold + b.c.Lateness)
	n.retain = n.before + n.after + b.late
	b.keep = time.Duration(n.retain + n.hold)
	byTime := func(a, b *joinEvent) bool { return detect.CompareEvidence(a.Evidence, b.Evidence) < 0 }
	n.due.less = byTime
	n.expire.less = func(a, b *joinEvent) bool { return a.until < b.until }
	return n
}

func (n *unmatched) apply(g *detect.Group, next int64) {
	full := string(n.fullKey(g.Tenant, g.Key))
	v := n.tab[full]
	for i := range g.Obs {
		o := &g.Obs[i]
		if o.Offset < next {
			continue
		}
		n.e.stats.Observations++
		if v == nil {
			if len(n.tab) >= n.e.opts.MaxKeys {
				n.fold(g.Tenant, o)
				continue
			}
			v = n.value(full)
		}
		ev := &joinEvent{
			Evidence: detect.Evidence{Pointer: o.Pointer, Time: o.Time, IDHash: o.IDHash},
			full:     v.full, stamp: o.Stamp, late: n.isLate(o), side: n.sideOf(o), until: o.Time + n.retain,
		}
		events := v.of(ev.side)
		if ev.side != sideRight {
			ev.rollup = strings.Clone(o.Label)
		}
		at, _ := slices.BinarySearchFunc(*events, ev, compareEvents)
		if at < len(*events) && (*events)[at].Time == ev.Time && (*events)[at].IDHash == ev.IDHash {
			n.e.stats.Duplicates++
			old := (*events)[at]
			old.late = old.late && ev.late
			if detect.ComparePointer(ev.Pointer, old.Pointer) < 0 {
				old.Pointer = ev.Pointer
			}
			continue
		}
		if len(*events) >= maxJoin {
			n.fold(g.Tenant, o)
			continue
		}
		*events = slices.Insert(*events, at, ev)
		n.text += int64(len(ev.rollup))
		n.expire.push(ev)
		if ev.side != sideRight {
			n.due.push(ev)
		}
	}
}

// value makes a join value.
func (n *unmatched) value(full string) *joinValue {
	v := &joinValue{full: full}
	n.tab[full] = v
	n.text += int64(len(full))
	return v
}

// of gives the events of a side.
func (v *joinValue) of(s side) *[]*joinEvent {
	if s == sideRight {
		return &v.right
	}
	return &v.left
}

// sideOf tells an observation's side; nothing is known of a rule past the last.
func (n *unmatched) sideOf(o *detect.Observation) side {
	if int(o.Ref) < len(n.sides) {
		return n.sides[o.Ref]
	}
	return sideRight
}

// compareEvents ignores pointers: they may change while an event is held.
func compareEvents(a, b *joinEvent) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.IDHash, b.IDHash))
}

// fold gives up on an event past a bound: of a left one nothing can be said.
func (n *unmatched) fold(tenant string, o *detect.Observation) {
	n.e.stats.Folded++
	if n.e.silent {
		return
	}
	ev := detect.Evidence{Pointer: o.Pointer, Time: o.Time, IDHash: o.IDHash}
	switch n.sideOf(o) {
	case sideLeft:
		n.emit(tenant, nil, detect.VerdictUnknown, "bound", ev, n.isLate(o))
	case sideUnknown:
		n.addUnlisted(tenant, o.Label, ev, n.isLate(o))
	}
}

func (n *unmatched) advance() {
	s := n.through()
	for n.due.len() > 0 && s != never && (n.due.top().Time < s || s == always) {
		if ev := n.due.pop(); !ev.done {
			n.judge(ev, true)
		}
	}
	if a := n.a(); a != never && a != always {
		if at := floorDiv(a, int64(time.Minute)); at != n.forced {
			n.forced = at
			n.force(at*int64(time.Minute) - n.hold)
		}
	}
	for n.expire.len() > 0 && s != never && n.expire.top().until < s {
		n.remove(n.expire.pop())
	}
	if len(n.tab) == 0 && n.expire.len() == 0 && cap(n.expire.items) > 0 {
		n.tab, n.expire.items = map[string]*joinValue{}, nil // a map does not shrink
	}
}

// force judges left events appended by the time given, which waited too long, and
// lets go of right ones that none can be waiting for.
func (n *unmatched) force(stamp int64) {
	var old []*joinEvent
	for _, ev := range n.due.items {
		if !ev.done && ev.stamp <= stamp {
			old = append(old, ev)
		}
	}
	slices.SortFunc(old, compareEvents)
	for _, ev := range old {
		n.e.stats.Forced++
		n.judge(ev, false)
	}
	if len(old) > 0 {
		items := slices.DeleteFunc(n.due.items, func(ev *joinEvent) bool { return ev.done })
		n.due.items = nil
		for _, ev := range items {
			n.due.push(ev)
		}
	}
	gone := 0
	for _, ev := range n.expire.items {
		if ev.stamp <= stamp-n.retain {
			gone++
			n.remove(ev)
		}
	}
	if gone > 0 {
		items := slices.DeleteFunc(n.expire.items, func(ev *joinEvent) bool { return ev.stamp <= stamp-n.retain })
		n.expire.items = nil
		for _, ev := range items {
			n.expire.push(ev)
		}
	}
}

// remove forgets an event.
func (n *unmatched) remove(ev *joinEvent) {
	v := n.tab[ev.full]
	events := v.of(ev.side)
	if at, ok := slices.BinarySearchFunc(*events, ev, compareEvents); ok {
		*events = slices.Delete(*events, at, at+1)
		n.text -= int64(len(ev.rollup))
	}
	if len(v.left)+len(v.right) == 0 {
		delete(n.tab, ev.full)
		n.text -= int64(len(ev.full))
	}
}

// judge pairs a left event, or says that it has no partner.
func (n *unmatched) judge(ev *joinEvent, settled bool) {
	ev.done = true
	right := n.tab[ev.full].right
	at, _ := slices.BinarySearchFunc(right, ev.Time-n.before, func(e *joinEvent, t int64) int { return cmp.Compare(e.Time, t) })
	for ; at < len(right) && right[at].Time <= ev.Time+n.after; at++ {
		if !right[at].done {
			right[at].done = true
			return
		}
	}
	if n.e.silent {
		return
	}
	tenant, _ := n.split([]byte(ev.full))
	switch {
	case ev.side == sideUnknown:
		n.addUnlisted(tenant, ev.rollup, ev.Evidence, ev.late)
	case !settled:
		n.emit(tenant, nil, detect.VerdictUnknown, "unsettled", ev.Evidence, ev.late)
	case n.isStale(ev.Time):
		n.emit(tenant, nil, detect.VerdictUnknown, "stale", ev.Evidence, ev.late)
	default:
		n.emit(tenant, []byte(ev.rollup), detect.VerdictBypass, "", ev.Evidence, ev.late)
		if n.derives() {
			key := []byte(ev.rollup)
			n.derive(derived{
				tenant: tenant, key: key, time: ev.Time, id: ev.IDHash,
				finding: detect.NewFindingID(tenant, n.r.Version, key, n.tile(ev.Time)),
			})
		}
	}
}

// addUnlisted says that an event cannot be judged, if there is anything to judge
// it by: where no record was ever read of the log of the first partner, nobody
// asks how functions are called.
func (n *unmatched) addUnlisted(tenant, rollup string, ev detect.Evidence, late bool) {
	if n.quiet() {
		return
	}
	if len(n.stale) == 0 || n.e.c.newest(n.stale[0]) != never {
		n.unlisted.add(tenant, rollup, ev, late)
	}
}

// isStale reports whether a log type of the right side has nothing as new as t.
func (n *unmatched) isStale(t int64) bool {
	for _, y := range n.stale {
		if n.e.c.newest(y) < t {
			return true
		}
	}
	return false
}

func (n *unmatched) emit(tenant string, key []byte, verdict, reason string, ev detect.Evidence, late bool) {
	if n.quiet() {
		return
	}
	d := n.get(n.fullKey(tenant, key), n.tile(ev.Time))
	d.Add(detect.Finding{
		Count: 1, Late: oneIf(late), Peak: 1, First: ev.Time, Last: ev.Time, Verdict: verdict,
		Detail: n.detailOf(verdict, reason), Evidence: []detect.Evidence{ev},
	}, n.deltas.limit)
}

func (n *unmatched) tile(t int64) int64 {
	return tile(t, max(minPane, n.after/panesPerWindow), n.c.Timespan)
}

func (b *base) detailOf(verdict, reason string) string {
	d := appendField([]byte(`{"partners":0`), "before", b.c.Before.String())
	d = appendField(d, "after", b.c.Timespan.String())
	d = appendField(d, "verdict", verdict)
	if reason != "" {
		d = appendField(d, "reason", reason)
	}
	return string(append(d, '}'))
}

func (n *unmatched) through() int64 {
	return min(sub(n.settledAll(n.right), n.after), n.settledAll(n.left))
}

// horizon reaches back to whatever took a partner that an event still waiting, or
// still held against a further delivery, might take otherwise.
func (n *unmatched) horizon(a int64) int64 {
	return sub(a, n.hold+2*n.retain+int64(20*time.Minute)+int64(2*time.Minute))
}

func (n *unmatched) idle() bool {
	return len(n.tab) == 0 && len(n.deltas.list) == 0 && len(n.unlisted.list) == 0
}

func (n *unmatched) reset() {
	n.tab, n.text = map[string]*joinValue{}, 0
	n.due.items, n.expire.items = nil, nil
	n.forced = never
}

func (n *unmatched) flush(fs []detect.Finding, ps []Page) ([]detect.Finding, []Page) {
	return n.unlisted.flush(n.deltas.flush(fs, nil)), ps
}

func (n *unmatched) forget() {
	n.deltas.clear()
	n.unlisted.list = nil
}

func (n *unmatched) restore(Page) error { return errMalformed }
