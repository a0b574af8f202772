package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of a record as it stands in the log: its stamp, key,
// value and headers, all of which a copy of the topic keeps. It tells whether the
// record at an offset is still the one that was read there.
func Checksum(r *Record) uint32 {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(r.Time.UnixMilli()))
	sum := crc32.Update(0, castagnoli, n[:])
	add := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		sum = crc32.Update(crc32.Update(sum, castagnoli, n[:]), castagnoli, b)
	}
	add(r.Key)
	add(r.Value)
	for i := range r.Headers {
		add([]byte(r.Headers[i].Key))
		add(r.Headers[i].Value)
	}
	return sum
}

// ErrReplaced says that another record stands where one was read before. It is
// also ErrTruncated: what to do is the same.
var ErrReplaced error = replacedError{}

type replacedError struct{}

func (replacedError) Error() string {
	return "kafka: another record stands where one was read before: topic replaced or truncated"
}

func (replacedError) Is(target error) bool { return target == ErrTruncated }

// Verify tells whether the record at an offset still sums to crc. r must begin at
// the offset. The error is ErrReplaced if it does not, ErrTruncated if the
// partition ends before it, or why it cannot be told. What retention has removed
// cannot be told apart any more and passes.
func Verify(ctx context.Context, r interface {
	Read(ctx context.Context) (Batch, error)
}, offset int64, crc uint32,
) error {
	for {
		b, err := r.Read(ctx)
		switch {
		case errors.Is(err, ErrGap):
			return nil
		case err != nil:
			return err
		case len(b.Records) > 0:
			if b.Records[0].Offset != offset || Checksum(&b.Records[0]) != crc {
				return fmt.Errorf("offset %d: %w", offset, ErrReplaced)
			}
			return nil
		case b.End <= offset:
			return fmt.Errorf("it ends at %d, and %d was read: %w", b.End, offset, ErrTruncated)
		case b.Next > offset:
			return fmt.Errorf("offset %d holds no record: %w", offset, ErrReplaced)
		}
	}
}
