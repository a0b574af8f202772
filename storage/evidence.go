package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vedette-sec/vedette/detect"
)

// evidenceFormat is the first byte of encoded evidence.
const evidenceFormat = 1

// appendEvidence encodes evidence for the finding's row. Equal evidence has equal
// bytes.
func appendEvidence(dst []byte, evidence []detect.Evidence) []byte {
	dst = append(dst, evidenceFormat)
	dst = binary.AppendUvarint(dst, uint64(len(evidence)))
	for _, e := range evidence {
		dst = binary.AppendUvarint(dst, uint64(e.Source.Incarnation))
		dst = binary.AppendVarint(dst, int64(e.Source.Partition))
		dst = binary.AppendVarint(dst, e.Offset)
		dst = binary.BigEndian.AppendUint32(dst, e.CRC)
		dst = binary.AppendVarint(dst, e.Time)
		dst = binary.BigEndian.AppendUint64(dst, e.IDHash)
	}
	return dst
}

// minEvidence is the least number of bytes a piece takes.
const minEvidence = 1 + 1 + 1 + 4 + 1 + 8

// DecodeEvidence reads a finding's evidence from its row; no bytes are no evidence.
func DecodeEvidence(b []byte) ([]detect.Evidence, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != evidenceFormat {
		return nil, fmt.Errorf("evidence: format %d is not known", b[0])
	}
	d := decoder{b: b[1:]}
	n := d.uvarint()
	if n > uint64(len(b)/minEvidence) {
		return nil, errors.New("evidence: truncated")
	}
	evidence := make([]detect.Evidence, n)
	for i := range evidence {
		e := &evidence[i]
		e.Source.Incarnation = uint32(d.uvarint())
		e.Source.Partition = int32(d.varint())
		e.Offset = d.varint()
		e.CRC = uint32(d.fixed(4))
		e.Time = d.varint()
		e.IDHash = d.fixed(8)
	}
	if d.bad || len(d.b) > 0 {
		return nil, errors.New("evidence: truncated or too long")
	}
	return evidence, nil
}

// decoder reads numbers off a slice and remembers if there were too few bytes.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(v uint64, n int) uint64 {
	if n <= 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uvarint() uint64 { return d.take(binary.Uvarint(d.b)) }

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	return int64(d.take(uint64(v), n))
}

func (d *decoder) fixed(n int) uint64 {
	var v uint64
	if n > len(d.b) {
		return d.take(0, -1)
	}
	for _, c := range d.b[:n] {
		v = v<<8 | uint64(c)
	}
	return d.take(v, n)
}
