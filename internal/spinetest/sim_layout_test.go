package spinetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/layout"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// simLayout is a layout, and whether it is in force.
type simLayout struct {
	correlate.Layout
	state simLayoutState
}

type simLayoutState uint8

const (
	simPreparing simLayoutState = iota
	simInForce
	simRetired
)

var (
	errSimRetired = errors.New("simulated: the layout is retired")
	errSimMoved   = errors.New("simulated: somebody else has moved")
	errSimTopic   = errors.New("simulated: no such topic")
)

// key tells the partitions of all layouts apart.
func (l *simLayout) key(p int32) int32 { return l.ID*100 + p }

func (w *simWorld) inForce() *simLayout {
	return w.layouts[slices.IndexFunc(w.layouts, func(l *simLayout) bool { return l.state == simInForce })]
}

func (w *simWorld) planLayout(partitions int) (l correlate.Layout, abandoned []string) {
	now := w.inForce()
	for _, l := range w.layouts {
		if l.state == simPreparing {
			l.state = simRetired
			abandoned = append(abandoned, l.Topic)
		}
	}
	l = now.Layout
	l.ID, l.Partitions = int32(len(w.layouts))+1, partitions
	l.Topic = fmt.Sprint(stream.TopicObservations, ".L", l.ID)
	w.layouts = append(w.layouts, &simLayout{l, simPreparing})
	return l, abandoned
}

// switchLayout does what the one in Postgres does in a transaction.
func (w *simWorld) switchLayout(ctx context.Context, s correlate.Switch, checked bool) error {
	from, to := w.layouts[s.From-1], w.layouts[s.To-1]
	moved := from.state != simInForce || to.state != simPreparing
	for _, src := range s.Sources {
		moved = moved || checked && w.positions[src.Partition].Epoch != src.Epoch
	}
	for _, old := range s.Old {
		k := from.key(old.Partition)
		moved = moved || checked && (w.epochs[k][0] != old.Epoch || w.numbers[k] != old.Number)
	}
	if moved {
		return errSimMoved
	}
	for p := range int32(from.Partitions) {
		if _, err := w.acquire(ctx, from, p); err != nil {
			return err
		}
	}
	from.state, to.state = simRetired, simInForce
	for p := range int32(simSources) {
		w.acquireSource(p)
	}
	for _, at := range s.Partitions {
		cp, err := w.acquire(ctx, to, at.Partition)
		if err != nil {
			return err
		}
		for _, m := range at.Marks {
			if err := w.commit(ctx, to, correlate.Commit{Partition: at.Partition, Epoch: cp.Epoch, Mark: m, SaveMark: true}); err != nil {
				return err
			}
		}
		if err := w.commit(ctx, to, correlate.Commit{Partition: at.Partition, Epoch: cp.Epoch, Mark: at.Mark, Pages: at.Pages, Findings: at.Findings}); err != nil {
			return err
		}
	}
	return nil
}

// simMover is a crew that moves to another layout: Kafka and the ledger as that
// needs them.
type simMover struct{ *simCrew }

var (
	_ layout.Kafka  = simMover{}
	_ layout.Ledger = simMover{}
)

// move moves to so many partitions, or fails in trying.
func (m simMover) move(partitions int) error {
	ctx, stop := context.WithTimeout(context.Background(), simPatience)
	defer stop()
	m.stop = stop
	o := layout.Options{
		Kafka: m, Ledger: m, Match: m, Correlate: m, Incarnation: incarnation, Evidence: evidence, Logger: quiet(),
		Now: func() time.Time { return simStart },
	}
	if m.v != nil && m.v.moving != nil {
		o.Ledger = m.v.moving(m)
	}
	r, err := layout.Reshard(ctx, o, partitions)
	if err == nil && len(r.Lost) > 0 {
		return fmt.Errorf("%v was lost in moving", r.Lost)
	}
	return err
}

