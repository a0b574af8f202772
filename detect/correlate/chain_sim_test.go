package correlate_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
)

// chainFault is a way to break chains, to see that the property notices.
type chainFault int

const (
	soundChain      chainFault = iota
	clockIgnored               // derived sections say that nothing is still to come
	progressIgnored            // they say that everything has settled
	emitOnRebuild              // what a rebuild meets again is derived again
	hotBitLost                 // a snapshot forgets which panes are hot
	notCommitted               // what is derived is not in the checkpoint now and then
	stampIsClock               // the stamp is that of the clock, however far behind
	numChainFaults
)

func (f chainFault) String() string {
	return [...]string{
		"sound", "clock of derived sources ignored", "progress of derived sources ignored", "emission during rebuild",
		"hot bit lost in a snapshot", "derived but not committed", "stamps without event time",
	}[f]
}

// chainWorld is all partitions of a layout: each has its log and an owner, and what
// owners commit of chains is relayed to the logs of all.
type chainWorld struct {
	t     fataler
	r     *rand.Rand
	c     *chain
	n     int
	limit int
	fault chainFault

	parts   []*chainPart
	derived map[detect.Source]*derivedRows
	emitted map[string]int // how often each event was committed
}

type chainPart struct {
	sim    sim
	raw    []detect.Section // not in the log yet
	log    []detect.Section
	pos    int64
	reach  []int64 // of what has been applied, by position
	led    *ledger
	e      *correlate.Engine
	asleep int // rounds that its owner is away for
}

// derivedRows is what one partition has committed of one level.
type derivedRows struct {
	rows   []correlate.Derived
	starts []int64 // of rows
	next   int64
	sent   []int64 // by partition
}

func newChainWorld(t fataler, r *rand.Rand, c *chain, records [][]simRecord, n, limit int, rough bool, f chainFault) *chainWorld {
	w := &chainWorld{
		t: t, r: r, c: c, n: n, limit: limit, fault: f,
		derived: map[detect.Source]*derivedRows{}, emitted: map[string]int{},
	}
	for i := range n {
		p := &chainPart{led: newLedger(), reach: []int64{math.MinInt64}, sim: sim{
			rules: c.rules, sources: records, limit: limit, partition: i, n: n, chain: c,
			opts: correlate.Options{Sources: len(records), EvidenceLimit: limit, Skew: 1, Layout: 3, Partitions: n},
		}}
		ahead := time.Duration(0)
		if rough {
			ahead = pick(r, 0, time.Minute, 10*time.Minute)
			p.sim.opts.Skew = ahead + 1
		}
		p.raw = p.sim.log(r, ahead)
		p.e = p.sim.engine(t)
		w.parts = append(w.parts, p)
	}
	return w
}

// put appends a section to a partition's log, through the codec.
func (w *chainWorld) put(p *chainPart, s detect.Section) {
	secs, err := detect.DecodeBatch(detect.AppendBatch(nil, []detect.Section{s}))
	if err != nil {
		w.t.Fatal(err)
	}
	p.log = append(p.log, secs[0])
}

// step applies the next section; false: there is none.
func (w *chainWorld) step(p *chainPart) bool {
	if p.pos == int64(len(p.log)) {
		return false
	}
	p.e.Apply(&p.log[p.pos], false)
	p.passed()
	return true
}

// passed moves the position and what is known of what stands before it.
func (p *chainPart) passed() {
	s := &p.log[p.pos]
	reach := max(p.reach[p.pos], s.Clock)
	for i := range s.Groups {
		for j := range s.Groups[i].Obs {
			reach = max(reach, s.Groups[i].Obs[j].Stamp)
		}
	}
	p.pos++
	p.reach = append(p.reach[:p.pos], reach)
}

// commit writes a checkpoint. It reports whether there was news for other levels.
func (w *chainWorld) commit(p *chainPart, mark bool) bool {
	p.led.commit(p.e, p.pos, w.limit, mark, p.reach[p.pos])
	news := false
	for _, d := range p.e.FlushDerived() {
		if w.fault == notCommitted && w.r.IntN(8) == 0 {
			d.Events = nil
		}
		id := detect.DerivedSource(3, d.Level, int32(p.sim.partition))
		rows := w.derived[id]
		if rows == nil {
			rows = &derivedRows{sent: make([]int64, w.n)}
			w.derived[id] = rows
		}
		if n := len(rows.rows); n > 0 && len(d.Events) == 0 && d.Clock == rows.rows[n-1].Clock && slices.Equal(d.Progress, rows.rows[n-1].Progress) {
			continue
		}
		news = true
		for i := range d.Events {
			ev := &d.Events[i]
			w.emitted[fmt.Sprint(ev.RuleVersion, ev.Ref, ev.IDHash, string(ev.Key))]++
			if w.fault == stampIsClock {
				ev.Stamp = d.Clock
			}
		}
		rows.rows = append(rows.rows, d)
		rows.starts = append(rows.starts, rows.next)
		rows.next += d.Offsets()
	}
	return news
}

