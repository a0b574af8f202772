package correlate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/stream"
)

// read is what the reader hands on: the messages of a batch with their sections,
// or a hole in the log.
type read struct {
	messages []message
	end      int64 // of the log
	gap      *stream.GapError
	links    []trace.Link
}

type message struct {
	offset   int64
	crc      uint32
	sections []detect.Section
	err      error // it could not be decoded
}

// endsWithin is how long a partition may seem to end before the position, as it
// does for a moment after its leader has moved.
const endsWithin = 30 * time.Second

// read reads ahead from offset on. The partition must go on to position at least.
func (o *Owner) read(ctx context.Context, offset, position int64, out chan<- read) error {
	r := o.o.Open(offset)
	backoff := minBackoff
	started := time.Now()
	for {
		b, err := r.Read(ctx)
		next := read{end: b.End, links: o.links(b.Records)}
		switch {
		case err == nil:
			backoff = minBackoff
			if len(b.Records) == 0 {
				if b.End < position && time.Since(started) > endsWithin {
					return fmt.Errorf("vedette.observations/%d ends at %d, its checkpoint is at %d: %w", o.o.Partition, b.End, position, stream.ErrTruncated)
				}
				continue
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &next.gap):
		case stream.Retriable(err):
			if backoff == minBackoff {
				o.log.Warn("vedette.observations cannot be read", "err", err)
			}
			t := time.NewTimer(backoff)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			}
			backoff = min(2*backoff, maxBackoff)
			continue
		default:
			return err
		}
		for _, rec := range b.Records {
			m := message{offset: rec.Offset, crc: stream.Checksum(&rec)}
			m.sections, m.err = detect.DecodeBatch(rec.Value)
			next.messages = append(next.messages, m)
		}
		select {
		case out <- next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
