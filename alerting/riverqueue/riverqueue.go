// Package riverqueue keeps the jobs of alerting in Postgres with River.
package riverqueue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/incident"
)

// Options configure a Queue. Zero durations and numbers mean the defaults.
type Options struct {
	Pool      *pgxpool.Pool
	Receivers []string // each has a queue of its own, so that one that hangs holds up no other

	Workers int           // at once, for each receiver; 4
	Timeout time.Duration // of one job, more than a notifier's deadline; 45 s
	Rescue  time.Duration // a job of a process that died is run again after this; 2 min
	Stop    time.Duration // how long jobs under way may take to end when Run is to, before they are cancelled; 2 s
	Fetch   time.Duration // least time between two fetches; 50 ms
	Logger  *slog.Logger  // discards if nil
}

// Queue is an alerting.Queue.
type Queue struct {
	opts   Options
	insert *river.Client[pgx.Tx] // inserts only
}

var _ alerting.Queue = (*Queue)(nil)

// New makes a queue.
func New(o Options) (*Queue, error) {
	if o.Pool == nil {
		return nil, errors.New("riverqueue: Pool is missing")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.Timeout, 45 * time.Second}, {&o.Rescue, 2 * time.Minute}, {&o.Stop, 2 * time.Second}, {&o.Fetch, 50 * time.Millisecond}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := river.NewClient(riverpgxv5.New(o.Pool), &river.Config{Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("riverqueue: %w", err)
	}
	return &Queue{opts: o, insert: c}, nil
}

// args are a job's arguments.
type args struct {
	Tenant   string `json:"tenant"`
	Incident string `json:"incident"`
	Receiver string `json:"receiver"`
	Trace    string `json:"trace,omitempty"` // W3C traceparent of the span that queued it
}

// Kind names the jobs in River.
func (args) Kind() string { return "vedette_notify" }

// attempts is more than a job can need: pauses are snoozes, which do not count,
// and only a process that dies while it works spends one.
const attempts = 1000

// queueOf names a receiver's queue: River allows 64 characters, of few kinds.
func queueOf(receiver string) string {
	sum := sha256.Sum256([]byte(receiver))
	return "notify_" + hex.EncodeToString(sum[:12])
}

// Enqueue inserts a job for each delivery.
func (q *Queue) Enqueue(ctx context.Context, tx pgx.Tx, ds []alerting.Delivery) ([]int64, error) {
	from := propagation.MapCarrier{}
	if trace.SpanContextFromContext(ctx).IsSampled() {
		propagation.TraceContext{}.Inject(ctx, from)
	}
	params := make([]river.InsertManyParams, len(ds))
	for i, d := range ds {
		params[i] = river.InsertManyParams{
			Args:       args{Tenant: d.Tenant, Incident: d.Incident.String(), Receiver: d.Receiver, Trace: from["traceparent"]},
			InsertOpts: &river.InsertOpts{Queue: queueOf(d.Receiver), MaxAttempts: attempts},
		}
	}
	res, err := q.insert.InsertManyTx(ctx, tx, params)
	if err != nil {
		return nil, fmt.Errorf("insert jobs: %w", err)
	}
	ids := make([]int64, len(res))
	for i, r := range res {
		ids[i] = r.Job.ID
	}
	return ids, nil
}

// Run works jobs until ctx ends.
func (q *Queue) Run(ctx context.Context, work func(context.Context, int64, alerting.Delivery) (time.Duration, error)) error {
	queues := map[string]river.QueueConfig{}
	for _, r := range q.opts.Receivers {
		queues[queueOf(r)] = river.QueueConfig{MaxWorkers: q.opts.Workers}
	}
	if len(queues) == 0 {
		<-ctx.Done()
		return nil
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{work: work})
	c, err := river.NewClient(riverpgxv5.New(q.opts.Pool), &river.Config{
		Queues: queues, Workers: workers, Logger: q.opts.Logger,
		FetchCooldown: q.opts.Fetch, FetchPollInterval: max(q.opts.Fetch, time.Second),
		JobTimeout: q.opts.Timeout, RescueStuckJobsAfter: max(q.opts.Rescue, q.opts.Timeout+time.Second),
		RetryPolicy:                 soon{},
		CompletedJobRetentionPeriod: time.Hour, DiscardedJobRetentionPeriod: 24 * time.Hour, CancelledJobRetentionPeriod: 24 * time.Hour,
	})
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	// The client outlives ctx by the time that it takes to stop in order.
	if err := c.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start client: %w", err)
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.opts.Stop)
	defer cancel()
	if err := c.Stop(stop); err == nil {
		return nil
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.opts.Stop)
	defer cancel()
	if err := c.StopAndCancel(hard); err != nil {
		return fmt.Errorf("stop client: %w", err)
	}
	return nil
}

type worker struct {
	river.WorkerDefaults[args]
	work func(context.Context, int64, alerting.Delivery) (time.Duration, error)
}

// Work works one job.
func (w *worker) Work(ctx context.Context, job *river.Job[args]) error {
	id, err := incident.ParseID(job.Args.Incident)
	if err != nil {
		return river.JobCancel(err)
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": job.Args.Trace})
	again, err := w.work(ctx, job.ID, alerting.Delivery{Tenant: job.Args.Tenant, Incident: id, Receiver: job.Args.Receiver})
	switch {
	case err != nil:
		return err
	case again < 0:
		return nil
	}
	return river.JobSnooze(again)
}

// soon retries what failed on our side, such as a database that was away: how
// long to wait for a receiver is decided by alerting.
type soon struct{}

// NextRetry is a few seconds from the last attempt.
func (soon) NextRetry(job *rivertype.JobRow) time.Time {
	pause := min(time.Duration(len(job.Errors)+1)*time.Second, 10*time.Second)
	if job.AttemptedAt == nil {
		return time.Now().Add(pause)
	}
	return job.AttemptedAt.Add(pause)
}