func (m simMover) Partitions(_ context.Context, topic string) (int, error) {
	if topic == stream.TopicLogs {
		return simSources, nil
	}
	return 0, errSimTopic
}

func (m simMover) Bounds(ctx context.Context, topic string, p int32) (first, end int64, err error) {
	err = m.call(ctx, opTopics, 0, func(uint64) error {
		if topic == stream.TopicLogs {
			end = m.w.ends[p]
			return nil
		}
		logs := m.w.topics[topic]
		if int(p) >= len(logs) {
			return errSimTopic
		}
		end = int64(len(logs[p]))
		return nil
	})
	return 0, end, err
}

func (m simMover) EnsureTopics(ctx context.Context, topics ...stream.Topic) error {
	return m.call(ctx, opTopics, 0, func(uint64) error {
		for _, t := range topics {
			if m.w.topics[t.Name] == nil {
				m.w.topics[t.Name] = make([][]stream.Record, t.Partitions)
			}
		}
		return nil
	})
}

func (m simMover) DeleteTopic(ctx context.Context, topic string) error {
	return m.call(ctx, opTopics, 0, func(uint64) error {
		delete(m.w.topics, topic)
		return nil
	})
}

func (m simMover) Inspect(context.Context, ...string) (stream.ClusterState, error) {
	return stream.ClusterState{}, errSimTopic
}

func (m simMover) Reader(topic string, p int32, offset int64) layout.Reader {
	r := &simReader{c: m.simCrew, op: opReadObserved, topic: topic, part: p, next: offset}
	if topic == stream.TopicLogs {
		r.op = opRead
	}
	return r
}

func (m simMover) Producer(topic string) (match.Producer, error) {
	return simProducer{m.simCrew, topic}, nil
}

func (m simMover) Appender(stream.AppenderOptions) (layout.Appender, error) { return m, nil }

// Broadcast appends nothing: the history has its ticks.
func (m simMover) Broadcast(ctx context.Context, _ stream.LogMessage) error {
	return m.call(ctx, opTopics, 0, func(uint64) error { return nil })
}

func (m simMover) Close() {}

func (m simMover) Incarnation(ctx context.Context, _ int32) (match.Incarnation, error) {
	return match.Incarnation{}, m.call(ctx, opLayout, 0, func(uint64) error { return nil })
}

func (m simMover) OpenIncarnation(context.Context, detect.Source, int64, match.Incarnation, string) error {
	return errors.New("nothing is repaired here")
}

func (m simMover) SourcePosition(ctx context.Context, s detect.Source) (pos match.Position, err error) {
	err = m.call(ctx, opLayout, 0, func(uint64) error {
		pos = m.w.positions[s.Partition]
		return nil
	})
	return pos, err
}

func (m simMover) Checkpoints(ctx context.Context) (marks map[int32]correlate.Mark, err error) {
	err = m.call(ctx, opLayout, 0, func(uint64) error {
		marks = make(map[int32]correlate.Mark)
		for p := range int32(m.layout.Partitions) {
			marks[p] = m.w.marks[m.layout.key(p)]
		}
		return nil
	})
	return marks, err
}

func (m simMover) Layout(ctx context.Context) (l correlate.Layout, err error) {
	err = m.call(ctx, opLayout, 0, func(uint64) error {
		l = m.w.inForce().Layout
		return nil
	})
	return l, err
}

func (m simMover) PlanLayout(ctx context.Context, partitions int) (correlate.Layout, []string, error) {
	var l correlate.Layout
	var abandoned []string
	err := m.call(ctx, opPlanLayout, 0, func(uint64) error {
		l, abandoned = m.w.planLayout(partitions)
		return nil
	})
	return simAnswer(m.simCrew, &l), simAnswer(m.simCrew, &abandoned), err
}

func (m simMover) SwitchLayout(ctx context.Context, s correlate.Switch) error {
	return m.call(ctx, opSwitchLayout, 0, func(uint64) error { return m.w.switchLayout(ctx, s, true) })
}
