package correlate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

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

	CommitEvery  time.Duration // between checkpoints; 1 s if zero
	FindingDelay time.Duration // from a new finding to its checkpoint; 100 ms if zero
	MarkEvery    time.Duration // between marks; 5 s if zero
	MaxRows      int           // findings in the making at which a checkpoint is written at once; 1000 if zero
	Metrics      *Metrics      // may be nil
	Logger       *slog.Logger  // slog.Default if nil
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
	if o.MaxRows <= 0 {
		o.MaxRows = 1000
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

	mu   sync.Mutex
	next map[detect.Source]int64 // as of the last checkpoint; nil until live
	live chan struct{}           // closed once live
	once sync.Once
}

// NewOwner makes an owner; Run runs it.
func NewOwner(o OwnerOptions) (*Owner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Owner{
		o: o, label: strconv.Itoa(int(o.Partition)), log: o.Logger.With("partition", o.Partition),
		sets: make(map[string]*rule.Set), live: make(chan struct{}),
	}, nil
}

// Run works until ctx is done, when it returns nil, or until it may not go on:
// ErrFenced if another owner has taken the partition over, stream.ErrTruncated
// if the partition ends before its position. What may pass (Kafka or Postgres
// away) is tried again for ever.
func (o *Owner) Run(ctx context.Context) error {
	defer o.o.Metrics.Live.WithLabelValues(o.label).Set(0)
	backoff := minBackoff
	for ctx.Err() == nil {
		s := &session{owner: o, started: time.Now()}
		err := s.run(ctx)
		o.o.Metrics.Live.WithLabelValues(o.label).Set(0)
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

// Next returns the offset of a source that the partition lacks, as of its latest
// checkpoint. It waits until the owner is live.
func (o *Owner) Next(ctx context.Context, s detect.Source) (int64, error) {
	select {
	case <-o.live:
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for correlate partition %d: %w", o.o.Partition, ctx.Err())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.next[s], nil
}

// publish makes the vector known to Next.
func (o *Owner) publish(e *Engine) {
	next := make(map[detect.Source]int64, len(e.c.sources))
	for i := range e.c.sources {
		next[e.c.sources[i].Source] = e.c.sources[i].next
	}
	o.mu.Lock()
	o.next = next
	o.mu.Unlock()
	o.once.Do(func() { close(o.live) })
}

// Group is the owners of all partitions, in one process.
type Group []*Owner

// Run runs the owners until ctx is done, or until the first may not go on; its
// error is returned.
func (g Group) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, len(g))
	for _, o := range g {
		go func() { errs <- o.Run(ctx) }()
	}
	var first error
	for range g {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// LeastNext returns the least offset of a source that some partition lacks. It
// waits until all owners are live.
func (g Group) LeastNext(ctx context.Context, s detect.Source) (int64, error) {
	least := int64(math.MaxInt64)
	for _, o := range g {
		n, err := o.Next(ctx, s)
		if err != nil {
			return 0, err
		}
		least = min(least, n)
	}
	if len(g) == 0 {
		return 0, nil
	}
	return least, nil
}
