package layout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// Problem is a partition that is not the one that was read.
type Problem struct {
	Topic     string
	Partition int32
	Position  int64 // read so far
	First     int64 // what the log holds now: [First, End)
	End       int64
	What      string
	Remedy    string // what Repair would do

	source detect.Source
	logs   bool // of vedette.logs
}

func (p Problem) String() string {
	return fmt.Sprintf("%s partition %d: read up to offset %d, holds %d–%d now: %s", p.Topic, p.Partition, p.Position, p.First, p.End-1, p.What)
}

// Examine tells which partitions are not those that were read. It changes nothing.
func Examine(ctx context.Context, o Options) ([]Problem, error) {
	m, err := newMover(ctx, o)
	if err != nil {
		return nil, err
	}
	return m.examine(ctx)
}

func (m *mover) examine(ctx context.Context) ([]Problem, error) {
	var out []Problem
	sources, err := m.sources(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		pos, err := m.Ledger.SourcePosition(ctx, s)
		if err != nil {
			return nil, err
		}
		p, err := m.examineSource(ctx, s, pos)
		if err != nil {
			return nil, err
		}
		if p != nil {
			out = append(out, *p)
		}
	}
	marks, err := m.Ledger.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	for q := range int32(m.layout.Partitions) {
		p := Problem{Topic: m.layout.Topic, Partition: q, Position: marks[q].Position}
		p.Remedy = "write the observations anew from " + stream.TopicLogs + ", to a new topic"
		if err := m.bounds(ctx, &p); err != nil {
			return nil, err
		}
		if err := m.same(ctx, &p, marks[q].Last); err != nil {
			return nil, err
		}
		if p.What == "" && p.End < p.Position {
			p.What = "it ends before"
		}
		if p.What != "" {
			out = append(out, p)
		}
	}
	return out, nil
}

// bounds finds out what the log holds; a topic that is not there holds nothing.
func (m *mover) bounds(ctx context.Context, p *Problem) (err error) {
	p.First, p.End, err = m.Kafka.Bounds(ctx, p.Topic, p.Partition)
	if err != nil {
		state, ierr := m.Kafka.Inspect(ctx, p.Topic)
		if ierr == nil && len(state.Topics) == 1 && (errors.Is(state.Topics[0].Err, stream.ErrNoTopic) || int(p.Partition) >= state.Topics[0].Partitions) {
			if p.Position > 0 {
				p.What = "the topic, or this partition of it, is not there"
			}
			return nil
		}
	}
	return err
}

// same looks whether a record is still there, and notes it if not.
func (m *mover) same(ctx context.Context, p *Problem, t detect.Tail) error {
	if t.End == 0 || p.What != "" {
		return nil
	}
	err := m.verify(ctx, p, t)
	switch {
	case errors.Is(err, stream.ErrReplaced):
		p.What = fmt.Sprintf("offset %d holds another record than was read there", t.End-1)
	case errors.Is(err, stream.ErrTruncated):
		p.What = fmt.Sprintf("it ends before offset %d, which was read", t.End-1)
	case err != nil:
		return err
	}
	return nil
}

