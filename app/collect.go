package app

import (
	"fmt"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest/file"
)

// startCollect starts the configured collectors.
func (a *App) startCollect() error {
	metrics := file.NewMetrics(a.registry)
	for _, f := range a.cfg.Collect.Files {
		c, err := file.New(file.Options{
			Origin: f.Name, Tenant: a.cfg.Tenant, Paths: f.Paths, Type: event.Type(f.Type),
			Appender: a.appender, Cursors: a.db, Poll: f.Poll, Metrics: metrics, Logger: a.logger,
			Tracer: a.traces.Tracer("ingest/file"),
		})
		if err != nil {
			return fmt.Errorf("collector %s: %w", f.Name, err)
		}
		a.start(a.standby.alone(part{name: "collect " + f.Name, run: c.Run}))
	}
	return nil
}
