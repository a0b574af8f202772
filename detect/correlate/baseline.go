package correlate

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// baseline is the state of vedette.baseline: open buckets, and what closed ones
// taught.
//
// A bucket closes once it is settled; when, is spread a little by key, so that not
// all profiles change at once. It is judged against the learned buckets before it
// but for the last few, which late events might still have changed. A bucket that
// fires teaches nothing, nor does one of less than the minimum volume. What comes
// after its bucket closed is counted and dropped.
//
// A profile says up to which bucket its key is closed, so a rebuild needs no more
// than to leave out what it has and what closes on the way. A key that had no bucket for the forgetting time
// starts anew.
type baseline struct {
	*base
	profiles profiles[*bucketProfile]
	size     int64 // of a bucket
	behind   int64 // buckets before the judged one that are left out
	limit    int   // buckets kept to learn from
	forgets  time.Duration
	maxOpen  int64 // of append time that a bucket waits at most
	forced   int64 // last minute of A at which that was looked after
	ratio    bool
	salt     uint64
	open     map[bucketID]*bucket
	held     int64 // bytes of the buckets in open
	due      heap[*bucket]
}

// baselineForget is after how long without a bucket a key starts anew, for rules that
// do not say.
const baselineForget = 90 * 24 * time.Hour

type bucketID struct {
	slot uint32
	k    int64 // event time / size
}

// bucket is the distinct events of a key in one bucket, while it is open.
type bucket struct {
	bucketID
	at     int64 // settled time at which it closes
	stamp  int64 // least append stamp in it
	closed bool
	events []bucketEvent
	index  []uint32 // of events by what tells them apart: open addressing, 1 + place, 0 empty; a power of two long
	counts [2]int   // by ref, past the bound included
	over   logHistogram
	first  int64
	last   int64
}

type bucketEvent struct {
	detect.Evidence
	number float64
	ref    uint8
	late   bool
}

// bucketProfile is what was learned of a key.
type bucketProfile struct {
	known   bool
	first   int64 // first bucket
	closed  int64 // last closed bucket
	learned []learnedBucket
}

type learnedBucket struct {
	k int64
	v float64
}

func newBaseline(b *base) (*baseline, error) {
	n := &baseline{
		base: b, size: int64(b.c.Timespan), open: map[bucketID]*bucket{}, forced: never,
		ratio: b.c.Measure == "ratio", limit: max(256, 2*b.c.MinBuckets),
	}
	n.salt = maphash.String(b.seed, "salt")
	if !n.ratio && b.c.Measure != "p95" {
		return nil, fmt.Errorf("measure %q is not supported", b.c.Measure)
	}
	if n.ratio && len(b.c.Rules) != 2 {
		return nil, fmt.Errorf("measure ratio of %d rules: want two", len(b.c.Rules))
	}
	n.behind = (b.late + n.size - 1) / n.size
	n.maxOpen = int64(b.hold) + n.size + b.late
	n.profiles = newProfiles(b, readBucketProfile)
	n.forgets = cmp.Or(b.c.Forget, baselineForget)
	n.profiles.swept = n.profiles.sweepAt(n.forgets)
	b.keep = time.Duration(n.maxOpen)
	n.due.less = func(a, b *bucket) bool {
		return a.at < b.at || a.at == b.at && (a.k < b.k || a.k == b.k && a.slot < b.slot)
	}
	return n, nil
}

func (n *baseline) apply(g *detect.Group, next int64) {
	full := slices.Clone(n.fullKey(g.Tenant, g.Key))
	slot, ok := n.profiles.slot(full, func() *bucketProfile { return &bucketProfile{} })
	for i := range g.Obs {
		o := &g.Obs[i]
		if o.Offset < next {
			continue
		}
		n.e.stats.Observations++
		if !ok {
			n.e.stats.Folded++
			continue
		}
		k := floorDiv(o.Time, n.size)
		if p := n.profiles.list[slot]; p.known && k <= p.closed {
			n.e.stats.Closed++
			continue
		}
		n.bucket(slot, k, full).add(o, n)
	}
}

