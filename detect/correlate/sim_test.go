package correlate_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// simEvent is what happened; it may be delivered several times.
type simEvent struct {
	time   int64
	id     uint64
	key    string
	ref    uint8
	number float64
	label  string
	// late says that every delivery came later than the rule reckons with, pointedLate
	// that the one with the least pointer did.
	late, pointedLate bool
}

// simRecord is one record on a source: a delivery, or a tick (ev nil).
type simRecord struct {
	stamp    int64
	crc      uint32
	events   []simEvent // observations of one record: of one event, by ref and key
	progress []detect.Progress
}

// sim is a stream of sections on the partitions of vedette.observations, made of
// records on sources.
type sim struct {
	rules     []*rule.Rule
	sources   [][]simRecord
	opts      correlate.Options
	limit     int
	partition int // of n
	n         int
	chain     *chain // says what each rule takes of an event; nil: all take all
}

const tenant = "t"

// fataler is what *testing.T and *rapid.T share here.
type fataler interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

func in[N int | int64](r *rand.Rand, lo, hi N) N { return lo + N(r.Int64N(int64(hi-lo)+1)) }

func pick[T any](r *rand.Rand, vs ...T) T { return vs[r.IntN(len(vs))] }

func letter(r *rand.Rand, n int) string { return string(rune('a' + r.IntN(n))) }

// keyOf is the key of the values that stand between slashes.
func keyOf(s string) []byte {
	var key []byte
	for v := range strings.SplitSeq(s, "/") {
		key = detect.AppendKey(key, []byte(v))
	}
	return key
}

func source(i int) detect.Source { return detect.Source{Incarnation: 1, Partition: int32(i)} }

// section makes the section [from, to) of source s for the sim's partition.
func (s *sim) section(src int, from, to int64) detect.Section {
	sec := detect.Section{Source: source(src), From: from, To: to, Generation: "g", Clock: -1 << 62}
	var b detect.SectionBuilder
	progress := map[string]detect.Progress{}
	seen := int64(-1 << 62)
	for off, rec := range s.sources[src][:to] {
		sec.Clock = max(sec.Clock, rec.stamp)
		for _, p := range rec.progress {
			progress[p.Origin] = p
		}
		for _, ev := range rec.events {
			seen = max(seen, ev.time)
		}
		if int64(off) < from {
			continue
		}
		for _, ev := range rec.events {
			for _, rl := range s.rules {
				ev := ev
				if s.chain != nil {
					var ok bool
					if ev, ok = s.chain.take(rl, ev); !ok {
						continue
					}
				}
				if detect.KeyPartition(rl.Version, keyOf(ev.key), s.n) != s.partition {
					continue
				}
				b.Add(tenant, rl.Version, keyOf(ev.key), detect.Observation{
					Pointer: detect.Pointer{Source: source(src), Offset: int64(off), CRC: rec.crc},
					Time:    ev.time, Stamp: rec.stamp, IDHash: ev.id, Ref: ev.ref, Number: ev.number, Label: ev.label,
				})
			}
		}
	}
	for _, o := range slices.Sorted(mapKeys(progress)) {
		sec.Progress = append(sec.Progress, progress[o])
	}
	sec.Seen = []detect.Seen{{Type: "aws.apigateway", Time: seen}}
	sec.Groups = slices.Clone(b.Groups())
	return sec
}

func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// log draws the partition's log: sections cut anywhere, repeated, overlapping and
// with gaps that are filled later, sources interleaved so that none is more than
// ahead of the slowest.
func (s *sim) log(r *rand.Rand, ahead time.Duration) []detect.Section {
	var log []detect.Section
	next := make([]int64, len(s.sources))
	for {
		var open []int
		slowest := int64(1<<63 - 1)
		for i := range s.sources {
			if next[i] < int64(len(s.sources[i])) {
				open = append(open, i)
				slowest = min(slowest, s.sources[i][next[i]].stamp)
			}
		}
		if len(open) == 0 {
			return log
		}
		open = slices.DeleteFunc(open, func(i int) bool { return s.sources[i][next[i]].stamp > slowest+int64(ahead) })
		i := pick(r, open...)
		end := int64(len(s.sources[i]))
		to := min(end, next[i]+in(r, int64(1), 12))
		for to > next[i]+1 && s.sources[i][to-1].stamp > slowest+int64(ahead) {
			to--
		}
		switch in(r, 0, 9) {
		case 0: // a repeat or an overlap
			from := in(r, 0, next[i])
			log = append(log, s.section(i, from, to))
		case 1: // a gap, filled after
			if to < end {
				log = append(log, s.section(i, to, to+1))
			}
			log = append(log, s.section(i, next[i], to))
		default:
			log = append(log, s.section(i, next[i], to))
		}
		next[i] = to
	}
}

