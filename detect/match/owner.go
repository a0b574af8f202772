package match

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

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
	Sources     []int32 // partitions of vedette.logs that Run owns
	All         int     // partitions of vedette.logs, whoever owns them; len(Sources) if zero
	Partitions  int     // of vedette.observations

	Open         func(partition int32, offset int64) SourceReader
	Observations Producer
	DeadLetters  DeadLetters
	Positions    Positions
	Generations  Generations
	Vectors      Vectors      // nil: a source without a position starts at 0
	Standings    Standings    // nil: nobody else owns any source, or asks for rewinds
	Applied      Applied      // nil: only its own position says what a source held
	Incarnations Incarnations // of sources after their first; nil: none was replaced
	// Until bounds the sources: one is read up to its offset, and then holds nobody
	// back. nil: they go on for ever.
	Until map[int32]int64

	SaveEvery time.Duration // 1 s if zero
	Ahead     time.Duration // how far a source may run ahead of the slowest; 10 min if zero
	// State is told why a source goes back to its saved position, and nil once it has
	// saved one after that. nil: nobody asks.
	State    func(partition int32, err error)
	Parallel int          // sources decoded at the same time; GOMAXPROCS if zero
	Metrics  *Metrics     // may be nil
	Tracer   trace.Tracer // nil: no traces
	Logger   *slog.Logger // slog.Default if nil
}

