package spinetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/layout"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/stream"
)

// simVariant is the design without one of its rules, or without two that stand in
// for each other.
type simVariant struct {
	name  string
	rule  string // of the architecture, that it breaks
	holds bool   // another rule mends it: nothing is to be noticed but requests to rewind
	// options puts something faulty between the owners and the world.
	options func(*simCrew, *match.OwnerOptions, *correlate.OwnerOptions, *incident.Options)
	// observed rewrites what correlate reads of a partition, given the checkpoint that
	// it took over.
	observed func(log []stream.Record, cp correlate.Checkpoint) []stream.Record
	// moving is the ledger by which a new layout is made.
	moving func(simMover) layout.Ledger
}

// simVariants are the ones that broke the design in the simulation that it was
// drawn by, and their like for what that left out. What of these is a matter of one
// engine is broken in TestPropertyNoticesFaults of detect/correlate: rebuilding with
// the checkpoint's vector, windows by time of arrival, snapshots of a place beyond
// the checkpoint, without what follows them, or with that taken for news. That a log
// is another one than was read is for TestRepairTruncated and TestRepairObservations.
var simVariants = []simVariant{
	{
		name: "rules change when a process hears of them",
		rule: "1: every owner changes its generation at the control record",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Generations = wallClock{c}
		},
	},
	{
		name: "a position does not say which generation is in force",
		rule: "1: the generation in force is a function of the log",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Positions = positions{c, func(pos *match.Position) { pos.Generation = "" }}
		},
	},
	{
		name: "the writer goes on after a failed batch, and gaps are applied",
		rule: "2: one unacknowledged produce a partition; 4: a gap is not applied",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = &goesOn{c: c, failed: make(map[int32]error)}
		},
		observed: gapsApplied,
	},
	{
		name: "the writer goes on after a failed batch", holds: true,
		rule: "2, and 4 stands in for it",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = &goesOn{c: c, failed: make(map[int32]error)}
		},
	},
	{
		name: "positions are saved before batches are acknowledged, and gaps are applied",
		rule: "3: saved after every partition acknowledged; 4: a gap is not applied",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = early{c}
		},
		observed: gapsApplied,
	},
	{
		name: "positions are saved before batches are acknowledged, and nobody goes back",
		rule: "3: saved after every partition acknowledged; 4: match rewinds to what correlate lacks",
		options: func(c *simCrew, mo *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations, co.Rewind = early{c}, nil
		},
	},
	{
		name: "positions are saved before batches are acknowledged", holds: true,
		rule: "3, and 4 stands in for it",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = early{c}
		},
	},
	{
		name: "a lost position is the greatest that correlate has, and nobody goes back",
		rule: "3: a missing row means the smallest next of the vectors; 4: match rewinds",
		options: func(c *simCrew, mo *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			mo.Vectors, co.Rewind = greatest{c}, nil
		},
	},
	{
		name: "nothing is written where nothing was observed",
		rule: "Batch: a section a partition for every range, empty ones too",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = rewritten{c, func(s detect.Section) []detect.Section {
				if len(s.Groups) == 0 {
					return nil
				}
				return []detect.Section{s}
			}}
		},
	},
	{
		name: "a record is split over sections",
		rule: "Batch: a section holds all observations of its range; a record is never split",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = rewritten{c, func(s detect.Section) []detect.Section {
				a, b := s, s
				half := len(s.Groups) / 2
				a.Groups, b.Groups = s.Groups[:half], s.Groups[half:]
				return []detect.Section{a, b}
			}}
		},
	},
	{
		name: "each process stamps by a clock of its own",
		rule: "Time: the append stamp in the log is the only clock",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			off := int64(c.n%3) * int64(7*time.Minute)
			mo.Observations = rewritten{c, func(s detect.Section) []detect.Section {
				s.Clock += off
				return []detect.Section{s}
			}}
		},
	},
	{
		name: "the clock is that of the source that is farthest",
		rule: "Time: A is the least over the sources",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = rewritten{c, func(s detect.Section) []detect.Section {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.farthest = max(c.farthest, s.Clock)
				s.Clock = c.farthest
				return []detect.Section{s}
			}}
		},
	},
	{
		name: "the observations get another partition under way",
		rule: "Layouts: the partition count of the observations is fixed",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			if c.n%2 == 0 { // it does not know of the last one, which is told what there is without observations
				mo.Partitions, mo.Observations = max(1, mo.Partitions-1), fewer{c}
			}
		},
	},
	{
		name:     "what a section repeats is applied again",
		rule:     "4: a section is taken only if from ≤ next < to, and of it what is not below next",
		observed: repeatsApplied,
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Vectors = nil // begins at 0 if its position was lost
		},
	},
	{
		name: "each delivery is an event of its own",
		rule: "7: event ids are deduplicated per rule and key",
		options: func(c *simCrew, mo *match.OwnerOptions, _ *correlate.OwnerOptions, _ *incident.Options) {
			mo.Observations = rewritten{c, func(s detect.Section) []detect.Section {
				for _, g := range s.Groups {
					for i := range g.Obs {
						g.Obs[i].IDHash = simMix(uint64(g.Obs[i].Offset), uint64(s.Source.Partition))
					}
				}
				return []detect.Section{s}
			}}
		},
	},
	{
		name: "nobody is fenced",
		rule: "5: a checkpoint tests the epoch",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, nil, func(ctx context.Context, co correlate.Commit) error {
				return c.call(ctx, opCommit, co.Partition, func(uint64) error {
					co.Epoch = c.w.epochs[c.layout.key(co.Partition)][0]
					return c.w.commit(ctx, c.layout, co)
				})
			}}
		},
	},
	{
		name: "the checkpoint is read before the epoch is taken",
		rule: "5: takeover is one statement",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, func(ctx context.Context, p int32) (old correlate.Checkpoint, err error) {
				err = c.call(ctx, opAcquire, p, func(uint64) error {
					old, err = c.w.peek(ctx, c.layout, p)
					return err
				})
				if err != nil {
					return old, err
				}
				simWait(ctx, 300*time.Millisecond)
				cp, err := c.Acquire(ctx, p)
				old.Epoch = cp.Epoch
				return old, err
			}, nil}
		},
	},
	{
		name: "a commit without an answer is tried again",
		rule: "5: if the outcome of COMMIT is unknown, the row is read again",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, nil, func(ctx context.Context, co correlate.Commit) error {
				err := c.Commit(ctx, co)
				if errors.Is(err, errSim) {
					err = c.Commit(ctx, co)
				}
				return err
			}}
		},
	},
	{
		name: "findings are committed before the position",
		rule: "5: a checkpoint is one transaction",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, nil, func(ctx context.Context, co correlate.Commit) error {
				first := correlate.Commit{Partition: co.Partition, Epoch: co.Epoch, Findings: co.Findings}
				if err := c.halfCommit(ctx, first); err != nil {
					return err
				}
				co.Findings = nil
				return c.Commit(ctx, co)
			}}
		},
	},
	{
		name: "profiles are committed before the position",
		rule: "5: a checkpoint is one transaction",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, nil, func(ctx context.Context, co correlate.Commit) error {
				if err := c.halfCommit(ctx, correlate.Commit{Partition: co.Partition, Epoch: co.Epoch, Pages: co.Pages}); err != nil {
					return err
				}
				co.Pages = nil
				return c.Commit(ctx, co)
			}}
		},
	},
	{
		name: "the position is committed before the findings",
		rule: "5: a checkpoint is one transaction",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, nil, func(ctx context.Context, co correlate.Commit) error {
				first := co
				first.Findings = nil
				if err := c.Commit(ctx, first); err != nil || len(co.Findings) == 0 {
					return err
				}
				return c.halfCommit(ctx, correlate.Commit{Partition: co.Partition, Epoch: co.Epoch, Findings: co.Findings})
			}}
		},
	},
	{
		name: "rebuilding feeds profiles",
		rule: "6: rebuild fills windows only, never profiles",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = liveRebuild(c, func(co *correlate.Commit) { co.Findings = nil })
		},
	},
	{
		name: "rebuilding feeds the ledger",
		rule: "6: rebuild fills windows only, never the ledger",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = liveRebuild(c, func(*correlate.Commit) {})
		},
	},
	{
		name: "windows begin empty, as they do with the checkpoint's vector in place of the mark's",
		rule: "6: rebuild starts with the mark's vector",
		observed: func(log []stream.Record, cp correlate.Checkpoint) []stream.Record {
			return emptied(log, cp.Mark.Position, cp)
		},
	},
	{
		name: "windows are rebuilt from the newest mark",
		rule: "6, Time: three generations are rebuilt",
		observed: func(log []stream.Record, cp correlate.Checkpoint) []stream.Record {
			at := int64(0)
			for _, m := range cp.Marks {
				at = max(at, m.Position)
			}
			return emptied(log, at, cp)
		},
	},
	{
		name: "rebuilding starts with an empty vector",
		rule: "6: rebuild starts with the mark's vector and clocks",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, func(ctx context.Context, p int32) (correlate.Checkpoint, error) {
				cp, err := c.Acquire(ctx, p)
				for i := range cp.Marks {
					cp.Marks[i].State = nil
				}
				return cp, err
			}, nil}
		},
	},
	{
		name: "profiles are not read at takeover",
		rule: "5: takeover reads the checkpoint whole",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, func(ctx context.Context, p int32) (correlate.Checkpoint, error) {
				cp, err := c.Acquire(ctx, p)
				cp.Pages = nil
				return cp, err
			}, nil}
		},
	},
	{
		name: "a new layout begins without history",
		rule: "Layouts: into a new one match re-derives what windows need",
		moving: func(m simMover) layout.Ledger {
			return switches{m, func(s *correlate.Switch) {
				for i := range s.Partitions {
					s.Partitions[i].Marks = nil
				}
			}}
		},
	},
	{
		name: "profiles do not move with their keys",
		rule: "Layouts: group-by keys move with their partitions",
		moving: func(m simMover) layout.Ledger {
			return switches{m, func(s *correlate.Switch) {
				for i := range s.Partitions[1:] {
					s.Partitions[0].Pages = append(s.Partitions[0].Pages, s.Partitions[1+i].Pages...)
					s.Partitions[1+i].Pages = nil
				}
			}}
		},
	},
	{
		name:   "a move fences nobody",
		rule:   "Layouts: what is at work is taken over, and must not have moved since",
		moving: func(m simMover) layout.Ledger { return unfenced{m} },
	},
	{
		name: "the assembler's cursor moves in a transaction of its own",
		rule: "Incidents: with its cursor in one transaction",
		options: func(c *simCrew, _ *match.OwnerOptions, _ *correlate.OwnerOptions, io *incident.Options) {
			io.Ledger = cursorFirst{c}
		},
	},
	{
		name: "the assembler reads by a serial id",
		rule: "Incidents: by (partition, checkpoint number), never by a serial id",
		options: func(c *simCrew, _ *match.OwnerOptions, co *correlate.OwnerOptions, _ *incident.Options) {
			co.Ledger = ledgerOf{c, nil, func(ctx context.Context, co correlate.Commit) error {
				c.w.mu.Lock()
				c.w.serial++
				id := c.w.serial
				c.w.mu.Unlock()
				simWait(ctx, time.Duration(id%7)*20*time.Millisecond)
				return c.call(ctx, opCommit, co.Partition, func(uint64) error {
					findings := co.Findings
					co.Findings = nil
					if err := c.w.commit(ctx, c.layout, co); err != nil || len(findings) == 0 {
						return err
					}
					c.w.findings(ctx, findings, 0, id)
					return nil
				})
			}}
		},
	},
	{
		name: "each amendment is an intent of its own",
		rule: "Incidents: one row however often amended",
		options: func(c *simCrew, _ *match.OwnerOptions, _ *correlate.OwnerOptions, io *incident.Options) {
			io.Ledger = everyIntent{c}
		},
	},
}

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

