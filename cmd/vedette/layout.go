package main

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/layout"
)

// ReshardCmd changes the number of partitions of the observations.
type ReshardCmd struct {
	Config     string `required:"" placeholder:"FILE" help:"The configuration file."`
	Partitions int    `required:"" placeholder:"N" help:"How many partitions of observations there shall be."`
}

// Run moves to a new layout.
func (c *ReshardCmd) Run(ctx context.Context, s *Streams) error {
	if c.Partitions < 1 || c.Partitions > 10000 {
		return &ExitError{2, fmt.Errorf("--partitions %d: want 1 to 10000", c.Partitions)}
	}
	m, err := mover(ctx, c.Config, s)
	if err != nil {
		return err
	}
	defer m.Close()
	began := time.Now()
	r, err := layout.Reshard(ctx, m.Options, c.Partitions)
	if err != nil {
		return fmt.Errorf("reshard: %w; what was in force is in force", err)
	}
	if r.From.ID == r.To.ID {
		_, err = fmt.Fprintf(s.Out, "there are %d partitions already: nothing to do\n", c.Partitions)
		return err
	}
	if err := moved(s, r, time.Since(began)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "set kafka.observation_partitions to %d and start the service\n", r.To.Partitions)
	return err
}

// moved tells of a new layout.
func moved(s *Streams, r layout.Report, took time.Duration) error {
	for _, l := range r.Lost {
		if _, err := fmt.Fprintf(s.Out, "lost: %s; an incident says so\n", l); err != nil {
			return err
		}
	}
	if r.From.ID == r.To.ID {
		return nil
	}
	_, err := fmt.Fprintf(s.Out, "layout %d is in force after %v: %d partitions of %s, with %d messages of history\n"+
		"topic %s is not read any more: delete it when you like\n",
		r.To.ID, took.Round(100*time.Millisecond), r.To.Partitions, r.To.Topic, r.Written, r.From.Topic)
	return err
}

// RepairCmd goes on behind logs that were replaced or truncated.
type RepairCmd struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
	Yes    bool   `help:"Repair; without it only what is wrong is shown."`
}

// Run shows what is wrong, and mends it. Exit status: 1 if anything is left to be
// repaired.
func (c *RepairCmd) Run(ctx context.Context, s *Streams) error {
	m, err := mover(ctx, c.Config, s)
	if err != nil {
		return err
	}
	defer m.Close()
	problems, err := layout.Examine(ctx, m.Options)
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if len(problems) == 0 {
		_, err := fmt.Fprintln(s.Out, "all logs are those that were read: nothing to repair")
		return err
	}
	for _, p := range problems {
		if _, err := fmt.Fprintf(s.Out, "%s → %s\n", p, p.Remedy); err != nil {
			return err
		}
	}
	if !c.Yes {
		return &ExitError{1, fmt.Errorf("%d partitions to repair: stop the service and run again with --yes", len(problems))}
	}
	began := time.Now()
	r, err := layout.Repair(ctx, m.Options)
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if err := moved(s, r, time.Since(began)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.Out, "repaired: start the service")
	return err
}

func mover(ctx context.Context, file string, s *Streams) (*app.Mover, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, &ExitError{2, err}
	}
	return app.OpenMover(ctx, cfg, newLogger(s.Err, cfg.Log), func(line string) { fmt.Fprintln(s.Out, line) })
}
