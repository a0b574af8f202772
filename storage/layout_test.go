package storage_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// plan prepares the move of a layout of two partitions and one source to one of
// three.
func plan(t *testing.T, db *storage.DB) correlate.Switch {
	t.Helper()
	ctx := t.Context()
	if err := db.EnsureLayout(ctx, 2, 1); err != nil {
		t.Fatal(err)
	}
	src, err := db.AcquireSource(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := correlate.Switch{From: 1, Sources: []correlate.SwitchSource{{Epoch: src.Epoch, Offset: 42}}}
	for p := range int32(2) {
		cp, err := db.Acquire(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		s.Old = append(s.Old, correlate.SwitchFrom{Partition: p, Epoch: cp.Epoch, Number: cp.Number})
	}
	l, _, err := db.PlanLayout(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	s.To = l.ID
	for q := range int32(3) {
		s.Partitions = append(s.Partitions, correlate.SwitchTo{
			Partition: q,
			Mark:      correlate.Mark{Position: 7, Clock: 8, State: []byte("state"), Last: detect.Tail{End: 7, CRC: 0xfedcba98}},
			Marks:     []correlate.Mark{{Clock: 1, State: []byte("begin")}},
			Pages:     []correlate.Page{{RuleVersion: "v", Number: uint32(q), Data: []byte("page")}},
		})
	}
	return s
}

// TestSwitchLayout: the new layout is there whole, and whoever worked in the old one
// does so no more, nor may he come back.
func TestSwitchLayout(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	s := plan(t, db)
	late, err := storage.Open(ctx, storage.Options{DSN: db.Pool().Config().ConnString()})
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := late.CheckpointStates(ctx); err != nil { // it works in layout 1 from now on
		t.Fatal(err)
	}
	if err := db.SwitchLayout(ctx, s); err != nil {
		t.Fatal(err)
	}
	l, err := db.Layout(ctx)
	if want := (correlate.Layout{ID: 2, Partitions: 3, First: 1, Sources: 1, Topic: "vedette.observations.L2"}); err != nil || l != want {
		t.Errorf("layout %+v (%v), want %+v", l, err, want)
	}
	for q := range int32(3) {
		cp, err := db.Acquire(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		to := s.Partitions[q]
		want := correlate.Checkpoint{Epoch: 1, Number: 1, Mark: to.Mark, Marks: to.Marks, Pages: to.Pages}
		if d := cmp.Diff(want, cp); d != "" {
			t.Error(d)
		}
	}
	if err := db.SaveSource(ctx, 0, 0, match.Position{Epoch: s.Sources[0].Epoch, Next: 43}); !errors.Is(err, match.ErrFenced) {
		t.Errorf("save in the old layout: %v, want ErrFenced", err)
	}
	if err := late.Commit(ctx, correlate.Commit{Partition: 0, Epoch: s.Old[0].Epoch}); !errors.Is(err, correlate.ErrFenced) {
		t.Errorf("commit in the old layout: %v, want ErrFenced", err)
	}
	if _, err := late.Acquire(ctx, 0); !errors.Is(err, storage.ErrLayoutRetired) {
		t.Errorf("acquire in the old layout: %v, want ErrLayoutRetired", err)
	}
	if _, err := late.AcquireSource(ctx, 0, 0); !errors.Is(err, storage.ErrLayoutRetired) {
		t.Errorf("acquire a source in the old layout: %v, want ErrLayoutRetired", err)
	}
	if err := late.EnsureLayout(ctx, 2, 1); err == nil {
		t.Error("started with the old count")
	}
	if err := db.SwitchLayout(ctx, s); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("switched again: %v, want ErrMoved", err)
	}
}

// TestSwitchLayoutMoved: nothing is in force if somebody has taken over meanwhile,
// and what was planned before is given up.
func TestSwitchLayoutMoved(t *testing.T) {
	for name, meddle := range map[string]func(*storage.DB) error{
		"source": func(db *storage.DB) error { _, err := db.AcquireSource(t.Context(), 0, 0); return err },
		"owner":  func(db *storage.DB) error { _, err := db.Acquire(t.Context(), 1); return err },
		"checkpoint": func(db *storage.DB) error {
			return db.Commit(t.Context(), correlate.Commit{Partition: 1, Epoch: 1, Mark: correlate.Mark{Position: 1}})
		},
		"another plan": func(db *storage.DB) error {
			_, abandoned, err := db.PlanLayout(t.Context(), 4)
			if len(abandoned) != 1 || abandoned[0] != "vedette.observations.L2" {
				t.Errorf("given up: %v, want the topic of layout 2", abandoned)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := pgtest.New(t)
			s := plan(t, db)
			if err := meddle(db); err != nil {
				t.Fatal(err)
			}
			if err := db.SwitchLayout(t.Context(), s); !errors.Is(err, storage.ErrMoved) {
				t.Errorf("%v, want ErrMoved", err)
			}
			if l, err := db.Layout(t.Context()); err != nil || l.ID != 1 || l.Partitions != 2 {
				t.Errorf("layout %+v (%v), want the old one", l, err)
			}
		})
	}
}

func TestOpenIncarnation(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	if err := db.EnsureLayout(ctx, 1, 2); err != nil {
		t.Fatal(err)
	}
	old := detect.Source{Partition: 1}
	pos, err := db.AcquireSource(ctx, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	next := match.Incarnation{Number: 1, First: 30, Generation: "g", State: []byte("state")}
	if err := db.OpenIncarnation(ctx, old, pos.Epoch-1, next, "why"); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("opened by one who was fenced: %v, want ErrMoved", err)
	}
	if err := db.OpenIncarnation(ctx, old, pos.Epoch, next, "why"); err != nil {
		t.Fatal(err)
	}
	if err := db.SaveSource(ctx, 0, 1, match.Position{Epoch: pos.Epoch, Next: 5}); !errors.Is(err, match.ErrFenced) {
		t.Errorf("the old incarnation goes on: %v, want ErrFenced", err)
	}
	for p, want := range []match.Incarnation{{}, next} {
		got, err := db.Incarnation(ctx, int32(p))
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("source %d: %v %s", p, err, d)
		}
	}
	if err := db.OpenIncarnation(ctx, detect.Source{Incarnation: 1, Partition: 1}, 1, next, ""); err == nil {
		t.Error("opened the same incarnation twice")
	}
}
