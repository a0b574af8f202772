package storage_test

import (
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage/pgtest"
)

func TestLease(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	hold := func(holder string, lasts time.Duration, want bool) {
		t.Helper()
		if held, err := db.HoldLease(ctx, "assemble", holder, lasts); err != nil || held != want {
			t.Errorf("%s holds it: %v (%v), want %v", holder, held, err, want)
		}
	}
	hold("a", time.Hour, true)
	hold("a", time.Hour, true)
	hold("b", time.Hour, false)
	if err := db.ReleaseLease(ctx, "assemble", "b"); err != nil { // which it does not hold
		t.Fatal(err)
	}
	hold("b", time.Hour, false)
	if err := db.ReleaseLease(ctx, "assemble", "a"); err != nil {
		t.Fatal(err)
	}
	hold("b", -time.Second, true) // it has ended already
	hold("a", time.Hour, true)
	hold("b", time.Hour, false)
	if held, err := db.HoldLease(ctx, "another", "b", time.Hour); err != nil || !held {
		t.Errorf("another lease: %v, %v", held, err)
	}
}