func (m *mover) verify(ctx context.Context, p *Problem, t detect.Tail) error {
	if p.End < t.End {
		return fmt.Errorf("it ends at %d: %w", p.End, stream.ErrTruncated)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r := m.Kafka.Reader(p.Topic, p.Partition, t.End-1)
	return stream.Verify(ctx, r, t.End-1, t.CRC)
}

// examineSource compares a source with what match read of it and what correlate
// applied. nil: it is the same as far as can be told.
func (m *mover) examineSource(ctx context.Context, s detect.Source, pos match.Position) (*Problem, error) {
	p := &Problem{Topic: stream.TopicLogs, Partition: s.Partition, Position: pos.Next, source: s, logs: true}
	applied, err := m.Ledger.Tails(ctx, s)
	if err != nil {
		return nil, err
	}
	tails, err := pos.Tails()
	if err != nil {
		return nil, err
	}
	for _, t := range applied {
		p.Position = max(p.Position, t.End)
	}
	if err := m.bounds(ctx, p); err != nil {
		return nil, err
	}
	if n := len(tails); n > 0 {
		applied = append(applied, tails[n-1])
	}
	for _, t := range applied {
		if err := m.same(ctx, p, t); err != nil {
			return nil, err
		}
	}
	if p.What == "" && p.End < pos.Next {
		p.What = "it ends before"
	}
	if p.What == "" {
		return nil, nil
	}
	common, err := m.common(ctx, p, tails)
	if err != nil {
		return nil, err
	}
	p.Remedy = fmt.Sprintf("begin a new incarnation at offset %d, where the log begins", p.First)
	if common > 0 {
		p.What += fmt.Sprintf("; it is the same up to offset %d at least", common-1)
		p.Remedy = fmt.Sprintf("begin a new incarnation at offset %d, behind what is known to be the same", common)
	}
	return p, nil
}

// common is how far the log is the one that was read; 0 if nobody can tell.
func (m *mover) common(ctx context.Context, p *Problem, tails []detect.Tail) (int64, error) {
	for _, t := range slices.Backward(tails) {
		if t.End <= p.First {
			break // it is not there to be compared
		}
		err := m.verify(ctx, p, t)
		if err == nil {
			return t.End, nil
		}
		if !errors.Is(err, stream.ErrTruncated) {
			return 0, err
		}
	}
	return 0, nil
}

// Repair makes detection go on with logs that were replaced or truncated.
func Repair(ctx context.Context, o Options) (Report, error) {
	m, err := newMover(ctx, o)
	if err != nil {
		return Report{}, err
	}
	r := Report{From: m.layout, To: m.layout}
	problems, err := m.examine(ctx)
	if err != nil {
		return r, err
	}
	if slices.ContainsFunc(problems, func(p Problem) bool { return p.logs }) {
		// One that was deleted is empty from now on.
		t := m.Topic
		t.Name, t.Partitions, t.Grow = stream.TopicLogs, m.layout.Sources, true
		if err := m.Kafka.EnsureTopics(ctx, t); err != nil {
			return r, err
		}
	}
	anew := false
	for _, p := range problems {
		if !p.logs {
			anew = true
			continue
		}
		lost, err := m.reopen(ctx, p.source)
		if err != nil {
			return r, fmt.Errorf("source %d: %w", p.source.Partition, err)
		}
		r.Lost = append(r.Lost, lost...)
	}
	if anew {
		if err := m.Step("take over"); err != nil {
			return r, err
		}
		t, err := m.takeOver(ctx)
		if err != nil {
			return r, err
		}
		moved, err := m.move(ctx, t, m.layout.Partitions)
		moved.Lost = append(r.Lost, moved.Lost...)
		if r = moved; err != nil {
			return r, err
		}
	}
	return r, nil
}

// reopen begins a new incarnation of a source: behind what is the same, or where
// the log begins. What had not been read of the old one is told of first; told
// again it is the same finding.
func (m *mover) reopen(ctx context.Context, s detect.Source) ([]Lost, error) {
	if err := m.Step("take a source over"); err != nil {
		return nil, err
	}
	pos, err := m.Ledger.AcquireSource(ctx, s.Incarnation, s.Partition)
	if err != nil {
		return nil, err
	}
	p, err := m.examineSource(ctx, s, pos)
	if err != nil || p == nil {
		return nil, err
	}
	tails, err := pos.Tails()
	if err != nil {
		return nil, err
	}
	next := match.Incarnation{Number: s.Incarnation + 1, First: p.First, Generation: pos.Generation}
	common, err := m.common(ctx, p, tails)
	if err != nil {
		return nil, err
	}
	if common > 0 {
		next.First = common
	}
	if next.State, err = match.Cut(pos.State, common); err != nil {
		return nil, err
	}
	stamp, err := pos.Stamp()
	if err != nil {
		return nil, err
	}
	lost := Lost{Source: s, From: p.Position, To: -1}
	if err := m.Step("tell"); err != nil {
		return nil, err
	}
	if err := m.tell(ctx, lostFinding(lost, stamp, m.Now())); err != nil {
		return nil, err
	}
	if err := m.Step("open an incarnation"); err != nil {
		return nil, err
	}
	m.Say(fmt.Sprintf("%s partition %d: %s", p.Topic, p.Partition, p.Remedy))
	return []Lost{lost}, m.Ledger.OpenIncarnation(ctx, s, pos.Epoch, next, p.What)
}

// tell commits a finding beside a partition's checkpoint, which stays as it is.
func (m *mover) tell(ctx context.Context, f detect.Finding) error {
	q := int32(detect.KeyPartition(f.RuleVersion, f.Key, m.layout.Partitions))
	cp, err := m.Ledger.Acquire(ctx, q)
	if err != nil {
		return err
	}
	return m.Ledger.Commit(ctx, correlate.Commit{Partition: q, Epoch: cp.Epoch, Mark: cp.Mark, Findings: []detect.Finding{f}})
}
