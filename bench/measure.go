package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/stream"
)

const (
	appendEvents = 1000    // records given to one Append
	appenders    = 8       // that append at the same time
	backlog      = 100_000 // records appended ahead of match, at most
	warmEvents   = 2000
	stall        = 60 * time.Second // without progress: give up
	arriveWithin = 30 * time.Second // probes, after the last
)

// measure fills r.
func (s *site) measure(ctx context.Context, r *Report) error {
	s.o.Progress(Progress{Stage: "warming up"})
	probes := NewTraffic(99, time.Now)
	first, msg := newProbe(0, probes)
	if _, err := s.flood(ctx, min(warmEvents, s.o.Events/4), "warming up", 0, time.Now); err != nil {
		return err
	}
	if err := s.appender.Append(ctx, []stream.LogMessage{msg}); err != nil {
		return err
	}
	if err := s.await(ctx, []probe{first}, stall); err != nil {
		return err
	}
	before, err := s.counters()
	if err != nil {
		return err
	}
	resetPeak()
	cpu := processCPU()
	t, err := s.flood(ctx, s.o.Events, "throughput", before.records, time.Now)
	if err != nil {
		return err
	}
	t.CPUPerMillion = (processCPU() - cpu).Seconds() / float64(t.Events) * 1e6
	r.Throughput = t
	rate := s.o.Rate
	if rate == 0 {
		rate = 0.8 * t.EventsPerSecond
	}
	if r.Latency, err = s.steady(ctx, rate, probes); err != nil {
		return err
	}
	after, err := s.counters()
	if err != nil {
		return err
	}
	r.Stages = append(r.Stages, Stage{
		Name: "checkpoint", Count: after.commits - before.commits, Rows: after.findings - before.findings,
		MsPerCall: (after.commitSeconds - before.commitSeconds) / max(float64(after.commits-before.commits), 1) * 1e3,
	}, Stage{
		Name: "assemble", Count: after.assembles - before.assembles, Rows: after.assembled - before.assembled,
		MsPerCall: (after.assembleSeconds - before.assembleSeconds) / max(float64(after.assembles-before.assembles), 1) * 1e3,
	})
	_, r.Memory.PeakRSS = resident()
	if after.restarts > 0 {
		return fmt.Errorf("a part of the service started again %d times: what was measured is not worth much", after.restarts)
	}
	return nil
}

// flood appends n records as fast as they are taken, and returns once all their
// observations have been committed. eventTime is called by several goroutines.
func (s *site) flood(ctx context.Context, n int, stage string, already int64, eventTime func() time.Time) (Throughput, error) {
	var left, sent, bytes atomic.Int64
	left.Store(int64(n))
	before, err := s.counters()
	if err != nil {
		return Throughput{}, err
	}
	var matched atomic.Int64
	matched.Store(before.records)
	start := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for i := range appenders {
		g.Go(func() error {
			t := NewTraffic(uint64(already)+uint64(i)+1, eventTime)
			msgs := make([]stream.LogMessage, 0, appendEvents)
			for {
				share := min(left.Add(-appendEvents)+appendEvents, appendEvents)
				if share <= 0 {
					return nil
				}
				for sent.Load()-(matched.Load()-before.records) > backlog {
					if err := sleep(gctx, 5*time.Millisecond); err != nil {
						return err
					}
				}
				msgs = msgs[:0]
				size := int64(0)
				for range share {
					msgs = append(msgs, t.Next())
					size += int64(len(msgs[len(msgs)-1].Value))
				}
				if err := s.appender.Append(gctx, msgs); err != nil {
					return err
				}
				sent.Add(share)
				bytes.Add(size)
			}
		})
	}
	var c counters
	g.Go(func() error {
		moved := time.Now()
		for {
			if err := sleep(gctx, 20*time.Millisecond); err != nil {
				return err
			}
			now, err := s.counters()
			if err != nil {
				return err
			}
			if now.records != c.records || now.committed != c.committed {
				moved = time.Now()
			}
			c = now
			matched.Store(c.records)
			s.o.Progress(Progress{Stage: stage, Done: int(c.records - before.records), Of: n})
			// What match makes in vain after a restart would never be committed.
			if c.records-before.records >= int64(n) && c.committed >= c.observations {
				return nil
			}
			if time.Since(moved) > stall {
				return fmt.Errorf("%s: nothing has moved for %v: %d of %d records matched, %d of %d observations committed",
					stage, stall, c.records-before.records, n, c.committed, c.observations)
			}
		}
	})
	if err := g.Wait(); err != nil {
		return Throughput{}, fmt.Errorf("%s: %w", stage, err)
	}
	took := time.Since(start).Seconds()
	return Throughput{
		Events: n, Seconds: took, EventsPerSecond: float64(n) / took, MBPerSecond: float64(bytes.Load()) / took / 1e6,
		BytesPerEvent:        float64(bytes.Load()) / float64(n),
		ObservationsPerEvent: float64(c.observations-before.observations) / float64(n),
	}, nil
}

