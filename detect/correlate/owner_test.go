package correlate_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/stream"
)

// TestOwnerKilled: owners are killed at random instants, overlap, lose answers
// and sections, and go on from snapshots, damaged ones among them; findings and
// profiles are those of an owner that nothing befell.
func TestOwnerKilled(t *testing.T) {
	sets := generations(t)
	metrics := correlate.NewMetrics(nil)
	defer func() {
		for _, outcome := range []string{"written", "used", "refused"} {
			if testutil.ToFloat64(metrics.Snapshots.WithLabelValues(outcome)) == 0 {
				t.Errorf("no snapshot was %s", outcome)
			}
		}
	}()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				quiet := newPartition(sets)
				quiet.generate(rand.New(rand.NewPCG(seed, 1)), sets["g0"])
				stop := run(t, quiet.options(seed))
				quiet.done(t)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				want := quiet.effects(t)
				if len(want) < 50 {
					t.Fatalf("only %d effects: the load tests nothing", len(want))
				}

				p := newPartition(sets)
				p.generate(rand.New(rand.NewPCG(seed, 1)), sets["g0"])
				rnd := rand.New(rand.NewPCG(seed, 2))
				// Some messages get lost on the way, one is garbage.
				for range 3 {
					i := rnd.IntN(len(p.log))
					p.log[i].Value = []byte("garbage")
				}
				faults := rand.New(rand.NewPCG(seed, 3))
				p.fail = func(op string) (before, after error) {
					err := errors.New(op + " failed")
					if op == "read" {
						err = context.DeadlineExceeded
						if faults.IntN(40) == 0 {
							return err, nil
						}
						return nil, nil
					}
					switch faults.IntN(15) {
					case 0:
						return err, nil
					case 1:
						return nil, err
					}
					return nil, nil
				}
				dir := t.TempDir()
				options := func(seed uint64) correlate.OwnerOptions {
					o := p.options(seed)
					o.Metrics = metrics
					if rnd.IntN(4) > 0 {
						o.Snapshots, o.SnapshotEvery, o.SnapshotAtStop = openSnapshots(t, dir), 50*time.Millisecond, rnd.IntN(3) == 0
					}
					return o
				}
				var stops []func() error
				for range 25 {
					if rnd.IntN(4) == 0 {
						damage(t, dir, rnd)
					}
					stops = append(stops, run(t, options(rnd.Uint64())))
					time.Sleep(time.Duration(rnd.IntN(120)) * time.Millisecond) // of the bubble's time
					if len(stops) > rnd.IntN(3) {
						if err := stops[0](); err != nil && !errors.Is(err, correlate.ErrFenced) {
							t.Fatal(err)
						}
						stops = stops[1:]
					}
				}
				stops = append(stops, run(t, options(1)))
				p.mu.Lock()
				p.fail = nil
				p.mu.Unlock()
				p.done(t)
				time.Sleep(time.Minute) // rewinds asked for last
				p.done(t)
				for _, stop := range stops {
					if err := stop(); err != nil && !errors.Is(err, correlate.ErrFenced) {
						t.Fatal(err)
					}
				}
				if p.rewinds == 0 {
					t.Error("no rewind was asked for: the loss was not seen")
				}
				compare(t, p.effects(t), want)
			})
		})
	}
}

func TestVectorNext(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		src := detect.Source{Incarnation: 1, Partition: 1}
		p.append(detect.Section{Source: src, From: 0, To: 7, Generation: "g0", Clock: 1})
		stop := run(t, p.options(1))
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		cp, err := p.ledger.Acquire(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			state []byte
			src   detect.Source
			want  int64
		}{{cp.Mark.State, src, 7}, {cp.Mark.State, detect.Source{Partition: 9}, 0}, {nil, src, 0}} {
			if n, err := correlate.VectorNext(tc.state, tc.src); err != nil || n != tc.want {
				t.Errorf("next of %v is %d (%v), want %d", tc.src, n, err, tc.want)
			}
		}
		if _, err := correlate.VectorNext([]byte("garbage"), src); err == nil {
			t.Error("garbage was read as a state")
		}
	})
}