func (l unfenced) Acquire(ctx context.Context, p int32) (cp correlate.Checkpoint, err error) {
	err = l.call(ctx, opAcquire, p, func(uint64) error {
		cp, err = l.w.peek(ctx, l.layout, p)
		return err
	})
	return cp, err
}

func (l unfenced) AcquireSource(ctx context.Context, _ uint32, p int32) (pos match.Position, err error) {
	err = l.call(ctx, opAcquireSource, p, func(uint64) error {
		pos = l.w.positions[p]
		return nil
	})
	return pos, err
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

// TestSimulationNoticesVariants wants the property to fail for each variant of the
// design, within few plans, which are always the same.
func TestSimulationNoticesVariants(t *testing.T) {
	if testing.Short() {
		t.Skip("runs hundreds of plans")
	}
	s := newSimulation(t)
	for _, v := range simVariants {
		t.Run(v.name, func(t *testing.T) {
			rewound, plans := 0, 60
			if v.holds {
				plans = 12
			}
			for seed, n := 0, 0; n < plans; seed++ {
				p := simPlans.Example(seed)
				if v.moving != nil && p.Move == nil {
					continue
				}
				n++
				r := s.run(p, &v)
				rewound += r.rewound
				d := s.differ(p, r)
				switch {
				case d != "" && v.holds:
					t.Fatalf("plan %d is noticed, although another rule stands in for %s:\n%s", seed, v.rule, d)
				case d != "":
					t.Logf("noticed by plan %d: %.200s", seed, d)
					return
				}
			}
			switch {
			case v.holds && rewound == 0:
				t.Errorf("in %d plans nothing had to be written again", plans)
			case !v.holds:
				t.Errorf("not noticed in %d plans: %s", plans, v.rule)
			}
		})
	}
}