func (o *OwnerOptions) validate() error {
	switch {
	case len(o.Sources) == 0 && o.All <= 0:
		return errors.New("match owner: no sources")
	case o.Partitions <= 0:
		return errors.New("match owner: no partitions of observations")
	case o.Open == nil, o.Observations == nil, o.DeadLetters == nil, o.Positions == nil, o.Generations == nil:
		return errors.New("match owner: Open, Observations, DeadLetters, Positions and Generations are needed")
	}
	if o.All <= 0 {
		o.All = len(o.Sources)
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
	if o.State == nil {
		o.State = func(int32, error) {}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

// Owner runs match over the sources that are this process's: those of its
// options, or those that a group gives it one by one.
//
// For each source it reads records in order, decodes, enriches and matches them
// with the generation in force, and writes to every partition of
// vedette.observations sections that follow one another without a hole. It saves
// its position only after all sections up to it were acknowledged. On any failure
// it goes back to a saved position and writes the sections again: correlate
// knows a repeat when it sees one.
type Owner struct {
	o   OwnerOptions
	cpu chan struct{}

	all       atomic.Int32 // partitions of vedette.logs
	mu        sync.Mutex
	sources   map[int32]*source // at work
	programs  map[string]*Program
	standings map[int32]Standing
	panics    map[string]bool // logged

	attending sync.Mutex
	attended  time.Time // when the standings were last asked for
	failing   bool      // they could not be had
}

// NewOwner makes an owner; Run runs it, or RunSource source by source.
func NewOwner(o OwnerOptions) (*Owner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	w := &Owner{
		o: o, cpu: make(chan struct{}, o.Parallel), sources: make(map[int32]*source), programs: make(map[string]*Program),
		panics: make(map[string]bool),
	}
	w.Widen(o.All)
	return w, nil
}

// Widen tells that vedette.logs has so many partitions: none of the others runs
// ahead until the ones that are new have been begun by whoever has them. They
// never become fewer. It may be called at any time.
func (w *Owner) Widen(all int) {
	for n := w.all.Load(); int32(all) > n && !w.all.CompareAndSwap(n, int32(all)); n = w.all.Load() {
	}
}

// Run takes the sources of the options over and works until ctx is done, when it
// returns nil, or until it may not go on: see RunSource.
func (w *Owner) Run(ctx context.Context) error {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, p := range w.o.Sources {
		wg.Go(func() {
			if err := w.RunSource(ctx, p, nil); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if parent.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// RunSource takes one source over and works until ctx is done, when it returns
// nil, or until it may not go on: an error that is ErrFenced if another owner has
// taken the source over, stream.ErrTruncated if it ends before its position,
// ErrSemantics if its records are another program's to judge: the position then
// stands there. What may pass (Kafka or Postgres away) is tried again for ever. Before it takes the
// source over it waits for confirm, unless that is nil. A source runs once at a
// time.
func (w *Owner) RunSource(ctx context.Context, partition int32, confirm func(context.Context) error) error {
	inc, err := w.incarnation(ctx, partition)
	if err != nil {
		return nil // ctx is done
	}
	s := newSource(w, partition, inc, confirm)
	w.mu.Lock()
	if w.sources[partition] != nil {
		w.mu.Unlock()
		return fmt.Errorf("match source %d: at work already", partition)
	}
	w.sources[partition] = s
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.sources, partition)
		w.mu.Unlock()
		w.o.Metrics.Lag.DeleteLabelValues(s.label) // whoever has the source next tells
		w.o.Metrics.Clock.DeleteLabelValues(s.label)
	}()
	if err := s.run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("match source %d: %w", partition, err)
	}
	return nil
}

// Rewind asks for the records of a source from next on again, because correlate
// lacks their sections. It returns at once and may be called at any time; a
// source that is not at work here is somebody else's to rewind.
func (w *Owner) Rewind(id detect.Source, next int64) {
	if s := w.source(id); s != nil {
		s.askRewind(next)
	}
}

// source is the one of that identity if it is at work here.
func (w *Owner) source(id detect.Source) *source {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sources[id.Partition]; s != nil && s.id == id {
		return s
	}
	return nil
}

// program returns the generation of that digest; it keeps the few in use.
func (w *Owner) program(ctx context.Context, digest string) (*Program, error) {
	w.mu.Lock()
	p := w.programs[digest]
	w.mu.Unlock()
	if p != nil {
		return p, nil
	}
	lctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := w.o.Generations.Load(lctx, digest)
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

// attend asks how all sources stand, unless that was done a moment ago or is being
// done, and heeds what correlate wants of those at work here.
func (w *Owner) attend(ctx context.Context, every time.Duration) {
	if w.o.Standings == nil || !w.attending.TryLock() {
		return
	}
	defer w.attending.Unlock()
	if time.Since(w.attended) < every {
		return
	}
	qctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := w.o.Standings.Standings(qctx, w.o.Incarnation)
	w.attended = time.Now()
	if err != nil {
		if ctx.Err() == nil && !w.failing {
			w.o.Logger.Warn("match cannot see how far other sources are", "err", err)
		}
		w.failing = true
		return
	}
	w.failing = false
	m := make(map[int32]Standing, len(list))
	least := int64(math.MaxInt64)
	for _, s := range list {
		m[s.Partition] = s
		if s.Known && s.Clock != math.MinInt64 {
			least = min(least, s.Clock)
		}
	}
	if least != math.MaxInt64 {
		w.o.Metrics.Slowest.Set(float64(least) / 1e9)
	}
	w.mu.Lock()
	w.standings = m
	w.mu.Unlock()
	for _, st := range list {
		id := detect.Source{Incarnation: st.Incarnation, Partition: st.Partition}
		if s := w.source(id); s != nil {
			s.askFence(st.Epoch)
		}
		if st.Rewind >= 0 {
			w.Rewind(id, st.Rewind)
		}
	}
}

// slowest returns the least clock of the sources other than s, as far as is known
// here. A source that has no record at all holds nobody back; one that nobody has
// owned yet does. While correlate has nothing of a source, others go no further than
// where that one stands: correlate's clock, which it does not hold yet, would run past
// what it is about to bring.
func (w *Owner) slowest(s *source) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	least := int64(math.MaxInt64)
	for p, other := range w.sources {
		if other != s && !other.empty.Load() {
			clock, begun := other.clock.Load(), other.begun.Load()
			if st, ok := w.standings[p]; ok {
				clock, begun = max(clock, st.Clock), begun || st.Begun // it may have gone to another process
			}
			least = min(least, w.bound(clock, begun))
		}
	}
	if w.o.Standings == nil {
		for _, p := range w.o.Sources {
			if w.sources[p] == nil {
				return math.MinInt64 // Run is about to begin it
			}
		}
		return least
	}
	for p := range w.all.Load() {
		st, ok := w.standings[p]
		switch {
		case w.sources[p] != nil:
		case !ok || !st.Known:
			return math.MinInt64
		case st.Clock != math.MinInt64:
			least = min(least, w.bound(st.Clock, st.Begun))
		}
	}
	return least
}

// bound is the clock by which a source holds others back.
func (w *Owner) bound(clock int64, begun bool) int64 {
	if ahead := int64(w.o.Ahead); !begun && clock >= math.MinInt64+ahead {
		return clock - ahead
	}
	return clock
}
