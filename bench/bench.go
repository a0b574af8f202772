// Package bench drives the whole path with generated traffic and measures it:
// records are appended to Kafka, matched, correlated, committed to Postgres,
// assembled into incidents and told to a receiver, by the very service that
// `vedette run` runs.
//
// A run has four parts. The stages are measured by themselves, on one goroutine.
// Then records go through the whole service as fast as it takes them, and after
// that at a steady pace, together with probes: records of which each opens an
// incident, to see how long that takes. [Keys] measures what state costs.
package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/localpg"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// The bounds of a run.
const (
	MaxEvents   = 100_000_000
	MaxDuration = time.Hour // of the part at a steady pace
	MaxRules    = 5000      // stateful ones that are generated
)

// Options say what to measure. Zero fields take the defaults named.
type Options struct {
	Events   int           // appended as fast as they are taken; 400,000
	Rate     float64       // events a second of the part at a steady pace; 80 % of what was taken
	Duration time.Duration // of the part at a steady pace; 15 s
	Probes   float64       // probes a second in it; 25
	Stateful int           // rules that are generated; 60
	Rules    []string      // Sigma files and directories to measure instead
	Brokers  []string      // a Kafka with nothing on Vedette's topics; the embedded broker
	DSN      string        // a Postgres database with nothing in it; one in a temporary directory
	Dir      string        // for what is temporary; os.TempDir

	Progress func(Progress) // told a few times a second; may be nil
	Logger   *slog.Logger   // discards if nil
}

// Progress says how far a run is.
type Progress struct {
	Stage string // what is going on
	Done  int    // of Of events, or records
	Of    int    // 0: nobody knows
}

func (o *Options) validate() error {
	if o.Events == 0 {
		o.Events = 400_000
	}
	if o.Duration == 0 {
		o.Duration = 15 * time.Second
	}
	if o.Probes == 0 {
		o.Probes = 25
	}
	if o.Stateful == 0 {
		o.Stateful = 60
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Events < 1000 || o.Events > MaxEvents:
		return fmt.Errorf("bench: %d events: want 1,000 to %d", o.Events, MaxEvents)
	case o.Rate < 0 || o.Rate > 1e7:
		return fmt.Errorf("bench: rate %v: want events a second, at most ten million", o.Rate)
	case o.Duration < time.Second || o.Duration > MaxDuration:
		return fmt.Errorf("bench: duration %v: want 1s to %v", o.Duration, MaxDuration)
	case o.Probes < 1 || o.Probes > 1000:
		return fmt.Errorf("bench: %v probes a second: want 1 to 1,000", o.Probes)
	case o.Stateful < 1 || o.Stateful > MaxRules:
		return fmt.Errorf("bench: %d rules: want 1 to %d", o.Stateful, MaxRules)
	}
	return nil
}

// Run measures the whole path. ctx ends it early, with an error.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "vedette-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may have to run as another user
		return nil, fmt.Errorf("bench: %w", err)
	}
	paths, err := rulePaths(dir, &o, probeRules)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	set, _, err := rule.Load(paths)
	if err != nil {
		return nil, fmt.Errorf("bench: load rules: %w", err)
	}
	r := &Report{
		Machine: Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH},
		Rules:   len(set.Rules), Stateful: len(set.Correlations),
		Broker: "embedded, in memory", Postgres: "managed, local, durable",
	}
	if r.Stages, err = measureStages(ctx, set, &o); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	runtime.GC()
	s, err := openSite(ctx, dir, paths, &o, embeddedRetention)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	// Every probe is to open an incident of its own, not to become part of a flood.
	s.cfg.Incidents.FloodKeys = math.MaxInt32
	if err = s.boot(ctx); err == nil {
		err = s.measure(ctx, r)
	}
	if cpu, ok := s.stop(); ok {
		r.PostgresCPU = cpu.Seconds()
	}
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if len(o.Brokers) > 0 {
		r.Broker = "given"
	}
	if o.DSN != "" {
		r.Postgres = "given"
	}
	return r, nil
}

