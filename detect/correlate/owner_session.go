package correlate

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/stream"
)

// session is one ownership of the partition: from taking it over to the first
// failure. It is single-threaded but for the reading ahead.
type session struct {
	owner   *Owner
	started time.Time
	commits int

	epoch    int64
	engine   *Engine
	inForce  *inForce
	position int64       // of the next message
	restored bool        // the windows are those of a snapshot
	last     detect.Tail // the message before it
	marks    []mark
	told     []Derived // by level, without events: of the last checkpoint

	counted  Stats
	dirty    time.Time // when the first section since the last checkpoint was applied
	hot      time.Time // when the first finding since then was seen
	marked   time.Time
	rewound  map[detect.Source]rewound
	messages int64 // end of the log, as last heard

	snapped time.Time   // when the last snapshot was gathered
	writing atomic.Bool // one is being written
	spawn   func(func() error)

	notes  *notes // for the trace
	taking taking
}

// rewound is what match was asked for last.
type rewound struct {
	next int64
	at   time.Time
	end  int64 // sections written in answer stand at or above
}

func (s *session) run(ctx context.Context) error {
	tctx := s.beginTaking(ctx)
	cp, from, err := s.takeOver(tctx)
	if err != nil {
		s.endTaking(err)
		return err
	}
	s.beginRebuild(tctx, from, cp.Mark.Position, s.restored)
	parent := ctx
	g, ctx := errgroup.WithContext(ctx)
	s.spawn = g.Go
	reads := make(chan read, 2)
	g.Go(func() error { return s.owner.read(ctx, from, cp.Mark.Position, reads) })
	g.Go(func() error {
		if err := s.rebuild(ctx, cp, reads); err != nil {
			s.endTaking(err)
			return err
		}
		return s.work(ctx, parent, reads)
	})
	return g.Wait()
}

// takeOver raises the epoch and makes an engine that stands at a mark from which
// everything can be rebuilt that the checkpoint's engine held. It returns the
// mark's position.
func (s *session) takeOver(ctx context.Context) (cp Checkpoint, from int64, err error) {
	o := s.owner
	if o.o.Confirm != nil {
		if err := o.o.Confirm(ctx); err != nil {
			return cp, 0, err
		}
	}
	actx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if cp, err = o.o.Ledger.Acquire(actx, o.o.Partition); err != nil {
		return cp, 0, fmt.Errorf("acquire: %w", err)
	}
	if err := o.verify(ctx, cp); err != nil {
		return cp, 0, err
	}
	s.epoch, s.last = cp.Epoch, cp.Mark.Last
	s.rewound = make(map[detect.Source]rewound)

	// How far back does it have to go?
	there, _, err := s.engineAt(ctx, cp.Mark.State)
	if err != nil {
		return cp, 0, fmt.Errorf("checkpoint %d: %w", cp.Number, err)
	}
	for _, m := range cp.Marks {
		_, clocks, err := decodeInForce(m.State)
		if err != nil {
			return cp, 0, fmt.Errorf("mark at %d: %w", m.Position, err)
		}
		c := newClocks(o.o.Engine.Sources)
		if err := c.decode(clocks); err != nil {
			return cp, 0, fmt.Errorf("mark at %d: %w", m.Position, err)
		}
		s.marks = append(s.marks, mark{m, reach(&c)})
	}
	begin := usable(s.marks, there)
	if e, f, at := s.fromSnapshot(ctx, cp, begin.Position); e != nil {
		s.engine, s.inForce, s.position, s.restored = e, f, at, true
		return cp, at, nil
	}
	if s.engine, s.inForce, err = s.engineAt(ctx, begin.State); err != nil {
		return cp, 0, fmt.Errorf("mark at %d: %w", begin.Position, err)
	}
	if err := s.engine.Restore(cp.Pages); err != nil {
		return cp, 0, err
	}
	s.position = begin.Position
	return cp, begin.Position, nil
}

// engineAt makes an engine with the rules and clocks of a state, without windows.
func (s *session) engineAt(ctx context.Context, state []byte) (*Engine, *inForce, error) {
	f, clocks, err := decodeInForce(state)
	if err != nil {
		return nil, nil, err
	}
	e := NewEngine(s.owner.o.Engine)
	if err := s.owner.rules(ctx, e, f); err != nil {
		return nil, nil, err
	}
	if err := e.Reset(clocks); err != nil {
		return nil, nil, err
	}
	return e, f, nil
}

