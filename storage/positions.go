package storage

import (
	"context"
	"fmt"
	"math"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var _ match.Positions = (*DB)(nil)

// AcquireSource implements [match.Positions].
func (db *DB) AcquireSource(ctx context.Context, incarnation uint32, partition int32) (match.Position, error) {
	if incarnation > math.MaxInt32 {
		return match.Position{}, fmt.Errorf("acquire source %d/%d: incarnation out of range", incarnation, partition)
	}
	var r dbsqlc.AcquireSourceRow
	err := db.retry(ctx, "acquire_source", func() (err error) {
		r, err = db.q.AcquireSource(ctx, dbsqlc.AcquireSourceParams{Incarnation: int32(incarnation), Partition: partition})
		return err
	})
	if err != nil {
		return match.Position{}, fmt.Errorf("acquire source %d/%d: %w", incarnation, partition, err)
	}
	return match.Position{
		Epoch: r.Epoch, Next: r.Next.Int64, Known: r.Next.Valid, Generation: r.Generation, State: r.State,
	}, nil
}

// SaveSource implements [match.Positions].
func (db *DB) SaveSource(ctx context.Context, incarnation uint32, partition int32, p match.Position) error {
	var n int64
	err := db.retry(ctx, "save_source", func() (err error) {
		n, err = db.q.SaveSource(ctx, dbsqlc.SaveSourceParams{
			Incarnation: int32(incarnation), Partition: partition, Epoch: p.Epoch,
			Next: p.Next, Generation: p.Generation, State: nonNil(p.State),
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

// nonNil makes an empty value of no value: a nil slice is NULL to pgx.
func nonNil[S ~[]E, E any](s S) S {
	if s == nil {
		return S{}
	}
	return s
}
