package correlate

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// panesPerWindow divides a window; a pane is at least minPane.
const (
	panesPerWindow = 60
	minPane        = int64(time.Second)
)

// windowed is the state of event_count, value_count, temporal and
// temporal_ordered: they differ in what they measure over a window.
type windowed struct {
	*base
	op     rule.Op
	value  float64
	pane   int64
	m      int // panes of a window
	gen    int64
	salt   uint64
	labels bool // value_count
	// numbers is set for value_sum, value_avg and value_percentile.
	numbers bool
	// labelKey is that of the labels' hashes. Unlike the seed it is the rule's, so that
	// whoever estimates how many there are comes to the same.
	labelKey [2]uint64
	byRef    bool // temporal: an event counts for each ref
	ordered  bool
	all      uint64 // bits of all refs, for temporal
	settled  bool   // fires when settled, not at once
	due      heap[dueJudge]
	tables   []*table // few: two, and what sources ahead of A bring

	full    []byte // key being applied
	touched []touch
	awaited dueJudge // the pane of the last late event
	// Scratch of evaluate, by pane of the 2m−1 around the one touched.
	counts []int64
	mask   []uint64
	recs   [][3]*pane
	in     [3]*table
	slots  [3]uint32
	win    []float64
	best   []float64
	pairs  []labelAt
	left   []hyperLogLog
	nums   []numberAt
	sums   []float64
	parts  []float64
	few    paneSum
	events []orderedEvent
}

// touch is a pane that has new events.
type touch struct {
	t     *table
	slot  uint32
	q     int64
	fresh bool // it may change what a window measures
}

// dueJudge is a pane that is judged once every window over it is settled.
type dueJudge struct {
	q    int64
	gen  int64
	slot uint32
}

// panesOf gives how long a pane of a window is, ns, and how many the window has.
func panesOf(window time.Duration) (pane int64, n int) {
	pane = max(minPane, (int64(window)+panesPerWindow-1)/panesPerWindow)
	return pane, int((int64(window) + pane - 1) / pane)
}

// atOnce reports whether no event still to come can undo that the condition of a
// windowed rule is met.
func atOnce(c *rule.Correlation) bool {
	switch c.Type {
	case rule.Temporal, rule.TemporalOrdered:
		return true
	case rule.ValueAvg, rule.ValuePercentile:
		return false
	case rule.ValueSum:
		if c.Signed {
			return false
		}
	}
	return c.Op == rule.OpGT || c.Op == rule.OpGTE
}

func newWindowed(b *base) (*windowed, error) {
	w := &windowed{base: b, op: b.c.Op, value: b.c.Value}
	w.pane, w.m = panesOf(b.c.Timespan)
	if w.pane > maxPane {
		return nil, fmt.Errorf("timespan %s: at most %s can be held", b.c.Timespan, time.Duration(maxPane)*panesPerWindow)
	}
	w.salt = maphash.String(b.seed, "salt")
	sum := sha256.Sum256([]byte("labels of " + b.r.Version))
	w.labelKey = [2]uint64{binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])}
	switch b.c.Type {
	case rule.ValueCount:
		w.labels = true
	case rule.ValueSum, rule.ValueAvg, rule.ValuePercentile:
		w.newNumbers()
	case rule.Temporal, rule.TemporalOrdered:
		if n := len(b.c.Rules); n > 64 {
			return nil, fmt.Errorf("%s of %d rules: at most 64 are supported", b.c.Type, n)
		}
		w.byRef, w.ordered = true, b.c.Type == rule.TemporalOrdered
		w.all = 1<<len(b.c.Rules) - 1
		w.op, w.value = rule.OpGTE, float64(len(b.c.Rules))
	}
	switch w.op {
	case rule.OpGT, rule.OpGTE, rule.OpLT, rule.OpLTE, rule.OpEQ, rule.OpNEQ:
	default:
		return nil, fmt.Errorf("operator %q is not supported", w.op)
	}
	if w.settled = !atOnce(b.c); w.settled {
		b.keep += b.hold // what waits to settle has to be kept meanwhile
	}
	w.due.less = func(a, b dueJudge) bool { return a.q < b.q }
	w.gen = int64(b.keep)
	n := 2*w.m - 1
	w.counts, w.mask, w.recs = make([]int64, n), make([]uint64, n), make([][3]*pane, n)
	w.win, w.best = make([]float64, w.m), make([]float64, n)
	return w, nil
}

