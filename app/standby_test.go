package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// leaseBoard keeps leases in memory.
type leaseBoard struct {
	mu     sync.Mutex
	holder string
	until  time.Time
	away   map[string]bool // holders that cannot reach it
}

func (l *leaseBoard) HoldLease(_ context.Context, _, holder string, lasts time.Duration) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away[holder] {
		return false, errors.New("away")
	}
	if l.holder != holder && time.Now().Before(l.until) {
		return false, nil
	}
	l.holder, l.until = holder, time.Now().Add(lasts)
	return true, nil
}

func (l *leaseBoard) ReleaseLease(_ context.Context, _, holder string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == holder {
		l.until = time.Time{}
	}
	return nil
}

// TestStandby: one is at work; when it ends in order another follows at once, when it
// cannot renew its lease it ends its work before another begins.
func TestStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board := &leaseBoard{away: map[string]bool{}}
		var mu sync.Mutex
		working := map[string]bool{}
		process := func(name string) (stop func()) {
			s := newStandby(board, name, leaseLasts, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
			parts := newSupervisor(slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithCancel(t.Context())
			parts.start(ctx, s.alone(part{name: "assemble", run: func(ctx context.Context) error {
				mu.Lock()
				working[name] = true
				if len(working) > 1 {
					t.Errorf("at work at a time: %v", working)
				}
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				delete(working, name)
				mu.Unlock()
				return nil
			}}))
			return func() {
				cancel()
				parts.wait()
			}
		}
		at := func(want string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(working) != 1 || !working[want] {
				t.Errorf("at work are %v, want %s", working, want)
			}
		}
		stopA := process("a")
		synctest.Wait()
		stopB := process("b")
		defer stopB()
		time.Sleep(time.Minute) // of the bubble's time, as all that follow
		at("a")
		stopA()
		time.Sleep(leaseLasts / 4)
		at("b")

		stopC := process("c")
		defer stopC()
		board.mu.Lock()
		board.away["b"] = true
		board.mu.Unlock()
		time.Sleep(leaseLasts + leaseLasts/4)
		at("c")
		board.mu.Lock()
		delete(board.away, "b")
		board.mu.Unlock()
		time.Sleep(time.Minute)
		at("c")
	})
}
