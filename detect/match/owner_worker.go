package match

import (
	"context"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

const (
	// future is how far an event time may lie after the append stamp.
	future = int64(time.Minute)
	// maxSection is the size at which a section is closed, in bytes.
	maxSection = 256 << 10
	// attendEvery is how often an owner looks at all sources' standings, attendSoon
	// while one of its own waits for others.
	attendEvery = time.Second
	attendSoon  = 200 * time.Millisecond
	// reasonMessage is the dead-letter reason of a message that is none of ours.
	reasonMessage = "message"
)

// worker turns the records of a source into sections. It is single-threaded.
type worker struct {
	s     *source
	state *state
	epoch int64

	pos        int64  // of the next record
	emit       int64  // records before it only move the state
	generation string // in force at pos
	program    *Program
	matcher    *Matcher // the program's, for this goroutine

	decoder  *event.Decoder
	ev       event.Event
	interner stream.Interner
	crc      *crc32.Table

	parts   []part
	full    []int // partitions whose section is to be closed after this record
	letters []stream.DeadLetter
	closed  time.Time      // when sections were last closed on all partitions
	asked   int64          // position whose saving was last asked for
	stood   int64          // clock that went with it
	known   bool           // a position was saved
	counted counts         // since the last batch
	notes   *notes         // for the trace
	last    *stream.Record // read and not summed yet
	before  detect.Tail    // the last record read, unless last is newer

	// The record in hand, for Observe.
	value  []byte
	summed bool
	sum    uint32
	hits   int
}

// counts are kept here and published once a batch.
type counts struct {
	records, ticks, progress, generations, invalid   int
	decoded, future, matches, observations, overflow int
}

func (c *counts) publish(m *Metrics) {
	for kind, n := range map[string]int{
		"record": c.records, "tick": c.ticks, "progress": c.progress, "generation": c.generations, "invalid": c.invalid,
	} {
		if n > 0 {
			m.Records.WithLabelValues(kind).Add(float64(n))
		}
	}
	m.Decoded.Add(float64(c.decoded))
	m.Future.Add(float64(c.future))
	m.Matches.Add(float64(c.matches))
	m.Observations.Add(float64(c.observations))
	m.Overflow.Add(float64(c.overflow))
	*c = counts{}
}

// part is what goes to one partition of vedette.observations.
type part struct {
	from    int64 // the last section's To
	builder detect.SectionBuilder
	ready   []stream.Record // sections closed and not handed over yet
}

func newWorker(ctx context.Context, s *source, start Position, emit int64) (*worker, error) {
	st, err := decodeState(start.State)
	if err != nil {
		return nil, err
	}
	w := &worker{
		s: s, state: st, epoch: start.Epoch, pos: start.Next, emit: emit, generation: start.Generation,
		decoder: event.NewDecoder(), crc: crc32.MakeTable(crc32.Castagnoli),
		parts: make([]part, s.owner.o.Partitions), closed: time.Now(), asked: start.Next,
		stood: start.Clock, known: start.Known,
	}
	if s.owner.o.Tracer != nil {
		w.notes = &notes{}
	}
	for i := range w.parts {
		w.parts[i].from = emit
	}
	if s.failures.Load() > 0 {
		w.asked-- // whether positions can be saved again is to be known, whatever comes
	}
	if n := len(st.tails); n > 0 {
		w.before = st.tails[n-1]
	}
	if w.generation == "" {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if w.generation, err = s.owner.o.Generations.First(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *worker) run(ctx context.Context, reads <-chan read, flights chan<- flight) error {
	o := &w.s.owner.o
	for {
		w.s.owner.attend(ctx, attendEvery)
		var r read
		select {
		case r = <-reads:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.gap != nil {
			w.lose(r.gap)
		}
		for recs := r.batch.Records; len(recs) > 0; {
			limit, err := w.wait(ctx, recs[0].Time.UnixNano(), flights)
			if err != nil {
				return err
			}
			n := 1
			for n < len(recs) && (recs[n].Offset < w.emit || recs[n].Time.UnixNano() <= limit) {
				n++
			}
			began := time.Now()
			if err := w.batch(ctx, recs[:n]); errors.Is(err, ErrSemantics) {
				return w.end(ctx, flights, err)
			} else if err != nil {
				return err
			}
			w.notes.judge(r.took, lap{began, time.Now()}, recs[:n])
			recs = recs[n:]
		}
		if r.gap == nil && r.batch.Next >= 0 {
			w.pos = r.batch.Next // beyond markers that hold no record
			w.s.pos.Store(w.pos)
			w.s.empty.Store(w.state.clock == math.MinInt64 && w.pos >= r.batch.End || w.pos >= w.s.until)
			o.Metrics.Lag.WithLabelValues(w.s.label).Set(float64(r.batch.End - w.pos))
			o.Metrics.Clock.WithLabelValues(w.s.label).Set(float64(w.state.clock) / 1e9)
		}
		if w.state.clock > w.s.clock.Load() {
			w.s.clock.Store(w.state.clock)
		}
		if err := w.hand(ctx, flights, time.Since(w.closed) >= o.SaveEvery); err != nil {
			return err
		}
	}
}

// lose steps over records that the log no longer holds. The section that covers
// them says nothing of them; that they are lost is an alarm.
func (w *worker) lose(gap *stream.GapError) {
	if from := max(gap.From, w.emit); from < gap.To && from > 0 {
		w.s.owner.o.Metrics.Lost.Add(float64(gap.To - from))
		w.s.log.Error("records were lost before they were matched", "from", from, "to", gap.To)
		w.blind(from, gap.To)
	}
	w.pos = gap.To
}

// wait holds a source back that would run too far ahead of the slowest, and returns
// the stamp up to which it may go on without asking again. A source
// stands where the next record that it has not taken yet does, and while it waits
// that is saved: after an hour in which nobody wrote all of them stand beyond it.
func (w *worker) wait(ctx context.Context, stamp int64, flights chan<- flight) (limit int64, err error) {
	w.s.clock.Store(max(stamp, w.state.clock, w.s.clock.Load()))
	if w.pos < w.emit {
		return math.MinInt64, nil // what was written before is only read
	}
	for ahead := int64(w.s.owner.o.Ahead); ; {
		if slow := w.s.owner.slowest(w.s); stamp-ahead <= slow {
			return max(slow, slow+ahead), nil // there may be no other
		}
		if err := w.hand(ctx, flights, true); err != nil {
			return 0, err
		}
		w.s.owner.attend(ctx, attendSoon)
		began := time.Now()
		if sleep(ctx, minBackoff); ctx.Err() != nil {
			return 0, ctx.Err()
		}
		w.notes.wait(began)
	}
}

func (w *worker) batch(ctx context.Context, recs []stream.Record) error {
	select {
	case w.s.owner.cpu <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-w.s.owner.cpu }()
	defer w.counted.publish(w.s.owner.o.Metrics)
	for i := range recs {
		if err := w.record(ctx, &recs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) record(ctx context.Context, r *stream.Record) error {
	m, err := stream.DecodeLog(r, &w.interner)
	stamp := w.state.tick(r.Time.UnixNano())
	switch {
	case err != nil:
		w.counted.invalid++
		w.bury(&m, r.Offset, reasonMessage, err)
	case m.Kind == stream.KindTick:
		w.counted.ticks++
	case m.Kind == stream.KindProgress:
		w.counted.progress++
		if !w.state.progressed(m.Origin, m.Type, m.Through.UnixNano(), stamp) {
			w.counted.overflow++
		}
	case m.Kind == stream.KindGeneration:
		w.counted.generations++
		if m.Generation == w.generation {
			break
		}
		// A section knows one generation: what was made under the old one goes out
		// under its name.
		for p := range w.parts {
			if w.parts[p].builder.Len() > 0 {
				w.close(p, r.Offset)
			}
		}
		w.generation, w.program = m.Generation, nil
		w.s.log.Info("generation in force", "generation", m.Generation, "offset", r.Offset)
	case m.Kind == stream.KindRecord:
		w.counted.records++
		if err := w.judge(ctx, &m, stamp); err != nil {
			return err
		}
	}
	w.pos, w.last = r.Offset+1, r
	for _, p := range w.full {
		if w.parts[p].builder.Len() > 0 {
			w.close(p, w.pos)
		}
	}
	w.full = w.full[:0]
	return nil
}

func (w *worker) match(ctx context.Context, m *stream.LogMessage, stamp int64) error {
	// The generation says how to decode, so it comes before that.
	if w.program == nil && m.Offset >= w.emit {
		var err error
		if w.program, err = w.s.owner.program(ctx, w.generation); err != nil {
			return err
		}
		w.matcher = w.program.Matcher.Clone()
	}
	if err := w.decoder.Decode(&w.ev, event.Record{Type: event.Type(m.Type), Data: m.Value}); err != nil {
		reason := "other"
		var de *event.DecodeError
		if errors.As(err, &de) {
			reason = de.Reason.String()
		}
		w.bury(m, m.Offset, reason, err)
		return nil
	}
	w.counted.decoded++
	if w.ev.Time > stamp+future {
		w.ev.Time = stamp + future
		w.counted.future++
	}
	w.state.see(string(w.ev.Type), w.ev.Time)
	if m.Offset < w.emit {
		return nil
	}
	if w.program.Enricher != nil {
		w.program.Enricher.Enrich(&w.ev)
	}
	tenant := m.Tenant
	if tenant == "" {
		tenant = detect.DefaultTenant
	}
	w.value, w.summed, w.hits = m.Value, false, 0
	w.matcher.Observe(&w.ev, tenant, detect.Pointer{Source: w.s.id, Offset: m.Offset}, stamp, w)
	if w.hits > 0 {
		w.counted.matches++
		w.counted.observations += w.hits
	}
	return nil
}

// Observe takes an observation of the record in hand. Most records make none, so
// its checksum waits until here.
func (w *worker) Observe(r *rule.Rule, tenant string, key []byte, o detect.Observation) {
	if !w.summed {
		w.sum, w.summed = crc32.Checksum(w.value, w.crc), true
	}
	o.CRC = w.sum
	p := detect.KeyPartition(r.Version, key, len(w.parts))
	b := &w.parts[p].builder
	b.Add(tenant, r.Version, key, o)
	w.hits++
	if b.Size() > maxSection {
		w.full = append(w.full, p)
	}
}

// bury hands a message to the dead letters.
func (w *worker) bury(m *stream.LogMessage, offset int64, reason string, err error) {
	if offset < w.emit {
		return
	}
	w.s.owner.o.Metrics.DeadLetters.WithLabelValues(reason).Inc()
	w.letters = append(w.letters, stream.DeadLetter{
		Reason: reason, Detail: err.Error(), Tenant: m.Tenant, Type: m.Type, Origin: m.Origin,
		Partition: w.s.id.Partition, Offset: offset, Value: m.Value,
	})
}

// close ends the section of a partition at to and begins the next.
func (w *worker) close(p int, to int64) {
	t := &w.parts[p]
	sec := detect.Section{Source: w.s.id, From: t.from, To: to, Generation: w.generation, Groups: t.builder.Groups(), Tail: w.tail()}
	w.state.fill(&sec)
	t.ready = append(t.ready, stream.Record{Value: detect.AppendBatch(nil, []detect.Section{sec})})
	t.from = to
	t.builder.Reset()
}

// hand passes on what there is to write. With all it closes a section on every
// partition, empty or not, and has the position saved: once all of it is written
// nothing before the position is missing anywhere.
func (w *worker) hand(ctx context.Context, flights chan<- flight, all bool) error {
	return w.pass(ctx, flights, all, nil)
}

// end passes everything on that there is and has err end the session once it is
// written and the position saved, for whoever can go on from there.
func (w *worker) end(ctx context.Context, flights chan<- flight, err error) error {
	if err := w.pass(ctx, flights, true, err); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (w *worker) pass(ctx context.Context, flights chan<- flight, all bool, end error) error {
	f := flight{letters: w.letters, end: end, span: noop.Span{}}
	some := len(w.letters) > 0 || end != nil
	for p := range w.parts {
		t := &w.parts[p]
		if t.builder.Len() > 0 || all && t.from < w.pos {
			w.close(p, w.pos)
		}
		some = some || len(t.ready) > 0
	}
	if all {
		w.closed = time.Now()
		if stand := w.s.clock.Load(); w.pos >= w.emit && (w.pos > w.asked || stand > w.stood || !w.known && w.s.empty.Load()) {
			w.asked, w.stood, w.known = w.pos, stand, true
			w.state.addTail(w.tail())
			f.save = &Position{
				Epoch: w.epoch, Next: w.pos, Known: true, Generation: w.generation, State: w.state.encode(), Clock: stand,
			}
		}
	}
	if !some && f.save == nil {
		return nil
	}
	f.sections = make([][]stream.Record, len(w.parts))
	for p := range w.parts {
		f.sections[p], w.parts[p].ready = w.parts[p].ready, nil
	}
	w.letters = nil
	w.trace(&f)
	select {
	case flights <- f:
		return nil
	case <-ctx.Done():
		endSpan(f.span, ctx.Err())
		return ctx.Err()
	}
}
