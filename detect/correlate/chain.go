package correlate

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// A rule may refer to other correlations: then what they find are its events. A
// rule's level, [rule.Rule.Depth], is how many stand below it. What the rules of a
// level derive goes to the ledger with the checkpoint, and from there comes back, on
// whatever partition the rule above has its keys, as a section of a source of its
// own, see [detect.DerivedSource].
//
// Such a source has a clock: A as the rules of its level knew it at the checkpoint.
// The rules of the next level go by the least of A and these clocks. So they drop
// nothing, and judge nothing, for which an event may still come, however long one
// partition is behind. What is settled below, less the time that something may take
// to happen there, is what is settled above.

// derivedType is a rule as the rules above it know it.
type derivedType struct {
	typ   string // detect.DerivedType
	level int
}

func derivedTypes(rules []*rule.Rule) []derivedType {
	var types []derivedType
	for _, r := range rules {
		if r.Correlates() {
			types = append(types, derivedType{detect.DerivedType(r.Version), r.Depth()})
		}
	}
	return types
}

// delay gives how much later than the time of an event that a correlation derives
// its stamp may be, if everything below comes in time.
func delay(c *rule.Correlation) time.Duration {
	late, hold := waits(c)
	const grid = 2 * time.Minute // what waits too long is looked for every minute
	switch c.Type {
	case rule.NewValue:
		return late + hold + grid
	case rule.Baseline, rule.Unmatched:
		return c.Timespan + late + hold + c.Lateness + grid
	}
	pane, m := panesOf(c.Timespan)
	d := time.Duration(pane)*time.Duration(m) + late
	if !atOnce(c) {
		d += hold
	}
	return d
}

// feed is how a rule takes the events of one that it refers to: its fields are
// places in that one's key.
type feed struct {
	rule   *rule.Rule // that takes them
	ref    uint8
	group  []int
	label  int // −1: none
	number int
	joins  []int
}

func newFeed(r *rule.Rule, ref int) feed {
	c := r.Correlation
	place := func(name string) int {
		f, _ := c.FieldOf(ref, name)
		return slices.Index(c.Rules[ref].Correlation.GroupBy, f)
	}
	f := feed{rule: r, ref: uint8(ref), label: -1, number: -1}
	if c.Type != rule.Unmatched || c.IsLeft(ref) {
		for _, name := range c.GroupBy {
			f.group = append(f.group, place(name))
		}
	}
	switch c.Type {
	case rule.ValueCount, rule.NewValue:
		f.label = place(c.Field)
	case rule.ValueSum, rule.ValueAvg, rule.ValuePercentile:
		f.number = place(c.Field)
	case rule.Baseline:
		if c.Field != "" {
			f.number = place(c.Field)
		}
	case rule.Unmatched:
		for _, name := range c.JoinFields(ref) {
			f.joins = append(f.joins, slices.Index(c.Rules[ref].Correlation.GroupBy, name))
		}
	}
	return f
}

// chain works out who refers to whom.
func (e *Engine) chain() {
	depth := 0
	e.height = 0
	for _, er := range e.list {
		b := er.detector.shared()
		b.outer = nil
		depth = max(depth, b.level)
		if er.current {
			e.height = max(e.height, b.level)
		}
	}
	for _, er := range e.list {
		if !er.current {
			continue
		}
		for ref, r := range er.rule.Correlation.Rules {
			if in, ok := e.byVer[r.Version]; ok && r.Correlates() {
				b := in.detector.shared()
				b.outer = append(b.outer, newFeed(er.rule, ref))
			}
		}
	}
	for len(e.derived) < e.height {
		e.derived = append(e.derived, nil)
	}
	e.derived = e.derived[:e.height]
	if depth != e.c.depth {
		e.c.depth = depth
		e.c.updateAbove()
	}
}

// begin notes A before a section: no event derived later may have an earlier stamp.
func (e *Engine) begin() {
	e.before = e.before[:0]
	for level := range e.c.depth + 1 {
		e.before = append(e.before, e.c.at(level))
	}
}

// shared implements detector.
func (b *base) shared() *base { return b }

// ended reports whether a rule that is no longer in force may go. One that refers to
// others does without its state: the clocks that would age it stand still once nobody
// derives for it.
func (b *base) ended() bool { return b.level > 0 && b.pending() == 0 }

// quiet reports whether the rule finds nothing now: the windows are being rebuilt, or
// it only feeds others.
func (b *base) quiet() bool { return b.e.silent || b.r.Silent }

// derives reports whether what the rule comes to is an event of a rule above it.
func (b *base) derives() bool { return len(b.outer) > 0 && !b.e.silent }

// derived is what a rule came to.
type derived struct {
	tenant  string
	key     []byte
	time    int64
	id      uint64
	finding detect.FindingID // that says so, unless the rule is silent
}

// derive makes it an event of the rules above. Its stamp is not below its time, so
// that those that belong together stand together, whichever clock lags.
func (b *base) derive(d derived) {
	values, err := detect.SplitKey(d.key)
	if err != nil || len(values) != len(b.c.GroupBy) {
		return // of no key: what could not be judged
	}
	ev := DerivedEvent{
		Tenant: d.tenant, Time: d.time, Stamp: max(d.time, b.e.before[b.level]), IDHash: d.id,
		Record: b.record(d, values),
	}
	for i := range b.outer {
		b.outer[i].take(ev, values, func(ev DerivedEvent) {
			b.e.derived[b.level] = append(b.e.derived[b.level], ev)
		})
	}
}

