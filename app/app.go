// Package app wires the service together: it opens Kafka and Postgres, loads the
// rules, starts the roles asked for and serves HTTP. `vedette run`, `vedette dev`
// and the tests of the whole system boot the same App.
package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
	"github.com/vedette-sec/vedette/tracing"
)

// Role is a part of the service that may run in a process of its own.
type Role string

// The roles.
const (
	Collect   Role = "collect"
	Match     Role = "match"
	Correlate Role = "correlate"
	Alert     Role = "alert" // assembles incidents and delivers notifications
	API       Role = "api"   // HTTP: push, incidents, page, health, metrics
)

// Roles returns all roles.
func Roles() []Role { return []Role{Collect, Match, Correlate, Alert, API} }

// ParseRoles reads a comma-separated list.
func ParseRoles(s string) ([]Role, error) {
	var rs []Role
	for _, f := range strings.Split(s, ",") {
		r := Role(strings.TrimSpace(f))
		if !slices.Contains(Roles(), r) {
			return nil, fmt.Errorf("role %q: want some of collect, match, correlate, alert, api", f)
		}
		if !slices.Contains(rs, r) {
			rs = append(rs, r)
		}
	}
	return rs, nil
}

// Options say what to run.
type Options struct {
	Config  *config.Config
	Roles   []Role // all if empty
	Logger  *slog.Logger
	Version string
	// Retention bounds the topics that are created, for development; production
	// sets it on the topics.
	Retention Retention
	Timing    Timing
	// Registry takes the metrics and gives them out; a new one if nil.
	Registry Registry
}

// Registry is where metrics are registered, and read from.
type Registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// Timing is how soon the service notices what has changed, and how long it waits for
// others. What is zero is as docs/operations.md says; tests are in more of a hurry.
type Timing struct {
	Session time.Duration // silence after which the groups miss a process; 10 s
	Lease   time.Duration // silence after which another does what one does at a time; 8 s
	Widen   time.Duration // how often added partitions are looked for; 2 s
	Leave   time.Duration // how long a server that does not answer is waited for at Stop, for each thing; 5 s
	Deliver time.Duration // of a message to a receiver; 10 s
	Rescue  time.Duration // after which the delivery of a process that died is made again; 2 min
	Update  time.Duration // between messages that say no more than that an incident goes on; 5 min
	Survey  time.Duration // how often overdue notifications are looked for; 15 s
}

// Retention bounds a topic: zero values leave the broker's defaults.
type Retention struct {
	Age          time.Duration
	Bytes        int64 // of each partition
	SegmentBytes int64
}

// App is a running service.
type App struct {
	o        Options
	cfg      *config.Config
	logger   *slog.Logger
	registry Registry

	db       *storage.DB
	kafka    *stream.Client
	appender *stream.LogAppender
	gens     generations
	layout   correlate.Layout
	standby  *standby
	instance string // names this process
	traces   *tracing.Tracing
	matcher  *match.Owner // nil without the role
	sources  atomic.Int32 // partitions of vedette.logs
	inForce  string       // digest of the generation that this process last put into force
	inForceM sync.Mutex   // guards inForce; held while a generation is put into force

	ctx      context.Context // ends at Stop
	cancel   context.CancelFunc
	parts    *supervisor
	http     *http.Server
	listener net.Listener
	httpErr  chan error
	cleanups []func() // last in, first out
	ended    sync.Once
}

// startTimeout bounds what has to answer before the service runs.
const startTimeout = 60 * time.Second

