package tracing

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	batchSpans = 512         // sent at once, at most
	batchEvery = time.Second // what there is, is sent
)

// queue is the span processor: it takes spans that have ended and never waits for
// the exporter. OpenTelemetry's own does the same but does not say how much it drops.
type queue struct {
	exporter sdktrace.SpanExporter
	spans    chan sdktrace.ReadOnlySpan
	metrics  *metrics
	logger   *slog.Logger

	closed atomic.Bool
	stop   chan struct{} // closed by Shutdown
	once   sync.Once
	flush  chan chan struct{}
	done   chan struct{}      // closed when run has ended
	ctx    context.Context    // of requests; ends when Shutdown has waited long enough
	cancel context.CancelFunc // of ctx

	failing bool // run's own
}

type metrics struct {
	sent, dropped, failed prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vedette_trace_spans_total",
		Help: "Spans that ended, by outcome: sent, dropped because the queue was full, failed because the collector did not take them.",
	}, []string{"outcome"})
	if r != nil {
		r.MustRegister(spans)
	}
	return &metrics{spans.WithLabelValues("sent"), spans.WithLabelValues("dropped"), spans.WithLabelValues("failed")}
}

func newQueue(e sdktrace.SpanExporter, size int, m *metrics, logger *slog.Logger) *queue {
	q := &queue{
		exporter: e, spans: make(chan sdktrace.ReadOnlySpan, size), metrics: m, logger: logger,
		stop: make(chan struct{}), flush: make(chan chan struct{}), done: make(chan struct{}),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	go q.run()
	return q
}

// OnStart does nothing.
func (*queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a span if there is room.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if !q.closed.Load() {
		select {
		case q.spans <- s:
			return
		default:
		}
	}
	q.metrics.dropped.Inc()
}

func (q *queue) run() {
	defer close(q.done)
	t := time.NewTicker(batchEvery)
	defer t.Stop()
	batch := make([]sdktrace.ReadOnlySpan, 0, batchSpans)
	send := func() {
		q.send(batch)
		clear(batch)
		batch = batch[:0]
	}
	take := func(s sdktrace.ReadOnlySpan) {
		if batch = append(batch, s); len(batch) == batchSpans {
			send()
		}
	}
	drain := func() {
		for {
			select {
			case s := <-q.spans:
				take(s)
			default:
				send()
				return
			}
		}
	}
	for {
		select {
		case s := <-q.spans:
			take(s)
		case <-t.C:
			send()
		case asked := <-q.flush:
			drain()
			close(asked)
		case <-q.stop:
			drain()
			return
		}
	}
}

func (q *queue) send(batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(q.ctx, sendWithin)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, batch)
	if err == nil {
		q.metrics.sent.Add(float64(len(batch)))
		if q.failing {
			q.logger.Info("traces are sent again")
		}
		q.failing = false
		return
	}
	q.metrics.failed.Add(float64(len(batch)))
	if !q.failing {
		q.logger.Warn("traces cannot be sent", "err", err)
	}
	q.failing = true
}

// ForceFlush sends what waits.
func (q *queue) ForceFlush(ctx context.Context) error {
	asked := make(chan struct{})
	select {
	case q.flush <- asked:
	case <-q.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-asked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown sends what waits and ends; when ctx is over it gives up what is left.
func (q *queue) Shutdown(ctx context.Context) error {
	q.once.Do(func() {
		q.closed.Store(true)
		close(q.stop)
	})
	var err error
	select {
	case <-q.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.cancel()
	<-q.done // a request ends with its context
	q.metrics.dropped.Add(float64(len(q.spans)))
	return errors.Join(err, q.exporter.Shutdown(context.WithoutCancel(ctx)))
}