// disc tells observations of one event apart: by label where labels are counted,
// by ref where each rule counts.
func (w *windowed) disc(o *detect.Observation, aux uint64) uint64 {
	switch {
	case w.byRef:
		return uint64(o.Ref & 63)
	case w.labels:
		return aux
	}
	return 0
}

func (w *windowed) discOf(t *table, i uint32) uint64 {
	switch {
	case w.byRef:
		return uint64(t.entries.at(i).ref())
	case w.labels:
		return *t.aux.at(i)
	}
	return 0
}

// cursor is a key in the three generations that an observation sees.
type cursor struct {
	gen  int64
	full []byte
	hash uint32
	t    [3]*table // before, own, after
	slot [3]uint32 // 1 + slot
}

func (w *windowed) table(gen int64) *table {
	for _, t := range w.tables {
		if t.gen == gen {
			return t
		}
	}
	return nil
}

func (w *windowed) seek(c *cursor, gen int64) {
	c.gen = gen
	for i := range c.t {
		c.slot[i] = 0
		if c.t[i] = w.table(gen + int64(i) - 1); c.t[i] != nil {
			if s, ok := c.t[i].keys.find(c.hash, c.full); ok {
				c.slot[i] = s + 1
			}
		}
	}
	if c.t[1] == nil {
		c.t[1] = &table{gen: gen}
		w.tables = append(w.tables, c.t[1])
	}
}

func (w *windowed) apply(g *detect.Group, next int64) {
	w.full = append(w.full[:0], w.fullKey(g.Tenant, g.Key)...)
	c := cursor{gen: never, full: w.full, hash: w.hash(w.full)}
	w.touched = w.touched[:0]
	w.awaited = dueJudge{q: never}
	for i := range g.Obs {
		o := &g.Obs[i]
		if o.Offset < next {
			continue
		}
		w.e.stats.Observations++
		if gen := w.generation(o.Stamp); gen != c.gen {
			w.seek(&c, gen)
		}
		if c.slot[1] == 0 && (c.t[1].keys.len() >= w.e.opts.MaxKeys || c.t[1].keys.full()) {
			w.e.stats.Folded++
			other := slices.Clone(w.other(g.Tenant))
			oc := cursor{full: other, hash: w.hash(other)}
			w.seek(&oc, c.gen)
			w.observe(&oc, o)
			continue
		}
		w.observe(&c, o)
	}
	if !w.settled {
		for _, t := range w.touched {
			w.evaluate(t)
		}
	}
}

// generation is that of the stamp. One older than what is held can only come of a
// stamp that runs backwards; it counts with the oldest.
func (w *windowed) generation(stamp int64) int64 {
	gen := floorDiv(stamp, w.gen)
	if a := w.a(); a != never && a != always {
		gen = max(gen, floorDiv(a, w.gen)-1)
	}
	return gen
}

// observe adds one observation to the key's pane unless the event is there.
func (w *windowed) observe(c *cursor, o *detect.Observation) {
	q := floorDiv(o.Time, w.pane)
	var aux uint64
	switch {
	case w.labels:
		aux = sipHash(w.labelKey, o.Label)
	case w.numbers:
		aux = w.numberOf(o)
	}
	src := w.e.src
	disc := w.disc(o, aux)
	echo := false
	for i, t := range c.t {
		if c.slot[i] == 0 {
			continue
		}
		p := t.pane(c.slot[i]-1, q)
		if p == nil {
			continue
		}
		if e := w.find(t, c.slot[i]-1, p, o, disc); e != nil {
			w.e.stats.Duplicates++
			w.inTime(c.full, t, p, e, o)
			w.again(c.full, p, e, o, src)
			return
		}
		if w.byRef && !echo {
			echo = w.echoes(t, c.slot[i]-1, p, o)
		}
	}
	t := c.t[1]
	if c.slot[1] == 0 {
		c.slot[1] = t.slot(c.hash, c.full) + 1
	}
	slot := c.slot[1] - 1
	p, made := t.makePane(slot, q)
	fresh := true
	switch {
	case w.labels:
		fresh = !w.hasLabel(t, slot, p, aux)
	case w.byRef && !w.ordered:
		fresh = t.refs(p)&(1<<(o.Ref&63)) == 0
	}
	w.insert(t, slot, p, o, src, aux, echo)
	if w.settled {
		w.await(c, q, made)
	}
	if n := len(w.touched); n > 0 && w.touched[n-1].t == t && w.touched[n-1].slot == slot && w.touched[n-1].q == q {
		w.touched[n-1].fresh = w.touched[n-1].fresh || fresh
		return
	}
	w.touched = append(w.touched, touch{t, slot, q, fresh})
}

