package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// EnsureLayout fixes the partition counts of vedette.observations and vedette.logs
// when first called, and returns a [*LayoutError] if they are asked to differ later.
func (db *DB) EnsureLayout(ctx context.Context, observations, sources int) error {
	if observations <= 0 || sources <= 0 || observations > 1<<20 || sources > 1<<20 {
		return fmt.Errorf("layout: %d partitions of observations and %d of logs: want 1 or more of each", observations, sources)
	}
	err := db.retry(ctx, "layout", func() error {
		return db.inTx(ctx, func(_ pgx.Tx, q *dbsqlc.Queries) error {
			if err := q.InsertLayout(ctx, dbsqlc.InsertLayoutParams{
				ID: Layout, ObservationPartitions: int32(observations), SourcePartitions: int32(sources),
			}); err != nil {
				return err
			}
			have, err := q.GetLayout(ctx, Layout)
			if err != nil {
				return err
			}
			if int(have.ObservationPartitions) != observations || int(have.SourcePartitions) != sources {
				return &LayoutError{
					Observations: int(have.ObservationPartitions), Sources: int(have.SourcePartitions),
					WantObservations: observations, WantSources: sources,
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("ensure the layout: %w", err)
	}
	return nil
}
