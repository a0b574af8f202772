package match

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/stream"
)

const (
	callTimeout = 10 * time.Second // of one call to Postgres
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 5 * time.Second
	// A second rewind to the same place makes no sense before the sections of the
	// first can have been read.
	rewindEvery = 10 * time.Second
)

// errRewind ends a session that has to start again from an earlier offset.
var errRewind = errors.New("sections are wanted again")

// source is one partition of vedette.logs under one owner. It works in sessions:
// each starts at a saved position, and ends at the first failure.
type source struct {
	owner   *Owner
	id      detect.Source
	label   string
	log     *slog.Logger
	confirm func(context.Context) error // nil: need not be asked
	life    Incarnation
	until   int64 // where it stops

	clock atomic.Int64 // stamp that it has got to
	empty atomic.Bool  // read to its end, and nothing was there
	begun atomic.Bool  // a position behind some record was saved
	pos   atomic.Int64 // read so far in this session

	failures atomic.Int32 // of sessions since a position was last saved

	mu        sync.Mutex
	saved     []Position // places to start from, ascending; the last is what Postgres has
	emit      int64      // sections begin here; what lies before only moves the state
	rewind    int64      // asked for; −1: nothing
	rewoundAt time.Time
	unsaved   bool                    // it went back, and Postgres does not know yet
	cancel    context.CancelCauseFunc // of the session
}

func newSource(w *Owner, partition int32, inc Incarnation, confirm func(context.Context) error) *source {
	s := &source{
		owner: w, confirm: confirm, id: detect.Source{Incarnation: inc.Number, Partition: partition}, life: inc, until: w.until(partition),
		label: strconv.Itoa(int(partition)), log: w.o.Logger.With("source", partition), rewind: -1,
	}
	s.clock.Store(math.MinInt64)
	return s
}

func (s *source) run(ctx context.Context) error {
	if err := s.acquire(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	if err := s.verify(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	defer s.owner.o.State(s.id.Partition, nil) // it is no longer ours to tell
	backoff := minBackoff
	for ctx.Err() == nil {
		before := s.last()
		err := s.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errRewind):
			s.owner.o.Metrics.Restarts.WithLabelValues("rewind").Inc()
			continue
		case errors.Is(err, ErrFenced), errors.Is(err, stream.ErrTruncated), errors.Is(err, ErrSemantics):
			return err
		}
		s.owner.o.Metrics.Restarts.WithLabelValues("failure").Inc()
		s.log.Warn("match goes back to its saved position", "err", err, "position", s.last())
		if s.last() > before {
			backoff = minBackoff
		}
		s.failures.Add(1)
		s.owner.o.State(s.id.Partition, err)
		sleep(ctx, backoff)
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// acquire takes the source over and finds where to start. Only being fenced or
// cancelled ends it.
func (s *source) acquire(ctx context.Context) error {
	o := &s.owner.o
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		if s.confirm != nil && s.confirm(ctx) != nil {
			return nil
		}
		err := func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			if o.Tracer != nil {
				var span trace.Span
				ctx, span = o.Tracer.Start(ctx, "take source over",
					trace.WithAttributes(attribute.Int("vedette.source.partition", int(s.id.Partition))))
				defer func() { endSpan(span, err) }()
			}
			p, err := o.Positions.AcquireSource(ctx, s.id.Incarnation, s.id.Partition)
			if err != nil {
				return fmt.Errorf("acquire: %w", err)
			}
			if _, err := decodeState(p.State); err != nil {
				return err
			}
			var emit int64
			if p.Known {
				emit = p.Next
			} else {
				// What is to be known before the first section has to be read again from
				// the start of the log.
				p.Next, p.Generation, p.State = 0, cmp.Or(s.life.Generation, p.First), s.life.State
				if o.Vectors != nil {
					if emit, err = o.Vectors.LeastNext(ctx, s.id); err != nil {
						return fmt.Errorf("ask for correlate's vectors: %w", err)
					}
				}
			}
			s.mu.Lock()
			s.life.Generation = cmp.Or(s.life.Generation, p.First)
			s.saved, s.emit = []Position{p}, emit
			s.begun.Store(p.Known && p.Next > 0)
			s.mu.Unlock()
			return nil
		}()
		if err == nil || errors.Is(err, ErrFenced) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("match cannot take its source over yet", "err", err)
		sleep(ctx, backoff)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// last is the offset that Postgres has.
func (s *source) last() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved[len(s.saved)-1].Next
}

// maxSaved bounds how many earlier positions are kept to rewind to.
const maxSaved = 512

func (s *source) save(p Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.saved); s.saved[n-1].Next == p.Next {
		s.saved = s.saved[:n-1] // only the clock has moved
	}
	s.saved = append(s.saved, p)
	s.begun.Store(p.Next > 0)
	if len(s.saved) <= maxSaved {
		return
	}
	// Thin out the older half.
	kept := s.saved[:0]
	for i, p := range s.saved {
		if i >= maxSaved/2 || i%2 == 0 {
			kept = append(kept, p)
		}
	}
	s.saved = kept
}