// TestOwnerAsksBeforeItTakesOver: without the group's word nothing is taken over,
// after a failure neither.
func TestOwnerAsksBeforeItTakesOver(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		o := p.options(1)
		confirm, asked := make(chan struct{}), 0
		o.Confirm = func(ctx context.Context) error {
			asked++
			select {
			case <-confirm:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		acquired := 0
		p.fail = func(op string) (before, after error) {
			if op == "acquire" {
				if acquired++; acquired == 1 {
					return errors.New("away"), nil
				}
			}
			return nil, nil
		}
		stop := run(t, o)
		synctest.Wait()
		if acquired != 0 {
			t.Error("taken over unasked")
		}
		confirm <- struct{}{}
		time.Sleep(time.Minute) // of the bubble's time
		synctest.Wait()
		if acquired != 1 || asked != 2 {
			t.Errorf("taken over %d times, asked %d times; want 1 and 2", acquired, asked)
		}
		close(confirm)
		p.append(detect.Section{Source: detect.Source{Incarnation: 1}, To: 1, Generation: "g0", Clock: 1})
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

type rewinder struct {
	asked []string
	fail  int
}

func (r *rewinder) AskRewind(_ context.Context, s detect.Source, next int64) error {
	if r.fail > 0 {
		r.fail--
		return errors.New("away")
	}
	r.asked = append(r.asked, fmt.Sprintf("%d:%d", s.Partition, next))
	return nil
}

func TestRewindsGetThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &rewinder{fail: 3}
		r := correlate.NewRewinds(to, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.Ask(detect.Source{Partition: 1}, 9)
		synctest.Wait()
		r.Ask(detect.Source{Partition: 1}, 12)
		r.Ask(detect.Source{Partition: 1}, 5) // the least counts
		time.Sleep(time.Minute)               // of the bubble's time
		r.Ask(detect.Source{Partition: 2}, 7)
		synctest.Wait()
		if want := []string{"1:5", "2:7"}; !slices.Equal(to.asked, want) {
			t.Errorf("asked for %v, want %v", to.asked, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOwnerStopsWhenFenced(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		owner, err := correlate.NewOwner(p.options(1))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- owner.Run(t.Context()) }()
		synctest.Wait()
		if _, err := p.ledger.Acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		p.append(detect.Section{Source: detect.Source{Incarnation: 1}, To: 1, Generation: "g0", Clock: 1})
		p.mu.Unlock()
		if err := <-done; !errors.Is(err, correlate.ErrFenced) {
			t.Errorf("error %v, want ErrFenced", err)
		}
	})
}

func TestOwnerRefusesTruncatedLog(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		for i := range int64(10) {
			p.append(detect.Section{Source: detect.Source{Incarnation: 1}, From: i, To: i + 1, Generation: "g0", Clock: i})
		}
		stop := run(t, p.options(1))
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		p.log = p.log[:5]
		owner, err := correlate.NewOwner(p.options(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Run(t.Context()); !errors.Is(err, stream.ErrTruncated) {
			t.Errorf("error %v, want ErrTruncated", err)
		}
	})
}

// TestOwnerSaysWhenItCannotRebuild: messages that a rebuild needs are gone.
func TestOwnerSaysWhenItCannotRebuild(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(1, 1)), sets["g0"])
		p.log = p.log[:600]
		stop := run(t, p.options(1))
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		p.first = 590
		o := p.options(1)
		stop = run(t, o)
		p.append(detect.Section{Source: detect.Source{Incarnation: 9}, To: 1, Generation: "g0", Clock: 1})
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := testutil.ToFloat64(o.Metrics.Mismatches); n != 1 {
			t.Errorf("%v mismatches counted, want 1", n)
		}
		if n := testutil.ToFloat64(o.Metrics.Lost); n == 0 {
			t.Error("no lost messages counted")
		}
		if p.rewinds != 0 {
			t.Errorf("%d rewinds, want none: the checkpoint's vector holds", p.rewinds)
		}
	})
}

func TestMarksAreDropped(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(1, 1)), sets["g0"])
		o := p.options(1)
		o.MarkEvery, o.CommitEvery = time.Millisecond, time.Millisecond
		stop := run(t, o)
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		cp, err := p.ledger.Acquire(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(cp.Marks) < 2 {
			t.Fatalf("%d marks, want some", len(cp.Marks))
		}
		if !slices.IsSortedFunc(cp.Marks, func(a, b correlate.Mark) int { return cmp.Compare(a.Position, b.Position) }) {
			t.Error("marks are not in order")
		}
		if cp.Marks[0].Position == 0 || cp.Mark.Position-cp.Marks[0].Position > int64(len(p.log))*9/10 {
			t.Errorf("oldest mark at %d of %d: old ones are not dropped", cp.Marks[0].Position, len(p.log))
		}
	})
}
