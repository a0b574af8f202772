package match_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// board is a world in which processes see one another's standings.
type board struct {
	*world
	rewinds map[int32]int64
}

func (b *board) Standings(_ context.Context, inc uint32) ([]match.Standing, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, _ := b.fault("standings"); before != nil {
		return nil, before
	}
	var list []match.Standing
	for p := range int32(len(b.logs)) {
		if pos, ok := b.positions[p]; ok {
			s := match.Standing{Incarnation: inc, Partition: p, Epoch: pos.Epoch, Known: pos.Known, Begun: pos.Next > 0, Clock: pos.Clock, Rewind: -1}
			if next, ok := b.rewinds[p]; ok {
				s.Rewind = next
			}
			list = append(list, s)
		}
	}
	return list, nil
}

func (b *board) SaveSource(ctx context.Context, inc uint32, p int32, pos match.Position) error {
	err := b.world.SaveSource(ctx, inc, p, pos)
	b.mu.Lock()
	defer b.mu.Unlock()
	if next, ok := b.rewinds[p]; ok && err == nil && pos.Next <= next {
		delete(b.rewinds, p)
	}
	return err
}

func newBoard(t *testing.T, sources, partitions int) *board {
	return &board{newWorld(t, sources, partitions), map[int32]int64{}}
}

// process is an owner for whatever sources it is given.
func (b *board) process(t *testing.T) (*match.Owner, match.OwnerOptions) {
	t.Helper()
	o := b.options()
	o.Sources, o.All, o.Positions, o.Standings = nil, len(b.logs), b, b
	owner, err := match.NewOwner(o)
	if err != nil {
		t.Fatal(err)
	}
	return owner, o
}

// source runs one source until stop is called, which returns RunSource's error.
func source(t *testing.T, owner *match.Owner, p int32) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- owner.RunSource(ctx, p, nil) }()
	return func() error {
		cancel()
		return <-done
	}
}

// TestSourcesMoveBetweenProcesses: stopped here, gone on with there, with moments
// in which both believe a source to be theirs; every record is matched as by one.
func TestSourcesMoveBetweenProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 3, 2)
		fill := func(w *world) {
			for i := range 900 {
				code := ""
				if i%4 == 0 {
					code = "AccessDenied"
				}
				w.record(i%3, base.Add(time.Duration(i)*time.Second), base.Add(time.Duration(i)*time.Second), "GetUser", code)
			}
		}
		alone := newWorld(t, 3, 2)
		fill(alone)
		_, stop := start(t, alone.options())
		alone.until(t, alone.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want := observations(alone.apply(t))
		if len(want) != 225 {
			t.Fatalf("%d observations alone, want 225", len(want))
		}

		fill(b.world)
		var owners []*match.Owner
		for range 2 {
			o, _ := b.process(t)
			owners = append(owners, o)
		}
		type running struct{ stop func() error }
		pause := rand.New(rand.NewPCG(1, 2)) // the board's own is for who holds its lock
		var at [3]running
		for i := range 40 {
			p := i % 3
			old := at[p]
			// The new one begins before the old one has been stopped.
			at[p] = running{source(t, owners[i/3%2], int32(p))}
			time.Sleep(time.Duration(pause.IntN(300)) * time.Millisecond) // of the bubble's time
			if old.stop != nil {
				if err := old.stop(); err != nil && !errors.Is(err, match.ErrFenced) {
					t.Fatal(err)
				}
			}
		}
		b.until(t, b.saved)
		for _, r := range at {
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
		}
		if got := observations(b.apply(t)); !slices.Equal(got, want) {
			t.Errorf("%d observations, want %d, or others", len(got), len(want))
		}
		for _, a := range b.apply(t) {
			if a.gaps > 0 {
				t.Errorf("%d gaps", a.gaps)
			}
		}
	})
}