// ledger is what is committed.
type ledger struct {
	findings map[detect.FindingID]detect.Finding
	pages    map[string]correlate.Page
	dropped  int // pages
	mark     correlate.Mark
	marks    []correlate.Mark

	snapshots []snapshot // beside the ledger
}

// snapshot is a file that an owner wrote, behind a checkpoint or not.
type snapshot struct {
	position    int64
	state, data []byte
}

func newLedger() *ledger {
	return &ledger{findings: map[detect.FindingID]detect.Finding{}, pages: map[string]correlate.Page{}}
}

func (l *ledger) commit(e *correlate.Engine, position int64, limit int, saveMark bool, reach int64) {
	fs, ps := e.Flush()
	l.merge(fs, limit)
	l.save(ps)
	l.mark = correlate.Mark{Position: position, Clock: e.Clock(), State: e.State()}
	if saveMark {
		m := l.mark
		m.Clock = reach // no record before the mark is later: as the owner has it
		l.marks = append(l.marks, m)
	}
}

func (l *ledger) save(ps []correlate.Page) {
	for _, p := range ps {
		if k := fmt.Sprint(p.RuleVersion, "/", p.Number); len(p.Data) > 0 {
			l.pages[k] = p
		} else {
			delete(l.pages, k)
			l.dropped++
		}
	}
}

func (l *ledger) merge(fs []detect.Finding, limit int) {
	for _, f := range fs {
		if old, ok := l.findings[f.ID]; ok {
			old.Evidence = slices.Clone(old.Evidence)
			old.Add(f, limit)
			l.findings[f.ID] = old
		} else {
			l.findings[f.ID] = f
		}
	}
}

// fault is a way to break the takeover, to see that the property notices.
type fault int

const (
	sound           fault = iota
	vectorOfNow           // rebuild with the checkpoint's vector and clocks
	liveRebuild           // rebuild feeds profiles and the ledger
	noRebuild             // windows start empty
	newestMark            // rebuild from the newest mark, however near
	withoutProfiles       // profiles are not restored
	flushNothing          // a checkpoint forgets the pages
	noDedupe              // each delivery is taken for an event of its own
	arrivalTime           // windows on the append stamp, not on event time
	snapshotBeyond        // a snapshot is used of a place behind the checkpoint
	snapshotOnly          // what stands between a snapshot and the checkpoint is not read
	snapshotLive          // it is read, but not silently
	numFaults
)

func (f fault) String() string {
	return [...]string{
		"sound", "vector of the checkpoint on rebuild", "rebuild is live", "no rebuild", "newest mark",
		"profiles not restored", "profiles not committed", "no dedupe", "arrival time",
		"snapshot beyond the checkpoint", "snapshot without what follows", "live behind a snapshot",
	}[f]
}

// spoil breaks the sections themselves.
func (f fault) spoil(log []detect.Section) {
	for i := range log {
		for j := range log[i].Groups {
			for k := range log[i].Groups[j].Obs {
				switch o := &log[i].Groups[j].Obs[k]; f {
				case noDedupe:
					o.IDHash = o.IDHash<<20 | uint64(o.Source.Partition)<<16 | uint64(o.Offset)
				case arrivalTime:
					o.Time = o.Stamp
				}
			}
		}
	}
}

func (s *sim) engine(t fataler) *correlate.Engine {
	e := correlate.NewEngine(s.opts)
	if err := e.AddRules(&rule.Set{Correlations: s.rules}); err != nil {
		t.Fatal(err)
	}
	return e
}

