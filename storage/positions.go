package storage

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var (
	_ match.Positions    = (*DB)(nil)
	_ match.Standings    = (*DB)(nil)
	_ match.Vectors      = (*DB)(nil)
	_ correlate.Rewinder = (*DB)(nil)
)

// AcquireSource implements [match.Positions].
func (db *DB) AcquireSource(ctx context.Context, incarnation uint32, partition int32) (match.Position, error) {
	if incarnation > math.MaxInt32 {
		return match.Position{}, fmt.Errorf("acquire source %d/%d: incarnation out of range", incarnation, partition)
	}
	var r dbsqlc.AcquireSourceRow
	err := db.retry(ctx, "acquire_source", func() error {
		return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) (err error) {
			if _, err := db.holdLayout(ctx, q); err != nil && !errors.Is(err, ErrNoLayout) {
				return err
			}
			r, err = q.AcquireSource(ctx, dbsqlc.AcquireSourceParams{Incarnation: int32(incarnation), Partition: partition})
			return err
		})
	})
	if err != nil {
		return match.Position{}, fmt.Errorf("acquire source %d/%d: %w", incarnation, partition, err)
	}
	return match.Position{
		Epoch: r.Epoch, Next: r.Next.Int64, Known: r.Next.Valid, Generation: r.Generation, State: r.State, Clock: clock(r.Clock),
		First: r.FirstGeneration,
	}, nil
}

// SaveSource implements [match.Positions].
func (db *DB) SaveSource(ctx context.Context, incarnation uint32, partition int32, p match.Position) error {
	var n int64
	err := db.retry(ctx, "save_source", func() (err error) {
		n, err = db.q.SaveSource(ctx, dbsqlc.SaveSourceParams{
			Incarnation: int32(incarnation), Partition: partition, Epoch: p.Epoch,
			Next: p.Next, Generation: p.Generation, State: nonNil(p.State), Clock: p.Clock,
		})
		return err
	})
	if err == nil && n == 0 {
		err = match.ErrFenced
	}
	if err != nil {
		return fmt.Errorf("save position %d of source %d/%d: %w", p.Next, incarnation, partition, err)
	}
	return nil
}

// clock is one that was saved; one that was not has not started.
func clock(c pgtype.Int8) int64 {
	if !c.Valid {
		return math.MinInt64
	}
	return c.Int64
}

// Standings implements [match.Standings].
func (db *DB) Standings(ctx context.Context, incarnation uint32) ([]match.Standing, error) {
	var rows []dbsqlc.StandingsRow
	err := db.retry(ctx, "standings", func() (err error) {
		rows, err = db.q.Standings(ctx, int32(incarnation))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sources' standings: %w", err)
	}
	list := make([]match.Standing, len(rows))
	for i, r := range rows {
		list[i] = match.Standing{
			Partition: r.Partition, Incarnation: uint32(r.Incarnation), Epoch: r.Epoch,
			Known: r.Next.Valid && r.Clock.Valid, Begun: r.Next.Int64 > 0, Clock: clock(r.Clock), Rewind: -1,
		}
		if r.Rewind.Valid {
			list[i].Rewind = r.Rewind.Int64
		}
	}
	return list, nil
}

// AskRewind implements [correlate.Rewinder].
func (db *DB) AskRewind(ctx context.Context, s detect.Source, next int64) error {
	err := db.retry(ctx, "ask_rewind", func() error {
		return db.q.AskRewind(ctx, dbsqlc.AskRewindParams{Incarnation: int32(s.Incarnation), Partition: s.Partition, Next: next})
	})
	if err != nil {
		return fmt.Errorf("ask for source %d/%d from %d on: %w", s.Incarnation, s.Partition, next, err)
	}
	return nil
}

// LeastNext implements [match.Vectors]: by the checkpoints, so that it does not
// matter where correlate runs, or whether it does.
func (db *DB) LeastNext(ctx context.Context, s detect.Source) (int64, error) {
	layout, err := db.Layout(ctx)
	if err != nil {
		return 0, err
	}
	states, err := db.CheckpointStates(ctx)
	if err != nil {
		return 0, err
	}
	if len(states) < layout.Partitions {
		return 0, nil // one has nothing yet
	}
	least := int64(math.MaxInt64)
	for _, st := range states {
		next, err := correlate.VectorNext(st.Mark.State, s)
		if err != nil {
			return 0, fmt.Errorf("checkpoint of partition %d: %w", st.Partition, err)
		}
		least = min(least, next)
	}
	return least, nil
}

// nonNil makes an empty value of no value: a nil slice is NULL to pgx.
func nonNil[S ~[]E, E any](s S) S {
	if s == nil {
		return S{}
	}
	return s
}
