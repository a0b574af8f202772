package correlate

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// newValue is the state of vedette.new_value: the values each key has had.
//
// The profile is what follows from all settled events, taken in order of time and
// id: an event whose value the key did not have within the forgetting time is new,
// and fires if the key's first event is at least the learning time before it.
// What is not settled yet waits. Of it, an event that no event still to come could
// make old, or part of a learning period, fires at once as well; the finding is
// identified by key, value and the event's forgetting period counted from the
// epoch, and of all its deltas the least event's stays, so that firing again when
// settled, which is what counts, changes nothing.
type newValue struct {
	*base
	profiles profiles[*valueProfile]
	quantum  int64 // to which last seen is rounded up, so that pages rest
	maxOpen  int64 // of append time that an event waits at most
	grid     int64 // how often (of A) that is looked after
	forced   int64 // last point of the grid
	waiting  heap[*valueEvent]
	pending  map[valueOf]*pendingValue
	text     int64 // bytes of the keys and values in pending
}

// maxValues bounds the values kept of a key: past it the one longest not seen is
// forgotten first.
const maxValues = 1024

// valueOf is a value of a key.
type valueOf struct{ full, value string }

// pendingValue is what is known of a value's events that wait.
type pendingValue struct {
	valueOf
	least detect.Evidence // of those since n was last 0
	n     int
}

// valueEvent is an event that waits to settle.
type valueEvent struct {
	detect.Evidence
	valueOf
	stamp int64
	late  bool
	done  bool
}

type valueProfile struct {
	first  int64
	values []knownValue // sorted by value
	known  bool         // it has a first
}

type knownValue struct {
	value       string
	first, last int64 // last is rounded up
}

func newNewValue(b *base) *newValue {
	n := &newValue{base: b, pending: map[valueOf]*pendingValue{}, forced: never}
	n.profiles = newProfiles(b, readValueProfile)
	n.profiles.swept = n.profiles.sweepAt(b.c.Forget)
	n.quantum = max(int64(time.Hour), int64(b.c.Forget)/128)
	n.maxOpen = int64(b.hold) + b.late
	n.grid = int64(time.Minute)
	b.keep = time.Duration(n.maxOpen)
	n.waiting.less = func(a, b *valueEvent) bool { return detect.CompareEvidence(a.Evidence, b.Evidence) < 0 }
	return n
}

func (n *newValue) apply(g *detect.Group, next int64) {
	full := string(n.fullKey(g.Tenant, g.Key))
	slot, known := n.profiles.slot([]byte(full), nil)
	for i := range g.Obs {
		o := &g.Obs[i]
		if o.Offset < next || o.Label == "" {
			continue
		}
		n.e.stats.Observations++
		if known && n.teachesNothing(n.profiles.list[slot], o) {
			continue
		}
		ev := &valueEvent{
			Evidence: detect.Evidence{Pointer: o.Pointer, Time: o.Time, IDHash: o.IDHash},
			stamp:    o.Stamp, late: n.isLate(o),
		}
		w := n.pending[valueOf{full, o.Label}]
		if w == nil {
			w = n.await(valueOf{full, strings.Clone(o.Label)})
		}
		ev.valueOf = w.valueOf
		if w.n == 0 || detect.CompareEvidence(ev.Evidence, w.least) < 0 {
			w.least = ev.Evidence
			if known && !n.quiet() && n.certain(ev, n.profiles.list[slot]) {
				n.put(n.finding(ev, nil, 0))
			}
		}
		w.n++
		n.waiting.push(ev)
	}
}

// await notes that events of a value wait, of which there is none yet.
func (n *newValue) await(v valueOf) *pendingValue {
	w := &pendingValue{valueOf: v}
	n.pending[v] = w
	n.text += int64(len(v.full) + len(v.value))
	return w
}

// teachesNothing reports whether an event, whenever it is taken, changes neither
// the profile nor anything that fires: most events are like that.
func (n *newValue) teachesNothing(p *valueProfile, o *detect.Observation) bool {
	if !p.known || o.Time < p.first {
		return false
	}
	i, ok := p.find(o.Label)
	return ok && o.Time >= p.values[i].first && n.roundUp(o.Time) <= p.values[i].last
}

// roundUp rounds a time at which a value was seen.
func (n *newValue) roundUp(t int64) int64 { return floorDiv(t+n.quantum-1, n.quantum) * n.quantum }

// certain reports whether ev is new whatever is still to come: had the value first
// come at the settled time, it would be new as well, and in the same period.
func (n *newValue) certain(ev *valueEvent, p *valueProfile) bool {
	s := n.settledAll(n.types)
	if s == never || !p.known || n.lapsed(p, ev.Time) {
		return false
	}
	earliest := min(s, ev.Time)
	if earliest-p.first < int64(n.c.Learning) || n.period(earliest) != n.period(ev.Time) {
		return false
	}
	i, ok := p.find(ev.value)
	return !ok || n.forgotten(&p.values[i], earliest)
}