// echoes reports whether the event is in the pane under another ref.
func (w *windowed) echoes(t *table, slot uint32, p *pane, o *detect.Observation) bool {
	for refs, r := t.refs(p), uint64(0); refs != 0; refs, r = refs>>1, r+1 {
		if refs&1 != 0 && w.find(t, slot, p, o, r) != nil {
			return true
		}
	}
	return false
}

// again takes the least pointer of those that deliver an event, so that evidence
// does not depend on which came first.
func (w *windowed) again(full []byte, p *pane, e *entry, o *detect.Observation, src int) {
	if detect.ComparePointer(o.Pointer, w.pointer(e)) >= 0 {
		return
	}
	e.at, e.where, e.crc = e.at&^0xffff|uint64(uint16(src)), uint64(o.Offset)<<8|e.where&0xff, o.CRC
	if p.hot() && !w.quiet() {
		d := w.get(full, w.tile(p.q))
		at := w.timeOf(p.q, e)
		d.First, d.Last = min(d.First, at), max(d.Last, at)
		d.point(w.evidence(p.q, e), w.deltas.limit)
	}
}

func (w *windowed) pointer(e *entry) detect.Pointer {
	return detect.Pointer{Source: w.e.c.sources[e.source()].Source, Offset: e.offset(), CRC: e.crc}
}

func (w *windowed) evidence(q int64, e *entry) detect.Evidence {
	return detect.Evidence{Pointer: w.pointer(e), Time: w.timeOf(q, e), IDHash: e.id}
}

func (w *windowed) tile(q int64) int64 { return tile(q*w.pane, w.pane, w.c.Timespan) }

// delta is the finding of a pane's tile; nil while rebuilding, and of a silent rule.
func (w *windowed) delta(full []byte, q int64) *delta {
	if w.quiet() {
		return nil
	}
	return w.get(full, w.tile(q))
}

// fire makes a pane hot and counts what is new in it into d.
func (w *windowed) fire(full []byte, t *table, p *pane, d *delta, peak float64) {
	if !p.hot() && w.derives() && !w.hotBeside(full, t, p.q) {
		tenant, key := w.split(full)
		at := p.q * w.pane
		w.derive(derived{
			tenant: tenant, key: key, time: at, id: w.derivedID(tenant, key, at),
			finding: detect.NewFindingID(tenant, w.r.Version, key, w.tile(p.q)),
		})
	}
	over := t.over(p)
	fresh := p.done < p.n || over != nil && over.done < over.count
	p.heat()
	if d != nil {
		d.Peak = max(d.Peak, peak)
		if d.First > d.Last { // any event of the pane: all are counted in the end
			at := w.timeOf(p.q, t.entries.at(p.head-1))
			d.First, d.Last = at, at
		}
		if fresh {
			w.count(t, p, d)
		}
		if over != nil && over.done < over.count {
			d.Count += int64(over.count - over.done)
			d.Last = max(d.Last, over.last)
		}
		d.estimated = d.estimated || over != nil && over.count > 0
	}
	p.done = p.n
	if over != nil {
		over.done = over.count
	}
}

// count counts a pane's entries that no finding has counted: the latest ones.
func (w *windowed) count(t *table, p *pane, d *delta) {
	for i, n := p.head, p.n-p.done; n > 0; n-- {
		e := t.entries.at(i - 1)
		if !e.echo() {
			d.see(w.evidence(p.q, e), w.deltas.limit)
			d.Late += oneIf(e.late())
		}
		i = e.next
	}
}

func (w *windowed) advance() {
	if w.settled {
		s := w.settledAll(w.types)
		for w.due.len() > 0 && s != never && (w.due.top().q+int64(w.m))*w.pane <= s {
			w.judge(w.due.pop())
		}
	}
	a := w.a()
	if a == never {
		return
	}
	oldest := int64(always)
	if a != always {
		oldest = floorDiv(a, w.gen) - 1
	}
	old := func(t *table) bool { return t.gen < oldest }
	if w.settled && slices.ContainsFunc(w.tables, old) {
		w.force(oldest)
	}
	if n := len(w.tables); n > 0 {
		if w.tables = slices.DeleteFunc(w.tables, old); len(w.tables) < n {
			w.letGo()
		}
	}
}

// letGo takes what points into tables out of the scratch.
func (w *windowed) letGo() {
	clear(w.touched[:cap(w.touched)])
	clear(w.recs)
	w.in = [3]*table{}
}

