package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/compress/snappy"
)

// Compression is how batches are compressed.
type Compression string

// The compressions offered: those that cost least.
const (
	CompressionNone   Compression = "none"
	CompressionSnappy Compression = "snappy"
	CompressionLZ4    Compression = "lz4"
)

func (c Compression) codec() (kafka.Compression, error) {
	switch Compression(strings.ToLower(string(c))) {
	case "", CompressionSnappy:
		return kafka.Snappy, nil
	case CompressionLZ4:
		return kafka.Lz4, nil
	case CompressionNone:
		return 0, nil
	}
	return 0, fmt.Errorf("kafka compression %q: want snappy, lz4 or none", c)
}

// batchHeader is the length of a record batch before its records, with the four
// bytes of size that a produce request puts in front.
const batchHeader = 4 + 61

// Places in an encoded batch, counted with the size in front.
const (
	atLength = 4 + 8
	atMagic  = 4 + 16
	atCRC    = 4 + 17
	atAttrs  = 4 + 21
)

// encoder is the codec for writing. Of snappy's levels it is the fastest: records
// come out 1 to 3 % longer than by the library's default, in a third of its time.
func encoder(codec kafka.Compression) compress.Codec {
	if codec == kafka.Snappy {
		return &snappy.Codec{Compression: snappy.FasterCompression}
	}
	return compress.Compression(codec).Codec()
}

// encodeBatch builds a record batch, version 2, of records that all get the
// stamp (ms since the Unix epoch). We encode it ourselves, and in the caller's
// goroutine, so that a request given up on never reads memory that its owner
// has taken back, and so that its size is known before it is sent.
func encodeBatch(recs []Record, stamp int64, codec kafka.Compression) ([]byte, error) {
	size := batchHeader
	for i := range recs {
		size += recordSize(&recs[i]) + 2*binary.MaxVarintLen32
	}
	b := make([]byte, batchHeader, size)
	for i := range recs {
		b = appendRecord(b, &recs[i], int64(i))
	}
	if codec != 0 {
		out := bytes.NewBuffer(make([]byte, 0, batchHeader+len(b)/3))
		out.Write(b[:batchHeader])
		w := encoder(codec).NewWriter(out)
		_, err := w.Write(b[batchHeader:])
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, fmt.Errorf("compress batch: %w", err)
		}
		b = out.Bytes()
	}
	be := binary.BigEndian
	be.PutUint32(b, uint32(len(b)-4))
	be.PutUint64(b[4:], 0) // base offset: the broker's to give
	be.PutUint32(b[atLength:], uint32(len(b)-atLength-4))
	be.PutUint32(b[4+12:], ^uint32(0)) // partition leader epoch
	b[atMagic] = 2
	be.PutUint16(b[atAttrs:], uint16(codec))
	be.PutUint32(b[4+23:], uint32(len(recs)-1)) // last offset delta
	be.PutUint64(b[4+27:], uint64(stamp))
	be.PutUint64(b[4+35:], uint64(stamp))
	be.PutUint64(b[4+43:], ^uint64(0)) // producer id
	be.PutUint16(b[4+51:], ^uint16(0)) // producer epoch
	be.PutUint32(b[4+53:], ^uint32(0)) // base sequence
	be.PutUint32(b[4+57:], uint32(len(recs)))
	be.PutUint32(b[atCRC:], crc32.Checksum(b[atAttrs:], crc32.MakeTable(crc32.Castagnoli)))
	return b, nil
}

// recordSize is an upper bound of the encoded length of r.
func recordSize(r *Record) int {
	n := 16 + len(r.Key) + len(r.Value) + 2*binary.MaxVarintLen32
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value) + 2*binary.MaxVarintLen32
	}
	return n
}

func appendRecord(b []byte, r *Record, delta int64) []byte {
	n := 1 + 1 + varintLen(delta) + bytesLen(r.Key) + bytesLen(r.Value) + varintLen(int64(len(r.Headers)))
	for i := range r.Headers {
		h := &r.Headers[i]
		n += varintLen(int64(len(h.Key))) + len(h.Key) + bytesLen(h.Value)
	}
	b = binary.AppendVarint(b, int64(n))
	b = append(b, 0) // attributes
	b = append(b, 0) // time since the batch's first: all have the same
	b = binary.AppendVarint(b, delta)
	b = appendBytes(b, r.Key)
	b = appendBytes(b, r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for i := range r.Headers {
		h := &r.Headers[i]
		b = binary.AppendVarint(b, int64(len(h.Key)))
		b = append(b, h.Key...)
		b = appendBytes(b, h.Value)
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}

func bytesLen(v []byte) int {
	if v == nil {
		return 1
	}
	return varintLen(int64(len(v))) + len(v)
}

func varintLen(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}
