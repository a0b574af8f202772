package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vedette-sec/vedette/bench"
	"github.com/vedette-sec/vedette/config"
)

// BenchCmd measures.
type BenchCmd struct {
	Events   int           `default:"400000" placeholder:"N" help:"Records to append as fast as they are taken (${default})."`
	Rate     float64       `placeholder:"EVENTS/S" help:"Pace at which latency is measured; 80 % of what was taken by default."`
	Duration time.Duration `default:"15s" help:"For how long (${default})."`
	Rules    []string      `placeholder:"DIR" sep:"none" help:"Sigma rules to measure instead of the 60 stateful ones that are generated: a file or directory. Repeatable."`
	Brokers  []string      `placeholder:"HOST:PORT,…" help:"A Kafka to use instead of the embedded broker; vedette's topics must be empty."`
	DSN      string        `name:"dsn" env:"VEDETTE_BENCH_DSN" placeholder:"DSN" help:"An empty Postgres database to use instead of a managed local one."`
	Format   string        `default:"table" enum:"table,json" help:"table or json."`
	Keys     int           `placeholder:"N" help:"Measure instead what the state of N live keys costs, and how soon a killed owner of them is live again."`
	Backlog  int           `placeholder:"N" help:"Measure instead how a service catches up with N queued records, and compare what it finds with a live run over the same."`
}

// Run measures and prints the report.
func (c *BenchCmd) Run(ctx context.Context, s *Streams) error {
	p := newProgress(s.Err)
	var report interface {
		JSON(w io.Writer) error
		Table(w io.Writer) error
	}
	var err error
	if c.Keys != 0 {
		report, err = bench.Keys(ctx, bench.KeysOptions{Keys: c.Keys, Progress: p.show})
	} else {
		o := bench.Options{
			Events: c.Events, Rate: c.Rate, Duration: c.Duration, Rules: c.Rules, Brokers: c.Brokers, DSN: c.DSN, Progress: p.show,
			Logger: newLogger(s.Err, config.Log{Level: "error"}),
		}
		if c.Backlog != 0 {
			o.Events = c.Backlog
			report, err = bench.Backlog(ctx, o)
		} else {
			report, err = bench.Run(ctx, o)
		}
	}
	p.clear()
	if err != nil {
		return err
	}
	if c.Format == "json" {
		err = report.JSON(s.Out)
	} else {
		err = report.Table(s.Out)
	}
	if b, ok := report.(*bench.BacklogReport); ok {
		err = errors.Join(err, b.Err())
	}
	return err
}

// progress shows how far a measurement is on one line of a terminal, and
// nothing elsewhere.
type progress struct {
	w io.Writer // nil: nobody looks

	mu   sync.Mutex
	last time.Time
}

func newProgress(w io.Writer) *progress {
	p := &progress{}
	if f, ok := w.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
			p.w = w
		}
	}
	return p
}

func (p *progress) show(at bench.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last = time.Now()
	text := at.Stage
	if at.Of > 0 {
		text = fmt.Sprintf("%s: %d of %d", at.Stage, at.Done, at.Of)
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
}

func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
