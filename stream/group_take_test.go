package stream

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func takingGroup(t *testing.T) *Group {
	t.Helper()
	c, err := NewClient(Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.NewGroup(GroupOptions{ID: "sharing", Topic: "shared", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	g.held, g.ending, g.shared = make(map[int32]*holding), make(map[int32]<-chan struct{}), -1
	return g
}

// TestSuspendComesLate: that a generation has ended may be told when the next has
// begun already. What the next one confirmed stays confirmed: nobody would say it
// again, and work that had to be begun anew would wait for ever.
func TestSuspendComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := takingGroup(t)
		ctx, cancel := context.WithCancel(t.Context())
		work := func(ctx context.Context, _ *Lease) error {
			<-ctx.Done()
			return nil
		}
		first, _ := g.take(ctx, 1, []int32{0}, work)
		second, _ := g.take(ctx, 2, []int32{0}, work)
		lease := g.held[0].lease
		g.suspend(first)
		wait, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		if err := lease.Confirm(wait); err != nil {
			t.Errorf("confirmed by generation 2, ended for generation 1: %v", err)
		}
		g.suspend(second)
		synctest.Wait()
		if err := lease.Confirm(wait); err == nil {
			t.Error("confirmed although no generation holds")
		}
		cancel()
		g.works.Wait()
	})
}

// TestEarlierWorkEndsFirst: a partition that goes and comes back is not worked on
// twice at a time by one process, however many generations lie between.
func TestEarlierWorkEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := takingGroup(t)
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		begun := 0
		work := func(ctx context.Context, _ *Lease) error {
			if begun++; begun == 1 {
				<-release // slow to end
				return nil
			}
			<-ctx.Done()
			return nil
		}
		for generation, assigned := range [][]int32{{0}, {}, {1}, {0, 1}} {
			g.take(ctx, int32(generation), assigned, func(ctx context.Context, l *Lease) error {
				if l.Partition == 0 {
					return work(ctx, l)
				}
				<-ctx.Done()
				return nil
			})
			synctest.Wait()
		}
		if begun != 1 {
			t.Errorf("work was begun %d times before the first had ended", begun)
		}
		close(release)
		synctest.Wait()
		if begun != 2 {
			t.Errorf("work was begun %d times, want again after the first ended", begun)
		}
		cancel()
		g.works.Wait()
	})
}