// askRewind ends the session if its sections from next on are lost.
func (s *source) askRewind(next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cancel == nil:
		return // not started: a repeat of the question will come
	case s.emit <= next && s.pos.Load() <= next:
		return // on its way
	case s.emit <= next && time.Since(s.rewoundAt) < rewindEvery:
		return // written a moment ago
	case s.rewind >= 0 && s.rewind <= next:
		return
	}
	s.rewind = next
	s.cancel(errRewind)
}

// askFence ends the work if another has taken the source over. One that has
// nothing to save would not hear of it, and nobody would go on where the other, who
// may have gone back, left off.
func (s *source) askFence(epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil && epoch > s.saved[len(s.saved)-1].Epoch {
		s.cancel(fmt.Errorf("at epoch %d, another owner is at %d: %w", s.saved[len(s.saved)-1].Epoch, epoch, ErrFenced))
	}
}

// begin returns where the next session starts.
func (s *source) begin(cancel context.CancelCauseFunc) (p Position, emit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = cancel
	if s.rewind >= 0 {
		s.log.Warn("match goes back: correlate lacks sections", "from", s.rewind)
		s.emit, s.rewind, s.rewoundAt, s.unsaved = s.rewind, -1, time.Now(), true
		first := s.saved[0]
		s.saved = slices.DeleteFunc(s.saved, func(p Position) bool { return p.Next > s.emit })
		if len(s.saved) == 0 {
			s.saved = []Position{{Epoch: first.Epoch, Generation: s.life.Generation, State: s.life.State}}
		}
	}
	p = s.saved[len(s.saved)-1]
	s.emit = max(s.emit, p.Next)
	p.Next = max(p.Next, s.life.First) // sections begin at 0 all the same
	s.pos.Store(p.Next)
	return p, s.emit
}

// session reads, matches and writes, each in a goroutine of its own, from the
// last saved position to the first failure.
func (s *source) session(ctx context.Context) error {
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start, emit := s.begin(cancel)
	if err := s.keepRewind(sctx, start); err != nil {
		return err
	}
	w, err := newWorker(sctx, s, start, emit)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(sctx)
	reads := make(chan read, 1)
	flights := make(chan flight, 1)
	g.Go(func() error { return s.read(gctx, start.Next, reads) })
	g.Go(func() error { return w.run(gctx, reads, flights) })
	g.Go(func() error { return s.write(gctx, flights) })
	err = g.Wait()
	if cause := context.Cause(sctx); errors.Is(cause, errRewind) || errors.Is(cause, ErrFenced) {
		return cause
	}
	return err
}

// keepRewind saves where the source has gone back to, so that whoever takes it over
// before it is through goes back as well.
func (s *source) keepRewind(ctx context.Context, start Position) error {
	s.mu.Lock()
	unsaved := s.unsaved
	s.mu.Unlock()
	if !unsaved {
		return nil
	}
	start.Clock = s.clock.Load()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.owner.o.Positions.SaveSource(ctx, s.id.Incarnation, s.id.Partition, start); err != nil {
		return fmt.Errorf("save position to rewind to: %w", err)
	}
	s.mu.Lock()
	s.unsaved = false
	s.mu.Unlock()
	return nil
}