// takeOver makes an engine that goes on at the ledger's checkpoint.
func (s *sim) takeOver(t fataler, r *rand.Rand, l *ledger, log []detect.Section, f fault) *correlate.Engine {
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	e := s.engine(t)
	must(e.Reset(l.mark.State))
	from := correlate.Mark{}
	need := e.RebuildClock()
	for _, m := range l.marks {
		if m.Clock <= need || f == newestMark {
			from = m
		}
	}
	var pages []correlate.Page
	for _, k := range slices.Sorted(mapKeys(l.pages)) {
		pages = append(pages, l.pages[k])
	}
	if e, at := s.load(t, r, l, pages, f); e != nil {
		for i := at; i < l.mark.Position && f != snapshotOnly; i++ {
			e.Apply(&log[i], f != snapshotLive)
		}
		if f == sound && string(e.State()) != string(l.mark.State) {
			t.Fatalf("behind the snapshot the state is not the checkpoint's")
		}
		return e
	}
	e = s.engine(t)
	if f != withoutProfiles {
		must(e.Restore(pages))
	}
	state := from.State
	if f == vectorOfNow {
		state = l.mark.State
	}
	if f == noRebuild {
		from, state = l.mark, l.mark.State
	}
	must(e.Reset(state))
	for i := from.Position; i < l.mark.Position; i++ {
		e.Apply(&log[i], f != liveRebuild)
	}
	if f == sound && len(l.mark.State) > 0 && string(e.State()) != string(l.mark.State) {
		t.Fatalf("after the rebuild the state is not the checkpoint's")
	}
	return e
}

// load makes an engine with the windows of some snapshot, and says where it
// stands; nil: without.
func (s *sim) load(t fataler, r *rand.Rand, l *ledger, pages []correlate.Page, f fault) (*correlate.Engine, int64) {
	if f != sound && f != snapshotBeyond && f != snapshotOnly && f != snapshotLive || len(l.snapshots) == 0 || r.IntN(3) == 0 {
		return nil, 0
	}
	at := pick(r, l.snapshots...)
	if f == snapshotBeyond {
		at = l.snapshots[len(l.snapshots)-1]
	} else if at.position > l.mark.Position {
		return nil, 0
	}
	load := func(data []byte) (*correlate.Engine, error) {
		e := s.engine(t)
		if err := e.Restore(pages); err != nil {
			t.Fatal(err)
		}
		if err := e.Reset(at.state); err != nil {
			t.Fatal(err)
		}
		return e, e.Load(bytes.NewReader(data))
	}
	if r.IntN(4) == 0 {
		broken := slices.Clone(at.data)
		switch i := r.IntN(len(broken)); r.IntN(3) {
		case 0:
			broken[i] ^= byte(in(r, 1, 255))
		case 1:
			broken = broken[:i]
		default: // of another place
			if other := pick(r, l.snapshots...); string(other.state) != string(at.state) {
				broken = other.data
			} else {
				broken = nil
			}
		}
		if _, err := load(broken); !errors.Is(err, correlate.ErrSnapshot) {
			t.Fatalf("a broken snapshot is taken: %v", err)
		}
	}
	e, err := load(at.data)
	if err != nil {
		t.Fatalf("a snapshot of the same place is refused: %v", err)
	}
	return e, at.position
}

// run reads the log with crashes and returns the ledger. Each section travels
// through the codec.
func (s *sim) run(t fataler, r *rand.Rand, log []detect.Section, crashes bool, f fault) *ledger {
	wire := make([]detect.Section, len(log))
	for i := range log {
		secs, err := detect.DecodeBatch(detect.AppendBatch(nil, log[i:i+1]))
		if err != nil {
			t.Fatal(err)
		}
		wire[i] = secs[0]
	}
	f.spoil(wire)
	// reach is the greatest clock of what has been applied up to each position.
	reach := make([]int64, len(wire)+1)
	reach[0] = math.MinInt64
	for i := range wire {
		reach[i+1] = max(reach[i], wire[i].Clock)
	}
	l := newLedger()
	e := s.engine(t)
	for pos := int64(0); pos < int64(len(wire)); {
		e.Apply(&wire[pos], false)
		pos++
		if !crashes {
			continue
		}
		if r.IntN(3) == 0 {
			// Findings that are not committed do not go into one.
			var b bytes.Buffer
			if e.Snapshot(&b) == nil {
				l.snapshots = append(l.snapshots, snapshot{pos, e.State(), b.Bytes()})
			}
		}
		switch in(r, 0, 11) {
		case 0, 1:
			l.commit(e, pos, s.limit, false, reach[pos])
		case 2, 3:
			l.commit(e, pos, s.limit, true, reach[pos])
		case 4, 5:
			e = s.takeOver(t, r, l, wire, f)
			pos = l.mark.Position
			if r.IntN(2) == 0 { // else it may go round for ever
				to := min(int64(len(wire)), pos+8)
				for ; pos < to; pos++ {
					e.Apply(&wire[pos], false)
				}
				l.commit(e, pos, s.limit, true, reach[pos])
			}
		}
		if f == flushNothing {
			l.pages = map[string]correlate.Page{}
		}
	}
	l.commit(e, int64(len(wire)), s.limit, true, reach[len(wire)])
	return l
}