// rulePaths writes text and the rules that are generated, and says where all are.
func rulePaths(dir string, o *Options, text string) ([]string, error) {
	if len(o.Rules) == 0 {
		text += Rules(o.Stateful)
	}
	own := filepath.Join(dir, "rules")
	if err := os.Mkdir(own, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(own, "bench.yml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	return append([]string{own}, o.Rules...), nil
}

// site is the service under measurement, with all it depends on.
type site struct {
	o        *Options
	cfg      *config.Config
	opened   *opened
	receiver *receiver
	broker   *devbroker.Broker // nil if one was given
	pg       *localpg.Server   // nil if one was given
	children time.Duration     // CPU of ended children before the run
	client   *stream.Client
	appender *stream.LogAppender
	app      *app.App
	cancel   context.CancelFunc // ends the ticks
	ticks    chan struct{}
	keep     app.Retention
}

// embeddedPartitions is enough for two cores.
const embeddedPartitions = 2

// The embedded broker holds what it keeps in memory, so what has been read goes.
var embeddedRetention = app.Retention{Bytes: 64 << 20, SegmentBytes: 8 << 20}

// openSite starts what the service depends on, and refuses what holds something.
func openSite(ctx context.Context, dir string, rules []string, o *Options, keep app.Retention) (_ *site, err error) {
	s := &site{o: o, cfg: config.Default(), opened: newOpened(), keep: keep}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	o.Progress(Progress{Stage: "starting"})
	c := s.cfg
	c.DataDir = dir
	c.Rules = config.Rules{Paths: rules}
	c.Kafka.Brokers, c.Kafka.Replication = o.Brokers, 1
	c.Postgres.DSN = secret.String(o.DSN)
	s.children = childCPU()
	g, gctx := errgroup.WithContext(ctx)
	if len(o.Brokers) == 0 {
		c.Kafka.LogsPartitions, c.Kafka.ObservationPartitions = embeddedPartitions, embeddedPartitions
		g.Go(func() (err error) {
			if s.broker, err = devbroker.Start(devbroker.Options{RetentionEvery: 2 * time.Second, Logger: o.Logger}); err != nil {
				return fmt.Errorf("start the embedded broker: %w", err)
			}
			c.Kafka.Brokers = []string{s.broker.Addr()}
			return nil
		})
	}
	if o.DSN == "" {
		g.Go(func() (err error) {
			if s.pg, err = localpg.Start(gctx, localpg.Options{Dir: filepath.Join(dir, "postgres"), Log: o.Logger}); err != nil {
				return fmt.Errorf("start Postgres: %w", err)
			}
			c.Postgres.DSN = secret.String(s.pg.DSN())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if s.receiver, err = startReceiver(); err != nil {
		return nil, err
	}
	key := make([]byte, 24)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	c.Alerting.Receivers = []config.Receiver{{
		Name: "bench", Type: "webhook", URL: secret.String(s.receiver.url), Key: secret.String(hex.EncodeToString(key)), MinSeverity: "high",
	}}
	if s.client, err = stream.NewClient(stream.Config{Brokers: c.Kafka.Brokers}); err != nil {
		return nil, err
	}
	return s, s.refuseUsed(ctx)
}

// boot starts the service, and with the first one the ticks of its log.
func (s *site) boot(ctx context.Context) (err error) {
	o := s.o
	if s.app, err = app.Start(ctx, app.Options{
		Config: s.cfg, Roles: []app.Role{app.Match, app.Correlate, app.Alert}, Version: "bench", Retention: s.keep,
		Logger: slog.New(tee{s.opened, o.Logger.Handler()}),
	}); err != nil {
		return fmt.Errorf("start the service: %w", err)
	}
	if s.appender != nil {
		return nil
	}
	// This client looked for the topic before it was there, and remembers for a while.
	if err := s.client.EnsureTopics(ctx, stream.Topic{Name: stream.TopicLogs, Partitions: s.cfg.Kafka.LogsPartitions, Replication: s.cfg.Kafka.Replication}); err != nil {
		return err
	}
	if s.appender, err = s.client.NewLogAppender(stream.AppenderOptions{Partitions: s.cfg.Kafka.LogsPartitions, Logger: o.Logger}); err != nil {
		return err
	}
	var tctx context.Context
	tctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.ticks = make(chan struct{})
	go func() {
		defer close(s.ticks)
		if err := s.appender.Run(tctx); err != nil {
			o.Logger.Error("ticks", "err", err)
		}
	}()
	return nil
}

// refuseUsed keeps made-up records out of a Kafka and a Postgres that serve.
func (s *site) refuseUsed(ctx context.Context) error {
	if len(s.o.Brokers) > 0 {
		for p := range int32(s.cfg.Kafka.LogsPartitions) {
			_, end, err := s.client.Bounds(ctx, stream.TopicLogs, p)
			if err == nil && end > 0 {
				return fmt.Errorf("%s holds records: bench writes made-up ones, so it wants a Kafka where there are none; delete vedette's topics or name another", stream.TopicLogs)
			}
		}
	}
	if s.o.DSN == "" {
		return nil
	}
	db, err := storage.Open(ctx, storage.Options{DSN: s.o.DSN, MaxConns: 2, Log: s.o.Logger})
	if err != nil {
		return fmt.Errorf("open Postgres: %w", err)
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil {
		return err
	}
	states, err := db.CheckpointStates(ctx)
	if err != nil {
		return err
	}
	if len(states) > 0 {
		return errors.New("the database has checkpoints of a service in it: bench wants one of its own")
	}
	return nil
}

// stop ends everything and returns the CPU time of the managed Postgres.
func (s *site) stop() (postgres time.Duration, ok bool) {
	if s.cancel != nil {
		s.cancel()
		<-s.ticks
	}
	if s.appender != nil {
		s.appender.Close()
	}
	if s.app != nil {
		s.app.Stop()
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.receiver != nil {
		s.receiver.close()
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.pg == nil {
		return 0, false
	}
	if err := s.pg.Stop(); err != nil {
		s.o.Logger.Error("stop Postgres", "err", err)
		return 0, false
	}
	return childCPU() - s.children, true
}
