package incident

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Assembler groups changed findings into incidents for one tenant shard, and
// copies their evidence. It keeps no state between transactions but its epoch
// and how much to take at once.
type Assembler struct {
	opts  Options
	m     *metrics
	shard int32
	epoch atomic.Int64
	limit int // findings of the next transaction
}

// New makes the assembler of a shard. There is one shard, 0, for all tenants.
func New(o Options) (*Assembler, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("incident: register metrics: %w", err)
	}
	return &Assembler{opts: o, m: m}, nil
}

// Acquire takes the shard over: an earlier owner can write no more.
func (a *Assembler) Acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	epoch, err := a.opts.Ledger.AcquireAssembler(ctx, a.shard)
	if err != nil {
		return fmt.Errorf("incident: take over tenant shard %d: %w", a.shard, err)
	}
	a.epoch.Store(epoch)
	a.opts.Logger.Info("assembler owns tenant shard", "shard", a.shard, "epoch", epoch)
	return nil
}

// Run takes the shard over and assembles until ctx ends, when it returns nil, or
// until another owner takes over, when it returns ErrFenced. What else goes wrong
// is logged and tried again.
func (a *Assembler) Run(ctx context.Context) error {
	const assemble = "assemble findings"
	defer a.opts.State(assemble, nil)
	for {
		err := a.Acquire(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		a.m.failures.Inc()
		a.opts.State(assemble, err)
		a.opts.Logger.Error("assembler cannot take its shard over; trying again", "err", err)
		if !pause(ctx, maxPause) {
			return nil
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return a.loop(ctx, assemble, func(ctx context.Context) (bool, error) {
			n, err := a.Step(ctx)
			return n > 0, err
		})
	})
	if a.opts.Records != nil {
		g.Go(func() error { return a.loop(ctx, "copy evidence", a.CopyEvidence) })
	}
	return g.Wait()
}

// maxBatches is how many times Options.Batch a transaction takes at most.
const maxBatches = 16

// maxPause is the longest pause after a failure.
const maxPause = 5 * time.Second

// tellAfter is how many failures, one after the other, are worth telling: one alone
// is somebody else's transaction.
const tellAfter = 2

func (a *Assembler) loop(ctx context.Context, what string, step func(context.Context) (bool, error)) error {
	defer a.opts.State(what, nil)
	failed := 0
	for ctx.Err() == nil {
		more, err := step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFenced):
			return err
		case err != nil:
			failed++
			a.m.failures.Inc()
			if failed >= tellAfter {
				a.opts.State(what, err)
			}
			a.opts.Logger.Error("assembler failed; trying again", "doing", what, "err", err, "failures", failed)
			pause(ctx, min(maxPause, time.Duration(failed)*a.opts.Poll))
		default:
			a.opts.State(what, nil)
			failed = 0
			if !more {
				pause(ctx, a.opts.Poll)
			}
		}
	}
	return nil
}

// pause waits and reports whether ctx still stands.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Step assembles one batch of changed findings in one transaction and returns
// how many there were.
func (a *Assembler) Step(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	var b *batch
	began := a.opts.Now()
	err := a.opts.Ledger.Assemble(ctx, a.shard, a.epoch.Load(), func(tx Tx) error {
		b = &batch{opts: &a.opts, limit: max(a.limit, a.opts.Batch), tx: tx, now: a.opts.Now().UTC(), began: began}
		return b.assemble(ctx)
	})
	b.told(err)
	if err != nil {
		return 0, fmt.Errorf("incident: assemble: %w", err)
	}
	// What an incident costs a transaction grows with its findings: a backlog, as a
	// flood makes, is taken in larger pieces.
	if a.limit = b.limit; b.findings < a.limit/2 {
		a.limit = a.opts.Batch
	} else {
		a.limit = min(2*a.limit, maxBatches*a.opts.Batch)
	}
	if b.findings > 0 {
		a.m.took.Observe(a.opts.Now().Sub(began).Seconds())
	}
	a.m.assembled.Add(float64(b.findings))
	a.m.common.Add(float64(b.common))
	a.m.badKeys.Add(float64(b.badKeys))
	if b.newest > 0 {
		a.m.lag.Set(b.now.Sub(time.Unix(0, b.newest)).Seconds())
	}
	for _, e := range b.audit {
		a.m.incidents.WithLabelValues(string(e.Action)).Inc()
		a.opts.Logger.Info("incident "+string(e.Action), "tenant", e.Tenant, "incident", e.Incident.String(), "actor", e.Actor, "detail", e.Detail)
	}
	return b.findings, nil
}
