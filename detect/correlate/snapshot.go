package correlate

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime/debug"
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

// A snapshot is what an engine's detectors hold at a place of the log, but for the
// profiles, which the ledger has. It is a cache of what a rebuild comes to: whoever
// cannot use one rebuilds from a mark.
//
// It is written at the level of meaning (keys, panes, events with what is known of
// them), not of tables, in frames of about 256 KiB:
//
//	length of the payload (4 bytes, little-endian; the top bit marks the last frame)
//	CRC-32C of the frame's number (4 bytes) and the payload (4 bytes)
//	payload
//
// The payload is the format byte, what has to agree with the engine that loads it
// (the state of Engine.State, the options that bound what is kept), the sources in
// the order of their indexes, and then of each rule its version, its type and what
// its detector wrote. Numbers are varints, strings have their length before them.

// formatSnapshot names the format and with it the meaning of what is in it. A
// detector that keeps something else, or cuts time otherwise, gets a new one: a
// snapshot of another format is not read.
const formatSnapshot = 2

const (
	frameBytes = 256 << 10
	frameLast  = 1 << 31
	maxFrame   = 64 << 20
)

// ErrSnapshot says that a snapshot cannot be used: it is of another engine, or
// damaged. The engine that tried to load it is not to be used either.
var ErrSnapshot = errors.New("snapshot cannot be used")

// snapshotted is a detector whose windows go into snapshots.
type snapshotted interface {
	snapshot(w *snapshotWriter)
	// load reads what snapshot wrote into a detector that was just made. It may have
	// the profiles of a later place of the log.
	load(r *snapshotReader)
}

// guardSnapshot is deferred around the code of detectors that write or read a
// snapshot: it is a cache, and must not keep an owner from its work.
func guardSnapshot(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: our code failed: %v\n%s", ErrSnapshot, p, debug.Stack())
	}
}

// Snapshot writes the windows. What has been found must have been flushed.
func (e *Engine) Snapshot(to io.Writer) (err error) {
	defer guardSnapshot(&err)
	if n := e.pending(); n > 0 {
		return fmt.Errorf("snapshot: %d findings have not been flushed", n)
	}
	w := &snapshotWriter{to: to}
	w.byte(formatSnapshot)
	w.bytes(e.State())
	w.uvarint(uint64(e.opts.ExactIDs))
	w.uvarint(uint64(e.opts.MaxKeys))
	w.uvarint(uint64(len(e.c.sources)))
	for i := range e.c.sources {
		w.source(e.c.sources[i].Source)
	}
	// Rules of no generation in force only age: a rebuild does without them.
	current := slices.DeleteFunc(slices.Clone(e.list), func(er *entryRule) bool { return !er.current })
	w.uvarint(uint64(len(current)))
	for _, er := range current {
		d, ok := er.detector.(snapshotted)
		if !ok {
			return fmt.Errorf("snapshot: windows of type %s cannot be written", er.rule.Correlation.Type)
		}
		w.string(er.rule.Version)
		w.string(string(er.rule.Correlation.Type))
		d.snapshot(w)
	}
	w.flush(true)
	return w.err
}