// Start brings the service up and returns once everything fallible has been
// done: the listener is bound, the schema migrated, the rules loaded. Stop ends
// it. ctx bounds the start only.
func Start(ctx context.Context, o Options) (_ *App, err error) {
	if len(o.Roles) == 0 {
		o.Roles = Roles()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	a := &App{
		o: o, cfg: o.Config, logger: o.Logger, registry: o.Registry, httpErr: make(chan error, 1), instance: rand.Text(),
	}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.parts = newSupervisor(a.logger)
	a.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "vedette_failing_parts", Help: "Parts of this process that are not at work, as /readyz names them: 0 if it is ready.",
	}, a.parts.failing))
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			a.shutdown()
		}
	}()
	if a.has(API) {
		// First, so that a port in use is told before anything is touched.
		if a.listener, err = net.Listen("tcp", a.cfg.API.Listen); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", a.cfg.API.Listen, plain(err))
		}
		a.cleanup(func() { a.listener.Close() })
	}
	if err := a.openTraces(); err != nil {
		return nil, err
	}
	if err := a.openStores(ctx); err != nil {
		return nil, err
	}
	a.standby = newStandby(a.db, a.instance, cmp.Or(o.Timing.Lease, leaseLasts), a.registry, a.logger)
	a.gens = generations{store: a.db, dataDir: a.cfg.DataDir}
	if err := a.Reload(ctx, a.cfg); err != nil {
		return nil, err
	}
	if err := a.startPipeline(); err != nil {
		return nil, err
	}
	if a.has(Alert) {
		if err := a.startAlert(); err != nil {
			return nil, err
		}
	}
	if a.has(Collect) {
		if err := a.startCollect(); err != nil {
			return nil, err
		}
	}
	if a.has(API) {
		if err := a.startAPI(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *App) has(r Role) bool { return slices.Contains(a.o.Roles, r) }

func (a *App) cleanup(f func()) { a.cleanups = append(a.cleanups, f) }

// openStores opens Postgres and Kafka and brings schema and topics into shape.
func (a *App) openStores(ctx context.Context) (err error) {
	c := a.cfg
	if a.db, err = storage.Open(ctx, storage.Options{
		DSN: c.Postgres.DSN.Reveal(), MaxConns: int32(c.Postgres.MaxConnections), EvidenceLimit: c.Incidents.Evidence,
		CloseWithin: a.o.Timing.Leave, Log: a.logger, Registerer: a.registry,
	}); err != nil {
		return fmt.Errorf("open Postgres: %w", err)
	}
	a.cleanup(a.db.Close)
	if err := a.db.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	logsPartitions := c.Kafka.LogsPartitions
	switch l, err := a.db.Layout(ctx); {
	case err == nil:
		logsPartitions = max(logsPartitions, l.Sources) // those that were read have to be there
		// Before any topic is touched.
		if err := a.db.EnsureLayout(ctx, c.Kafka.ObservationPartitions, l.First); err != nil {
			return err
		}
	case !errors.Is(err, storage.ErrNoLayout):
		return err
	}
	kafka := KafkaConfig(c.Kafka)
	kafka.MetadataAge = a.o.Timing.Widen
	if a.kafka, err = stream.NewClient(kafka); err != nil {
		return fmt.Errorf("open Kafka: %w", err)
	}
	a.cleanup(a.kafka.Close)
	topic := func(name string, partitions int) stream.Topic {
		r := a.o.Retention
		return stream.Topic{
			Name: name, Partitions: partitions, Replication: c.Kafka.Replication,
			Retention: r.Age, RetentionBytes: r.Bytes, SegmentBytes: r.SegmentBytes,
		}
	}
	logs := topic(stream.TopicLogs, logsPartitions)
	logs.Grow = true
	if err := a.kafka.EnsureTopics(ctx, logs); err != nil {
		return fmt.Errorf("prepare topics: %w", err)
	}
	sources, err := a.kafka.Partitions(ctx, stream.TopicLogs)
	if err != nil {
		return fmt.Errorf("prepare topics: %w", err)
	}
	if err := a.db.EnsureLayout(ctx, c.Kafka.ObservationPartitions, sources); err != nil {
		return err
	}
	if a.layout, err = a.db.Layout(ctx); err != nil {
		return err
	}
	a.sources.Store(int32(max(sources, a.layout.Sources)))
	if err := a.kafka.EnsureTopics(ctx,
		topic(a.layout.Topic, a.layout.Partitions),
		topic(stream.TopicDeadLetter, 1),
	); err != nil {
		return fmt.Errorf("prepare topics: %w", err)
	}
	a.appender, err = a.kafka.NewLogAppender(stream.AppenderOptions{
		Partitions: sources, Metrics: stream.NewMetrics(a.registry), Logger: a.logger,
	})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	a.cleanup(a.appender.Close)
	return nil
}

// KafkaConfig says the configuration in the stream package's terms.
func KafkaConfig(k config.Kafka) stream.Config {
	o := k.SASL.OAuth
	return stream.Config{
		Brokers: k.Brokers,
		TLS:     stream.TLSConfig{Enabled: k.TLS, CAFile: k.CAFile, CertFile: k.CertFile, KeyFile: k.KeyFile, ServerName: k.ServerName},
		SASL: stream.SASLConfig{
			Mechanism: strings.ToUpper(k.SASL.Mechanism), Username: k.SASL.Username, Password: k.SASL.Password,
			OAuth: stream.OAuthConfig{
				TokenFile: o.TokenFile, TokenURL: o.TokenURL, ClientID: o.ClientID, ClientSecret: o.ClientSecret,
				Scope: o.Scope, CAFile: o.CAFile, Extensions: o.Extensions,
			},
			MSK: stream.MSKConfig{Region: k.SASL.MSK.Region},
		},
	}
}

func (a *App) start(p part) { a.parts.start(a.ctx, p) }

// Addr is where the API listens.
func (a *App) Addr() string { return a.listener.Addr().String() }

// DB is the ledger.
func (a *App) DB() *storage.DB { return a.db }

// Metrics is what the service counts, as /metrics shows it.
func (a *App) Metrics() prometheus.Gatherer { return a.registry }

// Failed tells when the service cannot go on by itself: the listener died.
func (a *App) Failed() <-chan error { return a.httpErr }

// httpDrain is how long requests may take to end at Stop.
const httpDrain = 2 * time.Second

// Stop ends the service: HTTP drains, the roles stop, what they opened closes.
func (a *App) Stop() { a.ended.Do(a.stop) }

func (a *App) stop() {
	if a.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), httpDrain)
		defer cancel()
		if err := a.http.Shutdown(ctx); err != nil {
			a.http.Close()
		}
	}
	a.shutdown()
}

func (a *App) shutdown() {
	a.cancel()
	a.parts.wait()
	for _, f := range slices.Backward(a.cleanups) {
		f()
	}
}

// plain is the cause of a network error, without Go's wrapping.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
