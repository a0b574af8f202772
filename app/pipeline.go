package app

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/stream"
)

// startPipeline starts the clock of the log, and this process's share of match
// and correlate: consumer groups say which partitions those are.
func (a *App) startPipeline() error {
	if a.has(Collect) || a.has(API) {
		a.start(part{name: "append", run: a.appender.Run})
	}
	metrics := stream.NewGroupMetrics(a.registry)
	if a.has(Correlate) {
		if err := a.startCorrelate(metrics); err != nil {
			return err
		}
	}
	if a.has(Match) {
		if err := a.startMatch(metrics); err != nil {
			return err
		}
	}
	a.start(part{name: "partitions", run: a.widen})
	w := newWatchdog(a.registry, a.logger)
	a.start(part{name: "watch", run: func(ctx context.Context) error { return a.watch(ctx, w) }})
	return nil
}

// widenEvery is how often vedette.logs is looked at for partitions that were added.
const widenEvery = 2 * time.Second

// widen has the partitions that are added to vedette.logs written, ticked and read.
func (a *App) widen(ctx context.Context) error {
	t := time.NewTicker(cmp.Or(a.o.Timing.Widen, widenEvery))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		n, err := a.kafka.Partitions(ctx, stream.TopicLogs)
		before := a.sources.Load()
		if err != nil || int32(n) <= before {
			continue // Kafka being away is told by those who need it
		}
		a.logger.Info("partitions were added", "topic", stream.TopicLogs, "before", before, "now", n)
		a.appender.Widen(n)
		if a.matcher != nil {
			a.matcher.Widen(n)
		}
		// What they hold already is judged by what was in force elsewhere when they were
		// first taken over; rules that came into force meanwhile went past them.
		if err := a.enforce(ctx, before, ""); err != nil {
			a.logger.Warn("the generation in force cannot be told to the partitions added yet", "err", err)
			continue
		}
		a.sources.Store(int32(n))
	}
}

// share works on the partitions of a topic that the role's group gives this process.
func (a *App) share(role Role, topic string, metrics *stream.GroupMetrics, work func(context.Context, *stream.Lease) error) error {
	g, err := a.kafka.NewGroup(stream.GroupOptions{
		ID: a.cfg.Kafka.GroupPrefix + "." + string(role), Topic: topic, Session: a.o.Timing.Session, Watch: a.o.Timing.Widen, Metrics: metrics, Logger: a.logger,
		State: func(p int32, err error) {
			name := fmt.Sprintf("%s %d", role, p)
			if p == stream.WholeGroup {
				name = fmt.Sprintf("%s's group", role)
			}
			a.parts.set(name, err)
		},
	})
	if err != nil {
		return err
	}
	a.start(part{name: string(role), run: func(ctx context.Context) error { return g.Run(ctx, work) }})
	return nil
}

func (a *App) startCorrelate(metrics *stream.GroupMetrics) error {
	rewinds := correlate.NewRewinds(a.db, a.logger)
	a.start(part{name: "rewinds", run: rewinds.Run})
	counted := correlate.NewMetrics(a.registry)
	var snapshots *correlate.Snapshots
	if a.cfg.Snapshots.Every > 0 {
		var err error
		if snapshots, err = correlate.OpenSnapshots(filepath.Join(a.cfg.DataDir, "snapshots"), a.layout.Topic, int64(a.cfg.Snapshots.MaxSize)); err != nil {
			// They are a cache: without them a takeover takes longer.
			a.logger.Warn("no snapshots of windows are kept", "err", err)
		}
	}
	return a.share(Correlate, a.layout.Topic, metrics, func(ctx context.Context, l *stream.Lease) error {
		o, err := correlate.NewOwner(correlate.OwnerOptions{
			Partition: l.Partition,
			Engine:    correlate.Options{Sources: a.layout.First, EvidenceLimit: a.cfg.Incidents.Evidence},
			Open: func(offset int64) correlate.PartitionReader {
				return a.kafka.NewReader(stream.ReaderOptions{Topic: a.layout.Topic, Partition: l.Partition, Offset: offset})
			},
			Ledger: a.db, Generations: correlating{a.gens}, Rewind: rewinds.Ask, Confirm: l.Confirm,
			Snapshots: snapshots, SnapshotEvery: a.cfg.Snapshots.Every, SnapshotAtStop: true, LeaveWithin: a.o.Timing.Leave,
			State:   func(err error) { a.parts.set(fmt.Sprintf("%s %d's checkpoints", Correlate, l.Partition), err) },
			Metrics: counted, Tracer: a.traces.Tracer("detect/correlate"), Logger: a.logger,
		})
		if err != nil {
			return err
		}
		return o.Run(ctx)
	})
}

func (a *App) startMatch(metrics *stream.GroupMetrics) error {
	observations, err := a.kafka.NewProducer(stream.ProducerOptions{Topic: a.layout.Topic})
	if err != nil {
		return err
	}
	a.matcher, err = match.NewOwner(match.OwnerOptions{
		All: int(a.sources.Load()), Partitions: a.cfg.Kafka.ObservationPartitions,
		Open: func(partition int32, offset int64) match.SourceReader {
			return a.kafka.NewReader(stream.ReaderOptions{Topic: stream.TopicLogs, Partition: partition, Offset: offset})
		},
		Observations: observations, DeadLetters: a.appender, Positions: a.db, Standings: a.db, Vectors: a.db,
		Applied: a.db, Incarnations: a.db, Generations: matching{a.gens}, Metrics: match.NewMetrics(a.registry), Logger: a.logger,
		Tracer: a.traces.Tracer("detect/match"),
		State:  func(p int32, err error) { a.parts.set(fmt.Sprintf("%s %d's position", Match, p), err) },
	})
	if err != nil {
		return err
	}
	return a.share(Match, stream.TopicLogs, metrics, func(ctx context.Context, l *stream.Lease) error {
		return a.matcher.RunSource(ctx, l.Partition, l.Confirm)
	})
}
