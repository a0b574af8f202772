package stream

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// headerTrace is where the trace goes on that a message was written in: W3C trace
// context. One message of a batch has it, so that it costs nothing a record.
const headerTrace = "traceparent"

// WithTrace returns recs with the first naming the span of ctx, if that is kept.
// The headers of recs are not written to.
func WithTrace(ctx context.Context, recs []Record) []Record {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsSampled() || len(recs) == 0 {
		return recs
	}
	m := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, m)
	r := &recs[0]
	r.Headers = append(r.Headers[:len(r.Headers):len(r.Headers)], Header{Key: headerTrace, Value: []byte(m[headerTrace])})
	return recs
}

// TraceOf returns the span that a message says it was written in.
func TraceOf(r *Record) (trace.SpanContext, bool) {
	for i := range r.Headers {
		if h := &r.Headers[i]; h.Key == headerTrace && len(h.Value) <= maxHeader {
			ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{headerTrace: string(h.Value)})
			sc := trace.SpanContextFromContext(ctx)
			return sc, sc.IsValid()
		}
	}
	return trace.SpanContext{}, false
}

// span begins a span within that of ctx: who traces says so by having one.
func span(ctx context.Context, name, topic string, records int) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, noop.Span{}
	}
	return parent.TracerProvider().Tracer("github.com/vedette-sec/vedette/stream").Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("messaging.destination.name", topic), attribute.Int("messaging.batch.message_count", records)))
}

func end(s trace.Span, err error) {
	if err != nil {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End()
}
