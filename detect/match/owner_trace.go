package match

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/vedette-sec/vedette/stream"
)

// A batch, to a trace, is what goes out together: which records do is known only when
// they do. Until then a worker notes when it did what.

// lap is a stretch of time.
type lap struct{ began, ended time.Time }

// What a batch tells of is bounded: laps past the most lengthen the last one.
const (
	maxLaps  = 8
	maxLinks = 32
)

// notes is what is told of the records that go out next. Nil: nobody listens.
type notes struct {
	fetched, judged []lap
	waited          time.Duration // for the slowest source
	from            int64         // offset of the first record
	records         int
	links           []trace.Link // to the spans that records were appended in
}

func addLap(laps []lap, l lap) []lap {
	if n := len(laps); n == maxLaps {
		laps[n-1].ended = l.ended
		return laps
	}
	return append(laps, l)
}

// judge notes that records, some of those of a fetch, were judged.
func (n *notes) judge(fetched, judged lap, recs []stream.Record) {
	if n == nil {
		return
	}
	if n.records == 0 {
		n.from = recs[0].Offset
	}
	n.records += len(recs)
	if k := len(n.fetched); k == 0 || n.fetched[k-1].ended.Before(fetched.ended) {
		n.fetched = addLap(n.fetched, fetched)
	}
	n.judged = addLap(n.judged, judged)
	for i := range recs {
		if len(n.links) == maxLinks {
			return
		}
		if sc, ok := stream.TraceOf(&recs[i]); ok {
			n.links = append(n.links, trace.Link{SpanContext: sc})
		}
	}
}

func (n *notes) wait(began time.Time) {
	if n != nil {
		n.waited += time.Since(began)
	}
}

// trace begins the span of a batch, as if it had begun with its first record, has
// its sections name it, and starts new notes.
func (w *worker) trace(f *flight) {
	n := w.notes
	if n == nil {
		return
	}
	w.notes = &notes{}
	began := time.Now()
	if len(n.fetched) > 0 {
		began = n.fetched[0].began
	}
	tracer := w.s.owner.o.Tracer
	ctx, span := tracer.Start(context.Background(), "match batch", trace.WithTimestamp(began), trace.WithLinks(n.links...))
	f.span = span
	if !span.IsRecording() {
		return
	}
	sections := 0
	for p := range f.sections {
		sections += len(f.sections[p])
		f.sections[p] = stream.WithTrace(ctx, f.sections[p])
	}
	span.SetAttributes(
		attribute.Int("vedette.source.partition", int(w.s.id.Partition)), attribute.Int64("vedette.offset.from", n.from),
		attribute.Int64("vedette.offset.to", w.pos), attribute.Int("vedette.records", n.records), attribute.Int("vedette.sections", sections),
		attribute.Int("vedette.dead_letters", len(f.letters)), attribute.Bool("vedette.position_saved", f.save != nil),
		attribute.Float64("vedette.waited_for_others.seconds", n.waited.Seconds()), attribute.String("vedette.generation", w.generation),
	)
	for _, kind := range []struct {
		name string
		laps []lap
	}{{"fetch", n.fetched}, {"judge", n.judged}} {
		for _, l := range kind.laps {
			_, s := tracer.Start(ctx, kind.name, trace.WithTimestamp(l.began))
			s.End(trace.WithTimestamp(l.ended))
		}
	}
}

func endSpan(s trace.Span, err error) {
	if err != nil {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End()
}
