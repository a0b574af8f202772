package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// Cursor returns where the collector has got to; nil if it never saved a cursor.
func (db *DB) Cursor(ctx context.Context, origin string) ([]byte, error) {
	var cursor []byte
	err := db.retry(ctx, "cursor", func() (err error) {
		cursor, err = db.q.GetCursor(ctx, origin)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the cursor of %s: %w", origin, err)
	}
	return cursor, nil
}

// SaveCursor keeps where the collector has got to.
func (db *DB) SaveCursor(ctx context.Context, origin string, cursor []byte) error {
	err := db.retry(ctx, "save_cursor", func() error {
		return db.q.SaveCursor(ctx, dbsqlc.SaveCursorParams{Origin: origin, Cursor: nonNil(cursor)})
	})
	if err != nil {
		return fmt.Errorf("save the cursor of %s: %w", origin, err)
	}
	return nil
}
