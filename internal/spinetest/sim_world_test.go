package spinetest

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/incident/incidenttest"
	"github.com/vedette-sec/vedette/stream"
)

// simWorld is a Kafka and a Postgres in memory: what owners find when they start
// and leave when they are killed.
type simWorld struct {
	gens      generations
	history   *simHistory
	snapshots string // directory; none if empty

	mu        sync.Mutex
	ends      []int64 // how much of each source there is yet
	layouts   []*simLayout
	topics    map[string][][]stream.Record // of observations
	letters   map[place]string
	positions map[int32]match.Position
	rewinds   map[int32]int64
	ledger    *correlate.MemoryLedger
	incidents *incidenttest.Memory

	// By partition of a layout, see key: what checkpoints stand at, how many there were,
	// and the epochs of owners with what the ledger has in their place.
	marks   map[int32]correlate.Mark
	numbers map[int32]int64
	epochs  map[int32][2]int64

	rewound int   // requests
	serial  int64 // what a variant counts
	late    sync.WaitGroup
}

func newSimWorld(gens generations, h *simHistory, partitions int, snapshots string) *simWorld {
	var rules []incident.Rule
	for _, g := range gens {
		for _, r := range g.set.Rules {
			ir := incident.Rule{Version: r.Version, ID: r.ID, Title: r.Title, Level: r.Level, Tags: r.Tags}
			if r.Correlation != nil {
				ir.GroupBy = r.Correlation.GroupBy
			}
			rules = append(rules, ir)
		}
	}
	first := &simLayout{correlate.Layout{ID: 1, Partitions: partitions, First: simSources, Sources: simSources, Topic: stream.TopicObservations}, simInForce}
	return &simWorld{
		gens: gens, history: h, snapshots: snapshots, ends: slices.Clone(h.main),
		layouts: []*simLayout{first}, topics: map[string][][]stream.Record{first.Topic: make([][]stream.Record, partitions)},
		letters: make(map[place]string), positions: make(map[int32]match.Position), rewinds: make(map[int32]int64),
		ledger: correlate.NewMemoryLedger(evidence), incidents: incidenttest.New(rules...),
		marks: make(map[int32]correlate.Mark), numbers: make(map[int32]int64), epochs: make(map[int32][2]int64),
	}
}

// Every method below that begins in lower case is called with mu held.

func (w *simWorld) acquireSource(p int32) match.Position {
	pos := w.positions[p]
	pos.Epoch++
	w.positions[p] = pos
	return pos
}

func (w *simWorld) saveSource(p int32, pos match.Position) error {
	if pos.Epoch != w.positions[p].Epoch {
		return match.ErrFenced
	}
	w.positions[p] = pos
	if next, ok := w.rewinds[p]; ok && pos.Next <= next {
		delete(w.rewinds, p)
	}
	return nil
}

func (w *simWorld) standings() []match.Standing {
	var list []match.Standing
	for _, p := range slices.Sorted(maps.Keys(w.positions)) {
		pos := w.positions[p]
		s := match.Standing{Incarnation: incarnation, Partition: p, Epoch: pos.Epoch, Known: pos.Known, Begun: pos.Next > 0, Clock: pos.Clock, Rewind: -1}
		if next, ok := w.rewinds[p]; ok {
			s.Rewind = next
		}
		list = append(list, s)
	}
	return list
}

func (w *simWorld) leastNext(s detect.Source) (int64, error) {
	least := int64(math.MaxInt64)
	l := w.inForce()
	for p := range int32(l.Partitions) {
		next, err := correlate.VectorNext(w.marks[l.key(p)].State, s)
		if err != nil {
			return 0, err
		}
		least = min(least, next)
	}
	return least, nil
}

func (w *simWorld) tails(s detect.Source) ([]detect.Tail, error) {
	var out []detect.Tail
	l := w.inForce()
	for p := range int32(l.Partitions) {
		states, err := correlate.SourceStates(w.marks[l.key(p)].State)
		if err != nil {
			return nil, err
		}
		for _, st := range states {
			if st.Source == s && st.Tail.End > 0 {
				out = append(out, st.Tail)
			}
		}
	}
	return out, nil
}

