// Package layout moves detection to another partitioning of vedette.observations,
// and past a log that was replaced or truncated.
//
// Both are done while the service is stopped; what runs all the same is fenced, and
// what has moved meanwhile makes the last step fail. Nothing is in force before
// that step, which is one transaction: whoever is killed before it begins anew.
//
// # A new layout
//
// [Reshard] first brings the old layout to one place: match reads each source up to
// its end, and correlate applies all of it. Then match writes what windows need of
// history to a new topic, and an owner that begins there rebuilds its windows from
// it, silently, as it does after any restart. Profiles are divided by their keys.
// Findings are known by rule, key and tile, so they need not move.
//
// # A replaced log
//
// [Examine] tells which partitions are not those that were read, [Repair] opens a
// new incarnation of replaced sources and writes replaced observations anew, into a
// new layout of the same size.
package layout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// Ledger is where positions, checkpoints and layouts are kept: Postgres.
type Ledger interface {
	correlate.Ledger
	match.Positions
	match.Incarnations
	match.Applied

	// SourcePosition reads a position without taking the source over.
	SourcePosition(ctx context.Context, s detect.Source) (match.Position, error)
	// Checkpoints reads what the partitions' checkpoints stand at, by partition,
	// without taking them over.
	Checkpoints(ctx context.Context) (map[int32]correlate.Mark, error)

	// Layout returns the layout in force.
	Layout(ctx context.Context) (correlate.Layout, error)
	// PlanLayout makes one that is not; plans before it are given up, and their
	// topics returned.
	PlanLayout(ctx context.Context, partitions int) (l correlate.Layout, abandoned []string, err error)
	// SwitchLayout puts the planned layout into force, or nothing happens.
	SwitchLayout(ctx context.Context, s correlate.Switch) error
	// OpenIncarnation begins a new life of a source, and fences the old one.
	OpenIncarnation(ctx context.Context, s detect.Source, epoch int64, next match.Incarnation, reason string) error
}

// Options say with what to move.
type Options struct {
	Kafka       Kafka
	Ledger      Ledger
	Match       match.Generations
	Correlate   correlate.Generations
	Incarnation uint32       // of sources that were never replaced
	Topic       stream.Topic // of new topics: all but name and partitions
	Evidence    int          // how many events a finding points at

	Now    func() time.Time          // the clock of append stamps; time.Now if nil
	Logger *slog.Logger              // slog.Default if nil
	Say    func(string)              // what is being done, for people; may be nil
	Step   func(before string) error // asked before each step: an error ends the work there; may be nil
}

// mover does the moving.
type mover struct {
	Options
	layout correlate.Layout
	engine correlate.Options
}

func newMover(ctx context.Context, o Options) (*mover, error) {
	if o.Kafka == nil || o.Ledger == nil || o.Match == nil || o.Correlate == nil {
		return nil, errors.New("layout: Kafka, Ledger, Match and Correlate are needed")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Step == nil {
		o.Step = func(string) error { return nil }
	}
	l, err := o.Ledger.Layout(ctx)
	if err != nil {
		return nil, err
	}
	// Some may have been added that nobody has read yet.
	if n, err := o.Kafka.Partitions(ctx, stream.TopicLogs); err == nil {
		l.Sources = max(l.Sources, n)
	}
	return &mover{Options: o, layout: l, engine: correlate.Options{Sources: l.First, EvidenceLimit: o.Evidence}}, nil
}

// sources returns the sources in their latest incarnations, by partition.
func (m *mover) sources(ctx context.Context) ([]detect.Source, error) {
	out := make([]detect.Source, m.layout.Sources)
	for p := range out {
		inc, err := m.Ledger.Incarnation(ctx, int32(p))
		if err != nil {
			return nil, err
		}
		out[p] = detect.Source{Incarnation: max(inc.Number, m.Incarnation), Partition: int32(p)}
	}
	return out, nil
}

// Report is what a move came to.
type Report struct {
	From, To correlate.Layout
	Written  int64 // messages of history
	Lost     []Lost
}

// Lost is a range of a log that is gone.
type Lost struct {
	Source   detect.Source
	From, To int64 // To −1: nobody knows where it ends
	Windows  bool  // what was in it had been judged; windows had to be rebuilt without it
}

func (l Lost) String() string {
	s := fmt.Sprintf("%s partition %d, offsets %d–%d", stream.TopicLogs, l.Source.Partition, l.From, l.To-1)
	if l.To < 0 {
		s = fmt.Sprintf("%s partition %d, from offset %d on", stream.TopicLogs, l.Source.Partition, l.From)
	}
	if l.Windows {
		return s + ": judged before, but windows were rebuilt without it"
	}
	return s + ": whatever was not read yet is lost"
}

// Reshard moves to so many partitions of observations.
func Reshard(ctx context.Context, o Options, partitions int) (Report, error) {
	m, err := newMover(ctx, o)
	if err != nil {
		return Report{}, err
	}
	if partitions <= 0 {
		return Report{}, fmt.Errorf("reshard to %d partitions: want 1 or more", partitions)
	}
	if partitions == m.layout.Partitions {
		return Report{From: m.layout, To: m.layout}, nil
	}
	taken, err := m.settle(ctx)
	if err != nil {
		return Report{}, err
	}
	return m.move(ctx, taken, partitions)
}
