package match_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// TestOwnerWithNothingToSaveIsFenced: another takes a source over, goes back because
// correlate lacks sections, and dies. Whoever had the source has read it to its end,
// writes nothing, and still has to hear of it: nobody else would go on.
func TestOwnerWithNothingToSaveIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 1, 1)
		for i := range 10 {
			b.record(0, base.Add(time.Duration(i)*time.Second), base, "GetUser", "AccessDenied")
		}
		owner, _ := b.process(t)
		done := make(chan error, 1)
		go func() { done <- owner.RunSource(t.Context(), 0, nil) }()
		b.until(t, b.saved)
		time.Sleep(10 * time.Second) // of the bubble's time; it idles

		b.mu.Lock()
		pos := b.positions[0]
		pos.Epoch++
		pos.Next, pos.State, pos.Generation = 0, nil, ""
		b.positions[0] = pos
		b.mu.Unlock()
		select {
		case err := <-done:
			if !errors.Is(err, match.ErrFenced) {
				t.Errorf("ended with %v, want ErrFenced", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it idles on, and nobody reads the source")
		}
		stop := source(t, owner, 0) // as the group does
		b.until(t, b.saved)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// whole reads all there is at once.
type whole struct{ *worldReader }

func (r whole) Read(ctx context.Context) (stream.Batch, error) {
	all, err := r.worldReader.Read(ctx)
	for err == nil && len(all.Records) > 0 && all.Next < all.End {
		var b stream.Batch
		if b, err = r.worldReader.Read(ctx); err == nil {
			all.Records, all.Next = append(all.Records, b.Records...), b.Next
		}
	}
	return all, err
}

// late tells a source's incarnation only after a while, as a slow Postgres does.
type late struct{ source int32 }

func (l late) Incarnation(ctx context.Context, p int32) (match.Incarnation, error) {
	if p == l.source {
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
	}
	return match.Incarnation{}, ctx.Err()
}

// TestOwnerWaitsHoweverMuchItReads: neither a batch that spans hours nor a source
// that is slow to begin lets another run ahead.
func TestOwnerWaitsHoweverMuchItReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		for i := range 60 {
			w.record(0, base.Add(time.Duration(i)*time.Minute), base, "GetUser", "")
		}
		w.record(1, base, base, "GetUser", "")
		o := w.options()
		o.Open = func(p int32, offset int64) match.SourceReader { return whole{&worldReader{w, p, offset}} }
		o.Incarnations = late{1}
		_, stop := start(t, o)
		next := func() int64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.positions[0].Next
		}
		time.Sleep(4 * time.Second) // of the bubble's time
		if n := next(); n != 0 {
			t.Errorf("source 0 was read to %d before source 1 had begun", n)
		}
		time.Sleep(5 * time.Minute)
		if n := next(); n != 11 {
			t.Errorf("source 0 was read to %d, want 11: no record more than 10 min ahead of source 1", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTicksOfSeveralProcesses: each process that appends ticks what it has left silent
// itself, by its own clock. However many do, and however far their clocks are apart,
// nothing changes but how often the log says that time has passed.
func TestTicksOfSeveralProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(others int) []applied {
			w := newWorld(t, 1, 2)
			w.mu.Lock()
			for i := range 100 {
				at := base.Add(time.Duration(i) * time.Second)
				for other := range others {
					w.add(0, at.Add(-time.Duration(other)*7*time.Second), stream.LogMessage{Kind: stream.KindTick})
				}
				w.record(0, at, at, "GetUser", "AccessDenied")
			}
			w.mu.Unlock()
			_, stop := start(t, w.options())
			w.until(t, w.saved)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			return w.apply(t)
		}
		alone, many := run(0), run(3)
		for p := range alone {
			if len(alone[p].obs) != len(many[p].obs) {
				t.Errorf("partition %d: %d observations with ticks of many, %d without", p, len(many[p].obs), len(alone[p].obs))
			}
			for s, clock := range alone[p].clock {
				if many[p].clock[s] != clock {
					t.Errorf("partition %d: the clock ends at %d with ticks of many, at %d without", p, many[p].clock[s], clock)
				}
			}
		}
	})
}

// TestNobodyPassesWhatHasNotBegun: correlate's clock does not wait for a source of
// which it has heard nothing. So the others do, where that source stands.
func TestNobodyPassesWhatHasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2, 1)
		for i := range 20 {
			b.record(0, base.Add(time.Duration(i)*time.Minute), base, "GetUser", "")
		}
		for i := range 20 {
			b.record(1, base.Add(time.Duration(5+i)*time.Minute), base, "GetUser", "")
		}
		owner, _ := b.process(t)
		next := func(p int32) int64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.positions[p].Next
		}
		stuck := true // what source 1 writes does not get there
		b.fail = func(op string) (before, after error) {
			if op == "save" && stuck && b.positions[0].Next >= 5 {
				return errors.New("away"), nil
			}
			return nil, nil
		}
		stop0, stop1 := source(t, owner, 0), source(t, owner, 1)
		time.Sleep(5 * time.Minute) // of the bubble's time
		if n := next(0); n < 5 || n > 6 {
			t.Errorf("source 0 was read to %d, want to minute 5, where source 1 begins", n)
		}
		b.mu.Lock()
		stuck = false
		b.mu.Unlock()
		b.until(t, b.saved)
		for _, stop := range []func() error{stop0, stop1} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
