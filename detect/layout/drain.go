package layout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// taken is everything of a layout, taken over.
type taken struct {
	sources     []detect.Source
	positions   []match.Position
	checkpoints []correlate.Checkpoint
	states      [][]correlate.SourceState // of the checkpoints
}

// maxSettle is how often others may come in between: one that has not noticed yet
// that it was fenced may write sections beyond the ends, once.
const maxSettle = 3

// settle brings all partitions of the layout to the present end of all sources, and
// takes everything over there.
func (m *mover) settle(ctx context.Context) (*taken, error) {
	if err := m.Step("tick"); err != nil {
		return nil, err
	}
	// Partitions that have been silent for longer than others would hold those back.
	appender, err := m.Kafka.Appender(stream.AppenderOptions{Partitions: m.layout.Sources, Now: m.Now, Logger: m.Logger})
	if err != nil {
		return nil, err
	}
	defer appender.Close()
	if err := appender.Broadcast(ctx, stream.LogMessage{Kind: stream.KindTick}); err != nil {
		return nil, fmt.Errorf("move the log's clock: %w", err)
	}
	for try := 1; ; try++ {
		until := make(map[int32]int64)
		for p := range int32(m.layout.Sources) {
			if _, until[p], err = m.Kafka.Bounds(ctx, stream.TopicLogs, p); err != nil {
				return nil, err
			}
		}
		if err := m.Step("drain"); err != nil {
			return nil, err
		}
		m.Say(fmt.Sprintf("finding all that the log holds, with %d partitions of observations", m.layout.Partitions))
		if err := m.drain(ctx, until); err != nil {
			return nil, err
		}
		if err := m.Step("take over"); err != nil {
			return nil, err
		}
		t, err := m.takeOver(ctx)
		if err != nil {
			return nil, err
		}
		if err = t.at(until); err == nil {
			return t, nil
		}
		if try == maxSettle {
			return nil, fmt.Errorf("%w: match or correlate runs elsewhere: stop the service and try again", err)
		}
	}
}

// at tells whether everything stands at the ends of the sources.
func (t *taken) at(until map[int32]int64) error {
	for i, s := range t.sources {
		if got := t.positions[i].Next; got != until[s.Partition] {
			return fmt.Errorf("source %d is at %d, not at %d", s.Partition, got, until[s.Partition])
		}
		for p, states := range t.states {
			if got := next(states, s); got != until[s.Partition] {
				return fmt.Errorf("partition %d is at %d of source %d, not at %d", p, got, s.Partition, until[s.Partition])
			}
		}
	}
	return nil
}

func next(states []correlate.SourceState, s detect.Source) int64 {
	for i := range states {
		if states[i].Source == s {
			return states[i].Next
		}
	}
	return 0
}

// takeOver raises all epochs, so that whoever worked here can write no more.
func (m *mover) takeOver(ctx context.Context) (*taken, error) {
	var t taken
	var err error
	if t.sources, err = m.sources(ctx); err != nil {
		return nil, err
	}
	for _, s := range t.sources {
		p, err := m.Ledger.AcquireSource(ctx, s.Incarnation, s.Partition)
		if err != nil {
			return nil, err
		}
		t.positions = append(t.positions, p)
	}
	for p := range int32(m.layout.Partitions) {
		cp, err := m.Ledger.Acquire(ctx, p)
		if err != nil {
			return nil, err
		}
		states, err := correlate.SourceStates(cp.Mark.State)
		if err != nil {
			return nil, fmt.Errorf("checkpoint of partition %d: %w", p, err)
		}
		t.checkpoints, t.states = append(t.checkpoints, cp), append(t.states, states)
	}
	return &t, nil
}

var errDrained = errors.New("drained")

