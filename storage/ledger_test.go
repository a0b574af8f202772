package storage_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

func newLedger(t testing.TB) *storage.DB {
	t.Helper()
	db := pgtest.New(t)
	if err := db.EnsureLayout(context.Background(), 4, 2); err != nil {
		t.Fatal(err)
	}
	return db
}

func acquire(t testing.TB, l correlate.Ledger, partition int32) correlate.Checkpoint {
	t.Helper()
	cp, err := l.Acquire(context.Background(), partition)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func commit(t testing.TB, l correlate.Ledger, c correlate.Commit) {
	t.Helper()
	if err := l.Commit(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

// finding makes a delta about the nth key.
func finding(n int) detect.Finding {
	key := detect.AppendKey(nil, fmt.Appendf(nil, "key-%d", n))
	return detect.Finding{
		ID: detect.NewFindingID("default", "v1", key, 0), Tenant: "default", RuleVersion: "v1", Key: key,
		Count: 1, Peak: 1, First: 10, Last: 20, Detail: `{"n":1}`,
		Evidence: []detect.Evidence{{Pointer: detect.Pointer{Source: detect.Source{Incarnation: 1, Partition: 2}, Offset: 3, CRC: 0xdeadbeef}, Time: 10, IDHash: 1 << 63}},
	}
}

// findings reads the table by itself.
func findings(t testing.TB, db *storage.DB) []detect.Finding {
	t.Helper()
	fs, err := pgtest.Findings(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestAcquireWithoutLayout(t *testing.T) {
	db := pgtest.New(t)
	if _, err := db.Acquire(t.Context(), 0); err == nil {
		t.Fatal("acquired a partition of no layout")
	}
}

func TestCheckpointComesBack(t *testing.T) {
	db := newLedger(t)
	cp := acquire(t, db, 1)
	if d := gocmp.Diff(correlate.Checkpoint{Epoch: 1, Mark: correlate.Mark{State: []byte{}}}, cp); d != "" {
		t.Errorf("a new partition: %s", d)
	}
	mark := func(n int64) correlate.Mark {
		return correlate.Mark{Position: n, Clock: 100 * n, State: []byte{byte(n)}}
	}
	page := func(rule string, n uint32, data string) correlate.Page {
		return correlate.Page{RuleVersion: rule, Number: n, Data: []byte(data)}
	}
	for n := int64(1); n <= 4; n++ {
		commit(t, db, correlate.Commit{
			Partition: 1, Epoch: cp.Epoch, Mark: mark(n), SaveMark: n != 4, DropMarks: n - 2,
			Pages: []correlate.Page{page("v1", 1<<31, fmt.Sprint(n)), page("v2", uint32(n%2), "x")},
		})
	}
	// The same mark again, and nothing but pages that have emptied, of which one never
	// was: neither is an error.
	commit(t, db, correlate.Commit{
		Partition: 1, Epoch: cp.Epoch, Mark: mark(4),
		Pages: []correlate.Page{page("v2", 0, ""), page("v3", 9, "")},
	})
	want := correlate.Checkpoint{
		Epoch: 2, Number: 5, Mark: mark(4), Marks: []correlate.Mark{mark(2), mark(3)},
		Pages: []correlate.Page{page("v1", 1<<31, "4"), page("v2", 1, "x")},
	}
	if d := gocmp.Diff(want, acquire(t, db, 1)); d != "" {
		t.Error(d)
	}
	acquire(t, db, 0)
	states, err := db.CheckpointStates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff([]storage.CheckpointState{
		{Partition: 0, Mark: correlate.Mark{State: []byte{}}},
		{Partition: 1, Number: 5, Mark: mark(4)},
	}, states); d != "" {
		t.Error(d)
	}
}

func TestCommitIsFenced(t *testing.T) {
	db := newLedger(t)
	old := acquire(t, db, 0)
	commit(t, db, correlate.Commit{Partition: 0, Epoch: old.Epoch, Findings: []detect.Finding{finding(1)}})
	now := acquire(t, db, 0)
	err := db.Commit(t.Context(), correlate.Commit{Partition: 0, Epoch: old.Epoch, Mark: correlate.Mark{Position: 9}, Findings: []detect.Finding{finding(1), finding(2)}})
	if !errors.Is(err, correlate.ErrFenced) {
		t.Fatalf("want ErrFenced, got %v", err)
	}
	if got := findings(t, db); len(got) != 1 || got[0].Count != 1 {
		t.Errorf("the fenced owner's findings are there: %+v", got)
	}
	if now.Number != 1 || now.Mark.Position != 0 {
		t.Errorf("taken over: %+v", now)
	}
	commit(t, db, correlate.Commit{Partition: 0, Epoch: now.Epoch})
	if err := db.Commit(t.Context(), correlate.Commit{Partition: 3, Epoch: 1}); err == nil || errors.Is(err, correlate.ErrFenced) {
		t.Errorf("a partition never acquired: got %v", err)
	}
}

// TestTakeoverDuringCommits has two owners take one partition from each other: no
// count is lost, none is taken twice.
func TestTakeoverDuringCommits(t *testing.T) {
	db := newLedger(t)
	const perOwner = 40
	var wg sync.WaitGroup
	done := make([]int64, 2)
	for i := range done {
		wg.Go(func() {
			cp, err := db.Acquire(context.Background(), 0)
			for done[i] < perOwner && err == nil {
				err = db.Commit(context.Background(), correlate.Commit{Partition: 0, Epoch: cp.Epoch, Findings: []detect.Finding{finding(0)}})
				if err == nil {
					done[i]++
				} else if errors.Is(err, correlate.ErrFenced) {
					cp, err = db.Acquire(context.Background(), 0)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := findings(t, db); len(got) != 1 || got[0].Count != 2*perOwner {
		t.Errorf("want a count of %d, got %+v", 2*perOwner, got)
	}
	if cp := acquire(t, db, 0); cp.Number != 2*perOwner {
		t.Errorf("want %d checkpoints, got %d", 2*perOwner, cp.Number)
	}
}

func TestUnchangedFindingIsLeftAlone(t *testing.T) {
	db := newLedger(t)
	cp := acquire(t, db, 0)
	f := finding(1)
	f.Merge = detect.MergeLeast
	later := f
	later.First, later.Last = 30, 40
	for _, d := range []detect.Finding{f, later} {
		commit(t, db, correlate.Commit{Partition: 0, Epoch: cp.Epoch, Findings: []detect.Finding{d}})
	}
	var number int64
	if err := db.Pool().QueryRow(t.Context(), "SELECT number FROM finding").Scan(&number); err != nil {
		t.Fatal(err)
	}
	if number != 1 {
		t.Errorf("the row says that checkpoint %d changed it", number)
	}
}

func TestHostileTextsAreStored(t *testing.T) {
	db := newLedger(t)
	cp := acquire(t, db, 0)
	f := finding(1)
	f.Detail = "a\x00b\xff"
	f.Key = []byte{0, 0xff}
	commit(t, db, correlate.Commit{Partition: 0, Epoch: cp.Epoch, Findings: []detect.Finding{f}})
	f.Detail = "a\uFFFDb\uFFFD"
	if d := gocmp.Diff([]detect.Finding{f}, findings(t, db)); d != "" {
		t.Error(d)
	}
}

// TestLedgersAgree commits the same random deltas to Postgres and to memory.
func TestLedgersAgree(t *testing.T) {
	const limit = 3
	dsn := pgtest.NewDSN(t)
	db := pgtest.Open(t, storage.Options{DSN: dsn, EvidenceLimit: limit})
	if err := db.EnsureLayout(t.Context(), 3, 1); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		for _, table := range []string{"finding", "mark", "profile", "checkpoint"} {
			if _, err := db.Pool().Exec(context.Background(), "DELETE FROM "+table); err != nil {
				rt.Fatal(err)
			}
		}
		mem := correlate.NewMemoryLedger(limit)
		epochs := map[int32]int64{}
		take := func(p int32) {
			got, err := db.Acquire(context.Background(), p)
			if err != nil {
				rt.Fatal(err)
			}
			want, err := mem.Acquire(context.Background(), p)
			if err != nil {
				rt.Fatal(err)
			}
			if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				rt.Fatalf("acquired: %s", d)
			}
			epochs[p] = got.Epoch
		}
		delta := rapid.Custom(func(rt *rapid.T) detect.Finding {
			f := finding(rapid.IntRange(0, 4).Draw(rt, "key"))
			f.Merge = detect.Merge(f.ID[0] % 2) // a property of the rule, not of the delta
			f.Count = rapid.Int64Range(0, 5).Draw(rt, "count")
			f.Late = rapid.Int64Range(-1, 2).Draw(rt, "late")
			f.Peak = float64(rapid.IntRange(-2, 2).Draw(rt, "peak"))
			f.First = rapid.Int64Range(-5, 5).Draw(rt, "first")
			f.Last = f.First + rapid.Int64Range(0, 5).Draw(rt, "span")
			f.Detail = rapid.SampledFrom([]string{"", `{"a":1}`, `{"b":2}`}).Draw(rt, "detail")
			f.Verdict = rapid.SampledFrom([]string{"", detect.VerdictUnknown, detect.VerdictGap, detect.VerdictBypass}).Draw(rt, "verdict")
			f.Evidence = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) detect.Evidence {
				var e detect.Evidence
				e.Time = rapid.Int64Range(-3, 3).Draw(rt, "time")
				e.IDHash = rapid.Uint64Range(0, 2).Draw(rt, "id")
				e.Offset = rapid.Int64Range(0, 3).Draw(rt, "offset")
				return e
			}), 0, 5).Draw(rt, "evidence")
			return f
		})
		rt.Repeat(map[string]func(*rapid.T){
			"acquire": func(rt *rapid.T) { take(rapid.Int32Range(0, 2).Draw(rt, "partition")) },
			"commit": func(rt *rapid.T) {
				c := correlate.Commit{Partition: rapid.Int32Range(0, 2).Draw(rt, "partition")}
				if epochs[c.Partition] == 0 {
					take(c.Partition)
				}
				c.Epoch = epochs[c.Partition]
				if rapid.IntRange(0, 9).Draw(rt, "stale") == 0 {
					c.Epoch--
				}
				c.Mark = correlate.Mark{Position: rapid.Int64Range(0, 9).Draw(rt, "position"), Clock: 7, State: []byte("s")}
				c.SaveMark = rapid.Bool().Draw(rt, "mark")
				c.DropMarks = rapid.Int64Range(0, 5).Draw(rt, "drop")
				c.Findings = rapid.SliceOfN(delta, 0, 6).Draw(rt, "findings")
				if rapid.Bool().Draw(rt, "page") {
					c.Pages = []correlate.Page{{RuleVersion: "v1", Number: rapid.Uint32Range(0, 2).Draw(rt, "n"), Data: []byte(rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "data"))}}
				}
				given, err := json.Marshal(c)
				if err != nil {
					rt.Fatal(err)
				}
				got, want := db.Commit(context.Background(), c), mem.Commit(context.Background(), c)
				if errors.Is(got, correlate.ErrFenced) != errors.Is(want, correlate.ErrFenced) || (got == nil) != (want == nil) {
					rt.Fatalf("Postgres says %v, memory %v", got, want)
				}
				if after, _ := json.Marshal(c); string(after) != string(given) {
					rt.Fatalf("Commit changed what it was given:\n%s\n%s", given, after)
				}
			},
			"": func(rt *rapid.T) {
				got, err := pgtest.Findings(context.Background(), db)
				if err != nil {
					rt.Fatal(err)
				}
				want := mem.Findings()
				slices.SortFunc(want, func(a, b detect.Finding) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
				if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
					rt.Fatalf("findings (-memory +Postgres): %s", d)
				}
			},
		})
	})
}

// TestCommitsOfTwoPartitionsDoNotDeadlock has two owners merge into the same
// findings in opposite orders.
func TestCommitsOfTwoPartitionsDoNotDeadlock(t *testing.T) {
	db := newLedger(t)
	const rounds, keys = 20, 60
	var wg sync.WaitGroup
	for p := range int32(2) {
		cp := acquire(t, db, p)
		wg.Go(func() {
			for r := range rounds {
				c := correlate.Commit{Partition: p, Epoch: cp.Epoch}
				for k := range keys {
					if p == 1 {
						k = keys - 1 - k
					}
					if k <= (r+1)*keys/rounds { // rows appear in every round
						c.Findings = append(c.Findings, finding(k))
					}
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				if err := db.Commit(ctx, c); err != nil {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	var deadlocks int64
	if err := db.Pool().QueryRow(t.Context(), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&deadlocks); err != nil {
		t.Fatal(err)
	}
	if deadlocks > 0 {
		t.Errorf("%d deadlocks were broken", deadlocks)
	}
	for _, f := range findings(t, db) {
		if f.Key[len(f.Key)-1] == '0' && string(f.Key[1:]) == "key-0" && f.Count != 2*rounds {
			t.Errorf("%s has a count of %d", f.Key, f.Count)
		}
	}
}

func BenchmarkCommit1000(b *testing.B) {
	db := newLedger(b)
	cp := acquire(b, db, 0)
	fresh := 0
	for _, bb := range []struct {
		name  string
		first func() int
	}{
		{"new", func() int { fresh += 1000; return fresh }},
		{"known", func() int { return 0 }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				c := correlate.Commit{Partition: 0, Epoch: cp.Epoch}
				for i, first := 0, bb.first(); i < 1000; i++ {
					c.Findings = append(c.Findings, finding(first+i))
				}
				commit(b, db, c)
			}
		})
	}
}
