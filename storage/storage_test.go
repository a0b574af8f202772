package storage_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

func TestMigrateByManyAtOnce(t *testing.T) {
	dsn := pgtest.EmptyDSN(t)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		db := pgtest.Open(t, storage.Options{DSN: dsn, MaxConns: 1})
		wg.Go(func() { errs[i] = db.Migrate(t.Context()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, table := range []string{"finding", "checkpoint", "river_job"} {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			t.Errorf("%s: %v", table, err)
		}
	}
}

func TestMigrateRefusesANewerSchema(t *testing.T) {
	db := pgtest.New(t)
	if _, err := db.Pool().Exec(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)"); err != nil {
		t.Fatal(err)
	}
	err := db.Migrate(t.Context())
	if err == nil || !strings.Contains(err.Error(), "written by a newer Vedette") {
		t.Fatalf("got %v", err)
	}
}

func TestLayoutIsFixed(t *testing.T) {
	db := pgtest.New(t)
	for range 2 {
		if err := db.EnsureLayout(t.Context(), 8, 4); err != nil {
			t.Fatal(err)
		}
	}
	for _, counts := range [][2]int{{9, 4}, {8, 3}} {
		err := db.EnsureLayout(t.Context(), counts[0], counts[1])
		got, ok := errors.AsType[*storage.LayoutError](err)
		if !ok {
			t.Fatalf("want a LayoutError, got %v", err)
		}
		want := &storage.LayoutError{Observations: 8, Sources: 4, WantObservations: counts[0], WantSources: counts[1]}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	if err := db.EnsureLayout(t.Context(), 0, 1); err == nil {
		t.Error("a layout without partitions was taken")
	}
}

func TestPositionsAreFenced(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	first, err := db.AcquireSource(ctx, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	if first.Known || first.Epoch != 1 {
		t.Errorf("a new source is %+v", first)
	}
	first.Next, first.Generation, first.State, first.Clock = 42, "g1", []byte("state"), 7
	if err := db.SaveSource(ctx, 1, 3, first); err != nil {
		t.Fatal(err)
	}
	second, err := db.AcquireSource(ctx, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	want := match.Position{Epoch: 2, Next: 42, Known: true, Generation: "g1", State: []byte("state"), Clock: 7}
	if d := cmp.Diff(want, second); d != "" {
		t.Error(d)
	}
	first.Next = 43
	if err := db.SaveSource(ctx, 1, 3, first); !errors.Is(err, match.ErrFenced) {
		t.Errorf("the old owner: want ErrFenced, got %v", err)
	}
	second.Next = 50
	if err := db.SaveSource(ctx, 1, 3, second); err != nil {
		t.Error(err)
	}
	if err := db.SaveSource(ctx, 1, 4, match.Position{Epoch: 1}); !errors.Is(err, match.ErrFenced) {
		t.Errorf("never acquired: want ErrFenced, got %v", err)
	}
}

func TestGenerations(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	if _, _, err := db.FirstGeneration(ctx); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("none yet: got %v", err)
	}
	if _, err := db.Generation(ctx, "a"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("none yet: got %v", err)
	}
	for _, g := range []match.Generation{{Digest: "a", Content: []byte("first")}, {Digest: "b"}, {Digest: "a", Content: []byte("other")}} {
		if err := db.PutGeneration(ctx, g.Digest, g.Content); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.Generation(ctx, "a")
	if err != nil || string(got) != "first" {
		t.Errorf("got %q, %v", got, err)
	}
	digest, content, err := db.FirstGeneration(ctx)
	if err != nil || digest != "a" || string(content) != "first" {
		t.Errorf("the first is %q (%q), %v", digest, content, err)
	}
}

func TestRuleVersions(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	r := &rule.Rule{
		ID: "6f1c1d4e-0000-4000-8000-000000000001", Version: "v1", Title: "Too many 403", Level: detect.LevelHigh,
		Author: "A\x00\xff", License: "DRL", Tags: []string{"attack.t1078"},
		Correlation: &rule.Correlation{Type: rule.EventCount, GroupBy: []string{"src_endpoint.ip", "http.route"}, Op: rule.OpGTE, Value: 1},
	}
	if err := db.PutRuleVersions(ctx, []*rule.Rule{r}); err != nil {
		t.Fatal(err)
	}
	r.Title = "Far too many 403"
	if err := db.PutRuleVersions(ctx, []*rule.Rule{r, {ID: "x", Version: "v2"}}); err != nil {
		t.Fatal(err)
	}
	var title, author string
	var level int16
	var groupBy, references []string
	row := db.Pool().QueryRow(ctx, "SELECT title, author, level, group_by, rule_references FROM rule_version WHERE version = 'v1'")
	if err := row.Scan(&title, &author, &level, &groupBy, &references); err != nil {
		t.Fatal(err)
	}
	got := []any{title, author, level, groupBy, references}
	want := []any{"Far too many 403", "A\uFFFD\uFFFD", int16(detect.LevelHigh), r.Correlation.GroupBy, []string{}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	bad := &rule.Rule{ID: "bad", Title: "No version"}
	if err := db.PutRuleVersions(ctx, []*rule.Rule{{ID: "y", Version: "v3"}, bad}); err == nil || !strings.Contains(err.Error(), "No version (bad)") {
		t.Errorf("the culprit is not named: %v", err)
	}
	var n int
	if err := db.Pool().QueryRow(ctx, "SELECT count(*) FROM rule_version").Scan(&n); err != nil || n != 2 {
		t.Errorf("want the two that were stored before, all or nothing: %d, %v", n, err)
	}
}

func TestCursors(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	if c, err := db.Cursor(ctx, "file:a"); c != nil || err != nil {
		t.Errorf("none yet: got %q, %v", c, err)
	}
	for _, c := range []string{"one", "two", ""} {
		if err := db.SaveCursor(ctx, "file:a", []byte(c)); err != nil {
			t.Fatal(err)
		}
		if got, err := db.Cursor(ctx, "file:a"); err != nil || string(got) != c {
			t.Errorf("want %q, got %q, %v", c, got, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []storage.Options{{}, {DSN: "x", Patience: -1}, {DSN: "x", MaxConns: -1}, {DSN: "postgres://u:hunter2@h:port/x"}} {
		_, err := storage.Open(t.Context(), o)
		if err == nil {
			t.Fatalf("%+v was taken", o)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password is in %q", err)
		}
	}
}
