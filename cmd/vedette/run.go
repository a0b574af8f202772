package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
)

// RunCmd runs the service.
type RunCmd struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file (docs/configuration.md)."`
	Roles  string `default:"collect,match,correlate,alert,api" help:"What this process does, of collect, match, correlate, alert, api."`
}

// Run runs the service until ctx ends.
func (c *RunCmd) Run(ctx context.Context, s *Streams) error {
	roles, err := app.ParseRoles(c.Roles)
	if err != nil {
		return &ExitError{2, err}
	}
	cfg, err := config.Load(c.Config)
	if err != nil {
		return &ExitError{2, err}
	}
	logger := newLogger(s.Err, cfg.Log)
	a, err := app.Start(ctx, app.Options{Config: cfg, Roles: roles, Logger: logger, Version: version})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer a.Stop()
	logger.Info("ready", "roles", c.Roles, "version", version)
	return serve(ctx, a, logger, func() (*config.Config, error) { return config.Load(c.Config) })
}

// serve waits for the end, and reloads on SIGHUP.
func serve(ctx context.Context, a *app.App, logger *slog.Logger, load func() (*config.Config, error)) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-a.Failed():
			return err
		case <-hup:
			cfg, err := load()
			if err == nil {
				err = a.Reload(ctx, cfg)
			}
			if err != nil {
				logger.Error("reload refused; what was in force stays", "error", err)
			}
		}
	}
}

// newLogger logs as the configuration says.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
