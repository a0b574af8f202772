package spinetest

import (
	"context"
	"errors"
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
			co.Ledger = ledgerOf{c, func(ctx context.Context, p int32) (correlate.Checkpoint, error) {
				var peeked correlate.Checkpoint
				err := c.call(ctx, opAcquire, p, func(uint64) (err error) {
					peeked, err = c.w.peek(ctx, c.layout, p)
					return err
				})
				old := simAnswer(c, &peeked)
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
