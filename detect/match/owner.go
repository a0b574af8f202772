package match

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// Enricher adds to an event what its record does not say. It must give the same
// answer for the same event for as long as its generation lasts.
type Enricher interface {
	Enrich(ev *event.Event)
}

// Program is a generation made ready to run. Its enricher must be safe for
// concurrent use; of the matcher each source takes a clone.
type Program struct {
	Digest   string
	Matcher  *Matcher
	Enricher Enricher // nil: none
}

// Generations makes generations ready by their digest.
type Generations interface {
	// Load returns the generation of that digest. An error means that this owner
	// is not ready; it asks again and reads no further.
	Load(ctx context.Context, digest string) (*Program, error)
	// First returns the digest of the first generation ever stored: it is in force
	// before any control record.
	First(ctx context.Context) (string, error)
}

// Vectors tells how far correlate has come, for a source whose position was
// never saved.
type Vectors interface {
	// LeastNext returns the least offset of the source that some partition of
	// vedette.observations still lacks; 0 if none has anything.
	LeastNext(ctx context.Context, s detect.Source) (int64, error)
}

// SourceReader reads one partition of vedette.logs; [*stream.Reader] is one.
type SourceReader interface {
	Read(ctx context.Context) (stream.Batch, error)
}

// Producer writes to vedette.observations; [*stream.Producer] is one.
type Producer interface {
	Produce(ctx context.Context, partition int32, recs []stream.Record) (int64, error)
}

// DeadLetters takes what cannot be decoded; [*stream.LogAppender] is one.
type DeadLetters interface {
	DeadLetters(ctx context.Context, ds []stream.DeadLetter) error
}

// OwnerOptions says what an owner reads and where it writes.
type OwnerOptions struct {
	Incarnation uint32  // of the sources
	Sources     []int32 // partitions of vedette.logs to own
	Partitions  int     // of vedette.observations

	Open         func(partition int32, offset int64) SourceReader
	Observations Producer
	DeadLetters  DeadLetters
	Positions    Positions
	Generations  Generations
	Vectors      Vectors // nil: a source without a position starts at 0

	SaveEvery time.Duration // 1 s if zero
	Ahead     time.Duration // how far a source may run ahead of the slowest; 10 min if zero
	Parallel  int           // sources decoded at the same time; GOMAXPROCS if zero
	Metrics   *Metrics      // may be nil
	Logger    *slog.Logger  // slog.Default if nil
}

func (o *OwnerOptions) validate() error {
	switch {
	case len(o.Sources) == 0:
		return errors.New("match owner: no sources")
	case o.Partitions <= 0:
		return errors.New("match owner: no partitions of observations")
	case o.Open == nil, o.Observations == nil, o.DeadLetters == nil, o.Positions == nil, o.Generations == nil:
		return errors.New("match owner: Open, Observations, DeadLetters, Positions and Generations are needed")
	}
	if o.SaveEvery <= 0 {
		o.SaveEvery = time.Second
	}
	if o.Ahead <= 0 {
		o.Ahead = 10 * time.Minute
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

// Owner runs match over the sources that it owns.
//
// For each source it reads records in order, decodes, enriches and matches them
// with the generation in force, and writes to every partition of
// vedette.observations sections that follow one another without a hole. It saves
// its position only after all sections up to it were acknowledged. On any failure
// it goes back to a saved position and writes the sections again: correlate
// knows a repeat when it sees one.
type Owner struct {
	o       OwnerOptions
	sources []*source
	cpu     chan struct{}

	mu       sync.Mutex
	programs map[string]*Program
}

// NewOwner makes an owner; Run runs it.
func NewOwner(o OwnerOptions) (*Owner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	w := &Owner{o: o, cpu: make(chan struct{}, o.Parallel), programs: make(map[string]*Program)}
	for _, p := range o.Sources {
		w.sources = append(w.sources, newSource(w, p))
	}
	return w, nil
}

// Run takes the sources over and works until ctx is done, when it returns nil,
// or until it may not go on: an error that is ErrFenced if another owner has
// taken a source over, stream.ErrTruncated if a source ends before its position.
// What may pass (Kafka or Postgres away) is tried again for ever.
func (w *Owner) Run(ctx context.Context) error {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, s := range w.sources {
		wg.Go(func() {
			if err := s.run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("match source %d: %w", s.id.Partition, err))
			}
		})
	}
	wg.Wait()
	if parent.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// Rewind asks for the records of a source from next on again, because correlate
// lacks their sections. It returns at once and may be called at any time.
func (w *Owner) Rewind(id detect.Source, next int64) {
	for _, s := range w.sources {
		if s.id == id {
			s.askRewind(next)
		}
	}
}

// program returns the generation of that digest; it keeps the few in use.
func (w *Owner) program(ctx context.Context, digest string) (*Program, error) {
	w.mu.Lock()
	p := w.programs[digest]
	w.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := w.o.Generations.Load(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("load generation %.12s: %w", digest, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.programs) >= maxPrograms {
		clear(w.programs)
	}
	w.programs[digest] = p
	return p, nil
}

// maxPrograms is how many generations are kept ready: sources change at offsets
// of their own, so a few are in use at the same time.
const maxPrograms = 8

// slowest returns the least clock of the sources other than s. A source that has
// no record at all holds nobody back.
func (w *Owner) slowest(s *source) int64 {
	least := int64(math.MaxInt64)
	for _, other := range w.sources {
		if other != s && !other.empty.Load() {
			least = min(least, other.clock.Load())
		}
	}
	return least
}