// commit is of an owner in a layout.
func (w *simWorld) commit(ctx context.Context, l *simLayout, c correlate.Commit) error {
	c.Partition = l.key(c.Partition)
	if e := w.epochs[c.Partition]; c.Epoch == e[0] {
		c.Epoch = e[1]
	}
	if err := w.ledger.Commit(ctx, c); err != nil {
		return err
	}
	w.marks[c.Partition] = c.Mark
	w.numbers[c.Partition]++
	if len(c.Findings) > 0 {
		w.incidents.Checkpoint(c.Partition, c.Findings...)
	}
	return nil
}

// findings merges what a checkpoint found, and has it assembled as the checkpoint of
// that partition and number.
func (w *simWorld) findings(ctx context.Context, fs []detect.Finding, p int32, number int64) {
	// To the ledger the partition makes no difference: it merges by id.
	cp, err := w.ledger.Acquire(ctx, -1)
	if err == nil {
		err = w.ledger.Commit(ctx, correlate.Commit{Partition: -1, Epoch: cp.Epoch, Findings: fs})
	}
	if err != nil {
		panic(err)
	}
	w.incidents.CheckpointAs(p, number, fs...)
}

// acquire takes a partition over.
func (w *simWorld) acquire(ctx context.Context, l *simLayout, p int32) (correlate.Checkpoint, error) {
	if l.state != simInForce {
		return correlate.Checkpoint{}, errSimRetired
	}
	cp, err := w.ledger.Acquire(ctx, l.key(p))
	w.epochs[l.key(p)] = [2]int64{cp.Epoch, cp.Epoch}
	return cp, err
}

// peek reads a checkpoint without taking it over, which the ledger knows no way to:
// whoever has the partition keeps it under the new epoch.
func (w *simWorld) peek(ctx context.Context, l *simLayout, p int32) (correlate.Checkpoint, error) {
	cp, err := w.ledger.Acquire(ctx, l.key(p))
	w.epochs[l.key(p)] = [2]int64{w.epochs[l.key(p)][0], cp.Epoch}
	return cp, err
}

// append appends to a topic of observations.
func (w *simWorld) append(topic string, p int32, recs []stream.Record) error {
	logs := w.topics[topic]
	if int(p) >= len(logs) {
		return errSimTopic
	}
	for _, r := range recs {
		r.Offset = int64(len(logs[p]))
		logs[p] = append(logs[p], r)
	}
	return nil
}

// settled says what has not been done yet; nil if all is.
func (w *simWorld) settled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, end := range w.ends {
		if pos := w.positions[int32(s)]; !pos.Known || pos.Next != end {
			return fmt.Errorf("source %d is at %d of %d", s, pos.Next, end)
		}
	}
	l := w.inForce()
	for p := range int32(l.Partitions) {
		if at, end := w.marks[l.key(p)].Position, int64(len(w.topics[l.Topic][p])); at != end {
			return fmt.Errorf("partition %d is at %d of %d", p, at, end)
		}
		states, err := correlate.SourceStates(w.marks[l.key(p)].State)
		if err != nil || len(states) != len(w.ends) {
			return fmt.Errorf("partition %d has heard of %d sources: %v", p, len(states), err)
		}
		for _, st := range states {
			if end := w.ends[st.Partition]; st.Next != end {
				return fmt.Errorf("partition %d has source %d up to %d of %d", p, st.Partition, st.Next, end)
			}
		}
	}
	if n := w.incidents.Pending(); n > 0 {
		return fmt.Errorf("%d changed findings are not assembled", n)
	}
	return nil
}