func (n *baseline) bucket(slot uint32, k int64, full []byte) *bucket {
	id := bucketID{slot, k}
	b := n.open[id]
	if b == nil {
		_, key := n.split(full)
		at := (k+1)*n.size + int64(detect.KeyHash("spread", key)%uint64(n.spread()+1))
		b = &bucket{bucketID: id, at: at, stamp: always, first: always, last: never}
		n.open[id] = b
		n.held += b.bytes()
		n.due.push(b)
	}
	return b
}

// spread is how much later than others the bucket of some key closes.
func (n *baseline) spread() int64 { return min(n.size/8, int64(30*time.Second)) }

func (b *bucket) add(o *detect.Observation, n *baseline) {
	b.stamp = min(b.stamp, o.Stamp)
	var ref uint8
	if n.ratio {
		ref = min(o.Ref, 1)
	}
	if ev := b.find(n.salt, o, ref); ev != nil {
		n.e.stats.Duplicates++
		ev.late = ev.late && n.isLate(o)
		if detect.ComparePointer(o.Pointer, ev.Pointer) < 0 {
			ev.Pointer = o.Pointer
		}
		return
	}
	b.counts[ref]++
	b.first, b.last = min(b.first, o.Time), max(b.last, o.Time)
	if len(b.events) >= min(n.e.opts.ExactIDs, 1<<27)*8 {
		was := b.over.bytes()
		b.over.add(o.Number)
		n.held += b.over.bytes() - was
		return
	}
	b.keep(n, bucketEvent{
		Evidence: detect.Evidence{Pointer: o.Pointer, Time: o.Time, IDHash: o.IDHash},
		number:   o.Number, ref: ref, late: n.isLate(o),
	})
}

// keep adds an event that find did not find.
func (b *bucket) keep(n *baseline, ev bucketEvent) {
	was := b.bytes()
	b.events = append(b.events, ev)
	if 4*len(b.events) > 3*len(b.index) {
		b.index = make([]uint32, max(16, 2*len(b.index)))
		for i := range b.events {
			b.place(n.salt, i)
		}
	} else {
		b.place(n.salt, len(b.events)-1)
	}
	n.held += b.bytes() - was
}

func (b *bucket) bytes() int64 {
	return sizeOf[bucket]() + int64(cap(b.events))*sizeOf[bucketEvent]() + int64(cap(b.index))*4 + b.over.bytes()
}

// find looks for an event among those kept.
func (b *bucket) find(salt uint64, o *detect.Observation, ref uint8) *bucketEvent {
	if len(b.index) == 0 {
		return nil
	}
	mask := uint64(len(b.index) - 1)
	for i := mix(salt, uint64(o.Time), o.IDHash, uint64(ref)) & mask; b.index[i] != 0; i = (i + 1) & mask {
		if ev := &b.events[b.index[i]-1]; ev.IDHash == o.IDHash && ev.Time == o.Time && ev.ref == ref {
			return ev
		}
	}
	return nil
}

// place indexes the i'th event.
func (b *bucket) place(salt uint64, i int) {
	ev := &b.events[i]
	mask := uint64(len(b.index) - 1)
	at := mix(salt, uint64(ev.Time), ev.IDHash, uint64(ev.ref)) & mask
	for b.index[at] != 0 {
		at = (at + 1) & mask
	}
	b.index[at] = uint32(i) + 1
}

func (n *baseline) advance() {
	defer n.sweep()
	s := n.settledAll(n.types)
	for n.due.len() > 0 && s != never && n.due.top().at <= s {
		if b := n.due.pop(); !b.closed {
			n.close(b)
		}
	}
	a := n.a()
	if a == never || a == always {
		return
	}
	if at := floorDiv(a, int64(time.Minute)); at != n.forced {
		n.forced = at
		n.force(at*int64(time.Minute) - n.maxOpen)
		if len(n.open) == 0 {
			n.open = map[bucketID]*bucket{} // a map does not shrink
		}
	}
}

