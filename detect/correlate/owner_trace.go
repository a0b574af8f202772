package correlate

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vedette-sec/vedette/stream"
)

// lap is a stretch of time.
type lap struct{ began, ended time.Time }

// What a batch tells of is bounded: laps past the most lengthen the last one.
const (
	maxLaps  = 8
	maxLinks = 32
)

// notes is what a trace will tell of the messages that are applied between two
// checkpoints. Nil: nobody listens.
type notes struct {
	applied  []lap
	messages int
	links    []trace.Link // to the spans that match wrote them in
}

func (n *notes) apply(began time.Time, messages int, links []trace.Link) {
	if n == nil {
		return
	}
	n.messages += messages
	n.links = append(n.links, links[:min(len(links), maxLinks-len(n.links))]...)
	l := lap{began, time.Now()}
	if k := len(n.applied); k == maxLaps {
		n.applied[k-1].ended = l.ended
		return
	}
	n.applied = append(n.applied, l)
}

// links are the spans that messages say they were written in.
func (o *Owner) links(recs []stream.Record) (links []trace.Link) {
	if !o.traced {
		return nil
	}
	for i := range recs {
		if sc, ok := stream.TraceOf(&recs[i]); ok && len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: sc})
		}
	}
	return links
}

// batchSpan begins the span of what a checkpoint will hold, as if it had begun with
// the first message, and starts new notes.
func (s *session) batchSpan(ctx context.Context, c *Commit) (context.Context, trace.Span) {
	n := s.notes
	if n == nil {
		return ctx, noop.Span{}
	}
	s.notes = &notes{}
	began := time.Now()
	if len(n.applied) > 0 {
		began = n.applied[0].began
	}
	tracer := s.owner.o.Tracer
	ctx, span := tracer.Start(ctx, "correlate batch", trace.WithTimestamp(began), trace.WithLinks(n.links...))
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(
		attribute.Int("vedette.observations.partition", int(c.Partition)), attribute.Int64("vedette.offset.to", c.Mark.Position),
		attribute.Int("vedette.messages", n.messages), attribute.Int("vedette.findings", len(c.Findings)),
		attribute.Int("vedette.pages", len(c.Pages)), attribute.Bool("vedette.mark_saved", c.SaveMark),
	)
	for _, l := range n.applied {
		_, a := tracer.Start(ctx, "apply", trace.WithTimestamp(l.began))
		a.End(trace.WithTimestamp(l.ended))
	}
	return ctx, span
}

// taking is the trace of a takeover, from the question who has the partition to
// being live.
type taking struct {
	whole   trace.Span
	rebuild trace.Span // nil before
}

func (s *session) beginTaking(ctx context.Context) context.Context {
	ctx, s.taking.whole = s.owner.o.Tracer.Start(ctx, "take over",
		trace.WithAttributes(attribute.Int("vedette.observations.partition", int(s.owner.o.Partition))))
	return ctx
}

func (s *session) beginRebuild(ctx context.Context, from, to int64, snapshot bool) {
	_, s.taking.rebuild = s.owner.o.Tracer.Start(ctx, "rebuild", trace.WithAttributes(
		attribute.Int64("vedette.offset.from", from), attribute.Int64("vedette.offset.to", to), attribute.Bool("vedette.snapshot", snapshot)))
}

// endTaking is for the first that knows how it ended.
func (s *session) endTaking(err error) {
	if s.taking.rebuild != nil {
		endSpan(s.taking.rebuild, err)
	}
	if s.taking.whole != nil {
		endSpan(s.taking.whole, err)
	}
	s.taking = taking{}
}

func endSpan(s trace.Span, err error) {
	if err != nil {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End()
}
