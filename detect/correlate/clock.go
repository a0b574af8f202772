package correlate

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/event"
)

// Never is a clock that has not started, always the time after which nothing comes.
const (
	never  = math.MinInt64
	always = math.MaxInt64
)

// originHold is how long (of A) an origin that stopped renewing its progress
// still holds settling back.
const originHold = 2 * time.Hour

// origin is a collector's promise for one log type, as read on each source.
type origin struct {
	name, typ string
	through   []int64 // by index of source; never: not read there
	renewed   int64   // A(s) at which a source last saw it advance
}

// source is what has been applied of one partition of vedette.logs, or of what
// another partition of vedette.observations derived.
type source struct {
	detect.Source
	next  int64
	clock int64
	// seen is, by log type, the greatest event time read. Of a derived source it is
	// up to which event time all is there, by [detect.DerivedType], and stampSeen.
	seen map[string]int64
	tail detect.Tail // the last record that was applied
}

// stampSeen is the greatest stamp read of a derived source: it may be ahead of the
// source's clock.
const stampSeen = "stamp"

// clocks holds the vector, the append clocks and what follows from them. It is
// what State encodes: nothing else decides when something is settled.
type clocks struct {
	want       int // sources that have to be heard before A moves
	layout     int64
	partitions int // of the layout: derived sources that have to be heard, of each level
	depth      int // levels of chains above the first

	types   []event.Type
	sources []source
	current []int   // indexes of the sources that count for A
	derived [][]int // by level, indexes of the layout's derived sources
	index   map[detect.Source]int
	origins []origin
	byName  map[[2]string]int
	hold    int64

	a       int64   // A
	above   []int64 // A as the rules of levels 1, 2, … know it
	settled map[event.Type]int64
	finish  bool
}

func newClocks(want int) clocks {
	return clocks{
		want: want, partitions: 1, types: event.Types(), index: map[detect.Source]int{}, byName: map[[2]string]int{}, hold: int64(originHold),
		a: never, settled: map[event.Type]int64{},
	}
}

func (c *clocks) source(id detect.Source) int {
	if i, ok := c.index[id]; ok {
		return i
	}
	c.index[id] = len(c.sources)
	c.sources = append(c.sources, source{Source: id, clock: never, seen: map[string]int64{}})
	if id.Derived() {
		c.addDerived(id)
	} else {
		c.current = current(c.sources)
	}
	return len(c.sources) - 1
}

// addDerived has a source that was just added count, if it is one of the layout's.
func (c *clocks) addDerived(id detect.Source) {
	level := id.Level()
	if id != detect.DerivedSource(c.layout, level, id.Partition) || id.Partition < 0 || int(id.Partition) >= c.partitions {
		return
	}
	for len(c.derived) <= level {
		c.derived = append(c.derived, nil)
	}
	c.derived[level] = append(c.derived[level], len(c.sources)-1)
}

func (c *clocks) next(id detect.Source) int64 {
	if i, ok := c.index[id]; ok {
		return c.sources[i].next
	}
	return 0
}

// take moves the vector and the clocks of a section's source.
func (c *clocks) take(s *detect.Section) {
	i := c.source(s.Source)
	src := &c.sources[i]
	src.next = s.To
	if s.Source.Derived() {
		src.derive(s)
		c.update()
		return
	}
	if s.Tail.End > 0 {
		src.tail = s.Tail
	}
	if src.clock == never {
		// A new incarnation goes on from where the one before it stood, so that A never
		// goes back.
		for j := range c.sources {
			if o := &c.sources[j]; !o.Derived() && o.Partition == s.Source.Partition && o.Incarnation < s.Source.Incarnation {
				src.clock = max(src.clock, o.clock)
			}
		}
		// So does a partition that was added when A had begun.
		if src.clock == never && !c.finish {
			src.clock = c.a
		}
	}
	src.clock = max(src.clock, s.Clock)
	for _, n := range s.Seen {
		if t, ok := src.seen[n.Type]; !ok || n.Time > t {
			src.seen[n.Type] = n.Time
		}
	}
	for _, p := range s.Progress {
		o := c.origin(p.Origin, p.Type)
		for len(o.through) <= i {
			o.through = append(o.through, never)
		}
		if p.Through > o.through[i] {
			o.through[i] = p.Through
			o.renewed = max(o.renewed, src.clock)
		}
	}
	c.update()
}