// relay carries what a partition derived on a level to another, up to a place at which
// a section may be cut.
func (w *chainWorld) relay(id detect.Source, to int, rough bool) bool {
	rows := w.derived[id]
	if rows == nil {
		return false
	}
	from, end := rows.sent[to], rows.next
	if rough {
		if w.r.IntN(4) == 0 {
			from = in(w.r, 0, from) // a relay that does not know what was carried
		}
		if end > from {
			end = in(w.r, from+1, end)
		}
		if w.r.IntN(8) == 0 && end < rows.next { // a gap, filled later
			w.put(w.parts[to], w.section(id, end, end+1, to))
		}
	}
	if end <= from {
		return false
	}
	w.put(w.parts[to], w.section(id, from, end, to))
	rows.sent[to] = max(rows.sent[to], end)
	return true
}

// section makes the section [from, to) of a derived source for a partition. Its clock
// is that of the last checkpoint of which all is below to.
func (w *chainWorld) section(id detect.Source, from, to int64, partition int) detect.Section {
	rows := w.derived[id]
	sec := detect.Section{Source: id, From: from, To: to, Clock: math.MinInt64}
	all := correlate.Derived{}
	offsets := []int64{}
	for i, d := range rows.rows {
		if rows.starts[i]+d.Offsets() <= to {
			sec.Clock, sec.Progress = d.Clock, d.Progress
		}
		for j, ev := range d.Events {
			if at := rows.starts[i] + int64(j); at >= from && at < to {
				all.Events = append(all.Events, ev)
				offsets = append(offsets, at)
			}
		}
	}
	var b detect.SectionBuilder
	made := all.Section(id, 0, partition, w.n, &b)
	for i := range made.Groups {
		for j := range made.Groups[i].Obs {
			o := &made.Groups[i].Obs[j]
			o.Offset = offsets[o.Offset]
		}
	}
	sec.Groups = made.Groups
	switch w.fault {
	case clockIgnored:
		sec.Clock = math.MaxInt64
	case progressIgnored:
		sec.Progress = nil
		for _, r := range w.c.rules {
			sec.Progress = append(sec.Progress, detect.Progress{Type: detect.DerivedType(r.Version), Through: math.MaxInt64})
		}
	}
	return sec
}

// crash has the owner take over again.
func (w *chainWorld) crash(p *chainPart) {
	f := sound
	if w.fault == emitOnRebuild {
		f = liveRebuild
	}
	p.e = p.sim.takeOver(w.t, w.r, p.led, p.log, f)
	p.pos = p.led.mark.Position
	p.reach = p.reach[:p.pos+1]
}

func (w *chainWorld) snapshot(p *chainPart) {
	var b bytes.Buffer
	if w.fault == hotBitLost {
		p.e.ForgetHot()
	}
	if p.pos > 0 && p.e.Snapshot(&b) == nil {
		p.led.snapshots = append(p.led.snapshots, snapshot{p.pos, p.e.State(), b.Bytes()})
	}
}

// sources lists the derived sources there may be.
func (w *chainWorld) sources() []detect.Source {
	var out []detect.Source
	for level := range w.c.rules[len(w.c.rules)-1].Depth() {
		for q := range w.n {
			out = append(out, detect.DerivedSource(3, level, int32(q)))
		}
	}
	return out
}

// run has everything happen in some order, until nothing is left to happen.
func (w *chainWorld) run(rough bool) map[detect.FindingID]detect.Finding {
	sources := w.sources()
	for rough {
		left := false
		for _, p := range w.parts {
			left = left || len(p.raw) > 0
		}
		if !left {
			break
		}
		p := pick(w.r, w.parts...)
		if len(p.raw) > 0 && w.r.IntN(3) > 0 {
			k := in(w.r, 1, min(4, len(p.raw)))
			for _, s := range p.raw[:k] {
				w.put(p, s)
			}
			p.raw = p.raw[k:]
		}
		for range in(w.r, 0, 3) {
			w.relay(pick(w.r, sources...), w.r.IntN(w.n), true)
		}
		if p.asleep > 0 {
			p.asleep--
			continue
		}
		for range in(w.r, 0, 6) {
			w.step(p)
		}
		switch in(w.r, 0, 13) {
		case 0, 1, 2:
			w.commit(p, false)
		case 3, 4, 5:
			w.commit(p, true)
		case 6, 7:
			w.snapshot(p)
		case 8, 9:
			w.crash(p)
		case 10:
			p.asleep = in(w.r, 0, 40)
		}
	}
	for round, news := 0, true; news; round++ {
		if round > 50 {
			w.t.Fatal("chains do not come to rest")
		}
		news = false
		for _, p := range w.parts {
			for len(p.raw) > 0 && (rough || round > 0) { // all of it at once, or one by one
				w.put(p, p.raw[0])
				p.raw = p.raw[1:]
			}
			if len(p.raw) > 0 {
				news = true
			}
			for w.step(p) {
			}
			news = w.commit(p, true) || news
		}
		for _, id := range sources {
			for to := range w.n {
				news = w.relay(id, to, false) || news
			}
		}
	}
	all := newLedger()
	for _, p := range w.parts {
		for _, f := range p.led.findings {
			for i := range f.Evidence {
				if f.Evidence[i].Source.Derived() { // its offset tells of checkpoints
					f.Evidence[i].Pointer = detect.Pointer{}
				}
			}
			all.findings[f.ID] = f
		}
	}
	return all.findings
}