// Load fills the windows of an engine that stands, without windows, at the state at
// which a snapshot was written, and may have been given the profiles of a later
// one. The engine has to have the rules that are in the snapshot and no others. Every
// error wraps ErrSnapshot or is the reader's.
func (e *Engine) Load(from io.Reader) (err error) {
	defer guardSnapshot(&err)
	r := &snapshotReader{from: from}
	if f := r.byte(); r.err == nil && f != formatSnapshot {
		return fmt.Errorf("%w: format %d, want %d", ErrSnapshot, f, formatSnapshot)
	}
	if state := r.bytes(); r.err == nil && !bytes.Equal(state, e.State()) {
		return fmt.Errorf("%w: it is of another place of the log", ErrSnapshot)
	}
	if ids, keys := r.uvarint(), r.uvarint(); r.err == nil && (ids != uint64(e.opts.ExactIDs) || keys != uint64(e.opts.MaxKeys)) {
		return fmt.Errorf("%w: its bounds are %d ids and %d keys, want %d and %d", ErrSnapshot, ids, keys, e.opts.ExactIDs, e.opts.MaxKeys)
	}
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		i, ok := e.c.index[r.source()]
		if !ok {
			r.fail()
		}
		r.sources = append(r.sources, i)
	}
	loaded := 0
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		version, typ := r.string(), r.string()
		er, ok := e.byVer[version]
		if r.err != nil {
			break
		}
		if !ok {
			return fmt.Errorf("%w: it has windows of rule version %s, which is not in force", ErrSnapshot, version)
		}
		d, ok := er.detector.(snapshotted)
		if !ok || typ != string(er.rule.Correlation.Type) || !er.detector.idle() && !learns(er.detector) {
			return fmt.Errorf("%w: rule version %s", ErrSnapshot, version)
		}
		d.load(r)
		loaded++
	}
	switch {
	case r.err == nil && !r.atEnd():
		r.fail()
	case r.err == nil && loaded != len(e.list):
		return fmt.Errorf("%w: of %d rules it has %d", ErrSnapshot, len(e.list), loaded)
	}
	return r.err
}

// learns reports whether a detector has profiles: then it may hold some.
func learns(d detector) bool {
	switch d.(type) {
	case *newValue, *baseline:
		return true
	}
	return false
}

// snapshotWriter encodes; after the first error it does nothing.
type snapshotWriter struct {
	to     io.Writer
	b      []byte
	frames uint32
	err    error
}

func (w *snapshotWriter) byte(v byte)      { w.b = append(w.b, v) }
func (w *snapshotWriter) uvarint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *snapshotWriter) varint(v int64)   { w.b = binary.AppendVarint(w.b, v) }
func (w *snapshotWriter) fixed32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *snapshotWriter) fixed64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *snapshotWriter) bytes(v []byte)   { w.b = detect.AppendKey(w.b, v) }

func (w *snapshotWriter) string(v string) {
	w.uvarint(uint64(len(v)))
	w.b = append(w.b, v...)
}

func (w *snapshotWriter) source(s detect.Source) {
	w.uvarint(uint64(s.Incarnation))
	w.uvarint(uint64(uint32(s.Partition)))
}

func (w *snapshotWriter) evidence(e *detect.Evidence) {
	w.source(e.Source)
	w.uvarint(uint64(e.Offset))
	w.fixed32(e.CRC)
	w.varint(e.Time)
	w.fixed64(e.IDHash)
}

// key writes a key and its tenant.
func (w *snapshotWriter) key(b *base, full []byte) {
	tenant, key := b.split(full)
	w.string(tenant)
	w.bytes(key)
}

// item is called between two of anything of which there may be many.
func (w *snapshotWriter) item() {
	if len(w.b) >= frameBytes {
		w.flush(false)
	}
}

func (w *snapshotWriter) flush(last bool) {
	if w.err != nil {
		w.b = w.b[:0]
		return
	}
	if len(w.b) > maxFrame {
		w.err = fmt.Errorf("snapshot: an item of %d bytes", len(w.b))
		return
	}
	n := uint32(len(w.b))
	if last {
		n |= frameLast
	}
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], n)
	binary.LittleEndian.PutUint32(head[4:], frameSum(w.frames, n, w.b))
	if _, w.err = w.to.Write(head[:]); w.err == nil {
		_, w.err = w.to.Write(w.b)
	}
	w.frames++
	w.b = w.b[:0]
}

// frameSum is the checksum of the number'th frame.
func frameSum(number, length uint32, payload []byte) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], number)
	binary.LittleEndian.PutUint32(b[4:], length)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, payload)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshotReader reads frames and, once their sum is right, what is in them. After
