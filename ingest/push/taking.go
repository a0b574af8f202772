package push

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest"
	"github.com/vedette-sec/vedette/stream"
)

// Bounds of a batch, and of how much rubbish one body may hold.
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

	dead      []stream.DeadLetter // not yet written
	deadBytes int
	noRecords int64 // pieces of the body that are none

	buffered int   // bytes of the splitter's buffer
	held     int64 // bytes of room
}

// run cuts the body into records and appends them. res counts only what was
// acknowledged.
func (t *taking) run(ctx context.Context, body *source) *refusal {
	s := ingest.NewSplitter(body, ingest.SplitOptions{
		MaxRecord: t.h.o.MaxRecord, MaxTotal: t.h.o.MaxExpanded,
		Buffer: func(size int) error {
			t.buffered = size
			if no := t.hold(ctx, 0); no != nil {
				return no
			}
			return nil
		},
	})
	for {
		rec, err := s.Next()
		if no, ok := errors.AsType[*refusal](err); ok {
			return no
		}
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

// hold takes room for n bytes beside what is gathered and the splitter's buffer.
// If there is too little, what is gathered is written now.
func (t *taking) hold(ctx context.Context, n int) *refusal {
	if t.claim(n) {
		return nil
	}
	if no := t.flush(ctx); no != nil {
		return no
	}
	if t.claim(n) {
		return nil
	}
	return full()
}

func (t *taking) claim(n int) bool {
	want := int64(t.buffered + len(t.arena) + t.deadBytes + n)
	if !t.h.room.change(t.held, want) {
		return false
	}
	t.held = want
	return true
}

func (t *taking) add(ctx context.Context, rec ingest.Record) *refusal {
	if rec.Err != nil {
		if t.noRecords++; t.noRecords > maxDead {
			// What was not yet written as a dead letter never is: if the client sends
			// this again after all, at least it does not fill the topic.
			return &refusal{
				status: http.StatusBadRequest, detail: "More than 1000 pieces of the body are no records. Is it a log at all? Do not send it again.",
				err: errors.New("too many pieces that are no records"),
			}
		}
	}
	if no := t.hold(ctx, len(rec.Data)); no != nil {
		return no
	}
	if rec.Err != nil {
		t.addDead(rec)
	} else {
		t.arena = append(t.arena, rec.Data...)
		t.ends = append(t.ends, len(t.arena))
	}
	if len(t.arena)+t.deadBytes < batchBytes && len(t.ends) < batchRecords {
		return nil
	}
	return t.flush(ctx)
}

// addDead keeps a piece that is no record for the dead letter topic.
func (t *taking) addDead(rec ingest.Record) {
	d := stream.DeadLetter{
		Reason: string(ingest.ReasonInvalid), Detail: rec.Err.Error(),
		Tenant: t.tenant, Type: string(t.typ), Origin: t.origin, Partition: -1, Offset: -1, Value: bytes.Clone(rec.Data),
	}
	if se, ok := errors.AsType[*ingest.SplitError](rec.Err); ok {
		d.Reason, d.SHA256 = string(se.Reason), se.SHA256
	}
	t.dead = append(t.dead, d)
	t.deadBytes += len(d.Value)
}

// flush writes what is gathered and gives its room back.
func (t *taking) flush(ctx context.Context) *refusal {
	if no := t.flushRecords(ctx); no != nil {
		return no
	}
	if no := t.flushDead(ctx); no != nil {
		return no
	}
	t.claim(0)
	return nil
}

// flushRecords appends the batch.
func (t *taking) flushRecords(ctx context.Context) *refusal {
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
	if cap(t.arena) > 2*batchBytes { // for a long record
		t.arena = nil
	}
	return nil
}

// flushDead writes the dead letters.
func (t *taking) flushDead(ctx context.Context) *refusal {
	if len(t.dead) == 0 {
		return nil
	}
	if err := t.h.o.Appender.DeadLetters(ctx, t.dead); err != nil {
		return away(err)
	}
	t.res.DeadLettered += int64(len(t.dead))
	t.h.metrics.records.WithLabelValues("dead_lettered").Add(float64(len(t.dead)))
	clear(t.dead) // the values
	t.dead, t.deadBytes = t.dead[:0], 0
	return nil
}

func away(err error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, retryAfter: "5", detail: "The log cannot be written at the moment: send it again later.", err: err}
}
