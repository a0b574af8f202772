package spinetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/stream"
)

// simMetrics are of all crews together.
type simMetrics struct {
	match     *match.Metrics
	correlate *correlate.Metrics
	faults    *[numOps][numKinds]atomic.Int64
}

// simCrew is a process of the simulation. It implements the seams between the
// owners and the world, each call of which takes a while and may go wrong.
type simCrew struct {
	w      *simWorld
	layout *simLayout // in force when it started
	n      int
	seed   uint64
	faults *simFaults // nil: nothing goes wrong
	v      *simVariant
	m      simMetrics

	mu    sync.Mutex
	calls map[simCall]int                // Nth is 0
	taken map[int32]correlate.Checkpoint // over, the last of each partition
	dead  atomic.Bool                    // killed: what it does from now on does not happen
	stop  context.CancelFunc
	ended chan struct{}
	errs  []error

	farthest int64 // what variants note
	rebuilt  map[int32]int64
}

// call does something at the world, or not, as the plan has it. do is called with
// the world locked, with a number that only the plan decides.
func (c *simCrew) call(ctx context.Context, op simOp, part int32, do func(n uint64) error) error {
	at := simCall{Crew: c.n, Op: op, Part: part}
	c.mu.Lock()
	nth := c.calls[at]
	c.calls[at]++
	c.mu.Unlock()
	at.Nth = nth
	n := simMix(c.seed, uint64(c.n), uint64(op), uint64(part), uint64(nth))
	act := func() error {
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		return do(n)
	}
	f, faulty := c.faults.at(at, n)
	// No two calls last equally long: only one goes on at a time.
	took := 200*time.Microsecond + time.Duration(n>>8%1_000_000)
	if faulty && f.Kind == simSlow {
		c.m.faults[op][simSlow].Add(1)
		took += f.For
	}
	if !simWait(ctx, took) {
		if n>>32%2 == 0 {
			_ = act() // it was on its way already
		}
		return ctx.Err()
	}
	switch {
	case c.dead.Load():
		return errSimDead
	case !faulty:
		return act()
	}
	if f.Kind != simSlow {
		c.m.faults[op][f.Kind].Add(1)
	}
	switch f.Kind {
	case simFails:
		return errSim
	case simLost:
		return errors.Join(act(), errSim)
	case simCrash:
		c.kill()
		return errSimDead
	case simCrashed:
		err := act()
		c.kill()
		return errors.Join(err, errSimDead)
	case simLate:
		switch op {
		case opAssemble: // a transaction is not at one who has given up on it
			return errSim
		case opRead, opReadObserved, opStandings, opLeastNext, opTails, opLoad, opRules, opLayout, opTopics:
			return errSim // to be asked late changes nothing
		}
		c.w.late.Go(func() {
			time.Sleep(f.For)
			_ = act()
		})
		return errSim
	case simTwice:
		if op == opProduce {
			return errors.Join(act(), act())
		}
	}
	return act()
}

// simAnswer is what a call that changes the world was answered with: it may be on its
// way still.
func simAnswer[T any](c *simCrew, v *T) T {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return *v
}

func simWait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *simCrew) kill() {
	c.dead.Store(true)
	c.stop()
}

func (c *simCrew) Produce(ctx context.Context, p int32, recs []stream.Record) (int64, error) {
	return simProducer{c, c.layout.Topic}.Produce(ctx, p, recs)
}

func (c *simCrew) DeadLetters(ctx context.Context, ds []stream.DeadLetter) error {
	return c.call(ctx, opLetters, 0, func(uint64) error {
		for _, d := range ds {
			at, what := simLetter(d)
			c.w.letters[at] = what
		}
		return nil
	})
}

func (c *simCrew) AcquireSource(ctx context.Context, _ uint32, p int32) (match.Position, error) {
	var pos match.Position
	err := c.call(ctx, opAcquireSource, p, func(uint64) error {
		if c.layout.state != simInForce {
			return errSimRetired
		}
		pos = c.w.acquireSource(p)
		return nil
	})
	return simAnswer(c, &pos), err
}

func (c *simCrew) SaveSource(ctx context.Context, _ uint32, p int32, pos match.Position) error {
	return c.call(ctx, opSaveSource, p, func(uint64) error { return c.w.saveSource(p, pos) })
}

func (c *simCrew) Standings(ctx context.Context, _ uint32) (list []match.Standing, err error) {
	err = c.call(ctx, opStandings, 0, func(uint64) error {
		list = c.w.standings()
		return nil
	})
	return list, err
}

func (c *simCrew) LeastNext(ctx context.Context, s detect.Source) (next int64, err error) {
	err = c.call(ctx, opLeastNext, s.Partition, func(uint64) (err error) {
		next, err = c.w.leastNext(s)
		return err
	})
	return next, err
}

func (c *simCrew) Tails(ctx context.Context, s detect.Source) (tails []detect.Tail, err error) {
	err = c.call(ctx, opTails, s.Partition, func(uint64) (err error) {
		tails, err = c.w.tails(s)
		return err
	})
	return tails, err
}

func (c *simCrew) Load(ctx context.Context, digest string) (p *match.Program, err error) {
	err = c.call(ctx, opLoad, 0, func(uint64) (err error) {
		p, err = c.w.gens.Load(ctx, digest)
		return err
	})
	return p, err
}

func (c *simCrew) First(ctx context.Context) (string, error) { return c.w.gens.First(ctx) }

