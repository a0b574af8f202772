package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// ReaderOptions says what a reader reads.
type ReaderOptions struct {
	Topic     string
	Partition int32
	Offset    int64         // of the first record wanted
	MaxWait   time.Duration // how long Read waits for a record to come; 250 ms if zero
	MaxBytes  int           // most that is fetched at once, compressed; 1 MiB if zero
	Timeout   time.Duration // of one fetch beyond MaxWait; 5 s if zero
}

// Reader reads one partition from an offset on, in order and without holes: it
// tells where records are missing instead of skipping them. It is for one
// goroutine.
type Reader struct {
	client *Client
	o      ReaderOptions
	next   int64
	rest   fetched // behind a gap that has been told
	end    int64
	stalls int // fetches in a row that brought nothing although there is something
}

// fetched is what one request brought: records and, in a log with transactions,
// the offsets that their markers occupy.
type fetched struct {
	records []Record
	markers map[int64]struct{}
}

// Batch is what one read brought.
type Batch struct {
	Records []Record // in order of offset; empty if nothing came within MaxWait
	Next    int64    // offset to go on from
	End     int64    // offset that the next record written will get, as last heard
}

// NewReader makes a reader.
func (c *Client) NewReader(o ReaderOptions) *Reader {
	if o.MaxWait <= 0 {
		o.MaxWait = 250 * time.Millisecond
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 20
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	return &Reader{client: c, o: o, next: o.Offset}
}

// Next returns the offset that the next read starts from.
func (r *Reader) Next() int64 { return r.next }

// Read returns the records that follow, at least one unless none came within
// MaxWait. It returns
//   - a [*GapError] (errors.Is ErrGap) where the log lacks records; the next
//     Read goes on behind them;
//   - ErrTruncated, every time, if the partition ends before the position;
//   - an error that [Retriable] approves of when Kafka cannot be reached.
func (r *Reader) Read(ctx context.Context) (Batch, error) {
	f := r.rest
	r.rest = fetched{}
	if len(f.records) == 0 {
		var err error
		if f, err = r.fetch(ctx); err != nil {
			return Batch{}, err
		}
	}
	recs := f.records
	// A fetch returns whole batches: the first may begin below what was asked.
	for len(recs) > 0 && recs[0].Offset < r.next {
		recs = recs[1:]
	}
	start, n := r.next, 0
	for {
		if n < len(recs) && recs[n].Offset == r.next {
			n++
		} else if _, ok := f.markers[r.next]; !ok {
			break
		}
		r.next++
	}
	if n == 0 && len(recs) > 0 {
		gap := &GapError{Topic: r.o.Topic, Partition: r.o.Partition, From: r.next, To: recs[0].Offset}
		r.next = gap.To
		r.rest = fetched{recs, f.markers}
		return Batch{}, gap
	}
	if n < len(recs) {
		r.rest = fetched{recs[n:], f.markers}
	}
	if r.next > start || r.end <= r.next {
		r.stalls = 0
	} else if r.stalls++; r.stalls > maxStalls {
		return Batch{}, fmt.Errorf("read %s/%d: nothing can be read at %d although the log goes on to %d", r.o.Topic, r.o.Partition, r.next, r.end)
	}
	return Batch{Records: recs[:n:n], Next: r.next, End: max(r.end, r.next)}, nil
}

// maxStalls is how many fetches may bring nothing of what is there: one or two
// happen when a record arrives as the wait ends; more mean that the batch
// cannot be read.
const maxStalls = 5

func (r *Reader) fetch(ctx context.Context) (fetched, error) {
	wrap := func(err error) error {
		return fmt.Errorf("read %s/%d at %d: %w", r.o.Topic, r.o.Partition, r.next, r.client.explain(err))
	}
	fctx, cancel := context.WithTimeout(ctx, r.o.MaxWait+r.o.Timeout)
	defer cancel()
	res, err := r.client.kafka.Fetch(fctx, &kafka.FetchRequest{
		Topic:     r.o.Topic,
		Partition: int(r.o.Partition),
		Offset:    r.next,
		MinBytes:  1,
		MaxBytes:  int64(r.o.MaxBytes),
		MaxWait:   r.o.MaxWait,
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return fetched{}, wrap(ctx.Err())
	case err != nil:
		return fetched{}, wrap(err)
	case errors.Is(res.Error, kafka.OffsetOutOfRange):
		return fetched{}, r.outOfRange(ctx)
	case res.Error != nil:
		return fetched{}, wrap(res.Error)
	}
	r.end = res.HighWatermark
	f, err := collect(res.Records)
	if err != nil {
		return fetched{}, wrap(err)
	}
	return f, nil
}

// outOfRange finds out on which side of the log the position lies.
func (r *Reader) outOfRange(ctx context.Context) error {
	first, end, err := r.client.Bounds(ctx, r.o.Topic, r.o.Partition)
	switch {
	case err != nil:
		return err
	case r.next < first:
		gap := &GapError{Topic: r.o.Topic, Partition: r.o.Partition, From: r.next, To: first}
		r.next = first
		return gap
	case r.next > end:
		return fmt.Errorf("read %s/%d at %d, but it ends at %d: %w", r.o.Topic, r.o.Partition, r.next, end, ErrTruncated)
	}
	// The log has changed between the two questions: ask again.
	return fmt.Errorf("read %s/%d at %d: %w", r.o.Topic, r.o.Partition, r.next, kafka.OffsetNotAvailable)
}

// slabSize is how much is allocated at once for the values of records.
const slabSize = 256 << 10

// slab hands out pieces of large allocations: the values of a batch live and
// die together.
type slab struct{ free []byte }

func (s *slab) take(n int) []byte {
	if n > len(s.free) {
		if n > slabSize/4 {
			return make([]byte, n)
		}
		s.free = make([]byte, slabSize)
	}
	b := s.free[:n:n]
	s.free = s.free[n:]
	return b
}

func (s *slab) read(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer b.Close()
	v := s.take(b.Len())
	_, err := io.ReadFull(b, v)
	return v, err
}

func collect(rr kafka.RecordReader) (fetched, error) {
	var f fetched
	var mem slab
	parts := []kafka.RecordReader{rr}
	if s, ok := rr.(*protocol.RecordStream); ok {
		parts = s.Records
	}
	for _, part := range parts {
		_, control := part.(*protocol.ControlBatch)
		for {
			rec, err := part.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return f, err
			}
			r := Record{Offset: rec.Offset, Time: rec.Time, Headers: rec.Headers}
			if r.Key, err = mem.read(rec.Key); err != nil {
				return f, err
			}
			if r.Value, err = mem.read(rec.Value); err != nil {
				return f, err
			}
			if control {
				if f.markers == nil {
					f.markers = make(map[int64]struct{})
				}
				f.markers[r.Offset] = struct{}{}
				continue
			}
			f.records = append(f.records, r)
		}
	}
	return f, nil
}
