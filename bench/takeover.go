package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

const (
	// takeoverGenerations is how much an owner reads again at most.
	takeoverGenerations = 3
	// takeoverWithin bounds each of the two owners.
	takeoverWithin = 10 * time.Minute
	// snapshotBehind is how old the snapshot is when an owner is killed: as old as it
	// gets by default.
	snapshotBehind = 5 * time.Minute
	// messageSections is how many sections go into one request.
	messageSections = 20
)

// takeOver has an owner work through three generations of an hour's windows in
// which each key is seen once an hour, kills it, and lets another take over: first
// from the log, then from a snapshot five minutes older than the kill. The
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
	produce := func(to int64) error {
		for s.at < to {
			var recs []stream.Record
			for range messageSections {
				b := s.next()
				t.LogBytes += int64(len(b))
				messages++
				recs = append(recs, stream.Record{Value: b})
			}
			if _, err := producer.Produce(ctx, 0, recs); err != nil {
				return err
			}
			o.Progress(Progress{Stage: "takeover: writing", Done: int(s.at), Of: int(t.Observations)})
		}
		return nil
	}
	dir, err := os.MkdirTemp("", "vedette-bench-")
	if err != nil {
		return Takeover{}, err
	}
	defer os.RemoveAll(dir)
	snapshots, err := correlate.OpenSnapshots(dir, stream.TopicObservations, 64<<30)
	if err != nil {
		return Takeover{}, err
	}
	options := correlate.OwnerOptions{
		Engine: correlate.Options{Sources: 1, EvidenceLimit: 10, MaxKeys: o.Keys},
		Open: func(offset int64) correlate.PartitionReader {
			return client.NewReader(stream.ReaderOptions{Topic: stream.TopicObservations, Offset: offset})
		},
		Ledger: correlate.NewMemoryLedger(10), Generations: oneGeneration{set}, Logger: quiet,
	}
	owner := func(what string, kept *correlate.Snapshots, leave bool) (owned, error) {
		o.Progress(Progress{Stage: "takeover: " + what})
		oo := options
		oo.Snapshots, oo.SnapshotAtStop, oo.SnapshotEvery = kept, leave, time.Hour
		w, err := own(ctx, oo, messages)
		if err != nil {
			return w, fmt.Errorf("%s: %w", what, err)
		}
		return w, nil
	}
	// A snapshot, and five more minutes of observations until the kill.
	if err := produce(t.Observations - int64(o.Keys)*int64(snapshotBehind)/int64(time.Hour)); err != nil {
		return Takeover{}, err
	}
	first, err := owner("owner that leaves a snapshot", snapshots, true)
	if err != nil {
		return Takeover{}, err
	}
	t.SnapshotPause = first.snapshotPause.Seconds()
	if t.SnapshotBytes, err = sizeOf(dir); err != nil {
		return Takeover{}, err
	}
	if err := produce(t.Observations); err != nil {
		return Takeover{}, err
	}
	t.Observations = s.at
	if _, err := owner("owner that is killed", snapshots, false); err != nil {
		return Takeover{}, err
	}
	runtime.GC()
	cpu := processCPU()
	from, err := owner("from the log", nil, false)
	if err != nil {
		return Takeover{}, err
	}
	t.Seconds, t.CPUSeconds = from.live.Seconds(), (processCPU() - cpu).Seconds()
	runtime.GC()
	if from, err = owner("from a snapshot", snapshots, false); err != nil {
		return Takeover{}, err
	}
	if from.snapshotsUsed != 1 {
		return Takeover{}, errors.New("the snapshot was not used")
	}
	t.FromSnapshot = from.live.Seconds()
	return t, nil
}

// sizeOf is how much the files of a directory hold.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	return n, err
}

// own runs an owner until it is live and has committed all messages before end,
// kills it, and says how long it took to be live.
func own(ctx context.Context, o correlate.OwnerOptions, end int64) (w owned, err error) {
	registry := prometheus.NewRegistry()
	o.Metrics = correlate.NewMetrics(registry)
	ledger := &watchedLedger{Ledger: o.Ledger}
	o.Ledger = ledger
	owner, err := correlate.NewOwner(o)
	if err != nil {
		return w, err
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverWithin)
	defer cancel()
	rctx, kill := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- owner.Run(rctx) }()
	defer func() {
		kill()
		err = errors.Join(err, <-done)
		if err == nil {
			err = w.told(registry)
		}
	}()
	for {
		if w.live == 0 {
			if err := w.told(registry); err != nil {
				return w, err
			}
		}
		if w.live > 0 && ledger.position.Load() >= end {
			return w, nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return w, err
		}
	}
}

// owned is what an owner says of itself.
type owned struct {
	live          time.Duration // 0 before it is
	snapshotPause time.Duration
	snapshotsUsed int
}

func (w *owned) told(g prometheus.Gatherer) error {
	fs, err := g.Gather()
	if err != nil {
		return err
	}
	seconds := func(m *dto.Metric) time.Duration {
		return time.Duration(m.GetHistogram().GetSampleSum() * float64(time.Second))
	}
	for _, f := range fs {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "vedette_correlate_rebuild_duration_seconds":
				w.live = seconds(m)
			case "vedette_correlate_snapshot_pause_seconds":
				w.snapshotPause = seconds(m)
			case "vedette_correlate_snapshots_total":
				if m.GetLabel()[0].GetValue() == "used" {
					w.snapshotsUsed = int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return nil
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
