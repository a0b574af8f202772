package correlate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// commit writes a checkpoint.
func (s *session) commit(ctx context.Context) error {
	o := s.owner
	c := Commit{
		Partition: o.o.Partition,
		Epoch:     s.epoch,
		Mark:      Mark{Position: s.position, Clock: s.engine.Clock(), State: s.state(), Last: s.last},
	}
	c.Findings, c.Pages = s.engine.Flush()
	s.logFaults()
	c.Derived = s.derived()
	snapshot := s.snapshotDue() && c.Mark.Clock != never
	if s.markDue(c.Mark.Clock) || snapshot {
		c.SaveMark = true
		s.marks = append(s.marks, mark{c.Mark, reach(&s.engine.c)})
		s.marked = time.Now()
		keep := usable(s.marks, s.engine)
		c.DropMarks = keep.Position
		n := 0
		for n < len(s.marks) && s.marks[n].Position < keep.Position {
			n++
		}
		s.marks = s.marks[n:]
	}
	start := time.Now()
	bctx, span := s.batchSpan(ctx, &c)
	cctx, cancel := context.WithTimeout(bctx, callTimeout)
	defer cancel()
	err := o.o.Ledger.Commit(cctx, c)
	endSpan(span, err)
	m := o.o.Metrics
	switch {
	case errors.Is(err, ErrFenced):
		m.Commits.WithLabelValues("fenced").Inc()
		return err
	case err != nil:
		m.Commits.WithLabelValues("failed").Inc()
		return fmt.Errorf("commit at %d: %w", s.position, err)
	}
	s.commits++
	if o.failures > 0 {
		o.failures = 0
		o.o.State(nil)
	}
	s.dirty, s.hot = time.Time{}, time.Time{}
	m.Commits.WithLabelValues("written").Inc()
	m.CommitTime.Observe(time.Since(start).Seconds())
	m.Findings.Add(float64(len(c.Findings)))
	m.Pages.Add(float64(len(c.Pages)))
	now := s.engine.Stats()
	m.engine(s.counted, now)
	s.counted = now
	m.at(o.o.Partition, o.label, s.engine)
	if snapshot {
		s.snapshot(c.Mark)
	}
	return nil
}

// derived is what chains have derived since the checkpoint before. Of a level without
// events whose clocks stand still there is nothing to tell.
func (s *session) derived() []Derived {
	ds := s.engine.FlushDerived()
	for len(s.told) < len(ds) {
		s.told = append(s.told, Derived{})
	}
	var news []Derived
	for _, d := range ds {
		d.Generation = strings.Join(s.inForce.running(), ",")
		told := &s.told[d.Level]
		if len(d.Events) == 0 && d.Clock == never {
			continue
		}
		if len(d.Events) == 0 && d.Clock == told.Clock && d.Generation == told.Generation && slices.Equal(d.Progress, told.Progress) {
			continue
		}
		news = append(news, d)
		d.Events = nil
		*told = d
	}
	return news
}

// maxMarks bounds the marks that are kept: over a long keep they stand further
// apart.
const maxMarks = 256

// markDue tells whether a mark is worth saving at this clock.
func (s *session) markDue(clock int64) bool {
	if clock == never || time.Since(s.marked) < s.owner.o.MarkEvery {
		return false
	}
	if n := len(s.marks); n > maxMarks/2 {
		span := sub(clock, s.marks[0].Clock)
		return sub(clock, s.marks[n-1].Clock) >= span/(maxMarks/2)
	}
	return true
}

// pending is how many findings are in the making, and events of chains.
func (e *Engine) pending() int {
	n := 0
	for _, er := range e.list {
		if d, ok := er.detector.(interface{ pending() int }); ok {
			n += d.pending()
		}
	}
	for _, evs := range e.derived {
		n += len(evs)
	}
	return n
}

func (b *base) pending() int { return len(b.deltas.list) }

func (n *unmatched) pending() int { return len(n.deltas.list) + len(n.unlisted.list) }