// derive moves the clocks of a derived source.
func (s *source) derive(sec *detect.Section) {
	s.clock = max(s.clock, sec.Clock)
	see := func(what string, t int64) {
		if old, ok := s.seen[what]; !ok || t > old {
			s.seen[what] = t
		}
	}
	for _, p := range sec.Progress {
		see(p.Type, p.Through)
	}
	for _, n := range sec.Seen {
		see(n.Type, n.Time)
	}
	if at := greatestStamp(sec); at != never {
		see(stampSeen, at)
	}
}

// greatestStamp is that of a section's observations.
func greatestStamp(sec *detect.Section) int64 {
	at := int64(never)
	for i := range sec.Groups {
		for j := range sec.Groups[i].Obs {
			at = max(at, sec.Groups[i].Obs[j].Stamp)
		}
	}
	return at
}

func (c *clocks) origin(name, typ string) *origin {
	i, ok := c.byName[[2]string{name, typ}]
	if !ok {
		i = len(c.origins)
		c.byName[[2]string{name, typ}] = i
		c.origins = append(c.origins, origin{name: name, typ: typ, renewed: never})
	}
	return &c.origins[i]
}

// current gives the indexes of the sources that count for A: of each partition of
// vedette.logs the latest incarnation.
func current(sources []source) []int {
	latest := map[int32]int{}
	for i, s := range sources {
		if s.Derived() {
			continue
		}
		if j, ok := latest[s.Partition]; !ok || s.Incarnation > sources[j].Incarnation {
			latest[s.Partition] = i
		}
	}
	return slices.Sorted(maps.Values(latest))
}

// update works out A and how far each log type is settled.
func (c *clocks) update() {
	c.a = never
	if len(c.current) >= c.want {
		c.a = always
		for _, i := range c.current {
			c.a = min(c.a, c.sources[i].clock)
		}
	}
	if c.finish {
		c.a = always
	}
	for _, t := range c.types {
		c.settled[t] = c.settledType(t)
	}
	c.updateAbove()
}

// updateAbove works out A for the levels of chains: each is behind the one below it
// by what has still to come of what that one derives.
func (c *clocks) updateAbove() {
	c.above = c.above[:0]
	a := c.a
	for level := range c.depth {
		sources := c.heard(level)
		if sources == nil {
			a = never
		}
		for _, i := range sources {
			a = min(a, c.sources[i].clock)
		}
		c.above = append(c.above, a)
	}
}

// heard gives the derived sources of a level; none if not all have been heard.
func (c *clocks) heard(level int) []int {
	if level < len(c.derived) && len(c.derived[level]) == c.partitions {
		return c.derived[level]
	}
	return nil
}

// at is A as the rules of a level know it.
func (c *clocks) at(level int) int64 {
	if level == 0 {
		return c.a
	}
	return c.above[level-1]
}

// settledDerived is up to which event time all is there that the rule of a type, see
// [detect.DerivedType], and level derives on any partition.
func (c *clocks) settledDerived(typ string, level int) int64 {
	sources := c.heard(level)
	if sources == nil {
		return never
	}
	s := int64(always)
	for _, i := range sources {
		t, ok := c.sources[i].seen[typ]
		if !ok {
			return never
		}
		s = min(s, t)
	}
	return s
}

func (c *clocks) settledType(t event.Type) int64 {
	if c.a == never || c.a == always {
		return c.a
	}
	s := c.a - t.Delay().Usual
	for k := range c.origins {
		o := &c.origins[k]
		if o.typ != "" && o.typ != string(t) || o.renewed < c.a-c.hold {
			continue
		}
		for _, i := range c.current {
			if i >= len(o.through) {
				return never // declared, but not on every source yet
			}
			s = min(s, o.through[i])
		}
	}
	return s
}

