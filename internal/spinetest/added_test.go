package spinetest

import (
	"context"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

// TestPartitionsAdded gives vedette.logs more partitions, twice: while everything
// runs and while nothing does. Collectors write to the new ones before anybody reads
// them. Findings, profiles and incidents are those of a service that had all of them
// from the beginning.
func TestPartitionsAdded(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for groups")
	}
	t.Parallel() // with others that mostly wait
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -spine.seed=%d", seed, seed)
	ctx := within(t, 3*time.Minute)
	s, db, c, w := shareSite(t, ctx, addedFirst, addedSteps, seed)
	partitionsAdded(t, ctx, s, db, c, w, hurried())
}

// addedFirst is how many partitions of either topic there are before any is added,
// addedSteps how many are written in all.
const addedFirst, addedSteps = 2, 400

func partitionsAdded(t *testing.T, ctx context.Context, s *site, db *storage.DB, c *stream.Client, w *writer, share *stream.GroupOptions) {
	t.Helper()
	const then, last, steps = 4, 5, addedSteps
	s.first = addedFirst
	share.Watch = 100 * time.Millisecond
	join := func() *member {
		t.Helper()
		m, err := s.join(ctx, crewOptions{every: 30 * time.Millisecond, faults: &faults{}, share: share})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	write := func(until int) {
		t.Helper()
		for ; w.load.step < until; time.Sleep(time.Millisecond) { // paced
			if err := w.step(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	add := func(n int) {
		t.Helper()
		if err := c.AddPartitions(ctx, stream.TopicLogs, n); err != nil {
			t.Fatal(err)
		}
		for have := 0; have != n; time.Sleep(10 * time.Millisecond) {
			var err error
			if have, err = c.Partitions(ctx, stream.TopicLogs); err != nil || ctx.Err() != nil {
				t.Fatal(err, ctx.Err())
			}
		}
		s.logs = n
		w.appender.Widen(n)
	}

	members := []*member{join(), join()}
	write(steps / 8)
	add(then)
	// The simulated clock outruns any noticing: the service is given some minutes of it,
	// less than it takes for what is late to be judged without.
	write(steps/8 + 12)
	for _, m := range members {
		m.matcher.Widen(then)
	}
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	write(steps / 4)
	for _, m := range members {
		if err := m.leave(); err != nil {
			t.Fatal(err)
		}
	}
	add(last)
	write(steps / 3)
	members = []*member{join(), join()}
	write(steps)
	if err := s.settled(ctx, db, c); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if err := m.leave(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.effects(ctx, db, c)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, undisturbed(t, ctx, s))
}
