package app

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/ingest/push"
	"github.com/vedette-sec/vedette/storage"
)

// expansion is how much longer than it was sent a push may be unpacked: logs
// compress well, and memory holds only a batch of them.
const expansion = 16

// startAPI serves the push endpoint, the incident API and the page.
func (a *App) startAPI() error {
	c := a.cfg.API
	pushes, err := push.New(push.Options{
		Appender: a.appender, Registerer: a.registry, Logger: a.logger,
		MaxBody: int64(c.MaxBody), MaxExpanded: int64(c.MaxBody) * expansion, MaxInFlight: int64(c.MaxInFlight),
	})
	if err != nil {
		return err
	}
	o, err := a.incidentOptions()
	if err != nil {
		return err
	}
	o.Registerer = nil // the assembler's metrics are the assembler's
	actions, err := api.NewActions(o, storage.IsTransient)
	if err != nil {
		return err
	}
	server, err := api.New(api.Options{
		Tokens: a.db, Incidents: a.db, Actions: actions, Push: pushes,
		Registerer: a.registry, Gatherer: a.registry,
		Checks: []api.Check{
			{Name: "postgres", Func: a.db.Check},
			{Name: "kafka", Func: a.kafka.Ping},
			{Name: "roles", Func: a.parts.check},
		},
		Logger: a.logger, Version: a.o.Version, Tenant: a.cfg.Tenant, OpenOnLoopback: c.OpenOnLoopback, OCSF: ocsf,
		SecureCookies: c.TLSCertFile != "", Tracer: a.traces.Tracer("api"),
	})
	if err != nil {
		return err
	}
	a.http = server.HTTP()
	a.parts.wg.Go(func() {
		var err error
		if c.TLSCertFile != "" {
			err = a.http.ServeTLS(a.listener, c.TLSCertFile, c.TLSKeyFile)
		} else {
			err = a.http.Serve(a.listener)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			a.httpErr <- fmt.Errorf("serve HTTP: %w", err)
		}
	})
	return nil
}
