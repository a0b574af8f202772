package spinetest

import (
	"context"
	"slices"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/stream"
)

// wallClock gives the rules of which the process has heard last, whatever is asked
// for.
type wallClock struct{ *simCrew }

func (l wallClock) Load(ctx context.Context, digest string) (*match.Program, error) {
	if l.n%2 == 1 {
		digest = "generation-1"
	}
	return l.simCrew.Load(ctx, digest)
}

// positions are saved otherwise than asked.
type positions struct {
	*simCrew
	change func(*match.Position)
}

func (l positions) SaveSource(ctx context.Context, inc uint32, p int32, pos match.Position) error {
	l.change(&pos)
	return l.simCrew.SaveSource(ctx, inc, p, pos)
}

// goesOn is a writer that tells of a failed batch when it has sent the next.
type goesOn struct {
	c      *simCrew
	failed map[int32]error
}

func (l *goesOn) Produce(ctx context.Context, p int32, recs []stream.Record) (int64, error) {
	n, err := l.c.Produce(ctx, p, recs)
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if ctx.Err() != nil {
		return n, err
	}
	before := l.failed[p]
	l.failed[p] = err
	return n, before
}

// early acknowledges what it is about to write.
type early struct{ c *simCrew }

func (l early) Produce(_ context.Context, p int32, recs []stream.Record) (int64, error) {
	l.c.w.late.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		_, _ = l.c.Produce(ctx, p, recs)
	})
	return 0, nil
}

// greatest is where the partition that has most of a source stands.
type greatest struct{ *simCrew }

func (l greatest) LeastNext(ctx context.Context, s detect.Source) (next int64, err error) {
	err = l.call(ctx, opLeastNext, s.Partition, func(uint64) error {
		for p := range int32(l.layout.Partitions) {
			n, err := correlate.VectorNext(l.w.marks[l.layout.key(p)].State, s)
			if err != nil {
				return err
			}
			next = max(next, n)
		}
		return nil
	})
	return next, err
}

// rewritten sections are written in place of the ones that match made.
type rewritten struct {
	c       *simCrew
	rewrite func(detect.Section) []detect.Section
}

func (l rewritten) Produce(ctx context.Context, p int32, recs []stream.Record) (int64, error) {
	var out []stream.Record
	for _, r := range recs {
		for _, s := range simSections(r) {
			if secs := l.rewrite(s); len(secs) > 0 {
				out = append(out, stream.Record{Value: detect.AppendBatch(nil, secs)})
			}
		}
	}
	if len(out) == 0 {
		return 0, nil
	}
	return l.c.Produce(ctx, p, out)
}

// fewer writes to all partitions but the last, and there only how far it is.
type fewer struct{ c *simCrew }

func (l fewer) Produce(ctx context.Context, p int32, recs []stream.Record) (int64, error) {
	n, err := l.c.Produce(ctx, p, recs)
	if last := int32(l.c.layout.Partitions) - 1; err == nil && p == 0 && last > 0 {
		empty := rewritten{l.c, func(s detect.Section) []detect.Section {
			s.Groups = nil
			return []detect.Section{s}
		}}
		return empty.Produce(ctx, last, recs)
	}
	return n, err
}

// simSections are what a message holds. The world's are all whole.
func simSections(r stream.Record) []detect.Section {
	secs, err := detect.DecodeBatch(r.Value)
	if err != nil {
		panic(err)
	}
	return secs
}

// ledgerOf is a ledger with a takeover or a commit of its own.
type ledgerOf struct {
	*simCrew
	acquire func(context.Context, int32) (correlate.Checkpoint, error)
	commit  func(context.Context, correlate.Commit) error
}

func (l ledgerOf) Acquire(ctx context.Context, p int32) (correlate.Checkpoint, error) {
	if l.acquire == nil {
		return l.simCrew.Acquire(ctx, p)
	}
	return l.acquire(ctx, p)
}

func (l ledgerOf) Commit(ctx context.Context, c correlate.Commit) error {
	if l.commit == nil {
		return l.simCrew.Commit(ctx, c)
	}
	return l.commit(ctx, c)
}

// halfCommit writes findings or pages, and leaves the position where it is.
func (c *simCrew) halfCommit(ctx context.Context, co correlate.Commit) error {
	return c.call(ctx, opCommit, co.Partition, func(uint64) error {
		co.Mark = c.w.marks[c.layout.key(co.Partition)]
		return c.w.commit(ctx, c.layout, co)
	})
}

// liveRebuild is a ledger by which owners go live at the oldest mark, and in which
// change is done to what they commit before they are where the checkpoint was.
func liveRebuild(c *simCrew, change func(*correlate.Commit)) correlate.Ledger {
	return ledgerOf{c, func(ctx context.Context, p int32) (correlate.Checkpoint, error) {
		cp, err := c.Acquire(ctx, p)
		if err == nil && len(cp.Marks) > 0 {
			c.mu.Lock()
			c.rebuilt[p] = cp.Mark.Position
			c.mu.Unlock()
			cp.Mark = cp.Marks[0]
		}
		return cp, err
	}, func(ctx context.Context, co correlate.Commit) error {
		c.mu.Lock()
		before := co.Mark.Position <= c.rebuilt[co.Partition]
		c.mu.Unlock()
		if before {
			change(&co)
		}
		return c.Commit(ctx, co)
	}}
}

