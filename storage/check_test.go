package storage_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// TestCheckTellsWhatIsRepeated: a server that answers but does not do what it is asked
// is not well, and the error names what; once it does, it is.
func TestCheckTellsWhatIsRepeated(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t, storage.Options{DSN: pgtest.NewDSN(t), LockTimeout: 100 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := db.Check(ctx); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Pool().Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(ctx, "LOCK TABLE generation IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- db.PutGeneration(ctx, "a", nil) }()
	var told error
	eventually(t, func() (bool, error) {
		told = db.Check(ctx)
		return told != nil, nil
	})
	if took := time.Since(began); took < time.Second {
		t.Errorf("told after %v: what is over so soon is not worth telling", took)
	}
	if !strings.Contains(told.Error(), "put_generation") || !strings.Contains(told.Error(), "55P03") {
		t.Errorf("told %v, want which call, and why", told)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := db.Check(ctx); err != nil {
		t.Errorf("told %v when nothing is repeated any more", err)
	}
}