// chainEvents draws events in bursts, so that windows meet theirs.
func chainEvents(r *rand.Rand, n int) []simEvent {
	var evs []simEvent
	at := start
	for i := range n {
		at += pick(r, int64(0), 1, 1, 2, 3, 5, 9, 14, 20, 50, 200, 1500) * int64(time.Second)
		ev := simEvent{
			time: at, id: uint64(i + 1), key: pick(r, "a", "a", "b") + "/" + letter(r, 3), ref: uint8(pick(r, 0, 0, 1, 2)),
			label: letter(r, 3),
		}
		evs = append(evs, ev)
		if in(r, 0, 5) == 0 { // it matched another rule too
			ev.ref = uint8((int(ev.ref) + 1) % 3)
			evs = append(evs, ev)
		}
	}
	return evs
}

// checkChain runs a chain and returns how its findings differ from the model's.
func checkChain(t fataler, seed uint64, events int, lateness time.Duration, f chainFault) (found int, diff string) {
	r := rand.New(rand.NewPCG(seed, 2))
	c := drawChain(r)
	k := kind{delay: 15 * time.Minute}
	if c.settles {
		k.delay = 3*time.Minute - time.Second
	}
	if lateness > 0 {
		k.delay, k.displace = lateness, displaced(lateness)
		for _, rl := range c.rules {
			rl.Correlation.Lateness = lateness
		}
	}
	evs := chainEvents(r, events)
	records := deliveries(r, evs, in(r, 1, 3), k, r.IntN(2) == 0)
	n := pick(r, 1, 2, 3, 5)
	limit := pick(r, 1, 3, 1000)
	want := c.model(evs, pointers(records), limit)
	describe := func() string {
		s := ""
		for _, rl := range c.rules {
			s += fmt.Sprintf("%s level %d silent %v by %v: %s\n", rl.Version, rl.Depth(), rl.Silent, rl.Correlation.GroupBy, rl.Correlation)
		}
		return s
	}
	for _, rough := range []bool{false, true} {
		fault := soundChain
		if rough {
			fault = f
		}
		w := newChainWorld(t, r, c, records, n, limit, rough, fault)
		got := w.run(rough)
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			return len(want), fmt.Sprintf("%d partitions, rough %v (-model +got):\n%s\n%s", n, rough, d, describe())
		}
		for ev, times := range w.emitted {
			if times > 1 {
				return len(want), fmt.Sprintf("rough %v: %q was derived %d times\n%s", rough, ev, times, describe())
			}
		}
	}
	return len(want), ""
}

// The property for chains: whatever the partitions, however far one of them lags, and
// however what is derived is divided, repeated and delayed on its way, the outer rules
// find what they find in the hot panes of the inner ones.
func TestChainFindingsAreAFunctionOfTheEvents(t *testing.T) {
	for _, late := range []time.Duration{0, 6 * time.Hour} {
		t.Run(late.String(), func(t *testing.T) {
			found := 0
			rapid.Check(t, func(t *rapid.T) {
				n, diff := checkChain(t, rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 50).Draw(t, "events"), late, soundChain)
				if diff != "" {
					t.Fatal(diff)
				}
				found += n
			})
			if found == 0 {
				t.Error("nothing was found in any run: the property is empty")
			}
		})
	}
}

// It has to notice chains that are broken.
func TestChainPropertyNoticesFaults(t *testing.T) {
	const seeds = 300
	for f := soundChain + 1; f < numChainFaults; f++ {
		t.Run(f.String(), func(t *testing.T) {
			for seed := range uint64(seeds) {
				if _, diff := checkChain(t, seed, 40, 0, f); diff != "" {
					return
				}
			}
			t.Errorf("not noticed in %d runs", seeds)
		})
	}
}
