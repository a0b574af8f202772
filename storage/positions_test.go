package storage_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// TestStandings: what processes tell one another of their sources.
func TestStandings(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	source := detect.Source{Incarnation: 1, Partition: 0}
	if err := db.AskRewind(ctx, source, 5); err != nil {
		t.Errorf("of a source that nobody has owned: %v", err)
	}
	owned := make(map[int32]match.Position)
	for p := range int32(3) {
		pos, err := db.AcquireSource(ctx, 1, p)
		if err != nil {
			t.Fatal(err)
		}
		if pos.Clock != math.MinInt64 {
			t.Errorf("the clock of a new source is %d", pos.Clock)
		}
		owned[p] = pos
	}
	save := func(p int32, next, clock int64) {
		t.Helper()
		pos := owned[p]
		pos.Next, pos.Clock = next, clock
		if err := db.SaveSource(ctx, 1, p, pos); err != nil {
			t.Fatal(err)
		}
	}
	save(0, 40, 7_000)
	save(1, 0, math.MinInt64) // it has no records
	check := func(rewind int64) {
		t.Helper()
		got, err := db.Standings(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		want := []match.Standing{
			{Incarnation: 1, Epoch: 1, Partition: 0, Known: true, Begun: true, Clock: 7_000, Rewind: rewind},
			{Incarnation: 1, Epoch: 1, Partition: 1, Known: true, Clock: math.MinInt64, Rewind: -1},
			{Incarnation: 1, Epoch: 1, Partition: 2, Clock: math.MinInt64, Rewind: -1},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	check(-1)
	for _, next := range []int64{30, 20, 25} { // the least counts
		if err := db.AskRewind(ctx, source, next); err != nil {
			t.Fatal(err)
		}
	}
	check(20)
	save(0, 50, 7_000) // which does not answer it
	check(20)
	save(0, 20, 7_000)
	check(-1)
	if got, err := db.Standings(ctx, 2); err != nil || len(got) != 0 {
		t.Errorf("of another incarnation: %v, %v", got, err)
	}
}

func TestLeastNext(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	if err := db.EnsureLayout(ctx, 2, 1); err != nil {
		t.Fatal(err)
	}
	source := detect.Source{Incarnation: 1, Partition: 0}
	commit := func(p int32, to int64) {
		t.Helper()
		cp, err := db.Acquire(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		e := correlate.NewEngine(correlate.Options{Sources: 1})
		e.Apply(&detect.Section{Source: source, To: to, Clock: 1}, false)
		// The owner's part of the state: no generations, no sources, none retired.
		state := append([]byte{1, 0, 0, 0}, e.State()...)
		if err := db.Commit(ctx, correlate.Commit{Partition: p, Epoch: cp.Epoch, Mark: correlate.Mark{Position: 1, State: state}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(next int64) {
		t.Helper()
		if got, err := db.LeastNext(ctx, source); err != nil || got != next {
			t.Errorf("least next %d (%v), want %d", got, err, next)
		}
	}
	want(0)
	commit(0, 9)
	want(0) // partition 1 has nothing yet
	commit(1, 4)
	want(4)
}

// TestAddedSourceBegins: a partition that was added begins in the generation that the
// others are in, for everybody who ever reads its beginning.
func TestAddedSourceBegins(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	if err := db.EnsureLayout(ctx, 1, 2); err != nil {
		t.Fatal(err)
	}
	acquire := func(p int32, first string) match.Position {
		t.Helper()
		pos, err := db.AcquireSource(ctx, 1, p)
		if err != nil {
			t.Fatal(err)
		}
		if pos.First != first {
			t.Errorf("source %d begins in %q, want %q", p, pos.First, first)
		}
		return pos
	}
	save := func(p int32, epoch int64, generation string) {
		t.Helper()
		if err := db.SaveSource(ctx, 1, p, match.Position{Epoch: epoch, Next: 1, Generation: generation}); err != nil {
			t.Fatal(err)
		}
	}
	save(0, acquire(0, "").Epoch, "a")
	acquire(1, "") // there from the beginning, and slow to begin
	added := acquire(2, "a")
	save(0, acquire(0, "").Epoch, "b")
	save(2, added.Epoch, "b")
	acquire(2, "a")
	acquire(3, "b")
	l, err := db.Layout(ctx)
	if err != nil || l.First != 2 || l.Sources != 4 {
		t.Errorf("layout %+v (%v), want 2 sources at first and 4 now", l, err)
	}
	if err := db.EnsureLayout(ctx, 1, 4); err != nil {
		t.Errorf("with the partitions added: %v", err)
	}
}