// mark is a mark with the greatest append stamp of anything before it. A is the
// least over the sources, so it does not tell.
type mark struct {
	Mark
	reach int64
}

// reach is the greatest clock of any source, or stamp of a derived one.
func reach(c *clocks) int64 {
	r := int64(never)
	for i := range c.sources {
		r = max(r, c.sources[i].clock)
		if at, ok := c.sources[i].seen[stampSeen]; ok {
			r = max(r, at)
		}
	}
	return r
}

// usable is the newest mark before which stands nothing that an engine at e's
// clocks holds, or else the beginning of the partition.
func usable(marks []mark, e *Engine) Mark {
	var best Mark
	clock := e.RebuildClock()
	if clock == never {
		return best
	}
	clock += int64(e.opts.Skew) // which is off it for those who know only A
	for _, m := range marks {
		if m.reach <= clock && m.Position >= best.Position {
			best = m.Mark
		}
	}
	return best
}

// rebuild fills the windows from the messages between the mark and the
// checkpoint, and leaves the engine in the checkpoint's state.
func (s *session) rebuild(ctx context.Context, cp Checkpoint, reads chan read) error {
	for s.position < cp.Mark.Position {
		var r read
		select {
		case r = <-reads:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.messages = r.end
		if r.gap != nil {
			s.lose(r.gap)
			continue
		}
		for i, m := range r.messages {
			if m.offset >= cp.Mark.Position {
				// What is left is news.
				r.messages = r.messages[i:]
				s.position = cp.Mark.Position
				if err := s.arrive(ctx, cp); err != nil {
					return err
				}
				return s.apply(ctx, r, false)
			}
			if err := s.message(ctx, m, true); err != nil {
				return err
			}
		}
	}
	return s.arrive(ctx, cp)
}

// arrive checks that the rebuild came to where the checkpoint was, and goes live.
func (s *session) arrive(ctx context.Context, cp Checkpoint) error {
	o := s.owner
	want, err := canonical(cp.Mark.State)
	if err != nil {
		return err
	}
	s.last = cp.Mark.Last
	if got := s.state(); !bytes.Equal(got, want) && len(want) > 0 {
		// Messages between mark and checkpoint are gone, or another version of the
		// program reads them otherwise: windows may lack events. The checkpoint is
		// what holds.
		o.o.Metrics.Mismatches.Inc()
		o.log.Error("windows could not be rebuilt wholly: findings of events before the checkpoint may be incomplete", "checkpoint", cp.Number)
		f, clocks, err := decodeInForce(cp.Mark.State)
		if err != nil {
			return err
		}
		if err := s.engine.c.decode(clocks); err != nil {
			return err
		}
		s.inForce = f
		if err := o.rules(ctx, s.engine, f); err != nil {
			return err
		}
	}
	s.counted = s.engine.Stats()
	s.marked, s.snapped = time.Now(), time.Now()
	if o.failures > 0 {
		s.touch() // whether checkpoints can be written again is to be known, whatever comes
	}
	o.o.Metrics.RebuildTime.Observe(time.Since(s.started).Seconds())
	s.endTaking(nil)
	o.o.Metrics.Live.WithLabelValues(o.label).Set(1)
	o.o.Metrics.at(o.o.Partition, o.label, s.engine)
	o.log.Info("correlate is live", "position", s.position, "epoch", s.epoch, "rebuild", time.Since(s.started))
	return nil
}

func (s *session) state() []byte { return s.inForce.append(nil, s.engine.State()) }

// work applies what comes and writes checkpoints. parent says whether the end of ctx
// is that of the owner.
func (s *session) work(ctx, parent context.Context, reads <-chan read) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if at, ok := s.due(); ok {
			timer.Reset(time.Until(at))
			due = timer.C
		}
		select {
		case r := <-reads:
			s.messages = r.end
			if err := s.apply(ctx, r, false); err != nil {
				return err
			}
		case <-due:
		case <-ctx.Done():
			// Here, and nowhere else, everything that was read is applied or has not begun
			// to be.
			if parent.Err() != nil {
				s.leave(parent)
			}
			return ctx.Err()
		}
		if at, ok := s.due(); ok && !time.Now().Before(at) {
			if err := s.commit(ctx); err != nil {
				return err
			}
		}
	}
}

