package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// Appender is the way onto vedette.logs; *stream.LogAppender is one.
type Appender interface {
	// Append returns once all messages are acknowledged.
	Append(ctx context.Context, msgs []stream.LogMessage) error
	// Broadcast puts a message on every partition.
	Broadcast(ctx context.Context, m stream.LogMessage) error
	DeadLetter(ctx context.Context, d stream.DeadLetter) error
}

// Cursors keeps cursors; *storage.DB does.
type Cursors interface {
	// Cursor returns nil if none was saved.
	Cursor(ctx context.Context, origin string) ([]byte, error)
	SaveCursor(ctx context.Context, origin string, cursor []byte) error
}

// Options are the options of a Collector. Origin, Paths, Appender and Cursors
// have no default.
type Options struct {
	Origin string     // names the collector: its cursor, and the origin of its records
	Tenant string     // "default"
	Paths  []string   // files and directories, see List; they may come to be later
	Type   event.Type // of all records; empty: told from each

	Appender Appender
	Cursors  Cursors

	Poll          time.Duration // how often files are looked at; 1 s
	Rest          time.Duration // a file unchanged for so long is taken as it is, without a last line break; 3 s
	ProgressEvery time.Duration // 1 s
	SaveEvery     time.Duration // how often the cursor is saved; 5 s
	MaxRecord     int           // bytes; stream.MaxRecordBytes, which is also the most

	Now     func() time.Time // time.Now
	Metrics *Metrics         // unregistered ones
	Logger  *slog.Logger     // slog.Default()
	Tracer  trace.Tracer     // none
}