// take gives the event that ev is for the rule, or those that it is: one for each
// distinct value that joins.
func (f *feed) take(ev DerivedEvent, values []string, to func(DerivedEvent)) {
	ev.RuleVersion, ev.Ref = f.rule.Version, f.ref
	var key []byte
	for _, at := range f.group {
		key = detect.AppendKey(key, []byte(values[at]))
	}
	if f.label >= 0 {
		ev.Label = values[f.label]
	}
	if f.number >= 0 {
		n, err := strconv.ParseFloat(values[f.number], 64)
		if err != nil {
			return
		}
		ev.Number = n
	}
	if f.joins == nil {
		ev.Key = key
		to(ev)
		return
	}
	if f.group != nil {
		ev.Label = string(key)
	}
	var joined []string
	for _, at := range f.joins {
		if v := values[at]; v != "" && !slices.Contains(joined, v) {
			joined = append(joined, v)
			ev.Key = detect.AppendKey(nil, []byte(v))
			to(ev)
		}
	}
}

// maxRecordValue bounds the values that a record shows.
const maxRecordValue = 128

// record says what a derived event is, for whoever is shown it as evidence. It is a
// function of what happened, not of when it was noticed.
func (b *base) record(d derived, values []string) []byte {
	out := struct {
		Type    string            `json:"type"`
		RuleID  string            `json:"rule_id"`
		Title   string            `json:"title"`
		Summary string            `json:"summary"`
		Time    string            `json:"time"`
		Key     map[string]string `json:"key"`
		Finding string            `json:"finding_id,omitempty"`
	}{
		Type: "vedette.derived", RuleID: b.r.ID, Title: b.r.Title, Summary: b.c.String(),
		Time: time.Unix(0, d.time).UTC().Format(time.RFC3339Nano), Key: make(map[string]string, len(values)),
	}
	for i, v := range values {
		v = strings.ToValidUTF8(v, "\uFFFD")
		if len(v) > maxRecordValue {
			v = strings.ToValidUTF8(v[:maxRecordValue], "") + "…"
		}
		out.Key[b.c.GroupBy[i]] = v
	}
	if !b.r.Silent {
		out.Finding = d.finding.String()
	}
	rec, err := json.Marshal(out)
	if err != nil {
		panic("correlate: marshal record: " + err.Error()) // strings only
	}
	return rec
}

// derivedID identifies an event that a rule derives, by tenant, version, key and
// what else tells it apart.
func (b *base) derivedID(tenant string, key []byte, at int64) uint64 {
	id := detect.NewFindingID(tenant, b.r.Version, key, at)
	return binary.LittleEndian.Uint64(id[:])
}

// FlushDerived returns what chains have derived since it was last asked, of each
// level that has rules above it, and forgets it. It belongs into one transaction with
// what Flush returns.
func (e *Engine) FlushDerived() []Derived {
	if e.loop != nil {
		return nil
	}
	var ds []Derived
	for level := range e.height {
		ds = append(ds, e.flushLevel(level))
	}
	return ds
}

func (e *Engine) flushLevel(level int) Derived {
	d := Derived{Level: level, Clock: e.c.at(level), Events: e.derived[level]}
	e.derived[level] = nil
	for _, er := range e.list {
		b := er.detector.shared()
		if b.level != level || len(b.outer) == 0 {
			continue
		}
		if t := er.detector.through(); t != never {
			d.Progress = append(d.Progress, detect.Progress{Type: detect.DerivedType(er.rule.Version), Through: t})
		}
	}
	return d
}

// Section makes the section that has d, from an offset on, for one of so many
// partitions. Its memory is b's.
func (d *Derived) Section(s detect.Source, from int64, partition, partitions int, b *detect.SectionBuilder) detect.Section {
	b.Reset()
	for i := range d.Events {
		ev := &d.Events[i]
		if detect.KeyPartition(ev.RuleVersion, ev.Key, partitions) != partition {
			continue
		}
		b.Add(ev.Tenant, ev.RuleVersion, ev.Key, detect.Observation{
			Pointer: detect.Pointer{Source: s, Offset: from + int64(i), CRC: crc32.Checksum(ev.Record, castagnoli)},
			Time:    ev.Time, Stamp: ev.Stamp, IDHash: ev.IDHash, Ref: ev.Ref, Number: ev.Number, Label: ev.Label,
		})
	}
	return detect.Section{
		Source: s, From: from, To: from + d.Offsets(), Generation: d.Generation, Clock: d.Clock,
		Progress: d.Progress, Groups: b.Groups(),
	}
}

// Offsets is how many offsets of its source d takes: one an event and one more.
func (d *Derived) Offsets() int64 { return int64(len(d.Events)) + 1 }

// loop feeds an engine that is alone with what it derives.
type loop struct {
	next    []int64 // by level
	note    func(detect.Pointer, *DerivedEvent)
	feeding bool
	builder detect.SectionBuilder
}

// Alone has the engine apply what it derives itself, at once: for replay, where there
// is one partition and no ledger. note is told of each event before it is applied.
func (e *Engine) Alone(note func(detect.Pointer, *DerivedEvent)) { e.loop = &loop{note: note} }

// feedBack applies what was derived, level by level: what a level is given it passes
// on to higher ones only.
func (e *Engine) feedBack() {
	l := e.loop
	if l == nil || l.feeding || e.height == 0 {
		return
	}
	l.feeding = true
	for level := range e.height {
		for len(l.next) <= level {
			l.next = append(l.next, 0)
		}
		d := e.flushLevel(level)
		src := detect.DerivedSource(e.opts.Layout, level, 0)
		sec := d.Section(src, l.next[level], 0, 1, &l.builder)
		for i := range d.Events {
			ev := &d.Events[i]
			l.note(detect.Pointer{Source: src, Offset: sec.From + int64(i), CRC: crc32.Checksum(ev.Record, castagnoli)}, ev)
		}
		l.next[level] = sec.To
		e.Apply(&sec, false)
	}
	l.feeding = false
}