// TestOwnerWaitsForOtherProcesses: a source that is far ahead waits for one that
// another process has, and for one that nobody has yet, not for one without records.
func TestOwnerWaitsForOtherProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 3, 1)
		for i := range 60 {
			b.record(0, base.Add(time.Duration(i)*time.Minute), base, "GetUser", "")
		}
		b.record(1, base, base, "GetUser", "")
		next := func(p int32) int64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.positions[p].Next
		}
		here, o := b.process(t)
		there, _ := b.process(t)
		stop0 := source(t, here, 0)
		time.Sleep(time.Minute)
		if n := next(0); n > 0 {
			t.Errorf("read to %d while nobody has the others", n)
		}
		stop1, stop2 := source(t, there, 1), source(t, there, 2)
		time.Sleep(5 * time.Minute)
		if n := next(0); n < 5 || n > 18 {
			t.Errorf("read to %d, want about 10 min ahead of source 1", n)
		}
		b.mu.Lock()
		if pos := b.positions[2]; !pos.Known || pos.Clock != math.MinInt64 {
			t.Errorf("a source without records stands at %+v", pos)
		}
		b.add(1, base.Add(time.Hour), stream.LogMessage{Kind: stream.KindTick})
		b.mu.Unlock()
		b.until(t, func() bool { return b.positions[0].Next == 60 && b.positions[1].Next == 2 })
		time.Sleep(2 * time.Second) // of the bubble's time
		if got, want := testutil.ToFloat64(o.Metrics.Slowest), float64(base.Add(59*time.Minute).Unix()); got != want {
			t.Errorf("the slowest stands at %v, want %v", got, want)
		}
		for _, stop := range []func() error{stop0, stop1, stop2} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestProcessesGoOnAfterSilence: when nobody has written for hours all sources
// have their next record far ahead of where the others were saved, and go on.
func TestProcessesGoOnAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2, 1)
		for p := range 2 {
			b.record(p, base, base, "GetUser", "")
			b.record(p, base.Add(8*time.Hour+time.Duration(p)*time.Hour), base, "GetUser", "")
			b.record(p, base.Add(10*time.Hour), base, "GetUser", "")
		}
		here, _ := b.process(t)
		there, _ := b.process(t)
		stop0, stop1 := source(t, here, 0), source(t, there, 1)
		began := time.Now()
		b.until(t, b.saved)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("they took %v to go on", took)
		}
		for _, stop := range []func() error{stop0, stop1} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRewindThroughTheLedger: sections that correlate lacks, in whatever process,
// are written again by whoever has the source, whenever it dies in between.
func TestRewindThroughTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 1, 2)
		for i := range 300 {
			b.record(0, base.Add(time.Duration(i)*time.Second), base, "GetUser", "AccessDenied")
		}
		first, _ := b.process(t)
		stop := source(t, first, 0)
		b.until(t, b.saved)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want := observations(b.apply(t))

		// What was written is lost; correlate has nothing of partition 0.
		b.mu.Lock()
		b.out = make([][]stream.Record, 2)
		b.rewinds[0] = 0
		lost := 3 // the one who hears of it dies in going back, a few times
		b.fail = func(op string) (before, after error) {
			if op == "produce" && lost > 0 {
				lost--
				return errors.New("away"), nil
			}
			return nil, nil
		}
		b.mu.Unlock()
		for range 3 {
			owner, _ := b.process(t)
			stop := source(t, owner, 0)
			time.Sleep(1200 * time.Millisecond) // of the bubble's time
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		owner, o := b.process(t)
		stop = source(t, owner, 0)
		b.until(t, func() bool { return len(b.out[0]) > 0 && len(b.out[1]) > 0 && b.rewritten() })
		b.until(t, b.saved)
		time.Sleep(time.Minute) // of the bubble's time
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := observations(b.apply(t)); !slices.Equal(got, want) {
			t.Errorf("%d observations after the rewind, want %d, or others", len(got), len(want))
		}
		if len(b.rewinds) > 0 {
			t.Errorf("requests left: %v", b.rewinds)
		}
		if n := testutil.ToFloat64(o.Metrics.Restarts.WithLabelValues("rewind")); n > 1 {
			t.Errorf("%v rewinds of the last owner, want 1 at most", n)
		}
	})
}

// TestRunSourceAsksFirst: nothing is taken over before the group says so.
func TestRunSourceAsksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 1, 1)
		b.record(0, base, base, "GetUser", "")
		owner, _ := b.process(t)
		confirm := make(chan struct{})
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			done <- owner.RunSource(ctx, 0, func(ctx context.Context) error {
				select {
				case <-confirm:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
		synctest.Wait()
		b.mu.Lock()
		if _, ok := b.positions[0]; ok {
			t.Error("taken over unasked")
		}
		b.mu.Unlock()
		if err := owner.RunSource(ctx, 0, nil); err == nil {
			t.Error("a source ran twice at a time")
		}
		close(confirm)
		b.until(t, b.saved)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
