package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Reason says why a piece could not become a record. It may label a metric.
type Reason string

// The reasons of a SplitError.
const (
	ReasonTooLarge  Reason = "too_large"    // longer than SplitOptions.MaxRecord
	ReasonInvalid   Reason = "unsplittable" // no end of the record can be told
	ReasonTruncated Reason = "truncated"    // the input ends inside a record
	ReasonGzip      Reason = "bad_gzip"     // the compressed stream is damaged from here on
)

// SplitError is the error of a Record that is not one.
type SplitError struct {
	Reason Reason
	Size   int64  // bytes of the whole piece
	SHA256 string // of the whole piece, hexadecimal
}

func (e *SplitError) Error() string {
	return fmt.Sprintf("split records: %s (%d bytes)", e.Reason, e.Size)
}

// piece is a stretch of input that is no record: its beginning, length and hash.
type piece struct {
	keep int
	head []byte
	size int64
	sum  hash.Hash
}

func newPiece(b []byte, keep int) *piece {
	p := &piece{keep: keep, sum: sha256.New()}
	p.write(b)
	return p
}

func (p *piece) write(b []byte) {
	p.head = append(p.head, b[:min(len(b), p.keep-len(p.head))]...)
	p.size += int64(len(b))
	p.sum.Write(b)
}

func (p *piece) record(why Reason) Record {
	return Record{Data: p.head, Err: &SplitError{Reason: why, Size: p.size, SHA256: hex.EncodeToString(p.sum.Sum(nil))}}
}

// source remembers the reader's own error, so that it is not taken for damage of
// the compressed stream.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// limited ends with ErrTotal where the input goes on past its bound.
type limited struct {
	r       io.Reader
	left    int64
	bounded bool
}

func (l *limited) Read(p []byte) (int, error) {
	if !l.bounded {
		return l.r.Read(p)
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if int64(n) > l.left {
		return int(l.left), ErrTotal
	}
	l.left -= int64(n)
	return n, err
}

// failing is a reader that has failed.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