// the first error it reads zeros.
type snapshotReader struct {
	from    io.Reader
	sources []int // index in the engine by that in the snapshot

	b      []byte // verified, not read yet
	frames uint32
	last   bool
	err    error
	tenant string
}

func (r *snapshotReader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: malformed", ErrSnapshot)
	}
	r.b = nil
}

// need has n bytes ready, or fewer at the end.
func (r *snapshotReader) need(n int) {
	for len(r.b) < n && !r.last && r.err == nil {
		r.frame()
	}
}

func (r *snapshotReader) frame() {
	var head [8]byte
	if _, err := io.ReadFull(r.from, head[:]); err != nil {
		r.ends(err)
		return
	}
	n := binary.LittleEndian.Uint32(head[:])
	size := int64(n &^ frameLast)
	if size > maxFrame {
		r.fail()
		return
	}
	var buf bytes.Buffer
	buf.Grow(len(r.b) + min(int(size), frameBytes+frameBytes/4))
	buf.Write(r.b)
	if _, err := io.CopyN(&buf, r.from, size); err != nil {
		r.ends(err)
		return
	}
	all := buf.Bytes()
	if frameSum(r.frames, n, all[len(r.b):]) != binary.LittleEndian.Uint32(head[4:]) {
		r.fail()
		return
	}
	r.b, r.last = all, n&frameLast != 0
	r.frames++
}

// ends notes an error of the file; that it ends early is one of the snapshot.
func (r *snapshotReader) ends(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends early", ErrSnapshot)
	}
	r.err = cmp.Or(r.err, err)
	r.b = nil
}

// atEnd reports whether nothing is left.
func (r *snapshotReader) atEnd() bool {
	r.need(1)
	return r.err == nil && len(r.b) == 0
}

// take gives the next n bytes, which hold until the next call.
func (r *snapshotReader) take(n int) []byte {
	if len(r.b) < n {
		if r.need(n); len(r.b) < n {
			r.fail()
			return nil
		}
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *snapshotReader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *snapshotReader) uvarint() uint64 {
	if len(r.b) < binary.MaxVarintLen64 {
		r.need(binary.MaxVarintLen64)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *snapshotReader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// below reads a number and fails unless it is below n.
func (r *snapshotReader) below(n uint64) uint64 {
	v := r.uvarint()
	if v >= n {
		r.fail()
		return 0
	}
	return v
}

func (r *snapshotReader) fixed32() uint32 {
	if v := r.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (r *snapshotReader) fixed64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

// bytes holds until the next call.
func (r *snapshotReader) bytes() []byte { return r.take(int(r.below(maxFrame))) }

func (r *snapshotReader) string() string { return string(r.bytes()) }

func (r *snapshotReader) source() detect.Source {
	return detect.Source{Incarnation: uint32(r.uvarint()), Partition: int32(uint32(r.uvarint()))}
}

func (r *snapshotReader) evidence() detect.Evidence {
	var e detect.Evidence
	e.Source = r.source()
	e.Offset, e.CRC, e.Time, e.IDHash = int64(r.uvarint()), r.fixed32(), r.varint(), r.fixed64()
	return e
}

// key reads a key as the detector knows it. It holds until b is asked for another.
func (r *snapshotReader) key(b *base) []byte {
	if t := r.bytes(); string(t) != r.tenant {
		r.tenant = string(t)
	}
	return b.fullKey(r.tenant, r.bytes())
}

// same fails unless the next number is v: a parameter by which state is cut.
func (r *snapshotReader) same(vs ...int64) {
	for _, v := range vs {
		if r.varint() != v && r.err == nil {
			r.err = fmt.Errorf("%w: its windows are cut otherwise", ErrSnapshot)
			r.b = nil
		}
	}
}

func (w *snapshotWriter) params(vs ...int64) {
	for _, v := range vs {
		w.varint(v)
	}
}
