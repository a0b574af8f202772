package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/simulate"
)

// SimulateCmd writes simulated logs.
type SimulateCmd struct {
	Seed     uint64        `required:"" help:"What all chance follows from: the same seed writes the same logs."`
	Start    time.Time     `placeholder:"RFC3339" help:"Start of the simulated time (by default so that it ends now)."`
	Duration time.Duration `default:"2h" help:"Length of the simulated time (${default}); some episodes need days of history before them."`
	Rate     float64       `placeholder:"EVENTS/S" help:"Log records a second, on average (by default ${rate})."`
	Episodes string        `default:"all" placeholder:"all|none|NAME,…" help:"Attack episodes: all, none, or names separated by commas of ${episodes}."`
	Out      string        `required:"" placeholder:"DIR" help:"Where to write logs/, labels.json and geo.mmdb."`
}

// Run writes the logs.
func (c *SimulateCmd) Run(ctx context.Context, s *Streams) error {
	if c.Start.IsZero() {
		c.Start = time.Now().Add(-c.Duration).UTC().Truncate(time.Second)
	}
	res, err := simulate.Run(ctx, simulate.Options{
		Seed: c.Seed, Start: c.Start, Duration: c.Duration, Rate: c.Rate, Episodes: strings.Split(c.Episodes, ","), Out: c.Out,
	})
	if err != nil {
		return &ExitError{2, err}
	}
	if err := simulate.WriteMMDB(filepath.Join(c.Out, "geo.mmdb")); err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	fmt.Fprintf(s.Err, "%d records in %d files, %d episodes: %s\n", res.Records, res.Files, len(res.Labels.Episodes), c.Out)
	return nil
}