// deliveries draws how events reach the sources: late by up to delay, some twice,
// and closing ticks far beyond, so that everything settles.
func deliveries(r *rand.Rand, events []simEvent, sources int, k kind, progress bool) [][]simRecord {
	delay := k.delay
	type delivery struct {
		stamp int64
		src   int
		r     simRecord
	}
	var ds []delivery
	var latest int64
	byID := map[uint64][]simEvent{}
	var ids []uint64
	for _, ev := range events {
		if byID[ev.id] == nil {
			ids = append(ids, ev.id)
		}
		byID[ev.id] = append(byID[ev.id], ev)
	}
	for _, id := range ids {
		evs := byID[id]
		times := 1
		if in(r, 0, 6) == 0 && !k.once {
			times = 2
		}
		for range times {
			late := int64(0)
			switch {
			case k.displace != nil:
				late = int64(k.displace(r))
			case in(r, 0, 2) == 0:
				late = in(r, 0, int64(delay)/int64(time.Second)) * int64(time.Second)
			}
			stamp := evs[0].time + late
			latest = max(latest, stamp)
			ds = append(ds, delivery{stamp, in(r, 0, sources-1), simRecord{events: evs, crc: uint32(id)}})
		}
	}
	// Ticks keep every source's clock moving, and in the end settle everything.
	tick := func(at int64) {
		for src := range sources {
			var tick simRecord
			if progress {
				tick.progress = []detect.Progress{{Origin: "file", Through: at - int64(delay) - int64(7*time.Minute)}}
			}
			ds = append(ds, delivery{at, src, tick})
		}
	}
	for _, d := range slices.Clone(ds) {
		if r.IntN(3) == 0 {
			tick(d.stamp + r.Int64N(int64(20*time.Minute)))
		}
	}
	for _, after := range []time.Duration{5 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour} {
		tick(latest + int64(25*time.Minute) + int64(after))
	}
	slices.SortStableFunc(ds, func(a, b delivery) int { return cmp.Compare(a.stamp, b.stamp) })
	out := make([][]simRecord, sources)
	for _, d := range ds {
		d.r.stamp = d.stamp
		out[d.src] = append(out[d.src], d.r)
	}
	return out
}

// markLate says of events, delivered as they are, whether they came late.
func markLate(events []simEvent, sources [][]simRecord, lateness time.Duration) {
	stamps, pointed := map[[2]int64]int64{}, map[[2]int64]int64{}
	for _, rs := range sources { // in the order of pointers
		for _, r := range rs {
			for _, ev := range r.events {
				k := [2]int64{ev.time, int64(ev.id)}
				if old, ok := stamps[k]; !ok || r.stamp < old {
					stamps[k] = r.stamp
				}
				if _, ok := pointed[k]; !ok {
					pointed[k] = r.stamp
				}
			}
		}
	}
	for i := range events {
		ev := &events[i]
		k := [2]int64{ev.time, int64(ev.id)}
		ev.late, ev.pointedLate = stamps[k]-ev.time > int64(lateness), pointed[k]-ev.time > int64(lateness)
	}
}

// pointers gives for each (time, id) the least pointer of its deliveries.
func pointers(sources [][]simRecord) map[[2]int64]detect.Pointer {
	ps := map[[2]int64]detect.Pointer{}
	for src, rs := range sources {
		for off, r := range rs {
			for _, ev := range r.events {
				k := [2]int64{ev.time, int64(ev.id)}
				p := detect.Pointer{Source: source(src), Offset: int64(off), CRC: r.crc}
				if old, ok := ps[k]; !ok || detect.ComparePointer(p, old) < 0 {
					ps[k] = p
				}
			}
		}
	}
	return ps
}

// evidence makes the sorted and cut evidence of events.
func evidence(evs []simEvent, ps map[[2]int64]detect.Pointer, limit int) []detect.Evidence {
	var out []detect.Evidence
	for _, ev := range evs {
		out = append(out, detect.Evidence{Pointer: ps[[2]int64{ev.time, int64(ev.id)}], Time: ev.time, IDHash: ev.id})
	}
	slices.SortFunc(out, detect.CompareEvidence)
	out = slices.Compact(out)
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out
}