// steady appends at a pace, and probes at one of their own.
func (s *site) steady(ctx context.Context, rate float64, t *Traffic) (Latencies, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := Latencies{Rate: rate}
	g, gctx := errgroup.WithContext(ctx)
	start := time.Now()
	// A record waits for nobody: what an append takes longer than its turn is made
	// good by the next, and if it cannot be the rate that was reached says so.
	var sent atomic.Int64
	for i := range appenders {
		g.Go(func() error {
			t := NewTraffic(uint64(1000+i), time.Now)
			mine := 0
			for {
				due := int(time.Since(start).Seconds()*rate/appenders) - mine
				if time.Since(start) >= s.o.Duration {
					return nil
				}
				if due <= 0 {
					if err := sleep(gctx, 2*time.Millisecond); err != nil {
						return err
					}
					continue
				}
				msgs := make([]stream.LogMessage, min(due, 4*appendEvents))
				for i := range msgs {
					msgs[i] = t.Next()
				}
				if err := s.appender.Append(gctx, msgs); err != nil {
					return err
				}
				mine += len(msgs)
				sent.Add(int64(len(msgs)))
				if err := sleep(gctx, 5*time.Millisecond); err != nil {
					return err
				}
			}
		})
	}
	var probes []probe
	var mu sync.Mutex
	g.Go(func() error {
		var out errgroup.Group
		tick := time.NewTicker(time.Duration(float64(time.Second) / s.o.Probes))
		defer tick.Stop()
		for n := 1; time.Since(start) < s.o.Duration; n++ {
			select {
			case <-tick.C:
			case <-gctx.Done():
				return errors.Join(gctx.Err(), out.Wait())
			}
			p, msg := newProbe(n, t)
			p.appended = time.Now()
			out.Go(func() error {
				if err := s.appender.Append(gctx, []stream.LogMessage{msg}); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				probes = append(probes, p)
				return nil
			})
			s.o.Progress(Progress{Stage: "steady pace", Done: int(sent.Load()), Of: int(rate * s.o.Duration.Seconds())})
		}
		return out.Wait()
	})
	if err := g.Wait(); err != nil {
		return l, fmt.Errorf("steady pace: %w", err)
	}
	took := time.Since(start)
	l.Reached, l.Seconds, l.Probes = float64(sent.Load())/took.Seconds(), took.Seconds(), len(probes)
	if err := s.await(ctx, probes, arriveWithin); err != nil && ctx.Err() != nil {
		return l, err
	}
	l.Incident = latencies(probes, func(p probe) (time.Time, bool) {
		a, ok := s.receiver.of(p.address)
		if !ok {
			return time.Time{}, false
		}
		return s.opened.of(a.incident)
	})
	l.Alert = latencies(probes, func(p probe) (time.Time, bool) {
		a, ok := s.receiver.of(p.address)
		return a.at, ok
	})
	return l, nil
}

// await waits until the receiver has been told of all probes.
func (s *site) await(ctx context.Context, probes []probe, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		missing := 0
		for _, p := range probes {
			if _, ok := s.receiver.of(p.address); !ok {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d probes raised no alert within %v", missing, len(probes), within)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// counters are what the service says of itself.
type counters struct {
	records, observations, committed int64
	commits, findings                int64
	assembles, assembled             int64
	restarts                         int64
	commitSeconds, assembleSeconds   float64
}

func (s *site) counters() (counters, error) {
	var c counters
	fs, err := s.app.Metrics().Gather()
	if err != nil {
		return c, fmt.Errorf("read the service's metrics: %w", err)
	}
	for _, f := range fs {
		for _, m := range f.GetMetric() {
			n := int64(m.GetCounter().GetValue())
			switch f.GetName() {
			case "vedette_match_records_total":
				for _, l := range m.GetLabel() {
					if l.GetValue() == "record" {
						c.records += n
					}
				}
			case "vedette_match_observations_total":
				c.observations += n
			case "vedette_correlate_observations_total":
				c.committed += n
			case "vedette_correlate_findings_total":
				c.findings += n
			case "vedette_correlate_commit_duration_seconds":
				c.commits += int64(m.GetHistogram().GetSampleCount())
				c.commitSeconds += m.GetHistogram().GetSampleSum()
			case "vedette_assembler_findings_total":
				c.assembled += n
			case "vedette_assembler_duration_seconds":
				c.assembles += int64(m.GetHistogram().GetSampleCount())
				c.assembleSeconds += m.GetHistogram().GetSampleSum()
			case "vedette_match_restarts_total", "vedette_correlate_restarts_total":
				c.restarts += n
			}
		}
	}
	return c, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