// drain runs match and correlate up to the offsets.
func (m *mover) drain(ctx context.Context, until map[int32]int64) error {
	w := &watch{Ledger: m.Ledger, until: until, partitions: m.layout.Partitions, next: map[detect.Source]int64{}, vectors: map[int32][]correlate.SourceState{}, done: make(chan struct{})}
	observations, err := m.Kafka.Producer(m.layout.Topic)
	if err != nil {
		return err
	}
	letters, err := m.Kafka.Appender(stream.AppenderOptions{Partitions: m.layout.Sources, Logger: m.Logger})
	if err != nil {
		return err
	}
	defer letters.Close()
	matcher, err := match.NewOwner(match.OwnerOptions{
		Incarnation: m.Incarnation, Sources: partitions(m.layout.Sources), Partitions: m.layout.Partitions, Until: until,
		Open: m.logs, Observations: observations, DeadLetters: letters, Positions: w, Applied: m.Ledger, Incarnations: m.Ledger,
		Vectors: least{m}, Generations: m.Match, SaveEvery: hurry, Logger: m.Logger,
	})
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for p := range int32(m.layout.Partitions) {
		owner, err := correlate.NewOwner(correlate.OwnerOptions{
			Partition: p, Engine: m.engine,
			Open: func(offset int64) correlate.PartitionReader {
				return m.Kafka.Reader(m.layout.Topic, p, offset)
			},
			Ledger: w, Generations: m.Correlate, Rewind: matcher.Rewind, CommitEvery: hurry, Logger: m.Logger,
		})
		if err != nil {
			return err
		}
		g.Go(func() error { return owner.Run(gctx) })
	}
	g.Go(func() error { return matcher.Run(gctx) })
	g.Go(func() error {
		select {
		case <-w.done:
			return errDrained
		case <-gctx.Done():
			return gctx.Err()
		}
	})
	if err := g.Wait(); !errors.Is(err, errDrained) {
		return err
	}
	return nil
}

// hurry is between saves and checkpoints while somebody waits for them.
const hurry = 200 * time.Millisecond

func partitions(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

func (m *mover) logs(partition int32, offset int64) match.SourceReader {
	return m.Kafka.Reader(stream.TopicLogs, partition, offset)
}

// least asks the ledger for the vectors: those of live owners are not needed.
type least struct{ m *mover }

func (l least) LeastNext(ctx context.Context, s detect.Source) (int64, error) {
	marks, err := l.m.Ledger.Checkpoints(ctx)
	if err != nil {
		return 0, err
	}
	n := int64(-1)
	for p := range int32(l.m.layout.Partitions) {
		states, err := correlate.SourceStates(marks[p].State)
		if err != nil {
			return 0, fmt.Errorf("checkpoint of partition %d: %w", p, err)
		}
		if v := next(states, s); n < 0 || v < n {
			n = v
		}
	}
	return max(0, n), nil
}

// watch sees in what is written how far everything is.
type watch struct {
	Ledger
	until      map[int32]int64
	partitions int

	mu      sync.Mutex
	next    map[detect.Source]int64
	vectors map[int32][]correlate.SourceState
	over    bool
	done    chan struct{} // closed when all is there
}

func (w *watch) AcquireSource(ctx context.Context, inc uint32, p int32) (match.Position, error) {
	pos, err := w.Ledger.AcquireSource(ctx, inc, p)
	if err == nil {
		w.see(func() { w.next[detect.Source{Incarnation: inc, Partition: p}] = pos.Next })
	}
	return pos, err
}

func (w *watch) SaveSource(ctx context.Context, inc uint32, p int32, pos match.Position) error {
	err := w.Ledger.SaveSource(ctx, inc, p, pos)
	if err == nil {
		w.see(func() { w.next[detect.Source{Incarnation: inc, Partition: p}] = pos.Next })
	}
	return err
}

func (w *watch) Acquire(ctx context.Context, p int32) (correlate.Checkpoint, error) {
	cp, err := w.Ledger.Acquire(ctx, p)
	if err == nil {
		err = w.seeState(p, cp.Mark.State)
	}
	return cp, err
}

func (w *watch) Commit(ctx context.Context, c correlate.Commit) error {
	err := w.Ledger.Commit(ctx, c)
	if err == nil {
		err = w.seeState(c.Partition, c.Mark.State)
	}
	return err
}

func (w *watch) seeState(p int32, state []byte) error {
	states, err := correlate.SourceStates(state)
	if err == nil {
		w.see(func() { w.vectors[p] = states })
	}
	return err
}

func (w *watch) see(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	if w.over || len(w.next) < len(w.until) || len(w.vectors) < w.partitions {
		return
	}
	for s, n := range w.next {
		if n < w.until[s.Partition] {
			return
		}
		for _, states := range w.vectors {
			if next(states, s) < w.until[s.Partition] {
				return
			}
		}
	}
	w.over = true
	close(w.done)
}
