package storage

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// firstLayout is the id of the layout that the first start writes.
const firstLayout int32 = 1

// ErrLayoutRetired says that another layout has come into force since this
// process began: it has to be started again.
var ErrLayoutRetired = errors.New("another layout of vedette.observations is in force: start this process again")

// ErrNoLayout says that nothing ever started on this database.
var ErrNoLayout = errors.New("no layout has been written")

// ErrMoved says that somebody has taken over what was to be moved.
var ErrMoved = errors.New("match or correlate runs elsewhere and has taken over: stop the service and try again")

// EnsureLayout fixes the partition count of vedette.observations, and the least that
// vedette.logs has, when first called, and returns a [*LayoutError] if the one is
// asked to differ later or the other to be less.
func (db *DB) EnsureLayout(ctx context.Context, observations, sources int) error {
	if observations <= 0 || sources <= 0 || observations > 1<<20 || sources > 1<<20 {
		return fmt.Errorf("layout: %d partitions of observations and %d of logs: want 1 or more of each", observations, sources)
	}
	err := db.retry(ctx, "layout", func() error {
		return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error {
			if err := q.InsertLayout(ctx, dbsqlc.InsertLayoutParams{
				ID: firstLayout, ObservationPartitions: int32(observations), SourcePartitions: int32(sources),
			}); err != nil {
				return err
			}
			have, err := q.LayoutInForce(ctx)
			if err != nil {
				return err
			}
			if int(have.ObservationPartitions) != observations || int(have.SourcePartitions) > sources {
				return &LayoutError{
					Observations: int(have.ObservationPartitions), Sources: int(have.SourcePartitions),
					WantObservations: observations, WantSources: sources,
				}
			}
			db.layout.Store(have.ID)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("ensure the layout: %w", err)
	}
	return nil
}

// Layout returns the layout in force, or ErrNoLayout.
func (db *DB) Layout(ctx context.Context) (correlate.Layout, error) {
	var r dbsqlc.LayoutInForceRow
	err := db.retry(ctx, "layout", func() (err error) {
		r, err = db.q.LayoutInForce(ctx)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoLayout
	}
	if err != nil {
		return correlate.Layout{}, fmt.Errorf("read the layout: %w", err)
	}
	return correlate.Layout{
		ID: r.ID, Partitions: int(r.ObservationPartitions), First: int(r.SourcePartitions), Sources: int(r.Sources), Topic: r.Topic,
	}, nil
}

// layoutID is the layout that this process works in: the one in force when it
// first asked.
func (db *DB) layoutID(ctx context.Context, q *dbsqlc.Queries) (int32, error) {
	if id := db.layout.Load(); id != 0 {
		return id, nil
	}
	r, err := q.LayoutInForce(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, ErrNoLayout
	}
	if err != nil {
		return 0, err
	}
	db.layout.CompareAndSwap(0, r.ID)
	return db.layout.Load(), nil
}

// holdLayout returns the layout that this process works in, and keeps it in force
// until the transaction ends.
func (db *DB) holdLayout(ctx context.Context, q *dbsqlc.Queries) (int32, error) {
	id, err := db.layoutID(ctx, q)
	if err != nil {
		return 0, err
	}
	state, err := q.LockLayout(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("lock layout %d: %w", id, err)
	}
	if state != "in_force" {
		return 0, ErrLayoutRetired
	}
	return id, nil
}

// topicPrefix begins the names of the topics of all layouts but the first.
const topicPrefix = "vedette.observations.L"

// PlanLayout makes a layout of so many partitions of observations that is not in
// force yet. Earlier plans are given up; their topics are returned.
func (db *DB) PlanLayout(ctx context.Context, partitions int) (l correlate.Layout, abandoned []string, err error) {
	if partitions <= 0 || partitions > 1<<20 {
		return l, nil, fmt.Errorf("plan a layout of %d partitions: want 1 or more", partitions)
	}
	now, err := db.Layout(ctx)
	if err != nil {
		return l, nil, err
	}
	err = db.retry(ctx, "plan_layout", func() error {
		return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) (err error) {
			if abandoned, err = q.AbandonLayouts(ctx); err != nil {
				return err
			}
			r, err := q.PlanLayout(ctx, dbsqlc.PlanLayoutParams{
				ObservationPartitions: int32(partitions), SourcePartitions: int32(now.First), Prefix: topicPrefix,
			})
			l = correlate.Layout{ID: r.ID, Partitions: partitions, First: now.First, Sources: now.Sources, Topic: r.Topic}
			return err
		})
	})
	if err != nil {
		return l, nil, fmt.Errorf("plan a layout: %w", err)
	}
	return l, abandoned, nil
}

// SwitchLayout puts a layout into force: with its checkpoints, marks, profiles and
// findings, or not at all. Whoever works in the old one is fenced. It returns
// ErrMoved if anything has moved since it was taken over.
func (db *DB) SwitchLayout(ctx context.Context, s correlate.Switch) error {
	err := db.retry(ctx, "switch_layout", func() error {
		err := db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error { return db.switchLayout(ctx, q, &s) })
		if _, unknown := errors.AsType[*UnknownOutcomeError](err); unknown {
			// Done again it finds that it was done.
			if l, lerr := db.Layout(ctx); lerr == nil && l.ID == s.To {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("put layout %d into force: %w", s.To, err)
	}
	db.layout.Store(s.To)
	return nil
}

func (db *DB) switchLayout(ctx context.Context, q *dbsqlc.Queries, s *correlate.Switch) error {
	n, err := q.SetLayoutState(ctx, dbsqlc.SetLayoutStateParams{ID: s.From, State: "retired", Expected: "in_force"})
	if err == nil && n == 0 {
		err = ErrMoved
	}
	if err != nil {
		return fmt.Errorf("retire layout %d: %w", s.From, err)
	}
	if n, err = q.SetLayoutState(ctx, dbsqlc.SetLayoutStateParams{ID: s.To, State: "in_force", Expected: "preparing"}); err != nil || n == 0 {
		return fmt.Errorf("it is not being prepared: %w", errors.Join(err, ErrMoved))
	}
	if err := unmoved(ctx, q, s); err != nil {
		return err
	}
	sw := dbsqlc.SaveSwitchParams{Layout: s.To}
	for _, src := range s.Sources {
		sw.Incarnations = append(sw.Incarnations, int32(src.Incarnation))
		sw.Partitions = append(sw.Partitions, src.Partition)
		sw.Offsets = append(sw.Offsets, src.Offset)
	}
	if err := q.SaveSwitch(ctx, sw); err != nil {
		return fmt.Errorf("save the switch offsets: %w", err)
	}
	for i := range s.Partitions {
		if err := db.beginPartition(ctx, q, s.To, &s.Partitions[i]); err != nil {
			return fmt.Errorf("begin partition %d: %w", s.Partitions[i].Partition, err)
		}
	}
	for what, f := range map[string]func() error{
		"sources":     func() error { return q.FenceSources(ctx) },
		"checkpoints": func() error { return q.FenceCheckpoints(ctx, s.From) },
		"marks":       func() error { return q.DropLayoutMarks(ctx, s.From) },
		"profiles":    func() error { return q.DropLayoutProfiles(ctx, s.From) },
	} {
		if err := f(); err != nil {
			return fmt.Errorf("retire the old layout's %s: %w", what, err)
		}
	}
	return nil
}

// unmoved makes sure that nobody has taken anything over since, and locks it.
func unmoved(ctx context.Context, q *dbsqlc.Queries, s *correlate.Switch) error {
	rows, err := q.LockSources(ctx)
	if err != nil {
		return fmt.Errorf("lock the sources: %w", err)
	}
	sources := map[detect.Source]dbsqlc.LockSourcesRow{}
	for _, r := range rows {
		sources[detect.Source{Incarnation: uint32(r.Incarnation), Partition: r.Partition}] = r
	}
	for _, src := range s.Sources {
		if sources[src.Source].Epoch != src.Epoch {
			return fmt.Errorf("source %d: %w", src.Partition, ErrMoved)
		}
	}
	old, err := q.LockCheckpoints(ctx, s.From)
	if err != nil {
		return fmt.Errorf("lock the checkpoints: %w", err)
	}
	if len(old) != len(s.Old) {
		return fmt.Errorf("%d partitions have checkpoints, want %d: %w", len(old), len(s.Old), ErrMoved)
	}
	for i, r := range old {
		if want := s.Old[i]; r.Partition != want.Partition || r.Epoch != want.Epoch || r.Number != want.Number {
			return fmt.Errorf("partition %d: %w", r.Partition, ErrMoved)
		}
	}
	return nil
}

func (db *DB) beginPartition(ctx context.Context, q *dbsqlc.Queries, layout int32, p *correlate.SwitchTo) error {
	const number = 1
	if err := q.InsertCheckpoint(ctx, dbsqlc.InsertCheckpointParams{
		Layout: layout, Partition: p.Partition, Number: number,
		Position: p.Mark.Position, Clock: p.Mark.Clock, State: nonNil(p.Mark.State),
		LastEnd: p.Mark.Last.End, LastCrc: int64(p.Mark.Last.CRC),
	}); err != nil {
		return err
	}
	for _, m := range p.Marks {
		if err := q.SaveMark(ctx, dbsqlc.SaveMarkParams{
			Layout: layout, Partition: p.Partition, Position: m.Position, Clock: m.Clock, State: nonNil(m.State),
		}); err != nil {
			return fmt.Errorf("save a mark: %w", err)
		}
	}
	if err := savePages(ctx, q, layout, p.Partition, p.Pages); err != nil {
		return fmt.Errorf("save %d pages: %w", len(p.Pages), err)
	}
	deltas := coalesce(p.Findings, db.opts.EvidenceLimit)
	if err := db.mergeFindings(ctx, q, at{layout, p.Partition, number}, deltas); err != nil {
		return fmt.Errorf("merge %d findings: %w", len(deltas), err)
	}
	return nil
}

// Incarnation implements [match.Incarnations].
func (db *DB) Incarnation(ctx context.Context, partition int32) (match.Incarnation, error) {
	var r dbsqlc.SourceIncarnationRow
	err := db.retry(ctx, "source_incarnation", func() (err error) {
		r, err = db.q.SourceIncarnation(ctx, partition)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return match.Incarnation{}, nil
	}
	if err != nil {
		return match.Incarnation{}, fmt.Errorf("read the incarnation of source %d: %w", partition, err)
	}
	return match.Incarnation{
		Number: uint32(r.Incarnation), First: r.FirstOffset, Generation: r.Generation, State: r.State,
	}, nil
}

// OpenIncarnation begins a new life of a source: match reads it from next.First
// on. The source must have been acquired with the epoch; whoever works in its old
// life is fenced.
func (db *DB) OpenIncarnation(ctx context.Context, s detect.Source, epoch int64, next match.Incarnation, reason string) error {
	if next.Number <= s.Incarnation || next.Number > math.MaxInt32 {
		return fmt.Errorf("open incarnation %d of source %d after %d: out of order", next.Number, s.Partition, s.Incarnation)
	}
	err := db.retry(ctx, "open_incarnation", func() error {
		err := db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error {
			if _, err := db.holdLayout(ctx, q); err != nil {
				return err
			}
			n, err := q.FenceSource(ctx, dbsqlc.FenceSourceParams{Incarnation: int32(s.Incarnation), Partition: s.Partition, Epoch: epoch})
			if err == nil && n == 0 {
				err = ErrMoved
			}
			if err != nil {
				return err
			}
			return q.OpenIncarnation(ctx, dbsqlc.OpenIncarnationParams{
				Partition: s.Partition, Incarnation: int32(next.Number), FirstOffset: next.First,
				Generation: next.Generation, State: nonNil(next.State), Reason: text(reason),
			})
		})
		if _, unknown := errors.AsType[*UnknownOutcomeError](err); unknown {
			if inc, ierr := db.Incarnation(ctx, s.Partition); ierr == nil && inc.Number == next.Number {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("open incarnation %d of source %d: %w", next.Number, s.Partition, err)
	}
	return nil
}

// Tails implements [match.Applied].
func (db *DB) Tails(ctx context.Context, s detect.Source) ([]detect.Tail, error) {
	states, err := db.CheckpointStates(ctx)
	if errors.Is(err, ErrNoLayout) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tails []detect.Tail
	for _, st := range states {
		sources, err := correlate.SourceStates(st.Mark.State)
		if err != nil {
			return nil, fmt.Errorf("checkpoint of partition %d: %w", st.Partition, err)
		}
		for _, src := range sources {
			if src.Source == s && src.Tail.End > 0 {
				tails = append(tails, src.Tail)
			}
		}
	}
	return tails, nil
}

// SourcePosition reads a position as saved, without taking the source over.
func (db *DB) SourcePosition(ctx context.Context, s detect.Source) (match.Position, error) {
	var r dbsqlc.SourcePositionRow
	err := db.retry(ctx, "source_position", func() (err error) {
		r, err = db.q.SourcePosition(ctx, dbsqlc.SourcePositionParams{Incarnation: int32(s.Incarnation), Partition: s.Partition})
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return match.Position{Clock: math.MinInt64}, nil
	}
	if err != nil {
		return match.Position{}, fmt.Errorf("read the position of source %d/%d: %w", s.Incarnation, s.Partition, err)
	}
	return match.Position{
		Epoch: r.Epoch, Next: r.Next.Int64, Known: r.Next.Valid, Generation: r.Generation, State: r.State, Clock: clock(r.Clock),
		First: r.FirstGeneration,
	}, nil
}

// Checkpoints returns what each partition's checkpoint stands at.
func (db *DB) Checkpoints(ctx context.Context) (map[int32]correlate.Mark, error) {
	states, err := db.CheckpointStates(ctx)
	if err != nil {
		return nil, err
	}
	marks := make(map[int32]correlate.Mark, len(states))
	for _, s := range states {
		marks[s.Partition] = s.Mark
	}
	return marks, nil
}
