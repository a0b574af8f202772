package incident

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Options configure an Assembler and a Desk. Zero durations and numbers mean the
// defaults.
type Options struct {
	Ledger    Ledger
	Receivers []Receiver

	Join        time.Duration // findings that share an entity lie at most this far apart; 30 min
	Repeat      time.Duration // findings of one rule and key lie at most this far apart; 2 h
	Reopen      time.Duration // a resolved incident takes new findings for this long; 24 h
	FloodKeys   int           // so many keys of one rule in one tile are one incident; 50
	CommonRules int           // an entity on which more rules found something in a day joins no more; 30

	Batch int           // findings assembled in one transaction, about; 500, and up to 16 times as many of a backlog
	Poll  time.Duration // how often an idle assembler looks; 100 ms
	// Deadline bounds one transaction; 30 s.
	Deadline time.Duration

	// Records is where evidence is copied from; nil copies none.
	Records Records

	// State is told why the assembler does not get on with what it is doing, and nil
	// once it does again, or it is no longer its to tell. nil: nobody asks.
	State func(doing string, err error)

	Now        func() time.Time      // time.Now if nil
	Logger     *slog.Logger          // discards if nil
	Registerer prometheus.Registerer // keeps metrics to itself if nil
	Tracer     trace.Tracer          // none if nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Ledger == nil {
		return o, errors.New("incident: Ledger is missing")
	}
	for _, d := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"Join", &o.Join, 30 * time.Minute},
		{"Repeat", &o.Repeat, 2 * time.Hour},
		{"Reopen", &o.Reopen, 24 * time.Hour},
		{"Poll", &o.Poll, 100 * time.Millisecond},
		{"Deadline", &o.Deadline, 30 * time.Second},
	} {
		if *d.v < 0 {
			return o, fmt.Errorf("incident: %s is negative: %v", d.name, *d.v)
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	for _, n := range []struct {
		name string
		v    *int
		def  int
	}{{"FloodKeys", &o.FloodKeys, 50}, {"CommonRules", &o.CommonRules, 30}, {"Batch", &o.Batch, 500}} {
		if *n.v < 0 {
			return o, fmt.Errorf("incident: %s is negative: %d", n.name, *n.v)
		}
		if *n.v == 0 {
			*n.v = n.def
		}
	}
	seen := map[string]bool{}
	for _, r := range o.Receivers {
		if r.Name == "" || seen[r.Name] {
			return o, fmt.Errorf("incident: receiver %q: names must be unique and not empty", r.Name)
		}
		seen[r.Name] = true
	}
	if o.State == nil {
		o.State = func(string, error) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Tracer == nil {
		o.Tracer = noop.Tracer{}
	}
	return o, nil
}
