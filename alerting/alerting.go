package alerting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sync/errgroup"

	"github.com/vedette-sec/vedette/incident"
)

// Options configure Alerting. Zero durations and numbers mean the defaults.
type Options struct {
	Store     Store
	Queue     Queue
	Receivers []Receiver

	// Link makes the address of an incident in the console, for messages; nil
	// makes none.
	Link func(tenant string, id incident.ID) string

	Update   time.Duration // further findings are told this long after the last message at the earliest; 5 min
	GiveUp   time.Duration // an attempt that still fails after this is the last; 72 h
	Backoff  time.Duration // the first pause after a failure; 2 s
	MaxPause time.Duration // the longest pause; 10 min
	Poll     time.Duration // how often due intents are looked for; 500 ms
	Repair   time.Duration // how often lost jobs and the backlog are looked for; 15 s
	Deadline time.Duration // of a transaction; 15 s

	Now        func() time.Time      // time.Now if nil
	Jitter     func() float64        // in [0, 1); math/rand/v2 if nil
	Logger     *slog.Logger          // discards if nil
	Registerer prometheus.Registerer // keeps metrics to itself if nil
	Tracer     trace.Tracer          // none if nil
}

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Store == nil:
		return o, errors.New("alerting: Store is missing")
	case o.Queue == nil:
		return o, errors.New("alerting: Queue is missing")
	}
	for _, d := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"Update", &o.Update, 5 * time.Minute},
		{"GiveUp", &o.GiveUp, 72 * time.Hour},
		{"Backoff", &o.Backoff, 2 * time.Second},
		{"MaxPause", &o.MaxPause, 10 * time.Minute},
		{"Poll", &o.Poll, 500 * time.Millisecond},
		{"Repair", &o.Repair, 15 * time.Second},
		{"Deadline", &o.Deadline, 15 * time.Second},
	} {
		if *d.v < 0 {
			return o, fmt.Errorf("alerting: %s is negative: %v", d.name, *d.v)
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	seen := map[string]bool{}
	for _, r := range o.Receivers {
		switch {
		case r.Name == "" || seen[r.Name]:
			return o, fmt.Errorf("alerting: receiver %q: names must be unique and not empty", r.Name)
		case r.Notifier == nil:
			return o, fmt.Errorf("alerting: receiver %q has no notifier", r.Name)
		}
		seen[r.Name] = true
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
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

// Alerting queues due intents and delivers them.
type Alerting struct {
	opts      Options
	m         *metrics
	receivers map[string]Receiver
	names     []string

	mu    sync.Mutex
	quiet map[string]time.Time // receivers that asked to be left alone, until when
}

// New makes an Alerting.
func New(o Options) (*Alerting, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Alerting{opts: o, receivers: map[string]Receiver{}, quiet: map[string]time.Time{}}
	for _, r := range o.Receivers {
		a.receivers[r.Name] = r
		a.names = append(a.names, r.Name)
	}
	if a.m, err = newMetrics(o.Registerer, a.names); err != nil {
		return nil, fmt.Errorf("alerting: register metrics: %w", err)
	}
	return a, nil
}

// Run queues and delivers until ctx ends, and returns nil then. Failures of the
// store are logged and tried again; an error means that the queue cannot run.
func (a *Alerting) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := a.opts.Queue.Run(ctx, a.Work); err != nil {
			return fmt.Errorf("alerting: run queue: %w", err)
		}
		return nil
	})
	if len(a.names) > 0 {
		g.Go(func() error {
			a.every(ctx, "queue due notifications", a.opts.Poll, func(ctx context.Context) (bool, error) {
				n, err := a.Dispatch(ctx)
				return n == dispatchLimit, err
			})
			return nil
		})
	}
	g.Go(func() error {
		a.every(ctx, "look for lost notifications", a.opts.Repair, func(ctx context.Context) (bool, error) {
			return false, a.Survey(ctx)
		})
		return nil
	})
	return g.Wait()
}

// every runs step until ctx ends, again at once while it says so.
func (a *Alerting) every(ctx context.Context, what string, pause time.Duration, step func(context.Context) (more bool, err error)) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		more, err := step(ctx)
		if err != nil && ctx.Err() == nil {
			a.opts.Logger.Error("alerting failed; trying again", "doing", what, "err", err)
		}
		if more && err == nil {
			t.Reset(0)
		} else {
			t.Reset(pause)
		}
	}
}