// effects is what the promise covers.
func (w *simWorld) effects() (map[string][]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string][]string)
	for _, f := range w.ledger.Findings() {
		for i := range f.Evidence {
			e := &f.Evidence[i]
			at, ok := w.history.same[place{e.Source.Partition, e.Offset}]
			if !ok {
				return nil, fmt.Errorf("finding %s points where nothing is", f.ID)
			}
			e.Source.Partition, e.Offset = at.partition, at.offset
		}
		all["finding"] = append(all["finding"], fmt.Sprintf("%+v", f))
	}
	var pages []correlate.Page
	l := w.inForce()
	for p := range int32(l.Partitions) {
		cp, err := w.ledger.Acquire(context.Background(), l.key(p))
		if err != nil {
			return nil, err
		}
		pages = append(pages, cp.Pages...)
	}
	together, err := correlate.Repartition(pages, 1)
	if err != nil {
		return nil, err
	}
	for _, p := range together[0] {
		all["profile"] = append(all["profile"], fmt.Sprintf("%s %d %x", p.RuleVersion, p.Number, p.Data))
	}
	for at, reason := range w.letters {
		all["letter"] = append(all["letter"], fmt.Sprintf("%v %s", at, reason))
	}
	all["incident"], err = w.assembled()
	return all, err
}

// assembled lists the live incidents, with what has to be told to whom of each.
func (w *simWorld) assembled() ([]string, error) {
	members := make(map[incidenttest.IncidentKey][]string)
	for k, r := range w.incidents.Findings {
		at := incidenttest.IncidentKey{Tenant: k.Tenant, ID: r.Incident}
		members[at] = append(members[at], k.ID.String())
	}
	var out []string
	for k, in := range w.incidents.Incidents {
		ids := members[k]
		slices.Sort(ids)
		var intents []string
		for _, i := range w.incidents.Intents[k] {
			want := incident.EventTrigger
			if in.Status == incident.StatusMerged {
				want = incident.EventResolve
			}
			if i.Receiver == "pager" && in.Status != incident.StatusMerged && in.Severity < detect.LevelHigh {
				continue // what it was told before the incident came apart
			}
			if i.Event != want || i.Wanted != in.Version {
				return nil, fmt.Errorf("incident %s is %s in version %d, and %s is to be told %s of %d", k.ID, in.Status, in.Version, i.Receiver, i.Event, i.Wanted)
			}
			intents = append(intents, i.Receiver+" "+string(i.Event))
		}
		if in.Status == incident.StatusMerged {
			if len(ids) > 0 {
				return nil, fmt.Errorf("incident %s was merged, and has findings", k.ID)
			}
			continue
		}
		slices.Sort(intents)
		out = append(out, fmt.Sprintf("%s %s %v %q %s %s %v %d %d %d %d %s; %s; %s", in.Opener, in.RuleID, in.RuleIDs, in.Title, in.Severity, in.Account,
			in.Tags, in.Count, in.Keys, in.First, in.Last, in.Status, strings.Join(ids, ","), strings.Join(intents, ", ")))
	}
	return out, nil
}

// meddle does to the snapshots what a disk does, and an operator who copies
// directories.
func (w *simWorld) meddle(p simCrewPlan, seed uint64) error {
	if w.snapshots == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(w.snapshots, "*.snapshot"))
	if err != nil || len(files) == 0 {
		return err
	}
	from := files[simMix(seed, 1)%uint64(len(files))]
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if p.Foreign { // of another partition or place
		to := files[simMix(seed, 2)%uint64(len(files))]
		if err := os.WriteFile(to, b, 0o600); err != nil {
			return err
		}
	}
	if p.Damage && len(b) > 0 {
		b = bytes.Clone(b)
		at := simMix(seed, 3) % uint64(len(b))
		if simMix(seed, 4)%2 == 0 {
			b[at] ^= 1 << (simMix(seed, 5) % 8)
		} else {
			b = b[:at]
		}
		return os.WriteFile(from, b, 0o600)
	}
	return nil
}

func simLetter(d stream.DeadLetter) (place, string) {
	return place{d.Partition, d.Offset}, d.Reason + " " + hex.EncodeToString(d.Value)
}
