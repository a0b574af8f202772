package correlate

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// base is what the detectors of all correlation types share.
type base struct {
	e       *Engine
	r       *rule.Rule
	c       *rule.Correlation
	level   int          // of the rule, see [rule.Rule.Depth]
	types   []event.Type // that the rules it refers to read
	inner   []derivedType
	outer   []feed // rules that refer to it
	late    int64  // the greatest lateness of what it takes, or the rule's own
	keep    time.Duration
	hold    time.Duration // how long, beyond the lateness, something may wait to settle
	least   float64       // the peak of a delta that has none
	seed    maphash.Seed
	tenants []string
	deltas  deltas
	scratch []byte
}

func newBase(e *Engine, r *rule.Rule) (*base, error) {
	c := r.Correlation
	if c == nil {
		return nil, fmt.Errorf("it has no correlation")
	}
	if c.Type != rule.NewValue && c.Timespan <= 0 {
		return nil, fmt.Errorf("timespan %s: want a positive one", c.Timespan)
	}
	b := &base{e: e, r: r, c: c, seed: maphash.MakeSeed(), level: r.Depth(), types: typesOf(c.Rules), inner: derivedTypes(c.Rules)}
	late, hold := waits(c)
	b.late, b.hold = int64(late), hold
	b.keep = c.Timespan + late
	b.deltas = deltas{limit: e.opts.EvidenceLimit, index: map[deltaKey]*delta{}}
	return b, nil
}

// waits gives how late what a correlation takes may come and count as if in time,
// and how long beyond that it may wait to settle.
func waits(c *rule.Correlation) (late, hold time.Duration) {
	for _, t := range typesOf(c.Rules) {
		late = max(late, time.Duration(t.Delay().Most))
	}
	hold = cmp.Or(c.Hold, originHold)
	for _, r := range c.Rules {
		if r.Correlates() {
			_, h := waits(r.Correlation)
			late, hold = max(late, delay(r.Correlation)), max(hold, h)
		}
	}
	if c.Lateness > 0 {
		// Who can promise only what is so old promises it somewhat later still.
		hold += late
	}
	return max(late, c.Lateness), hold
}

// a is A as the rule knows it.
func (b *base) a() int64 { return b.e.c.at(b.level) }

// typesOf gives the log types that rules read: a rule that names none reads all, one
// that refers to others none of its own.
func typesOf(rules []*rule.Rule) []event.Type {
	var types []event.Type
	chained := false
	for _, r := range rules {
		if r.Correlates() {
			chained = true
			continue
		}
		route, reason := r.Logsource.Route()
		switch {
		case reason != "": // inactive: nothing comes from it
		case route.Type == "":
			return event.Types()
		case !slices.Contains(types, route.Type):
			types = append(types, route.Type)
		}
	}
	if len(types) == 0 && !chained {
		return event.Types()
	}
	return types
}

// fullKey prefixes a key with its tenant. It is valid until the next call.
func (b *base) fullKey(tenant string, key []byte) []byte {
	i := slices.Index(b.tenants, tenant)
	if i < 0 {
		i = len(b.tenants)
		b.tenants = append(b.tenants, tenant)
	}
	b.scratch = binary.AppendUvarint(b.scratch[:0], uint64(i))
	b.scratch = append(b.scratch, key...)
	return b.scratch
}

// split undoes fullKey.
func (b *base) split(full []byte) (tenant string, key []byte) {
	i, n := binary.Uvarint(full)
	return b.tenants[i], full[n:]
}

// other is the key into which keys past the bound fold.
func (b *base) other(tenant string) []byte {
	var k []byte
	for range max(1, len(b.c.GroupBy)) {
		k = detect.AppendKey(k, []byte(OtherKey))
	}
	return b.fullKey(tenant, k)
}

func (b *base) hash(full []byte) uint32 { return uint32(maphash.Bytes(b.seed, full)) }

