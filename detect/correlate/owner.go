package correlate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/stream"
)

const (
	callTimeout = 30 * time.Second // of one call to Postgres
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 5 * time.Second
)

// PartitionReader reads one partition of vedette.observations; [*stream.Reader]
// is one.
type PartitionReader interface {
	Read(ctx context.Context) (stream.Batch, error)
}

// OwnerOptions says what an owner reads and where it commits.
type OwnerOptions struct {
	Partition   int32 // of vedette.observations
	Engine      Options
	Open        func(offset int64) PartitionReader
	Ledger      Ledger
	Generations Generations
	// Rewind asks match to write the sections of a source from next on again. It
	// must not block. nil: gaps are only counted.
	Rewind func(s detect.Source, next int64)
	// Confirm is waited for before the partition is taken over. nil: it may be at
	// any time.
	Confirm func(ctx context.Context) error
	// State is told why the partition has to be taken over again, and nil once a
	// checkpoint is written after that. nil: nobody asks.
	State func(err error)

	CommitEvery  time.Duration // between checkpoints; 1 s if zero
	FindingDelay time.Duration // from a new finding to its checkpoint; 100 ms if zero
	MarkEvery    time.Duration // between marks; 5 s if zero
	// Snapshots is where the windows go now and then, so that whoever takes over need
	// not rebuild them from the log. nil: nowhere.
	Snapshots      *Snapshots
	SnapshotEvery  time.Duration // 5 min if zero
	SnapshotAtStop bool          // write one, behind a last checkpoint, when Run's ctx ends
	LeaveWithin    time.Duration // bounds that; 5 s if zero

	MaxRows int          // findings in the making at which a checkpoint is written at once; 1000 if zero
	Metrics *Metrics     // may be nil
	Tracer  trace.Tracer // nil: no traces
	Logger  *slog.Logger // slog.Default if nil
}

func (o *OwnerOptions) validate() error {
	if o.Open == nil || o.Ledger == nil || o.Generations == nil {
		return errors.New("correlate owner: Open, Ledger and Generations are needed")
	}
	if o.CommitEvery <= 0 {
		o.CommitEvery = time.Second
	}
	if o.FindingDelay <= 0 {
		o.FindingDelay = 100 * time.Millisecond
	}
	if o.MarkEvery <= 0 {
		o.MarkEvery = 5 * time.Second
	}
	if o.SnapshotEvery <= 0 {
		o.SnapshotEvery = 5 * time.Minute
	}
	if o.LeaveWithin <= 0 {
		o.LeaveWithin = 5 * time.Second
	}
	if o.MaxRows <= 0 {
		o.MaxRows = 1000
	}
	if o.State == nil {
		o.State = func(error) {}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

// Owner runs correlate for one partition of vedette.observations: it takes the
// partition over, rebuilds the windows from a mark, and then applies sections
// and commits what they come to together with the position.
//
// Whatever fails, it takes the partition over again and begins at what is in the
// ledger: there is nothing to undo and no outcome to guess.
type Owner struct {
	o     OwnerOptions
	label string
	log   *slog.Logger
	sets  map[string]*rule.Set
	lost  *rule.Rule // runs in every generation

	traced   bool
	failures int // since the last checkpoint
}

// NewOwner makes an owner; Run runs it.
func NewOwner(o OwnerOptions) (*Owner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	traced := o.Tracer != nil
	if !traced {
		o.Tracer = noop.Tracer{}
	}
	return &Owner{
		traced: traced,
		o:      o, label: strconv.Itoa(int(o.Partition)), log: o.Logger.With("partition", o.Partition),
		sets: make(map[string]*rule.Set), lost: rule.VisibilityLost(),
	}, nil
}

// Run works until ctx is done, when it returns nil, or until it may not go on:
// ErrFenced if another owner has taken the partition over, stream.ErrTruncated
// if the partition ends before its position. What may pass (Kafka or Postgres
// away) is tried again for ever.
func (o *Owner) Run(ctx context.Context) error {
	defer func() {
		o.o.State(nil) // it is no longer ours to tell
		o.o.Metrics.left(o.o.Partition, o.label)
	}()
	backoff := minBackoff
	for ctx.Err() == nil {
		s := &session{owner: o, started: time.Now()}
		if o.traced {
			s.notes = &notes{}
		}
		err := s.run(ctx)
		o.o.Metrics.Live.WithLabelValues(o.label).Set(0)
		o.o.Metrics.State.set(o.o.Partition, nil)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFenced), errors.Is(err, stream.ErrTruncated):
			return fmt.Errorf("correlate partition %d: %w", o.o.Partition, err)
		}
		o.o.Metrics.Restarts.Inc()
		o.log.Warn("correlate takes its partition over again", "err", err)
		if s.commits > 0 {
			backoff = minBackoff
		}
		o.failures++
		o.o.State(err)
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}
