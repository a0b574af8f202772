package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/simulate"
)

const (
	// demoHistory is how much is simulated: more than the shipped rules want to have
	// learned before they judge.
	demoHistory = 8 * 24 * time.Hour
	demoSeed    = 1
)

// demo is the simulated API: its logs, its addresses, its inventory.
type demo struct {
	logs, geo string
}

// prepareDemo simulates the demo's logs up to now, unless that was done before.
func prepareDemo(ctx context.Context, dir string, now time.Time, s *Streams) (demo, error) {
	d := demo{logs: filepath.Join(dir, "logs"), geo: filepath.Join(dir, "geo.mmdb")}
	if _, err := os.Stat(filepath.Join(dir, "labels.json")); err == nil {
		return d, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("demo: %w", err)
	}
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintln(s.Out, "demo: simulating eight days of a serverless \"orders\" API on AWS, with four attacks in it")
	res, err := simulate.Run(ctx, simulate.Options{Seed: demoSeed, Start: now.Add(-demoHistory), Duration: demoHistory, Out: tmp})
	if err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}
	if err := simulate.WriteMMDB(filepath.Join(tmp, "geo.mmdb")); err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return d, fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintf(s.Out, "demo: %d log records; its addresses are documentation ranges, so the countries are made up (geo.mmdb beside the logs)\n", res.Records)
	return d, nil
}

// configure makes the demo's logs a source like any other.
func (d demo) configure(c *config.Config) {
	c.Collect.Files = append(c.Collect.Files, config.FileSource{Name: "demo", Paths: []string{d.logs}, Poll: time.Second})
	c.Enrich.GeoDatabases = append(c.Enrich.GeoDatabases, d.geo)
	c.Enrich.Inventory.Functions = map[string]config.Function{}
	for _, f := range simulate.Inventory().Functions {
		c.Enrich.Inventory.Functions[f.Name] = config.Function{
			Gateways: f.Gateways, Authorizers: f.Authorizers, HTTPAuthorizer: f.HTTPAuthorizer,
			Services: f.Services, EventSources: f.EventSources, Principals: f.Principals,
		}
	}
}

// incidents is what watch reads.
type incidents interface {
	ListIncidents(ctx context.Context, tenant string, q api.Query) ([]api.Incident, error)
}

// watch prints incidents as they open, and again when they turn out to be graver,
// until ctx ends. It looks at the newest hundred.
func watch(ctx context.Context, db incidents, tenant string, w io.Writer, logger *slog.Logger) {
	seen := map[string]string{} // severity and title, by id
	failing := false
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := db.ListIncidents(ctx, tenant, api.Query{Limit: 100})
		if err != nil && !failing && ctx.Err() == nil {
			logger.Warn("incidents cannot be listed", "error", err)
		}
		if failing = err != nil; !failing {
			now := map[string]string{}
			for _, in := range slices.Backward(list) {
				is := in.Severity + in.Title
				if now[in.ID] = is; seen[in.ID] != is {
					fmt.Fprintln(w, incidentLine(in))
				}
			}
			seen = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func incidentLine(in api.Incident) string {
	var who []string
	for i, e := range in.Entities {
		if i == 3 {
			who = append(who, "…")
			break
		}
		who = append(who, e.Value)
	}
	return fmt.Sprintf("incident  %-8s  %s  %s  (%s)", in.Severity, in.FirstSeen.UTC().Format("2006-01-02 15:04"), in.Title, strings.Join(who, ", "))
}