func (o *Options) validate() error {
	switch {
	case o.Origin == "":
		return errors.New("file collector: origin: want a name")
	case len(o.Paths) == 0:
		return fmt.Errorf("file collector %s: paths: want at least one file or directory", o.Origin)
	case o.Appender == nil || o.Cursors == nil:
		return fmt.Errorf("file collector %s: want an appender and a place for the cursor", o.Origin)
	}
	if o.Tenant == "" {
		o.Tenant = "default"
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.Poll, time.Second}, {&o.Rest, 3 * time.Second}, {&o.ProgressEvery, time.Second}, {&o.SaveEvery, 5 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.MaxRecord <= 0 || o.MaxRecord > stream.MaxRecordBytes {
		o.MaxRecord = stream.MaxRecordBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Tracer == nil {
		o.Tracer = noop.Tracer{}
	}
	o.Logger = o.Logger.With("collector", o.Origin)
	return nil
}

// Collector watches log files and appends what is written to them. What is there
// when it starts, and what piles up while it cannot append, it reads in the order
// of event time across all files; what comes later as it comes.
//
// Delivery is at least once: the cursor is saved behind what Kafka acknowledged,
// and after a crash what came since is appended again. A file that is renamed is
// known again; one that is truncated or replaced is read from its beginning.
//
// With the records it broadcasts its progress: up to which event time the logs
// are complete. Reading a backlog, that is the time of the records in hand, less
// the disorder that their log type is written in; when everything has been read
// it is now. While files cannot be read it stands still.
type Collector struct {
	o        Options
	places   map[string]*place // by id
	watched  map[string]*watch // by id
	through  map[event.Type]int64
	told     time.Time // when progress was last broadcast
	saved    time.Time
	dirty    bool
	moving   time.Time // since when there is something in files being written that cannot be read yet; zero if there is not
	first    time.Time // end of the first look: what comes since is as new as its source makes it
	caughtUp atomic.Bool
}

// New returns a Collector.
func New(o Options) (*Collector, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Collector{o: o, watched: map[string]*watch{}, through: map[event.Type]int64{}}
	if o.Type != event.TypeUnknown {
		c.through[o.Type] = math.MinInt64
	}
	return c, nil
}

// CaughtUp reports whether everything that was there at the last look has been
// appended, and its progress told.
func (c *Collector) CaughtUp() bool { return c.caughtUp.Load() }

// Run collects until ctx ends, and then returns nil. It returns an error only if
// it cannot begin.
func (c *Collector) Run(ctx context.Context) error {
	b, err := c.o.Cursors.Cursor(ctx, c.o.Origin)
	if err != nil {
		return fmt.Errorf("file collector %s: %w", c.o.Origin, err)
	}
	if c.places, err = decodeCursor(b); err != nil {
		return fmt.Errorf("file collector %s: %w", c.o.Origin, err)
	}
	defer c.saveLast(ctx)
	for ctx.Err() == nil {
		began := c.o.Now()
		files, moving, failed := c.look()
		looked := c.o.Now().Sub(began)
		c.moving = moving
		if c.first.IsZero() {
			c.first = began.Add(looked)
		}
		read := 0
		if len(files) > 0 {
			var broken bool
			read, broken = c.pass(ctx, files)
			failed = failed || broken
		}
		if ctx.Err() != nil {
			return nil
		}
		if failed {
			c.progress(ctx, math.MinInt64, false, false)
		} else { // all that was there when the look began has been appended
			c.progress(ctx, began.UnixNano(), true, !c.caughtUp.Load())
		}
		c.caughtUp.Store(!failed && c.moving.IsZero())
		c.save(ctx, false)
		if read == 0 || failed {
			// Looking at very many files may take its time, but not all of it.
			sleep(ctx, max(c.o.Poll, 10*looked))
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// disorder is how far out of order records of a type are written within and
// across files: CloudTrail delivers within minutes, in any order.
func disorder(t event.Type) time.Duration {
	if t == event.TypeCloudTrail {
		return 15 * time.Minute
	}
	return 2 * time.Minute
}

// tellRecords is after how many records progress is told at the latest.
const tellRecords = 16_384

// progress broadcasts up to when the logs are complete: through (ns) when live,
// or less by their disorder. It never goes back. Unless now is set, it does so
// only when it is time.
func (c *Collector) progress(ctx context.Context, through int64, live, now bool) {
	if at := c.o.Now(); now || at.Sub(c.told) >= c.o.ProgressEvery {
		c.told = at
	} else {
		return
	}
	through = c.readable(through)
	for _, t := range slices.Sorted(maps.Keys(c.through)) {
		c.tell(ctx, t, through, live)
	}
}

// readable bounds a promise by what stands in files that cannot be read yet. In
// those that were there at the start it may be as old as anything. A file that
// comes later is as new as its source makes it: all before it came is there.
func (c *Collector) readable(through int64) int64 {
	switch {
	case c.moving.IsZero():
		return through
	case c.moving.After(c.first):
		return min(through, c.moving.UnixNano())
	}
	return math.MinInt64
}

func (c *Collector) tell(ctx context.Context, t event.Type, through int64, live bool) {
	if !live && through != math.MinInt64 {
		through -= int64(disorder(t))
	}
	// Nothing is complete yet: say so, so that the origin is known.
	through = max(through, c.through[t], 0)
	m := stream.LogMessage{
		Kind: stream.KindProgress, Tenant: c.o.Tenant, Type: string(t), Origin: c.o.Origin, Through: time.Unix(0, through).UTC(),
	}
	if !c.retry(ctx, "append", func() error { return c.o.Appender.Broadcast(ctx, m) }) {
		return
	}
	c.through[t] = through
	c.o.Metrics.Through.WithLabelValues(c.o.Origin, string(t)).Set(float64(through) / 1e9)
}

// declare tells the progress of log types that are new here. It comes before
// their first record: from then on nobody takes their absence for certain.
func (c *Collector) declare(ctx context.Context, types map[event.Type]bool, head int64) {
	var fresh []event.Type
	for t := range types {
		if _, ok := c.through[t]; !ok {
			fresh = append(fresh, t)
		}
	}
	slices.Sort(fresh)
	for _, t := range fresh {
		c.through[t] = math.MinInt64
		c.tell(ctx, t, c.readable(head), false)
	}
}

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// retry does something until it succeeds; false if ctx ended before.
func (c *Collector) retry(ctx context.Context, operation string, do func() error) bool {
	for wait := minBackoff; ; wait = min(2*wait, maxBackoff) {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		c.fail(operation, err)
		sleep(ctx, wait)
	}
}

func (c *Collector) fail(operation string, err error) {
	c.o.Metrics.Errors.WithLabelValues(c.o.Origin, operation).Inc()
	c.o.Logger.Warn("collecting from files failed", "operation", operation, "error", err)
}

// save saves the cursor if it has changed and it is time.
func (c *Collector) save(ctx context.Context, now bool) {
	at := c.o.Now()
	if !c.dirty || !now && at.Sub(c.saved) < c.o.SaveEvery {
		return
	}
	c.saved = at
	for id, p := range c.places {
		if at.Sub(time.Unix(p.Seen, 0)) > forgetAfter {
			delete(c.places, id)
		}
	}
	b, err := encodeCursor(c.places)
	if err == nil {
		err = c.o.Cursors.SaveCursor(ctx, c.o.Origin, b)
	}
	if err != nil {
		if ctx.Err() == nil {
			c.fail("cursor", err)
		}
		return
	}
	c.dirty = false
}

// saveLast saves the cursor when ctx has ended.
func (c *Collector) saveLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxBackoff)
	defer cancel()
	c.save(ctx, true)
}