// read is what the reader hands on: a batch, or a hole in the log. An empty one
// says that time has passed.
type read struct {
	batch stream.Batch
	gap   *stream.GapError
	took  lap
}

func (s *source) read(ctx context.Context, offset int64, out chan<- read) error {
	r := s.owner.o.Open(s.id.Partition, offset)
	backoff := minBackoff
	failing := false
	var last *stream.Record
	for {
		var b stream.Batch
		var err error
		began := time.Now()
		switch {
		case offset >= s.until:
			sleep(ctx, minBackoff)
			b, err = stream.Batch{Next: s.until, End: s.until}, ctx.Err()
		case failing:
			if err = s.again(ctx, last); err != nil {
				break
			}
			fallthrough
		default:
			b, err = r.Read(ctx)
		}
		next := read{batch: s.bound(b), took: lap{began, time.Now()}}
		switch {
		case err == nil:
			backoff, failing = minBackoff, false
			if n := len(b.Records); n > 0 {
				last = &b.Records[n-1]
			}
			offset = b.Next
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &next.gap):
			next.gap.To = min(next.gap.To, s.until)
			offset = next.gap.To
		case stream.Retriable(err):
			if !failing {
				s.log.Warn("vedette.logs cannot be read", "err", err)
			}
			failing = true
			sleep(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
			next.batch = stream.Batch{Next: -1}
		default:
			return err
		}
		select {
		case out <- next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flight is what a stretch of records came to, ready to be written.
type flight struct {
	sections [][]stream.Record // by partition of vedette.observations, in order
	letters  []stream.DeadLetter
	save     *Position // where all sections up to it are written with this flight
	end      error     // ends the session once this is written
	span     trace.Span
}

// write has one request outstanding a partition and goes no further after a
// failure: what was written of each partition stays a prefix of the sections.
func (s *source) write(ctx context.Context, flights <-chan flight) error {
	for {
		var f flight
		select {
		case f = <-flights:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := s.land(trace.ContextWithSpan(ctx, f.span), &f)
		endSpan(f.span, err)
		if err == nil {
			err = f.end
		}
		if err != nil {
			return err
		}
	}
}

// land writes a flight, and then saves the position that it came with.
func (s *source) land(ctx context.Context, f *flight) error {
	o := &s.owner.o
	if len(f.letters) > 0 {
		if err := o.DeadLetters.DeadLetters(ctx, f.letters); err != nil {
			return err
		}
	}
	if err := s.produceAll(ctx, f); err != nil {
		return err
	}
	if f.save == nil {
		return nil
	}
	sctx, cancel := context.WithTimeout(ctx, callTimeout)
	err := o.Positions.SaveSource(sctx, s.id.Incarnation, s.id.Partition, *f.save)
	cancel()
	if err != nil {
		return fmt.Errorf("save position: %w", err)
	}
	s.save(*f.save)
	if s.failures.Swap(0) > 0 {
		o.State(s.id.Partition, nil)
	}
	return nil
}

func (s *source) produceAll(ctx context.Context, f *flight) (err error) {
	if f.span.IsRecording() {
		_, span := s.owner.o.Tracer.Start(ctx, "produce", trace.WithSpanKind(trace.SpanKindProducer))
		defer func() { endSpan(span, err) }()
	}
	g, gctx := errgroup.WithContext(ctx)
	for p, recs := range f.sections {
		if len(recs) > 0 {
			g.Go(func() error { return s.produce(gctx, int32(p), recs) })
		}
	}
	return g.Wait()
}

// maxProduce is how much goes into one request, uncompressed.
const maxProduce = 1 << 20

func (s *source) produce(ctx context.Context, p int32, recs []stream.Record) error {
	for len(recs) > 0 {
		n, size := 0, 0
		for n < len(recs) && (n == 0 || size+len(recs[n].Value) <= maxProduce) {
			size += len(recs[n].Value)
			n++
		}
		if _, err := s.owner.o.Observations.Produce(ctx, p, recs[:n]); err != nil {
			return err
		}
		s.owner.o.Metrics.Sections.Add(float64(n))
		recs = recs[n:]
	}
	return nil
}