// lapsed reports whether a key was not seen for so long that it starts anew.
func (n *newValue) lapsed(p *valueProfile, t int64) bool {
	return n.c.Forget > 0 && t-p.latest() >= 2*int64(n.c.Forget)
}

func (n *newValue) forgotten(v *knownValue, t int64) bool {
	return n.c.Forget > 0 && t-v.last >= int64(n.c.Forget)
}

// ended takes the values from a profile that nothing asks for any more once all is
// settled up to s, and reports whether the whole profile has ended or has changed.
// The value seen last tells when the key starts anew: it goes with the profile.
func (n *newValue) ended(p *valueProfile, s int64) (all, changed bool) {
	latest, forget := p.latest(), int64(n.c.Forget)
	if s == never || latest == never {
		return false, false
	}
	if sub(s, latest) >= 3*forget {
		return true, true
	}
	before := len(p.values)
	p.values = slices.DeleteFunc(p.values, func(v knownValue) bool { return v.last < latest && s-v.last >= 2*forget })
	if len(p.values) < before {
		p.values = slices.Clone(p.values)
	}
	return false, len(p.values) < before
}

// period is the forgetting period that t falls into. Two times at which a value is
// new are at least a forgetting time apart, so never in one period.
func (n *newValue) period(t int64) int64 {
	if n.c.Forget <= 0 {
		return 0
	}
	return floorDiv(t, int64(n.c.Forget)) * int64(n.c.Forget)
}

// finding is that of ev. Peak is 1 when settled: then it knows more than at once.
func (n *newValue) finding(ev *valueEvent, p *valueProfile, peak float64) detect.Finding {
	tenant, key := n.split([]byte(ev.full))
	period := n.period(ev.Time)
	id := detect.AppendKey(slices.Clone(key), []byte(ev.value))
	return detect.Finding{
		ID:     detect.NewFindingID(tenant, n.r.Version, id, period),
		Tenant: tenant, RuleVersion: n.r.Version, Key: key, Tile: period,
		Merge: detect.MergeLeast, Count: 1, Late: oneIf(ev.late), Peak: peak, First: ev.Time, Last: ev.Time,
		Detail: n.detail(ev, p), Evidence: []detect.Evidence{ev.Evidence},
	}
}

// detail names the value and what was known; not known are as many as would
// make it long.
func (n *newValue) detail(ev *valueEvent, p *valueProfile) string {
	const named = 10
	d := struct {
		Value   string   `json:"value"`
		Field   string   `json:"field"`
		Known   []string `json:"known,omitempty"`
		More    int      `json:"known_more,omitempty"`
		Days    float64  `json:"learned_days,omitempty"`
		Settled bool     `json:"settled"`
	}{Value: ev.value, Field: n.c.Field}
	if p != nil {
		d.Settled = true
		d.Days = float64((ev.Time-p.first)/int64(24*time.Hour/10)) / 10 // full tenths
		vs := slices.Clone(p.values)
		slices.SortStableFunc(vs, func(a, b knownValue) int { return cmp.Compare(b.last, a.last) })
		for _, v := range vs {
			switch {
			case v.value == ev.value, n.forgotten(&v, ev.Time):
			case len(d.Known) < named:
				d.Known = append(d.Known, v.value)
			default:
				d.More++
			}
		}
	}
	b, err := json.Marshal(d)
	if err != nil { // nothing in d can fail
		return ""
	}
	return string(b)
}

func (n *newValue) advance() {
	s := n.settledAll(n.types)
	for n.waiting.len() > 0 && s != never && (n.waiting.top().Time < s || s == always) {
		n.take(n.waiting.pop())
	}
	a := n.a()
	if a == never || a == always {
		return
	}
	if n.c.Forget > 0 {
		n.profiles.sweep(n.c.Forget, func(slot uint32) (all, changed bool) { return n.ended(n.profiles.list[slot], s) })
	}
	if at := floorDiv(a, n.grid); at != n.forced {
		n.forced = at
		n.force(at*n.grid - n.maxOpen)
		if len(n.pending) == 0 {
			n.pending = map[valueOf]*pendingValue{} // a map does not shrink
		}
	}
}

// force takes what was appended by the time given and still waits, and what waits of
// the same keys before it.
func (n *newValue) force(stamp int64) {
	upTo := map[string]*valueEvent{}
	for _, ev := range n.waiting.items {
		if last := upTo[ev.full]; ev.stamp <= stamp && (last == nil || n.waiting.less(last, ev)) {
			upTo[ev.full] = ev
		}
	}
	if len(upTo) == 0 {
		return
	}
	var old []*valueEvent
	for _, ev := range n.waiting.items {
		if last := upTo[ev.full]; last != nil && !n.waiting.less(last, ev) {
			old = append(old, ev)
		}
	}
	slices.SortFunc(old, func(a, b *valueEvent) int { return detect.CompareEvidence(a.Evidence, b.Evidence) })
	for _, ev := range old {
		n.e.stats.Forced++
		n.take(ev)
	}
	items := slices.DeleteFunc(n.waiting.items, func(ev *valueEvent) bool { return ev.done })
	n.waiting.items = nil
	for _, ev := range items {
		n.waiting.push(ev)
	}
}

