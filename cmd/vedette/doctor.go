package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

// DoctorCmd looks at everything that the service depends on.
type DoctorCmd struct {
	Config   string        `required:"" placeholder:"FILE" help:"The configuration file."`
	Format   string        `enum:"table,json" default:"table" help:"table for people: one line a check; json for programs."`
	SendTest bool          `help:"Send a test message, and its resolution, to every receiver."`
	Timeout  time.Duration `default:"15s" help:"Of one check (${default})."`
}

// Run looks. Exit status: 0 nothing failed, 1 something did, 2 bad usage.
func (c *DoctorCmd) Run(ctx context.Context, s *Streams) error {
	if c.Timeout <= 0 {
		return &ExitError{2, fmt.Errorf("--timeout %v: want more than 0", c.Timeout)}
	}
	v := visit{out: s.Out, json: c.Format == "json", counts: map[doctor.Status]int{}, Results: []doctor.Result{}}
	cfg, err := config.Load(c.Config)
	for _, problem := range each(err) {
		v.add(doctor.Result{
			Check: "configuration", Status: doctor.Fail, Detail: problem.Error(), Remedy: "correct the file: see docs/configuration.md",
		})
	}
	if err == nil {
		v.add(doctor.Result{Check: "configuration", Status: doctor.OK, Detail: c.Config + " is valid"})
		client := alerting.NewClient(alerting.ClientOptions{AllowInsecure: cfg.Alerting.AllowInsecure})
		defer client.Close()
		if err := doctor.Run(ctx, c.options(cfg, client), v.add); err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
	}
	if err := v.end(); err != nil {
		return err
	}
	if v.counts[doctor.Fail] > 0 {
		return &ExitError{Code: 1}
	}
	return nil
}

// each takes joined errors apart.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

func (c *DoctorCmd) options(cfg *config.Config, client *alerting.Client) doctor.Options {
	return doctor.Options{
		Config: cfg,
		OpenKafka: func() (doctor.Kafka, error) {
			return stream.NewClient(app.KafkaConfig(cfg.Kafka))
		},
		OpenLedger: func(ctx context.Context) (doctor.Ledger, error) {
			// One connection, and no patience: an outage is what is looked for.
			return storage.Open(ctx, storage.Options{
				DSN: cfg.Postgres.DSN.Reveal(), MaxConns: 1, ReadOnly: true, Patience: time.Millisecond, Log: slog.New(slog.DiscardHandler),
			})
		},
		Rules: func() (*rule.Set, []rule.Warning, error) {
			sources, _, err := app.RuleSources(cfg.Rules)
			if err != nil {
				return nil, nil, err
			}
			return rule.FromSources(sources)
		},
		Inventory: app.Inventory(cfg.Enrich.Inventory),
		Notifier:  func(r config.Receiver) (alerting.Notifier, error) { return app.Notifier(r, client) },
		SendTest:  c.SendTest,
		Timeout:   c.Timeout,
	}
}

// visit shows the results of one run.
type visit struct {
	out    io.Writer
	json   bool
	counts map[doctor.Status]int
	errs   []error

	Results []doctor.Result
}

func (v *visit) add(r doctor.Result) {
	v.counts[r.Status]++
	v.Results = append(v.Results, r)
	if v.json {
		return
	}
	line := r.Check + ": " + r.Detail
	if r.Remedy != "" {
		line += " → " + r.Remedy
	}
	_, err := fmt.Fprintf(v.out, "%-4s  %s\n", r.Status, oneLine(line))
	v.errs = append(v.errs, err)
}

// end writes what is left to write.
func (v *visit) end() error {
	n := v.counts
	if v.json {
		e := json.NewEncoder(v.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(struct {
			OK      bool            `json:"ok"`
			Results []doctor.Result `json:"results"`
		}{n[doctor.Fail] == 0, v.Results})
	}
	summary := fmt.Sprintf("%d ok, %d to look at, %d failed", n[doctor.OK], n[doctor.Warn], n[doctor.Fail])
	if n[doctor.Skip] > 0 {
		summary += fmt.Sprintf(", %d not looked at", n[doctor.Skip])
	}
	_, err := fmt.Fprintln(v.out, summary)
	return errors.Join(append(v.errs, err)...)
}
