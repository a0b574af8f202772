package push

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest"
	"github.com/vedette-sec/vedette/stream"
)

// Bounds of a batch, and of how much rubbish one body may hold: each piece costs
// a round trip to Kafka.
const (
	batchBytes   = 1 << 20
	batchRecords = 4096
	maxDead      = 1000
)

// taking is one body being taken.
type taking struct {
	h              *Handler
	tenant, origin string
	typ            event.Type
	res            Result

	arena []byte // the records of the batch, one after the other
	ends  []int  // where each ends
	batch []stream.LogMessage
}

// run cuts the body into records and appends them. res counts only what was
// acknowledged.
func (t *taking) run(ctx context.Context, body *source) *refusal {
	s := ingest.NewSplitter(body, ingest.SplitOptions{MaxRecord: t.h.o.MaxRecord, MaxTotal: t.h.o.MaxExpanded})
	for {
		rec, err := s.Next()
		switch {
		case errors.Is(err, io.EOF):
			return t.flush(ctx)
		case errors.Is(err, ingest.ErrTotal):
			return &refusal{status: http.StatusRequestEntityTooLarge, detail: "The body is too long once it is decompressed: send several.", err: err}
		case err != nil:
			return readRefusal(body.err, &refusal{status: http.StatusInternalServerError, detail: "The body could not be split.", err: err})
		}
		if no := t.add(ctx, rec); no != nil {
			return no
		}
	}
}

func (t *taking) add(ctx context.Context, rec ingest.Record) *refusal {
	if rec.Err != nil {
		return t.deadLetter(ctx, rec)
	}
	t.arena = append(t.arena, rec.Data...)
	t.ends = append(t.ends, len(t.arena))
	if len(t.arena) < batchBytes && len(t.ends) < batchRecords {
		return nil
	}
	return t.flush(ctx)
}

// flush appends the batch.
func (t *taking) flush(ctx context.Context) *refusal {
	if len(t.ends) == 0 {
		return nil
	}
	t.batch = t.batch[:0]
	from := 0
	for _, end := range t.ends {
		t.batch = append(t.batch, stream.LogMessage{
			Kind: stream.KindRecord, Tenant: t.tenant, Type: string(t.typ), Origin: t.origin, Value: t.arena[from:end:end],
		})
		from = end
	}
	if err := t.h.o.Appender.Append(ctx, t.batch); err != nil {
		return away(err)
	}
	t.res.Accepted += int64(len(t.batch))
	t.h.metrics.records.WithLabelValues("accepted").Add(float64(len(t.batch)))
	t.arena, t.ends = t.arena[:0], t.ends[:0]
	return nil
}

// deadLetter keeps a piece that is no record.
func (t *taking) deadLetter(ctx context.Context, rec ingest.Record) *refusal {
	if t.res.DeadLettered >= maxDead {
		return &refusal{status: http.StatusBadRequest, detail: "More than 1000 pieces of the body are no records: is it a log at all?"}
	}
	d := stream.DeadLetter{
		Reason: string(ingest.ReasonInvalid), Detail: rec.Err.Error(),
		Tenant: t.tenant, Type: string(t.typ), Origin: t.origin, Partition: -1, Offset: -1, Value: rec.Data,
	}
	var se *ingest.SplitError
	if errors.As(rec.Err, &se) {
		d.Reason, d.SHA256 = string(se.Reason), se.SHA256
	}
	if err := t.h.o.Appender.DeadLetter(ctx, d); err != nil {
		return away(err)
	}
	t.res.DeadLettered++
	t.h.metrics.records.WithLabelValues("dead_lettered").Inc()
	return nil
}

func away(err error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, retryAfter: "5", detail: "The log cannot be written at the moment: send it again later.", err: err}
}
