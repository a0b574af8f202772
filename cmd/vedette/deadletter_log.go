package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

// letterID is a place on a topic: partition and offset.
type letterID struct {
	partition int32
	offset    int64
}

// String is PARTITION/OFFSET.
func (id letterID) String() string { return fmt.Sprintf("%d/%d", id.partition, id.offset) }

// MarshalText is String.
func (id letterID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what String writes.
func (id *letterID) UnmarshalText(b []byte) error {
	p, o, ok := strings.Cut(string(b), "/")
	partition, perr := strconv.ParseInt(p, 10, 32)
	offset, oerr := strconv.ParseInt(o, 10, 64)
	if !ok || perr != nil || oerr != nil || partition < 0 || offset < 0 {
		return fmt.Errorf("id %q: want PARTITION/OFFSET, such as 0/17", oneLine(string(b)))
	}
	*id = letterID{int32(partition), offset}
	return nil
}

var errNoLetter = errors.New("no such dead letter")

// deadLetterLog reads vedette.deadletter. It never reads past the end that the
// topic had when it was asked.
type deadLetterLog struct {
	client *stream.Client
}

func (l *deadLetterLog) close() { l.client.Close() }

// partitions are how many the topic has.
func (l *deadLetterLog) partitions(ctx context.Context) (int32, error) {
	state, err := l.client.Inspect(ctx, stream.TopicDeadLetter)
	if err != nil {
		return 0, err
	}
	if err := state.Topics[0].Err; err != nil {
		return 0, fmt.Errorf("topic %s: %w", stream.TopicDeadLetter, err)
	}
	return int32(state.Topics[0].Partitions), nil
}

// chunk is how many offsets are read at once when going backwards.
const chunk = 500

// newest returns at most limit dead letters that f approves of, of that time,
// newest first, and whether there are more.
func (l *deadLetterLog) newest(ctx context.Context, limit int, during span, f *deadLetterFilter) ([]letter, bool, error) {
	n, err := l.partitions(ctx)
	if err != nil {
		return nil, false, err
	}
	var found []letter
	for p := range n {
		first, end, err := l.client.Bounds(ctx, stream.TopicDeadLetter, p)
		if err != nil {
			return nil, false, err
		}
		// One more than asked for tells that there are more.
		var here []letter
		for to := end; to > first && len(here) <= limit; to -= chunk {
			recent := false
			var some []letter
			err := l.scan(ctx, p, max(first, to-chunk), to, func(id letterID, stamp time.Time, d *stream.DeadLetter) error {
				if stamp.Before(during.since) {
					return nil
				}
				recent = true
				if during.holds(stamp) && f.matches(d) {
					some = append(some, newLetter(id, stamp, d))
				}
				return nil
			})
			if err != nil {
				return nil, false, err
			}
			slices.Reverse(some)
			here = append(here, some...)
			if !recent {
				break // stamps hardly ever go back within a partition
			}
		}
		found = append(found, here...)
	}
	slices.SortStableFunc(found, func(a, b letter) int { return b.Stamp.Compare(a.Stamp) })
	return found[:min(limit, len(found))], len(found) > limit, nil
}

// each calls do for every dead letter of that time, oldest first in each
// partition, up to the ends that the partitions had when it was called.
func (l *deadLetterLog) each(ctx context.Context, during span, do func(letterID, time.Time, *stream.DeadLetter) error) error {
	n, err := l.partitions(ctx)
	if err != nil {
		return err
	}
	type bounds struct{ first, end int64 }
	all := make([]bounds, n)
	for p := range n {
		if all[p].first, all[p].end, err = l.client.Bounds(ctx, stream.TopicDeadLetter, p); err != nil {
			return err
		}
	}
	for p, b := range all {
		err := l.scan(ctx, int32(p), b.first, b.end, func(id letterID, stamp time.Time, d *stream.DeadLetter) error {
			if !during.holds(stamp) {
				return nil
			}
			return do(id, stamp, d)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// at returns one dead letter.
func (l *deadLetterLog) at(ctx context.Context, id letterID) (stream.DeadLetter, time.Time, error) {
	none := fmt.Errorf("%s: %w: retention may have removed it", id, errNoLetter)
	n, err := l.partitions(ctx)
	if err != nil {
		return stream.DeadLetter{}, time.Time{}, err
	}
	if id.partition >= n {
		return stream.DeadLetter{}, time.Time{}, none
	}
	r, ok, err := l.client.RecordAt(ctx, stream.TopicDeadLetter, id.partition, id.offset)
	if err != nil {
		return stream.DeadLetter{}, time.Time{}, err
	}
	if !ok || r.Offset != id.offset {
		return stream.DeadLetter{}, time.Time{}, none
	}
	d := decodeLetter(&r)
	return d, r.Time, nil
}

// scan calls do for the dead letters of a partition in [from, to).
func (l *deadLetterLog) scan(ctx context.Context, partition int32, from, to int64, do func(letterID, time.Time, *stream.DeadLetter) error) error {
	r := l.client.NewReader(stream.ReaderOptions{Topic: stream.TopicDeadLetter, Partition: partition, Offset: from})
	for r.Next() < to {
		b, err := r.Read(ctx)
		switch {
		case errors.Is(err, stream.ErrGap):
			continue // retention took them meanwhile
		case err != nil:
			return fmt.Errorf("read dead letters: %w", err)
		case len(b.Records) == 0 && b.Next >= b.End:
			return nil
		}
		for i := range b.Records {
			rec := &b.Records[i]
			if rec.Offset >= to {
				return nil
			}
			d := decodeLetter(rec)
			if err := do(letterID{partition, rec.Offset}, rec.Time, &d); err != nil {
				return err
			}
		}
	}
	return nil
}

// foreign is the reason shown of what somebody else put on the topic.
const foreign = "not_a_dead_letter"

func decodeLetter(r *stream.Record) stream.DeadLetter {
	d, err := stream.DecodeDeadLetter(r)
	if err != nil {
		return stream.DeadLetter{Reason: foreign, Detail: err.Error(), Partition: -1, Offset: -1, Value: r.Value}
	}
	return d
}
