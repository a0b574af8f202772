package stream

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// Who is not traced pays nothing: no message is longer, nothing is allocated.
func TestWithoutTraces(t *testing.T) {
	recs := []Record{{Value: []byte("{}"), Headers: []Header{{Key: headerTenant, Value: []byte("t")}}}}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		sctx, s := span(ctx, "append", TopicLogs, len(recs))
		recs = WithTrace(sctx, recs)
		end(s, nil)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if _, ok := TraceOf(&recs[0]); ok || len(recs[0].Headers) != 1 {
		t.Errorf("headers %v", recs[0].Headers)
	}
}

func TestTraceTravels(t *testing.T) {
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(t.Context(), sc)
	shared := make([]Header, 1, 4)
	shared[0] = Header{Key: headerOrigin, Value: []byte("o")}
	recs := WithTrace(ctx, []Record{{Value: []byte("a"), Headers: shared}, {Value: []byte("b"), Headers: shared}})
	got, ok := TraceOf(&recs[0])
	if !ok || got.TraceID() != sc.TraceID() || got.SpanID() != sc.SpanID() || !got.IsSampled() {
		t.Errorf("%+v travelled as %+v", sc, got)
	}
	if _, ok := TraceOf(&recs[1]); ok || len(shared[:2][1].Key) > 0 {
		t.Error("it is written to more than one message")
	}
	// Nobody who reads messages minds.
	recs[0].Headers = append(recs[0].Headers, Header{Key: headerTrace, Value: []byte("twice")})
	if m, err := DecodeLog(&recs[0], nil); err != nil || m.Origin != "o" {
		t.Errorf("decoded as %+v, %v", m, err)
	}
	for _, bad := range []string{"", "00", "00-00000000000000000000000000000000-0000000000000000-01", "zz-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"} {
		if sc, ok := TraceOf(&Record{Headers: []Header{{Key: headerTrace, Value: []byte(bad)}}}); ok {
			t.Errorf("%q is taken for %+v", bad, sc)
		}
	}
	unsampled := trace.ContextWithSpanContext(context.Background(), sc.WithTraceFlags(0))
	if recs := WithTrace(unsampled, []Record{{}}); len(recs[0].Headers) > 0 {
		t.Error("a trace that nobody keeps is told of")
	}
}