// sweep drops the profiles of keys that would start anew, and the slots of those that
// have none.
func (n *baseline) sweep() {
	s := n.settledAll(n.types)
	var open map[uint32]bool
	n.profiles.sweep(n.forgets, func(slot uint32) (all, changed bool) {
		if open == nil {
			open = make(map[uint32]bool, len(n.open))
			for id := range n.open {
				open[id.slot] = true
			}
		}
		p := n.profiles.list[slot]
		all = !open[slot] && (!p.known || s != never && (floorDiv(s, n.size)-p.closed)*n.size >= 2*int64(n.forgets))
		return all, all && p.known
	})
}

// force closes buckets that hold something appended by the time given, and those
// of the same key before them.
func (n *baseline) force(stamp int64) {
	upTo := map[uint32]int64{}
	for _, b := range n.open {
		if k, ok := upTo[b.slot]; b.stamp <= stamp && (!ok || b.k > k) {
			upTo[b.slot] = b.k
		}
	}
	if len(upTo) == 0 {
		return
	}
	var old []*bucket
	for _, b := range n.open {
		if k, ok := upTo[b.slot]; ok && b.k <= k {
			old = append(old, b)
		}
	}
	slices.SortFunc(old, func(a, b *bucket) int { return cmp.Or(cmp.Compare(a.k, b.k), cmp.Compare(a.slot, b.slot)) })
	for _, b := range old {
		n.e.stats.Forced++
		n.close(b)
	}
}

// close judges a bucket and learns it.
func (n *baseline) close(b *bucket) {
	b.closed = true
	delete(n.open, b.bucketID)
	n.held -= b.bytes()
	if n.e.silent {
		return // it was judged here, and its profile may have been dropped since
	}
	p := n.profiles.list[b.slot]
	n.profiles.touch(b.slot)
	if !p.known || (b.k-p.closed)*n.size >= int64(n.forgets) {
		n.profiles.held -= p.bytes()
		*p = bucketProfile{known: true, first: b.k}
		n.profiles.held += p.bytes()
	}
	p.closed = b.k
	v, volume := n.measure(b)
	if volume < max(n.c.MinVolume, 1) {
		return
	}
	if n.judge(b, p, v, volume) {
		return
	}
	was := p.bytes()
	p.learned = append(p.learned, learnedBucket{b.k, v})
	n.profiles.held += p.bytes() - was
	if over := len(p.learned) - n.limit; over > 0 {
		p.learned = slices.Delete(p.learned, 0, over)
	}
}

// measure gives the bucket's value and how many events it rests on.
func (n *baseline) measure(b *bucket) (v float64, volume int) {
	if n.ratio {
		if b.counts[1] == 0 {
			return 0, 0
		}
		return float64(b.counts[0]) / float64(b.counts[1]), b.counts[1]
	}
	volume = b.counts[0]
	rank := (volume*95 + 99) / 100 // nearest rank
	if b.over.n > 0 {
		for i := range b.events {
			b.over.add(b.events[i].number)
		}
		return b.over.quantile(rank), volume
	}
	vs := make([]float64, len(b.events))
	for i := range b.events {
		vs[i] = b.events[i].number
	}
	slices.Sort(vs)
	return vs[rank-1], volume
}

// judge fires if the value is far above what was learned.
func (n *baseline) judge(b *bucket, p *bucketProfile, v float64, volume int) bool {
	var vs []float64
	for _, l := range p.learned {
		if l.k <= b.k-1-n.behind {
			vs = append(vs, l.v)
		}
	}
	if len(vs) < max(n.c.MinBuckets, 1) || (b.k-p.first)*n.size < int64(n.c.Learning) {
		return false
	}
	med := median(vs)
	for i := range vs {
		vs[i] = math.Abs(vs[i] - med)
	}
	mad := median(vs)
	if !(v > n.c.Factor*med && v > med+n.c.Deviations*1.4826*mad && v > n.c.Floor) {
		return false
	}
	if n.derives() {
		tenant, key := n.split(n.profiles.keys.key(b.slot))
		at := b.k * n.size
		n.derive(derived{
			tenant: tenant, key: key, time: at, id: n.derivedID(tenant, key, at),
			finding: detect.NewFindingID(tenant, n.r.Version, key, tile(at, n.size, n.c.Timespan)),
		})
	}
	if n.quiet() {
		return true
	}
	f := detect.Finding{
		Count: int64(volume), Peak: v, First: b.first, Last: b.last,
		Detail: n.detail(b, v, med, mad, len(p.learned), volume),
	}
	for i := range b.events {
		if b.events[i].late && (!n.ratio || b.events[i].ref == 1) { // as they are in volume
			f.Late++
		}
		if ev := &b.events[i]; n.ratio && ev.ref == 0 || !n.ratio && ev.number >= v {
			f.Evidence = append(f.Evidence, ev.Evidence)
		}
	}
	full := n.profiles.keys.key(b.slot)
	n.get(full, tile(b.k*n.size, n.size, n.c.Timespan)).Add(f, n.deltas.limit)
	return true
}

