package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/schollz/progressbar/v3"

	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/replay"
)

// ReplayCmd runs the detections over files.
type ReplayCmd struct {
	Rules     []string `placeholder:"DIR" sep:"none" help:"More Sigma rules: a file or directory. Repeatable."`
	NoShipped bool     `help:"Leave the shipped rules out."`
	Type      string   `placeholder:"T" help:"Log type of all records (${types}); told from the content by default."`
	Format    string   `enum:"table,json" default:"table" help:"table for people, json for programs: one finding a line."`
	GeoDB     []string `name:"geo-db" placeholder:"FILE" sep:"none" help:"An address database in MMDB format. Repeatable."`
	Config    string   `placeholder:"FILE" help:"A configuration file to take rules, databases and the function inventory from."`
	Paths     []string `arg:"" name:"path" help:"Files and directories of logs, gzipped or not; - is standard input."`
}

// Run replays. Exit status: 0 nothing found, 1 findings, 2 bad usage or input,
// 130 interrupted.
func (c *ReplayCmd) Run(ctx context.Context, s *Streams) error {
	res, err := c.replay(ctx, s)
	if res.Read > 0 {
		fmt.Fprintln(s.Err, res.Summary())
	}
	switch {
	case ctx.Err() != nil:
		return &ExitError{130, errors.New("interrupted")}
	case err != nil:
		return &ExitError{2, err}
	case res.Read > 0 && res.Decoded == 0:
		return &ExitError{2, errors.New("none of the records could be decoded: are these logs of a known type?")}
	}
	write := replay.WriteTable
	if c.Format == "json" {
		write = replay.WriteJSON
	}
	if c.Format == "json" || len(res.Findings) > 0 {
		if err := write(s.Out, res.Findings); err != nil {
			return &ExitError{2, err}
		}
	}
	if len(res.Findings) > 0 {
		return &ExitError{Code: 1}
	}
	return nil
}

func (c *ReplayCmd) replay(ctx context.Context, s *Streams) (replay.Result, error) {
	var none replay.Result
	if c.Type != "" && !slices.Contains(config.LogTypes(), c.Type) {
		return none, fmt.Errorf("--type %q: want one of %v", c.Type, config.LogTypes())
	}
	cfg := config.Default()
	if c.Config != "" {
		var err error
		if cfg, err = config.LoadOffline(c.Config); err != nil {
			return none, err
		}
	}
	if c.NoShipped {
		cfg.Rules.Shipped = false
	}
	cfg.Rules.Paths = append(cfg.Rules.Paths, c.Rules...)
	sources, warnings, err := app.RuleSources(cfg.Rules)
	if err != nil {
		return none, err
	}
	for _, w := range warnings {
		fmt.Fprintln(s.Err, "warning:", w)
	}
	set, _, err := rule.FromSources(sources)
	if err != nil {
		return none, err
	}
	if len(set.Correlations) == 0 {
		return none, errors.New("no rules: name some with --rules, or leave --no-shipped out")
	}
	enricher, err := enrich.New(enrich.Options{
		Databases: append(cfg.Enrich.GeoDatabases, c.GeoDB...), Inventory: app.Inventory(cfg.Enrich.Inventory),
	})
	if err != nil {
		return none, fmt.Errorf("enrichment: %w", err)
	}
	if cfg.Rules.Shipped { // the provider's own fields need no enrichment
		for _, w := range enricher.Warnings() {
			fmt.Fprintln(s.Err, "warning:", w)
		}
	}
	o := replay.Options{Rules: set, Enricher: enricher, Type: event.Type(c.Type), Paths: c.Paths, Stdin: s.In}
	if terminal(s.Err) {
		var bar *progressbar.ProgressBar
		o.Progress = func(p replay.Progress) {
			if bar == nil {
				bar = progressbar.NewOptions64(p.Total, progressbar.OptionSetWriter(s.Err), progressbar.OptionShowBytes(true),
					progressbar.OptionSetDescription("replay"), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100_000_000))
			}
			bar.Set64(p.Bytes)
		}
		defer func() {
			if bar != nil {
				bar.Finish()
			}
		}()
	}
	res, err := replay.Run(ctx, o)
	if res.Skipped != nil {
		fmt.Fprintln(s.Err, "warning:", res.Skipped)
	}
	return res, err
}

// terminal tells whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
