package app

import (
	"context"
	"time"

	"github.com/vedette-sec/vedette/tracing"
)

// traceWithin is how long the last spans may take to be sent at Stop.
const traceWithin = 3 * time.Second

// openTraces makes what the parts tell their spans to; nothing if no endpoint is known.
func (a *App) openTraces() error {
	c := a.cfg.Tracing
	o := tracing.Options{
		Endpoint: c.Endpoint, Headers: c.Headers, CAFile: c.CAFile, Ratio: c.Ratio, Queue: c.Queue,
		Version: a.o.Version, Instance: a.instance, Registerer: a.registry, Logger: a.logger,
	}
	for _, r := range a.o.Roles {
		o.Roles = append(o.Roles, string(r))
	}
	var err error
	if a.traces, err = tracing.Open(o); err != nil {
		return err
	}
	a.cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), traceWithin)
		defer cancel()
		if err := a.traces.Close(ctx); err != nil {
			a.logger.Warn("the last spans were not sent", "error", err)
		}
	})
	return nil
}