// dispatchLimit bounds how many intents one transaction queues.
const dispatchLimit = 100

// Dispatch queues due intents in one transaction and returns how many.
func (a *Alerting) Dispatch(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	began := time.Now()
	var span trace.Span // nil until something is due: it is asked for all the time
	n, err := a.opts.Store.Dispatch(ctx, a.names, dispatchLimit, func(ctx context.Context, tx pgx.Tx, ds []Delivery) ([]int64, error) {
		ctx, span = a.opts.Tracer.Start(ctx, "queue alerts", trace.WithTimestamp(began))
		return a.opts.Queue.Enqueue(ctx, tx, ds)
	})
	if span != nil {
		span.SetAttributes(attribute.Int("vedette.alerts", n))
		endSpan(span, err)
	}
	if err != nil {
		return 0, fmt.Errorf("queue due intents: %w", err)
	}
	a.m.queued.Add(float64(n))
	return n, nil
}

// Survey frees intents whose jobs were lost and measures the backlog.
func (a *Alerting) Survey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	n, err := a.opts.Store.Repair(ctx)
	if err != nil {
		return fmt.Errorf("free intents of lost jobs: %w", err)
	}
	if n > 0 {
		a.m.lost.Add(float64(n))
		a.opts.Logger.Warn("jobs of notifications were lost; queueing them again", "intents", n)
	}
	waiting, err := a.opts.Store.Backlog(ctx)
	if err != nil {
		return fmt.Errorf("measure backlog: %w", err)
	}
	for _, name := range a.names {
		age := 0.0
		if t, ok := waiting[name]; ok {
			age = max(0, a.opts.Now().Sub(t).Seconds())
		}
		a.m.oldest.WithLabelValues(name).Set(age)
	}
	return nil
}

// done is what Work returns when a job has nothing left to do.
const done = time.Duration(-1)

// Work works one job: it tells its receiver what is so now, and returns after
// how long to run again, or a negative duration when it is done.
func (a *Alerting) Work(ctx context.Context, job int64, d Delivery) (again time.Duration, err error) {
	r, ok := a.receivers[d.Receiver]
	if !ok { // no longer configured
		return done, a.record(ctx, func(ctx context.Context) error {
			return a.opts.Store.Failed(ctx, d, job, "the receiver is not configured", a.opts.Now(), true)
		})
	}
	s, found, err := a.subject(ctx, d)
	if err != nil {
		return 0, err
	}
	if !found || s.Intent.Job != job {
		return done, nil // another job stands for it
	}
	now := a.opts.Now()
	p := decide(s, now, a.opts.Update)
	switch p.action {
	case actSkip:
		return done, a.delivered(ctx, job, d, s, p.event, true)
	case actWait:
		return p.wait, nil
	}
	if wait := a.quietFor(d.Receiver, now); wait > 0 {
		return wait, nil
	}
	ctx, span := a.span(ctx, d, s, p.event)
	defer func() { endSpan(span, err) }()
	if ok, err := a.attempt(ctx, d, job); err != nil || !ok {
		return done, err
	}
	retryAfter, err := r.Notifier.Notify(ctx, a.notification(s, p.event, now))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return a.failed(ctx, job, d, s, failureOf(err), retryAfter)
	}
	a.m.delivered.WithLabelValues(d.Receiver).Inc()
	a.opts.Logger.Info("notification delivered", "receiver", d.Receiver, "tenant", d.Tenant,
		"incident", d.Incident.String(), "version", s.Incident.Version, "event", string(p.event))
	return done, a.delivered(ctx, job, d, s, p.event, false)
}

