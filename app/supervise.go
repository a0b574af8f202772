package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// part is one long-running piece of a role, kept running.
type part struct {
	name string
	// run works until ctx is done, when it returns nil or ctx's error.
	run func(ctx context.Context) error
}

// supervisor keeps parts running: one that fails is started again, later and
// later, and is not ready meanwhile.
type supervisor struct {
	logger *slog.Logger
	wg     sync.WaitGroup

	mu   sync.Mutex
	down map[string]error // parts that are not at work, and why
}

func newSupervisor(logger *slog.Logger) *supervisor {
	return &supervisor{logger: logger, down: map[string]error{}}
}

// settleAfter is how long a part has to run for its failure to count as new.
const settleAfter = 30 * time.Second

func (s *supervisor) start(ctx context.Context, p part) {
	s.wg.Go(func() {
		b := backoff.NewExponentialBackOff()
		b.InitialInterval, b.MaxInterval = 200*time.Millisecond, 10*time.Second
		for {
			s.set(p.name, nil)
			began := time.Now()
			err := p.run(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			s.set(p.name, err)
			if time.Since(began) > settleAfter {
				b.Reset()
			}
			wait := b.NextBackOff()
			s.logger.Warn("part failed, starting it again", "part", p.name, "wait", wait, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	})
}

func (s *supervisor) set(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.down, name)
	} else {
		s.down[name] = err
	}
}

// check is nil if every part is at work.
func (s *supervisor) check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, err := range s.down {
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return errors.Join(errs...)
}

// failing is how many parts are not at work.
func (s *supervisor) failing() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(len(s.down))
}

func (s *supervisor) wait() { s.wg.Wait() }
