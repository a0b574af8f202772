package spinetest

import (
	"context"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

// simReader reads a partition of vedette.logs, or of a topic of observations.
type simReader struct {
	c     *simCrew
	op    simOp
	topic string
	part  int32
	next  int64
}

// log is what there is of it now.
func (r *simReader) log() ([]stream.Record, error) {
	if r.op == opRead {
		return r.c.w.history.logs[r.part][:r.c.w.ends[r.part]], nil
	}
	logs := r.c.w.topics[r.topic]
	if int(r.part) >= len(logs) {
		return nil, errSimTopic
	}
	if v := r.c.v; v != nil && v.observed != nil {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		return v.observed(logs[r.part], r.c.taken[r.part]), nil
	}
	return logs[r.part], nil
}

// Next is the offset that is read next.
func (r *simReader) Next() int64 { return r.next }

func (r *simReader) Read(ctx context.Context) (stream.Batch, error) {
	var b stream.Batch
	err := r.c.call(ctx, r.op, r.part, func(n uint64) error {
		log, err := r.log()
		if err != nil {
			return err
		}
		end := int64(len(log))
		if r.next > end {
			return stream.ErrTruncated
		}
		to := min(end, r.next+1+int64(n%12))
		b = stream.Batch{Records: slices.Clone(log[r.next:to]), Next: to, End: end}
		return nil
	})
	if err == nil && len(b.Records) == 0 {
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return stream.Batch{}, err
	}
	r.next = b.Next
	return b, nil
}

// simProducer writes to a topic of observations.
type simProducer struct {
	c     *simCrew
	topic string
}

func (w simProducer) Produce(ctx context.Context, p int32, recs []stream.Record) (int64, error) {
	return 0, w.c.call(ctx, opProduce, p, func(uint64) error { return w.c.w.append(w.topic, p, recs) })
}
