package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// HoldLease takes the lease of that name for the holder, or renews it, for so long
// from now on. It returns false if another holds it. Postgres's clock is what counts.
func (db *DB) HoldLease(ctx context.Context, name, holder string, lasts time.Duration) (bool, error) {
	n, err := db.q.HoldLease(ctx, dbsqlc.HoldLeaseParams{Name: name, Holder: holder, Seconds: lasts.Seconds()})
	if err != nil {
		return false, fmt.Errorf("hold the lease %q: %w", name, err)
	}
	return n > 0, nil
}

// ReleaseLease gives a lease back, so that others need not wait until it ends.
func (db *DB) ReleaseLease(ctx context.Context, name, holder string) error {
	if err := db.q.ReleaseLease(ctx, dbsqlc.ReleaseLeaseParams{Name: name, Holder: holder}); err != nil {
		return fmt.Errorf("give back the lease %q: %w", name, err)
	}
	return nil
}
