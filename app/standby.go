package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// leases says who does what only one process is to do at a time: Postgres.
type leases interface {
	HoldLease(ctx context.Context, name, holder string, lasts time.Duration) (bool, error)
	ReleaseLease(ctx context.Context, name, holder string) error
}

// standby runs what only one process is to do at a time: in the one that holds its
// lease. The others wait, ready to go on when it is given back or ends. Two that both
// believe to hold it, for a moment, do no harm: epochs and event ids see to that.
type standby struct {
	to     leases
	holder string // this process
	lasts  time.Duration
	every  time.Duration // between attempts to take or renew
	logger *slog.Logger
	active *prometheus.GaugeVec // by lease
}

// Where a process dies without a word, another goes on within leaseLasts, and the
// quarter of it that lies between two attempts, of its last sign.
const leaseLasts = 8 * time.Second

func newStandby(to leases, holder string, lasts time.Duration, r prometheus.Registerer, logger *slog.Logger) *standby {
	s := &standby{
		to: to, holder: holder, lasts: lasts, every: lasts / 4, logger: logger,
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "vedette_active", Help: "1 where the process does what only one is to do at a time, 0 where it stands by.",
		}, []string{"lease"}),
	}
	r.MustRegister(s.active)
	return s
}

// errLeaseLost says that another may have taken the lease.
var errLeaseLost = errors.New("the lease could not be renewed in time")

// alone makes a part one that only the holder of the lease of its name runs.
func (s *standby) alone(p part) part {
	return part{name: p.name, run: func(ctx context.Context) error {
		active := s.active.WithLabelValues(p.name)
		active.Set(0)
		began, err := s.take(ctx, p.name)
		if err != nil {
			return err
		}
		active.Set(1)
		defer active.Set(0)
		s.logger.Info("at work, others stand by", "part", p.name)
		rctx, cancel := context.WithCancelCause(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.renew(rctx, p.name, began, cancel)
		}()
		err = p.run(rctx)
		lost := errors.Is(context.Cause(rctx), errLeaseLost)
		cancel(nil)
		<-done
		if lost {
			return errLeaseLost
		}
		// Others need not wait until it ends.
		release, stop := context.WithTimeout(context.WithoutCancel(ctx), s.every)
		defer stop()
		if rerr := s.to.ReleaseLease(release, p.name, s.holder); rerr != nil {
			s.logger.Warn("the lease is not given back: it ends by itself", "part", p.name, "error", rerr)
		}
		return err
	}}
}

// take waits until the lease is this process's and returns from when on it lasts.
func (s *standby) take(ctx context.Context, name string) (began time.Time, err error) {
	waiting := false
	for {
		began = time.Now()
		held, err := s.hold(ctx, name)
		switch {
		case held:
			return began, nil
		case err != nil:
			return began, err // the supervisor tells of it, and tries again
		case !waiting:
			waiting = true
			s.logger.Info("standing by for another process", "part", name)
		}
		if err := pause(ctx, s.every); err != nil {
			return began, err
		}
	}
}

// renew keeps the lease, and ends the work before another can have taken it.
func (s *standby) renew(ctx context.Context, name string, renewed time.Time, cancel context.CancelCauseFunc) {
	for pause(ctx, s.every) == nil {
		at := time.Now()
		held, err := s.hold(ctx, name)
		switch {
		case ctx.Err() != nil:
			return
		case held:
			renewed = at
		case err == nil || time.Since(renewed)+2*s.every > s.lasts: // the next attempt could come too late
			s.logger.Warn("the lease is lost", "part", name, "error", err)
			cancel(errLeaseLost)
			return
		}
	}
}

func (s *standby) hold(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.every)
	defer cancel()
	return s.to.HoldLease(ctx, name, s.holder, s.lasts)
}

// pause waits for so long; the error is ctx's.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