// due is when the next checkpoint is to be written.
func (s *session) due() (time.Time, bool) {
	if s.dirty.IsZero() {
		return time.Time{}, false
	}
	at := s.dirty.Add(s.owner.o.CommitEvery)
	if !s.hot.IsZero() {
		if h := s.hot.Add(s.owner.o.FindingDelay); h.Before(at) {
			at = h
		}
	}
	return at, true
}

func (s *session) apply(ctx context.Context, r read, rebuild bool) error {
	began, applied, links := time.Now(), 0, r.links
	if r.gap != nil {
		s.lose(r.gap)
		s.touch()
	}
	for _, m := range r.messages {
		if err := s.message(ctx, m, rebuild); err != nil {
			return err
		}
		s.touch()
		applied++
		if s.engine.pending() >= s.owner.o.MaxRows {
			s.notes.apply(began, applied, links)
			if err := s.commit(ctx); err != nil {
				return err
			}
			began, applied, links = time.Now(), 0, nil
		}
	}
	if applied > 0 {
		s.notes.apply(began, applied, links)
	}
	if s.hot.IsZero() && s.engine.pending() > 0 {
		s.hot = time.Now()
	}
	s.owner.o.Metrics.Lag.WithLabelValues(s.owner.label).Set(float64(max(0, s.messages-s.position)))
	return nil
}

// touch notes that there is something to commit.
func (s *session) touch() {
	if s.dirty.IsZero() {
		s.dirty = time.Now()
	}
}

// lose steps over messages that the log no longer holds. What was in them shows
// as a gap, and match is asked for it.
func (s *session) lose(gap *stream.GapError) {
	s.owner.o.Metrics.Lost.Add(float64(gap.To - gap.From))
	s.owner.log.Error("messages were lost before they were applied", "from", gap.From, "to", gap.To)
	s.position = gap.To
}

func (s *session) message(ctx context.Context, m message, rebuild bool) error {
	if m.err != nil {
		// Its sections are lost; the next ones show it as a gap.
		s.owner.o.Metrics.Sections.WithLabelValues("malformed").Inc()
		s.owner.log.Error("message cannot be decoded", "offset", m.offset, "err", m.err)
	}
	for i := range m.sections {
		if err := s.section(ctx, &m.sections[i], rebuild, m.offset); err != nil {
			return err
		}
	}
	s.position = m.offset + 1
	s.last = detect.Tail{End: s.position, CRC: m.crc}
	return nil
}

func (s *session) section(ctx context.Context, sec *detect.Section, rebuild bool, offset int64) error {
	o := s.owner
	next := s.engine.Next(sec.Source)
	if sec.From <= next && next < sec.To && s.inForce.hear(sec, s.engine.Clock()) {
		if err := o.rules(ctx, s.engine, s.inForce); err != nil {
			return err
		}
	}
	result := s.engine.Apply(sec, rebuild)
	if !rebuild {
		o.o.Metrics.Sections.WithLabelValues(result.String()).Inc()
	}
	s.logFaults()
	switch {
	case result == Gap && !rebuild:
		s.rewind(sec.Source, next, offset)
	case result == Applied && len(s.inForce.retired) > 0 && s.engine.Clock() != never:
		// What windows hold of a generation nobody is in is judged by then.
		after := 3*s.engine.Keep() + originHold + s.engine.opts.Skew
		if s.inForce.expire(s.engine.Clock(), after) {
			return o.rules(ctx, s.engine, s.inForce)
		}
	}
	return nil
}

func (s *session) logFaults() {
	for _, f := range s.engine.Faults() {
		sec := &s.engine.last
		s.owner.log.Error("a rule's code failed: what it held on this partition is dropped, the other rules go on", "rule", f.Rule.ID, "title", f.Rule.Title,
			"position", s.position, "source", sec.Source.Partition, "from", sec.From, "to", sec.To, "panic", f.Panic, "stack", f.Stack)
	}
}

// rewindEvery is how long match gets to answer.
const rewindEvery = 5 * time.Second

// rewind asks match for what lacks, unless the answer may still be on its way.
func (s *session) rewind(source detect.Source, next, offset int64) {
	last, asked := s.rewound[source]
	if asked && last.next == next && (offset < last.end || time.Since(last.at) < rewindEvery) {
		return
	}
	s.rewound[source] = rewound{next: next, at: time.Now(), end: s.messages}
	s.owner.o.Metrics.Rewinds.Inc()
	s.owner.log.Error("sections are missing", "source", source.Partition, "next", next)
	if s.owner.o.Rewind != nil {
		s.owner.o.Rewind(source, next)
	}
}