// tile gives the start of the tile that t is in: the window, at least an hour,
// rounded up to panes, counted from the epoch.
func tile(t, pane int64, window time.Duration) int64 {
	size := (int64(max(window, time.Hour)) + pane - 1) / pane * pane
	return floorDiv(t, size) * size
}

// floorDiv rounds towards the past, also before the epoch.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// sub is a − b, kept at the ends of the range.
func sub(a, b int64) int64 {
	if a == never || a == always {
		return a
	}
	return a - b
}

func compare(v float64, op rule.Op, n float64) bool {
	switch op {
	case rule.OpGT:
		return v > n
	case rule.OpGTE:
		return v >= n
	case rule.OpLT:
		return v < n
	case rule.OpLTE:
		return v <= n
	case rule.OpEQ:
		return v == n
	case rule.OpNEQ:
		return v != n
	}
	return false
}

// deltaKey tells the findings of one rule apart.
type deltaKey struct {
	key  string // full key
	tile int64
	id   string // what a type adds to the identity, such as the new value
}

// delta is a finding in the making, since the last Flush.
type delta struct {
	detect.Finding
	estimated bool
	full      bool // the first limit pieces of evidence are sorted
}

// deltas are a rule's findings in the making.
type deltas struct {
	limit int
	index map[deltaKey]*delta
	list  []*delta
	known string // the full key last looked up, to save copies
}

// get finds or makes the delta of a full key and tile.
func (b *base) get(full []byte, tile int64) *delta {
	d := &b.deltas
	if f, ok := d.index[deltaKey{key: string(full), tile: tile}]; ok {
		return f
	}
	if d.known != string(full) {
		d.known = string(full)
	}
	tenant, key := b.split([]byte(d.known))
	f := &delta{Finding: detect.Finding{
		ID:     detect.NewFindingID(tenant, b.r.Version, key, tile),
		Tenant: tenant, RuleVersion: b.r.Version, Key: key, Tile: tile,
		Peak: b.least, First: always, Last: never,
	}}
	d.index[deltaKey{key: d.known, tile: tile}] = f
	d.list = append(d.list, f)
	return f
}

// put merges a whole delta of an identity of its own.
func (b *base) put(f detect.Finding) {
	k := deltaKey{id: string(f.ID[:])}
	if d, ok := b.deltas.index[k]; ok {
		d.Add(f, b.deltas.limit)
		return
	}
	d := &delta{Finding: f}
	b.deltas.index[k] = d
	b.deltas.list = append(b.deltas.list, d)
}

// see counts an event into the delta.
func (d *delta) see(ev detect.Evidence, limit int) {
	d.Count++
	d.First = min(d.First, ev.Time)
	d.Last = max(d.Last, ev.Time)
	d.point(ev, limit)
}

// point keeps the least limit pieces of evidence; behind the sorted ones up to as
// many again wait to be sorted in.
func (d *delta) point(ev detect.Evidence, limit int) {
	if d.full && detect.CompareEvidence(ev, d.Evidence[limit-1]) > 0 {
		return
	}
	d.Evidence = append(d.Evidence, ev)
	if limit > 0 && len(d.Evidence) >= 2*limit+16 {
		d.tidy(limit)
	}
}

func (d *delta) tidy(limit int) {
	neutral := detect.Finding{Peak: math.Inf(-1), First: always, Last: never}
	d.Add(neutral, limit)
	d.full = limit > 0 && len(d.Evidence) == limit
}

func (b *base) forget() { b.deltas.clear() }

// flush appends the findings and forgets them.
func (d *deltas) flush(fs []detect.Finding, detail func(*delta) string) []detect.Finding {
	for _, f := range d.list {
		if detail != nil {
			f.Detail = detail(f)
		}
		f.tidy(d.limit)
		fs = append(fs, f.Finding)
	}
	d.clear()
	return fs
}

func (d *deltas) clear() {
	clear(d.index)
	d.list = nil
	d.known = ""
}