func (c *simCrew) Rules(ctx context.Context, digest string) (set *rule.Set, err error) {
	err = c.call(ctx, opRules, 0, func(uint64) (err error) {
		set, err = c.w.gens.Rules(ctx, digest)
		return err
	})
	return set, err
}

func (c *simCrew) Acquire(ctx context.Context, p int32) (correlate.Checkpoint, error) {
	var taken correlate.Checkpoint
	err := c.call(ctx, opAcquire, p, func(uint64) (err error) {
		taken, err = c.w.acquire(ctx, c.layout, p)
		return err
	})
	cp := simAnswer(c, &taken)
	c.mu.Lock()
	c.taken[p] = cp
	c.mu.Unlock()
	return cp, err
}

func (c *simCrew) Commit(ctx context.Context, co correlate.Commit) error {
	return c.call(ctx, opCommit, co.Partition, func(uint64) error { return c.w.commit(ctx, c.layout, co) })
}

func (c *simCrew) AskRewind(ctx context.Context, s detect.Source, next int64) error {
	return c.call(ctx, opAskRewind, s.Partition, func(uint64) error {
		c.w.rewound++
		if old, ok := c.w.rewinds[s.Partition]; !ok || next < old {
			c.w.rewinds[s.Partition] = next
		}
		return nil
	})
}

func (c *simCrew) AcquireAssembler(ctx context.Context, shard int32) (int64, error) {
	var epoch int64
	err := c.call(ctx, opAcquireAssembler, 0, func(uint64) (err error) {
		epoch, err = c.w.incidents.AcquireAssembler(ctx, shard)
		return err
	})
	return simAnswer(c, &epoch), err
}

func (c *simCrew) Assemble(ctx context.Context, shard int32, epoch int64, f func(incident.Tx) error) error {
	return c.call(ctx, opAssemble, 0, func(uint64) error { return c.w.incidents.Assemble(ctx, shard, epoch, f) })
}

func (c *simCrew) Act(context.Context, func(incident.Tx) error) error {
	return errors.New("nobody works incidents here")
}

// start begins the work of a crew that reads what its plan says. A last one begins
// again what another took from it.
func (c *simCrew) start(p simCrewPlan, last bool) error {
	every := 120 * time.Millisecond
	if p.Hurried {
		every = 15 * time.Millisecond
	}
	mo := match.OwnerOptions{
		Incarnation: incarnation, All: simSources, Partitions: c.layout.Partitions, Observations: c, DeadLetters: c, Positions: c, Standings: c,
		Vectors: c, Applied: c, Generations: c, SaveEvery: every, Logger: quiet(), Metrics: c.m.match, Parallel: 1,
		Open: func(p int32, offset int64) match.SourceReader {
			return &simReader{c: c, op: opRead, part: p, next: offset}
		},
	}
	io := incident.Options{
		Ledger: c, Receivers: []incident.Receiver{{Name: "all"}, {Name: "pager", MinSeverity: detect.LevelHigh}},
		Poll: 50 * time.Millisecond, Batch: 6, Logger: quiet(),
	}
	rewinds := correlate.NewRewinds(c, quiet())
	co := correlate.OwnerOptions{
		Engine: correlate.Options{Sources: simSources, EvidenceLimit: evidence}, Ledger: c, Generations: c, Rewind: rewinds.Ask,
		CommitEvery: every, FindingDelay: every / 4, MarkEvery: 2 * every, MaxRows: 30, Logger: quiet(), Metrics: c.m.correlate,
		SnapshotEvery: 4 * every, SnapshotAtStop: p.Graceful,
	}
	if c.w.snapshots != "" {
		var err error
		if co.Snapshots, err = correlate.OpenSnapshots(c.w.snapshots, c.layout.Topic, 0); err != nil {
			return err
		}
	}
	if c.v != nil && c.v.options != nil {
		c.v.options(c, &mo, &co, &io)
	}
	matcher, err := match.NewOwner(mo)
	if err != nil {
		return err
	}
	parts := []func(context.Context) error{rewinds.Run}
	for s := range int32(simSources) {
		if p.Sources&(1<<s) != 0 {
			parts = append(parts, func(ctx context.Context) error { return matcher.RunSource(ctx, s, nil) })
		}
	}
	for n := range int32(c.layout.Partitions) {
		if p.Observed&(1<<n) == 0 {
			continue
		}
		o := co
		o.Partition = n
		o.Open = func(offset int64) correlate.PartitionReader {
			return &simReader{c: c, op: opReadObserved, topic: c.layout.Topic, part: n, next: offset}
		}
		owner, err := correlate.NewOwner(o)
		if err != nil {
			return err
		}
		parts = append(parts, owner.Run)
	}
	if p.Assembles {
		a, err := incident.New(io)
		if err != nil {
			return err
		}
		parts = append(parts, a.Run)
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.ended = stop, make(chan struct{})
	var wg sync.WaitGroup
	for _, run := range parts {
		wg.Go(func() {
			for {
				err := run(ctx)
				switch {
				case err == nil || ctx.Err() != nil:
					return
				case !errors.Is(err, match.ErrFenced) && !errors.Is(err, correlate.ErrFenced) && !errors.Is(err, incident.ErrFenced):
					c.mu.Lock()
					c.errs = append(c.errs, fmt.Errorf("crew %d: %w", c.n, err))
					c.mu.Unlock()
					return
				case !last:
					return // another has it
				}
				simWait(ctx, 100*time.Millisecond)
			}
		})
	}
	go func() {
		wg.Wait()
		close(c.ended)
	}()
	return nil
}