// take judges an event and learns it. While rebuilding the profile knows already.
func (n *newValue) take(ev *valueEvent) {
	ev.done = true
	if w := n.pending[ev.valueOf]; w.n == 1 {
		delete(n.pending, ev.valueOf)
		n.text -= int64(len(ev.full) + len(ev.value))
	} else {
		w.n--
	}
	if n.e.silent {
		return
	}
	slot, ok := n.profiles.slot([]byte(ev.full), func() *valueProfile { return &valueProfile{} })
	if !ok {
		n.e.stats.Folded++
		return
	}
	p := n.profiles.list[slot]
	if !p.known || n.lapsed(p, ev.Time) {
		n.profiles.held -= p.bytes()
		*p = valueProfile{first: ev.Time, known: true}
		n.profiles.held += p.bytes()
		n.profiles.touch(slot)
	}
	if ev.Time < p.first {
		p.first = ev.Time
		n.profiles.touch(slot)
	}
	last := n.roundUp(ev.Time)
	i, ok := p.find(ev.value)
	if ok && !n.forgotten(&p.values[i], ev.Time) {
		v := &p.values[i]
		if ev.Time < v.first || last > v.last {
			v.first, v.last = min(v.first, ev.Time), max(v.last, last)
			n.profiles.touch(slot)
		}
		return
	}
	if ev.Time-p.first >= int64(n.c.Learning) {
		if !n.quiet() {
			n.put(n.finding(ev, p, 1))
		}
		if n.derives() {
			f := n.finding(ev, p, 1)
			n.derive(derived{
				tenant: f.Tenant, key: f.Key, time: ev.Time, id: binary.LittleEndian.Uint64(f.ID[:]), finding: f.ID,
			})
		}
	}
	v := knownValue{value: ev.value, first: ev.Time, last: last}
	if ok {
		p.values[i] = v
	} else {
		was := p.bytes()
		p.values = slices.Insert(p.values, i, v)
		p.bound()
		n.profiles.held += p.bytes() - was
	}
	n.profiles.touch(slot)
}

func (p *valueProfile) bytes() int64 {
	n := sizeOf[valueProfile]() + int64(cap(p.values))*sizeOf[knownValue]()
	for i := range p.values {
		n += int64(len(p.values[i].value))
	}
	return n
}

func (p *valueProfile) find(value string) (int, bool) {
	return slices.BinarySearchFunc(p.values, value, func(v knownValue, s string) int { return cmp.Compare(v.value, s) })
}

func (p *valueProfile) latest() int64 {
	t := int64(never)
	for i := range p.values {
		t = max(t, p.values[i].last)
	}
	return t
}

func (p *valueProfile) bound() {
	if len(p.values) <= maxValues {
		return
	}
	oldest := 0
	for i := range p.values {
		if p.values[i].last < p.values[oldest].last {
			oldest = i
		}
	}
	p.values = slices.Delete(p.values, oldest, oldest+1)
}

func (p *valueProfile) append(b []byte) []byte {
	b = binary.AppendVarint(b, p.first)
	b = binary.AppendUvarint(b, uint64(len(p.values)))
	for _, v := range p.values {
		b = detect.AppendKey(b, []byte(v.value))
		b = binary.AppendVarint(b, v.first-p.first)
		b = binary.AppendVarint(b, v.last-v.first)
	}
	return b
}

func readValueProfile(r *reader) *valueProfile {
	p := &valueProfile{first: r.varint(), known: true}
	for range r.count(3) {
		v := knownValue{value: r.string()}
		v.first = p.first + r.varint()
		v.last = v.first + r.varint()
		p.values = append(p.values, v)
	}
	return p
}

func (n *newValue) through() int64 { return n.settledAll(n.types) }

func (n *newValue) horizon(a int64) int64 { return sub(a, n.maxOpen+2*n.grid) }

// idle is false for a rule that has learned: should it come back, it knows.
func (n *newValue) idle() bool {
	return n.waiting.len() == 0 && len(n.deltas.list) == 0 && n.profiles.keys.len() == 0 && len(n.profiles.dirty) == 0
}

func (n *newValue) reset() {
	n.waiting.items = nil
	n.pending, n.text = map[valueOf]*pendingValue{}, 0
	n.forced = never
	n.profiles.swept = n.profiles.sweepAt(n.c.Forget)
}

func (n *newValue) flush(fs []detect.Finding, ps []Page) ([]detect.Finding, []Page) {
	fs = n.deltas.flush(fs, nil)
	return fs, n.profiles.flushPages(ps, func(p *valueProfile) bool { return p.known })
}

func (n *newValue) forget() {
	n.deltas.clear()
	clear(n.profiles.dirty) // a page is packed again when one of its profiles changes
}

func (n *newValue) restore(p Page) error { return n.profiles.restore(p) }