// settledAll is how far all of the types are settled.
func (c *clocks) settledAll(types []event.Type) int64 {
	s := int64(always)
	for _, t := range types {
		s = min(s, c.settled[t])
	}
	return s
}

// newest is the greatest event time read of a log type.
func (c *clocks) newest(t event.Type) int64 {
	n := int64(never)
	for i := range c.sources {
		if s, ok := c.sources[i].seen[string(t)]; ok {
			n = max(n, s)
		}
	}
	return n
}

const (
	formatState  = 2
	formatState1 = 1 // without tails; still read
)

// append encodes the vector and the clocks; equal ones have equal encodings.
func (c *clocks) append(b []byte) []byte {
	b = append(b, formatState)
	order := make([]int, len(c.sources))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := c.sources[i].Source, c.sources[j].Source
		return cmp.Or(cmp.Compare(a.Incarnation, b.Incarnation), cmp.Compare(a.Partition, b.Partition))
	})
	b = binary.AppendUvarint(b, uint64(len(order)))
	for _, i := range order {
		s := &c.sources[i]
		b = binary.AppendUvarint(b, uint64(s.Incarnation))
		b = binary.AppendUvarint(b, uint64(uint32(s.Partition)))
		b = binary.AppendUvarint(b, uint64(s.next))
		b = binary.AppendVarint(b, s.clock)
		b = binary.AppendUvarint(b, uint64(s.tail.End))
		b = binary.AppendUvarint(b, uint64(s.tail.CRC))
		types := make([]string, 0, len(s.seen))
		for t := range s.seen {
			types = append(types, t)
		}
		slices.Sort(types)
		b = binary.AppendUvarint(b, uint64(len(types)))
		for _, t := range types {
			b = detect.AppendKey(b, []byte(t))
			b = binary.AppendVarint(b, s.seen[t])
		}
	}
	os := slices.Clone(c.origins)
	slices.SortFunc(os, func(a, b origin) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.typ, b.typ)) })
	b = binary.AppendUvarint(b, uint64(len(os)))
	for _, o := range os {
		b = detect.AppendKey(b, []byte(o.name))
		b = detect.AppendKey(b, []byte(o.typ))
		b = binary.AppendVarint(b, o.renewed)
		for _, i := range order {
			t := int64(never)
			if i < len(o.through) {
				t = o.through[i]
			}
			b = binary.AppendVarint(b, t)
		}
	}
	return b
}

// decode replaces the vector and the clocks by what append wrote; nothing is an
// empty vector.
func (c *clocks) decode(b []byte) error {
	fresh := newClocks(c.want)
	fresh.hold, fresh.layout, fresh.partitions, fresh.depth = c.hold, c.layout, c.partitions, c.depth
	if len(b) == 0 {
		fresh.update()
		*c = fresh
		return nil
	}
	r := reader{b: b}
	f := r.byte()
	if f != formatState && f != formatState1 {
		return fmt.Errorf("state: unknown format %d", f)
	}
	n := r.count(5)
	for range n {
		id := detect.Source{Incarnation: uint32(r.uvarint()), Partition: int32(uint32(r.uvarint()))}
		if _, ok := fresh.index[id]; ok {
			r.fail()
		}
		s := &fresh.sources[fresh.source(id)]
		s.next, s.clock = int64(r.uvarint()), r.varint()
		if f != formatState1 {
			s.tail = detect.Tail{End: int64(r.uvarint()), CRC: uint32(r.uvarint())}
		}
		for range r.count(2) {
			s.seen[r.string()] = r.varint()
		}
		if r.err != nil {
			break
		}
	}
	for range r.count(3 + n) {
		o := fresh.origin(r.string(), r.string())
		o.renewed = r.varint()
		o.through = make([]int64, n)
		for i := range o.through {
			o.through[i] = r.varint()
		}
	}
	if r.err != nil || len(r.b) > 0 {
		return errors.New("state: malformed")
	}
	// Whatever was not read on a source stands as never, which update takes for
	// "not declared there yet".
	fresh.update()
	*c = fresh
	return nil
}
