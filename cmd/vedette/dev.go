package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage/localpg"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// DevCmd runs everything in one process.
type DevCmd struct {
	Data   string   `default:".vedette" placeholder:"DIR" help:"Where everything is kept (${default})."`
	Listen string   `default:"127.0.0.1:8080" placeholder:"ADDR" help:"Where to serve HTTP (${default})."`
	Demo   bool     `help:"Take in the logs of a simulated API with four attacks in them."`
	Rules  []string `placeholder:"DIR" sep:"none" help:"More Sigma rules: a file or directory. Repeatable."`
	GeoDB  []string `name:"geo-db" placeholder:"FILE" sep:"none" help:"An address database in MMDB format. Repeatable."`
}

// The embedded broker holds all that it keeps in memory too, so its topics are bounded.
var devRetention = app.Retention{Age: 7 * 24 * time.Hour, Bytes: 256 << 20, SegmentBytes: 16 << 20}

// devPartitions is enough for two cores.
const devPartitions = 2

// Run runs everything until ctx ends.
func (c *DevCmd) Run(ctx context.Context, s *Streams) error {
	dir, err := filepath.Abs(c.Data)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	logFile, err := openLog(filepath.Join(dir, "vedette.log"))
	if err != nil {
		return fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	defer logFile.Close()
	logger := slog.New(tee{
		slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelInfo}),
		slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: slog.LevelError}),
	})

	cfg := config.Default()
	cfg.DataDir = dir
	cfg.Kafka.LogsPartitions, cfg.Kafka.ObservationPartitions, cfg.Kafka.Replication = devPartitions, devPartitions, 1
	cfg.API.Listen, cfg.API.OpenOnLoopback = c.Listen, true
	cfg.Rules.Paths = c.Rules
	cfg.Enrich.GeoDatabases = c.GeoDB

	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	var pg *localpg.Server
	var broker *devbroker.Broker
	g.Go(func() (err error) {
		if pg, err = localpg.Start(gctx, localpg.Options{Dir: filepath.Join(dir, "postgres"), Log: logger}); err != nil {
			return fmt.Errorf("start Postgres: %w", err)
		}
		return nil
	})
	g.Go(func() (err error) {
		if broker, err = devbroker.Start(devbroker.Options{Dir: filepath.Join(dir, "kafka"), Logger: logger}); err != nil {
			return fmt.Errorf("start the embedded broker: %w", err)
		}
		return nil
	})
	var scene demo
	if c.Demo {
		g.Go(func() (err error) {
			scene, err = prepareDemo(gctx, filepath.Join(dir, "demo"), began, s)
			return err
		})
	}
	err = g.Wait()
	defer func() {
		if broker != nil {
			broker.Close()
		}
		if pg != nil {
			if err := pg.Stop(); err != nil {
				logger.Error("stop Postgres", "error", err)
			}
		}
	}()
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	cfg.Postgres.DSN = secret.String(pg.DSN())
	cfg.Kafka.Brokers = []string{broker.Addr()}
	if c.Demo {
		scene.configure(cfg)
	}

	a, err := app.Start(ctx, app.Options{Config: cfg, Logger: logger, Version: version, Retention: devRetention})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("start: %w", err)
	}
	defer a.Stop()
	tokenFile := filepath.Join(dir, "admin-token")
	if _, err := api.EnsureAdminToken(ctx, a.DB(), cfg.Tenant, "admin", tokenFile); err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	shown := tokenFile
	if !filepath.IsAbs(c.Data) {
		shown = filepath.Join(c.Data, "admin-token")
	}
	fmt.Fprintf(s.Out, "ready http://%s/ token %s\n", a.Addr(), shown)
	logger.Info("ready", "address", a.Addr(), "took", time.Since(began))

	wctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watch(wctx, a.DB(), cfg.Tenant, s.Out, logger)
	}()
	defer func() { stop(); <-watched }()
	return serve(ctx, a, logger, func() (*config.Config, error) { return cfg, nil })
}

// maxLog is the size at which a start puts the log aside.
const maxLog = 32 << 20

// openLog opens the log to append to it; a long one becomes path.1 first.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// tee logs to several handlers.
type tee []slog.Handler

func (t tee) Enabled(ctx context.Context, l slog.Level) bool {
	for _, h := range t {
		if h.Enabled(ctx, l) {
			return true
		}
	}
	return false
}

func (t tee) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, h := range t {
		if h.Enabled(ctx, r.Level) {
			errs = append(errs, h.Handle(ctx, r.Clone()))
		}
	}
	return errors.Join(errs...)
}

func (t tee) WithAttrs(as []slog.Attr) slog.Handler {
	out := make(tee, len(t))
	for i, h := range t {
		out[i] = h.WithAttrs(as)
	}
	return out
}

func (t tee) WithGroup(name string) slog.Handler {
	out := make(tee, len(t))
	for i, h := range t {
		out[i] = h.WithGroup(name)
	}
	return out
}