// span begins the span of one attempt to tell of an incident. It is linked to where
// that was queued, which may be days ago.
func (a *Alerting) span(ctx context.Context, d Delivery, s Subject, e Event) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindClient)}
	if queued := trace.SpanContextFromContext(ctx); queued.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: queued}))
	}
	ctx, span := a.opts.Tracer.Start(ctx, "deliver alert", opts...)
	if span.IsRecording() {
		span.SetAttributes(attribute.String("vedette.incident.id", d.Incident.String()), attribute.String("vedette.tenant", d.Tenant),
			attribute.String("vedette.receiver", d.Receiver), attribute.String("vedette.alert.event", string(e)),
			attribute.Int64("vedette.incident.version", s.Incident.Version), attribute.Int("vedette.alert.attempt", int(s.Intent.Attempts)+1))
	}
	return ctx, span
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

func (a *Alerting) subject(ctx context.Context, d Delivery) (Subject, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	s, found, err := a.opts.Store.Subject(ctx, d)
	if err != nil {
		return s, false, fmt.Errorf("read what to tell: %w", err)
	}
	return s, found, nil
}

func (a *Alerting) attempt(ctx context.Context, d Delivery, job int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Deadline)
	defer cancel()
	ok, err := a.opts.Store.Attempt(ctx, d, job)
	if err != nil {
		return false, fmt.Errorf("note attempt: %w", err)
	}
	return ok, nil
}

func (a *Alerting) delivered(ctx context.Context, job int64, d Delivery, s Subject, e Event, silent bool) error {
	return a.record(ctx, func(ctx context.Context) error {
		return a.opts.Store.Delivered(ctx, d, job, Done{
			Version: s.Incident.Version, Event: e, Severity: s.Incident.Severity, At: a.opts.Now(), Silent: silent,
		})
	})
}

// record writes what has happened, also while we stop: what was told is told.
func (a *Alerting) record(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.opts.Deadline)
	defer cancel()
	if err := f(ctx); err != nil {
		return fmt.Errorf("record delivery: %w", err)
	}
	return nil
}

func (a *Alerting) failed(ctx context.Context, job int64, d Delivery, s Subject, f *Failure, retryAfter time.Duration) (time.Duration, error) {
	if f.Reason == ReasonCanceled && ctx.Err() != nil {
		return 0, nil // we stop; the next start goes on at once
	}
	now := a.opts.Now()
	giveUp := !f.Retry || !s.Intent.FailingSince.IsZero() && now.Sub(s.Intent.FailingSince) >= a.opts.GiveUp
	a.m.failed.WithLabelValues(d.Receiver, string(f.Reason)).Inc()
	a.opts.Logger.Warn("notification not delivered", "receiver", d.Receiver, "tenant", d.Tenant,
		"incident", d.Incident.String(), "reason", string(f.Reason), "err", f, "attempt", s.Intent.Attempts+1, "given_up", giveUp)
	err := a.record(ctx, func(ctx context.Context) error {
		return a.opts.Store.Failed(ctx, d, job, f.Error(), now, giveUp)
	})
	if giveUp {
		a.m.givenUp.WithLabelValues(d.Receiver).Inc()
		return done, err
	}
	if f.Reason == ReasonThrottled {
		a.keepQuiet(d.Receiver, now.Add(retryAfter))
	}
	return max(retryAfter, backoff(s.Intent.Attempts, a.opts.Backoff, a.opts.MaxPause, a.opts.Jitter())), err
}

func (a *Alerting) quietFor(receiver string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.quiet[receiver].Sub(now)
}

func (a *Alerting) keepQuiet(receiver string, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until.After(a.quiet[receiver]) {
		a.quiet[receiver] = until
	}
}

func (a *Alerting) notification(s Subject, e Event, now time.Time) Notification {
	n := Notification{Event: e, Update: !s.Intent.LastAt.IsZero(), Incident: s.Incident, Entities: s.Entities, At: now.UTC()}
	if s.LeadRule.Version != "" {
		n.Explanation = incident.Explain(s.Lead.Finding, s.LeadRule)
		n.Rules = append(n.Rules, s.LeadRule)
	}
	for _, r := range s.Rules {
		if r.Version != s.LeadRule.Version {
			n.Rules = append(n.Rules, r)
		}
	}
	if a.opts.Link != nil {
		n.URL = a.opts.Link(s.Incident.Tenant, s.Incident.ID)
		if !s.Incident.MergedInto.IsZero() {
			n.MergedURL = a.opts.Link(s.Incident.Tenant, s.Incident.MergedInto)
		}
	}
	return n
}