func (n *baseline) detail(b *bucket, v, med, mad float64, buckets, volume int) string {
	d := struct {
		Measure   string  `json:"measure"`
		Field     string  `json:"field,omitempty"`
		Value     float64 `json:"value"`
		Median    float64 `json:"median"`
		MAD       float64 `json:"mad"`
		Buckets   int     `json:"buckets"`
		Volume    int     `json:"volume"`
		Bucket    string  `json:"bucket"`
		Size      string  `json:"size"`
		Estimated bool    `json:"estimated,omitempty"`
	}{
		n.c.Measure, n.c.Field, v, med, mad, buckets, volume,
		time.Unix(0, b.k*n.size).UTC().Format(time.RFC3339), n.c.Timespan.String(), b.over.n > 0,
	}
	out, err := json.Marshal(d)
	if err != nil { // only an infinite number can fail
		return ""
	}
	return string(out)
}

// median sorts vs.
func median(vs []float64) float64 {
	slices.Sort(vs)
	n := len(vs)
	if n%2 == 1 {
		return vs[n/2]
	}
	return (vs[n/2-1] + vs[n/2]) / 2
}

func (p *bucketProfile) bytes() int64 {
	return sizeOf[bucketProfile]() + int64(cap(p.learned))*sizeOf[learnedBucket]()
}

func (p *bucketProfile) append(b []byte) []byte {
	b = binary.AppendVarint(b, p.first)
	b = binary.AppendVarint(b, p.closed-p.first)
	b = binary.AppendUvarint(b, uint64(len(p.learned)))
	k := p.first
	for _, l := range p.learned {
		b = binary.AppendVarint(b, l.k-k)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(l.v))
		k = l.k
	}
	return b
}

func readBucketProfile(r *reader) *bucketProfile {
	p := &bucketProfile{known: true, first: r.varint()}
	p.closed = p.first + r.varint()
	k := p.first
	for range r.count(9) {
		k += r.varint()
		p.learned = append(p.learned, learnedBucket{k, r.float()})
	}
	return p
}

func (n *baseline) through() int64 { return sub(n.settledAll(n.types), n.size+n.spread()) }

func (n *baseline) horizon(a int64) int64 { return sub(a, n.maxOpen+int64(2*time.Minute)) }

// idle is false for a rule that has learned: should it come back, it knows.
func (n *baseline) idle() bool {
	return len(n.open) == 0 && len(n.deltas.list) == 0 && n.profiles.keys.len() == 0 && len(n.profiles.dirty) == 0
}

func (n *baseline) reset() {
	n.open, n.held = map[bucketID]*bucket{}, 0
	n.due.items = nil
	n.forced = never
	n.profiles.swept = n.profiles.sweepAt(n.forgets)
}

func (n *baseline) flush(fs []detect.Finding, ps []Page) ([]detect.Finding, []Page) {
	fs = n.deltas.flush(fs, nil)
	return fs, n.profiles.flushPages(ps, func(p *bucketProfile) bool { return p.known })
}

func (n *baseline) forget() {
	n.deltas.clear()
	clear(n.profiles.dirty) // a page is packed again when one of its profiles changes
}

func (n *baseline) restore(p Page) error { return n.profiles.restore(p) }