// emptied is a log of whose first messages nothing but vector and clocks is left. The
// one before the checkpoint stays: owners look whether it is still there.
func emptied(log []stream.Record, before int64, cp correlate.Checkpoint) []stream.Record {
	out := slices.Clone(log)
	for i := range out[:min(before, max(0, cp.Mark.Position-1), int64(len(out)))] {
		secs := simSections(out[i])
		for j := range secs {
			secs[j].Groups = nil
		}
		out[i].Value = detect.AppendBatch(nil, secs)
	}
	return out
}

// gapsApplied is a log in which sections reach back to where the one before ended.
func gapsApplied(log []stream.Record, _ correlate.Checkpoint) []stream.Record {
	return follow(log, func(s *detect.Section, next int64) { s.From = min(s.From, next) })
}

// repeatsApplied is a log in which what sections repeat stands in the next that is
// none.
func repeatsApplied(log []stream.Record, _ correlate.Checkpoint) []stream.Record {
	again := make(map[detect.Source][]detect.Group)
	return follow(log, func(s *detect.Section, next int64) {
		fresh := s.From <= next && next < s.To
		for _, g := range s.Groups {
			var old []detect.Observation
			for _, o := range g.Obs {
				if o.Offset < next {
					old = append(old, o)
				}
			}
			if g.Obs = old; len(old) > 0 {
				again[s.Source] = append(again[s.Source], g)
			}
		}
		if !fresh {
			return
		}
		for _, g := range again[s.Source] {
			g.Obs = slices.Clone(g.Obs)
			for i := range g.Obs {
				g.Obs[i].Offset = next
			}
			s.Groups = append(s.Groups, g)
		}
		delete(again, s.Source)
	})
}

// follow changes the sections of a log, each with what a vector says before it.
func follow(log []stream.Record, change func(s *detect.Section, next int64)) []stream.Record {
	out := slices.Clone(log)
	next := make(map[detect.Source]int64)
	for i := range out {
		secs := simSections(out[i])
		for j := range secs {
			s := &secs[j]
			change(s, next[s.Source])
			if s.From <= next[s.Source] {
				next[s.Source] = max(next[s.Source], s.To)
			}
		}
		out[i].Value = detect.AppendBatch(nil, secs)
	}
	return out
}

// switches is a ledger that puts a layout into force otherwise than asked.
type switches struct {
	simMover
	change func(*correlate.Switch)
}

func (l switches) SwitchLayout(ctx context.Context, s correlate.Switch) error {
	l.change(&s)
	return l.simMover.SwitchLayout(ctx, s)
}

// unfenced takes nothing over, and moves in spite of that.
type unfenced struct{ simMover }

func (l unfenced) Acquire(ctx context.Context, p int32) (correlate.Checkpoint, error) {
	var cp correlate.Checkpoint
	err := l.call(ctx, opAcquire, p, func(uint64) (err error) {
		cp, err = l.w.peek(ctx, l.layout, p)
		return err
	})
	return simAnswer(l.simCrew, &cp), err
}

func (l unfenced) AcquireSource(ctx context.Context, _ uint32, p int32) (match.Position, error) {
	var pos match.Position
	err := l.call(ctx, opAcquireSource, p, func(uint64) error {
		pos = l.w.positions[p]
		return nil
	})
	return simAnswer(l.simCrew, &pos), err
}

func (l unfenced) SwitchLayout(ctx context.Context, s correlate.Switch) error {
	return l.call(ctx, opSwitchLayout, 0, func(uint64) error { return l.w.switchLayout(ctx, s, false) })
}

// cursorFirst takes what has changed in a transaction before the one that assembles
// it.
type cursorFirst struct{ *simCrew }

func (l cursorFirst) Assemble(ctx context.Context, shard int32, epoch int64, f func(incident.Tx) error) error {
	var changed []incident.Finding
	err := l.simCrew.Assemble(ctx, shard, epoch, func(tx incident.Tx) (err error) {
		changed, err = tx.Changed(ctx, 6)
		return err
	})
	if err != nil {
		return err
	}
	return l.simCrew.Assemble(ctx, shard, epoch, func(tx incident.Tx) error { return f(changedBefore{tx, changed}) })
}

type changedBefore struct {
	incident.Tx
	changed []incident.Finding
}

func (l changedBefore) Changed(context.Context, int) ([]incident.Finding, error) {
	return l.changed, nil
}

// everyIntent keeps an intent for each version of an incident.
type everyIntent struct{ *simCrew }

func (l everyIntent) Assemble(ctx context.Context, shard int32, epoch int64, f func(incident.Tx) error) error {
	return l.simCrew.Assemble(ctx, shard, epoch, func(tx incident.Tx) error { return f(intents{tx}) })
}

type intents struct{ incident.Tx }

func (l intents) SaveIntents(ctx context.Context, is []incident.Intent) error {
	is = slices.Clone(is)
	for i := range is {
		if is[i].Receiver != "" {
			is[i].Receiver += " again"
			is = append(is, is[i])
			is[i].Receiver = is[len(is)-1].Receiver[:len(is[i].Receiver)-len(" again")]
		}
	}
	return l.Tx.SaveIntents(ctx, is)
}