// force judges what still waits to settle in generations that are about to be
// dropped, or shares a window with what is: after a gap in the log A moves on by hours
// at once.
func (w *windowed) force(oldest int64) {
	var due, left []dueJudge
	for _, d := range w.due.items {
		if d.gen < oldest || d.gen == oldest && w.leans(d) {
			due = append(due, d)
		} else {
			left = append(left, d)
		}
	}
	slices.SortFunc(due, func(a, b dueJudge) int { return cmp.Compare(a.q, b.q) })
	for _, d := range due {
		w.e.stats.Forced++
		w.judge(d)
	}
	w.due.items = nil
	for _, d := range left {
		w.due.push(d)
	}
}

// leans reports whether a window over a pane holds panes of the generation before.
func (w *windowed) leans(d dueJudge) bool {
	own, before := w.table(d.gen), w.table(d.gen-1)
	if own == nil || before == nil {
		return false
	}
	slot, ok := before.keys.find(own.keys.refs.at(d.slot).hash, own.keys.key(d.slot))
	if !ok {
		return false
	}
	ps := before.of(slot)
	i := search(ps, d.q-int64(w.m)+1)
	return i < len(ps) && ps[i].q < d.q+int64(w.m)
}

// hotBeside reports whether a pane is hot in a generation beside the table's: then
// those above know it.
func (w *windowed) hotBeside(full []byte, t *table, q int64) bool {
	for _, d := range [...]int64{-1, 1} {
		if n := w.table(t.gen + d); n != nil {
			if slot, ok := n.keys.find(w.hash(full), full); ok {
				if p := n.pane(slot, q); p != nil && p.hot() {
					return true
				}
			}
		}
	}
	return false
}

func (w *windowed) through() int64 {
	return sub(w.settledAll(w.types), int64(w.m)*w.pane)
}

func (w *windowed) horizon(a int64) int64 {
	if a == always {
		return always
	}
	return (floorDiv(a, w.gen) - 2) * w.gen
}

func (w *windowed) idle() bool { return len(w.tables) == 0 && len(w.deltas.list) == 0 }

func (w *windowed) reset() {
	w.tables, w.touched = nil, nil
	w.letGo()
	w.due.items = nil
}

func (w *windowed) flush(fs []detect.Finding, ps []Page) ([]detect.Finding, []Page) {
	return w.deltas.flush(fs, w.detail), ps
}

func (w *windowed) restore(Page) error {
	return fmt.Errorf("%s keeps no profiles", w.c.Type)
}

// detail explains the peak.
func (w *windowed) detail(d *delta) string {
	if math.IsInf(d.Peak, -1) {
		return "" // it only adds to what has a peak
	}
	b := []byte(`{"`)
	b = append(b, map[rule.CorrelationType]string{
		rule.EventCount: "count", rule.ValueCount: "distinct", rule.Temporal: "rules", rule.TemporalOrdered: "rules",
		rule.ValueSum: "sum", rule.ValueAvg: "average", rule.ValuePercentile: "at_percentile",
	}[w.c.Type]...)
	b = append(b, `":`...)
	b = strconv.AppendFloat(b, d.Peak, 'f', -1, 64)
	if w.c.Type == rule.ValuePercentile {
		b = append(b, `,"percentile":`...)
		b = strconv.AppendFloat(b, w.c.Percentile, 'f', -1, 64)
	}
	if w.labels || w.numbers {
		b = appendField(b, "field", w.c.Field)
	}
	if w.settled || w.op == rule.OpGT {
		b = appendField(b, "op", string(w.op))
	}
	b = append(b, `,"threshold":`...)
	b = strconv.AppendFloat(b, w.value, 'f', -1, 64)
	b = appendField(b, "window", w.c.Timespan.String())
	if d.estimated {
		b = append(b, `,"estimated":true`...)
		if !w.numbers {
			b = append(b, `,"standard_error":`...)
			b = strconv.AppendFloat(b, hllError, 'f', -1, 64)
		}
	}
	if _, other := w.split(w.other(d.Tenant)); string(other) == string(d.Key) {
		b = append(b, `,"folded":true`...)
	}
	return string(append(b, '}'))
}

// appendField appends a further member to a JSON object.
func appendField(b []byte, name, value string) []byte {
	v, err := json.Marshal(value)
	if err != nil { // a string always marshals
		v = []byte(`""`)
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return append(b, v...)
}
