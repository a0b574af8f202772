package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

const (
	// takeoverGenerations is how much an owner reads again at most.
	takeoverGenerations = 3
	// takeoverWithin bounds each of the two owners.
	takeoverWithin = 10 * time.Minute
	// messageSections is how many sections go into one request.
	messageSections = 20
)

// takeOver has an owner work through three generations of an hour's windows in
// which each key is seen once an hour, kills it, and lets another take over. The
// log is on an embedded broker, the ledger in memory: Postgres is asked once.
func takeOver(ctx context.Context, o *KeysOptions) (Takeover, error) {
	set, r, err := oneRule(keyRule("type: event_count", "condition: {gte: 1000000}"))
	if err != nil {
		return Takeover{}, err
	}
	quiet := slog.New(slog.DiscardHandler)
	broker, err := devbroker.Start(devbroker.Options{RetentionEvery: time.Hour, Logger: quiet})
	if err != nil {
		return Takeover{}, err
	}
	defer broker.Close()
	client, err := stream.NewClient(stream.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		return Takeover{}, err
	}
	defer client.Close()
	if err := client.EnsureTopics(ctx, stream.Topic{Name: stream.TopicObservations, Partitions: 1}); err != nil {
		return Takeover{}, err
	}
	producer, err := client.NewProducer(stream.ProducerOptions{Topic: stream.TopicObservations, Timeout: time.Minute})
	if err != nil {
		return Takeover{}, err
	}
	t := Takeover{Observations: int64(float64(o.Keys) * takeoverGenerations * float64(keep) / float64(time.Hour))}
	s := &sections{rule: r, keys: o.Keys, from: start, step: int64(time.Hour)}
	messages := int64(0)
	for s.at < t.Observations {
		var recs []stream.Record
		for range messageSections {
			b := s.next()
			t.LogBytes += int64(len(b))
			messages++
			recs = append(recs, stream.Record{Value: b})
		}
		if _, err := producer.Produce(ctx, 0, recs); err != nil {
			return Takeover{}, err
		}
		o.Progress(Progress{Stage: "takeover: writing", Done: int(s.at), Of: int(t.Observations)})
	}
	t.Observations = s.at
	options := correlate.OwnerOptions{
		Engine: correlate.Options{Sources: 1, EvidenceLimit: 10, MaxKeys: o.Keys},
		Open: func(offset int64) correlate.PartitionReader {
			return client.NewReader(stream.ReaderOptions{Topic: stream.TopicObservations, Offset: offset})
		},
		Ledger: correlate.NewMemoryLedger(10), Generations: oneGeneration{set}, Logger: quiet,
	}
	o.Progress(Progress{Stage: "takeover: first owner"})
	if _, err := own(ctx, options, messages); err != nil {
		return Takeover{}, fmt.Errorf("first owner: %w", err)
	}
	o.Progress(Progress{Stage: "takeover: second owner"})
	cpu := processCPU()
	took, err := own(ctx, options, messages)
	if err != nil {
		return Takeover{}, fmt.Errorf("second owner: %w", err)
	}
	t.Seconds, t.CPUSeconds = took.Seconds(), (processCPU() - cpu).Seconds()
	return t, nil
}

// own runs an owner until it is live and has committed all messages before end,
// kills it, and says how long it took to be live.
func own(ctx context.Context, o correlate.OwnerOptions, end int64) (live time.Duration, err error) {
	registry := prometheus.NewRegistry()
	o.Metrics = correlate.NewMetrics(registry)
	ledger := &watchedLedger{Ledger: o.Ledger}
	o.Ledger = ledger
	owner, err := correlate.NewOwner(o)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverWithin)
	defer cancel()
	rctx, kill := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- owner.Run(rctx) }()
	defer func() {
		kill()
		err = errors.Join(err, <-done)
	}()
	for {
		if live == 0 {
			if live, err = rebuildTime(registry); err != nil {
				return 0, err
			}
		}
		if live > 0 && ledger.position.Load() >= end {
			return live, nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// rebuildTime is what the owner says it took, 0 before it is live.
func rebuildTime(g prometheus.Gatherer) (time.Duration, error) {
	fs, err := g.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range fs {
		if f.GetName() != "vedette_correlate_rebuild_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			return time.Duration(m.GetHistogram().GetSampleSum() * float64(time.Second)), nil
		}
	}
	return 0, nil
}

// watchedLedger says how far the ledger is.
type watchedLedger struct {
	correlate.Ledger
	position atomic.Int64
}

func (l *watchedLedger) Acquire(ctx context.Context, partition int32) (correlate.Checkpoint, error) {
	cp, err := l.Ledger.Acquire(ctx, partition)
	l.position.Store(cp.Mark.Position)
	return cp, err
}

func (l *watchedLedger) Commit(ctx context.Context, c correlate.Commit) error {
	if err := l.Ledger.Commit(ctx, c); err != nil {
		return err
	}
	l.position.Store(c.Mark.Position)
	return nil
}
