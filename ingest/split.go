package ingest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Defaults of SplitOptions.
const (
	DefaultMaxRecord = 4 << 20
	DefaultTruncate  = 64 << 10
)

// ErrTotal is returned by Next when the input, decompressed, is longer than
// SplitOptions.MaxTotal. It ends the splitting.
var ErrTotal = errors.New("split records: input longer than allowed")

// SplitOptions bound a Splitter. The zero value takes the defaults.
type SplitOptions struct {
	MaxRecord int   // longest record, bytes; 0: DefaultMaxRecord
	MaxTotal  int64 // longest input after decompression, bytes; 0: no bound
	Truncate  int   // how much of a piece that is no record is kept, bytes; 0: DefaultTruncate

	// Buffer is asked, unless nil, before the buffer grows to size bytes, and once
	// input has come at all. Its error ends the splitting: Next returns it when what
	// was read before is handed out.
	Buffer func(size int) error
}

// Record is one piece of the input.
type Record struct {
	// Data is the record. It is valid until the next call of Next. If Err is set,
	// it is the beginning of the piece, at most SplitOptions.Truncate bytes.
	Data []byte
	Line int64 // number of the record, from 1, in the order of the input
	Err  error // a *SplitError, or nil
}

// Splitter cuts a stream into log records. It understands, in any mixture:
//
//   - JSON objects, one a line, pretty-printed or written back to back
//   - {"Records":[…]} and JSON arrays of objects, of any length: one record an element
//   - CloudWatch Logs DATA_MESSAGE envelopes: one record a log event, as
//     {"owner","logGroup","logStream","id","timestamp","message"}; CONTROL_MESSAGE is dropped
//   - anything else line by line (Lambda's text logs); blank lines are skipped
//   - each of these gzipped, in one member or many
//
// A piece that is no record (too long, cut off) is handed out with an error, and
// splitting goes on behind its first line. Memory is bounded by MaxRecord.
type Splitter struct {
	opts   SplitOptions
	src    *source
	in     io.Reader
	buf    []byte
	r      int // first byte not yet handed out
	w      int // end of what was read
	eof    bool
	bad    error // what ended the input, other than its end
	zipped bool  // it was compressed
	asked  bool  // for the buffer

	mode     mode
	inObject bool // modeArray: the array is a field of an object
	after    bool // a JSON value has just ended: stray separators may follow
	line     int64
	read     int64 // bytes read, decompressed
	rescan   int64 // bytes scanned again after a failure
	sc       scanner
	envelope []byte // head of the records of the envelope we are in; empty outside of one
	out      []byte
}

// mode is where in a document the splitter stands.
type mode uint8

const (
	modeTop   mode = iota
	modeArray      // in an array whose elements are records
	modeTail       // behind such an array, in the object around it
)

// rescanAllowance bounds the work that hostile input can cause: after so many
// bytes, and four times what was read, objects may no longer span lines.
const rescanAllowance = 1 << 20

const minBuffer = 16 << 10

// NewSplitter returns a Splitter that reads from r.
func NewSplitter(r io.Reader, o SplitOptions) *Splitter {
	if o.MaxRecord <= 0 {
		o.MaxRecord = DefaultMaxRecord
	}
	if o.Truncate <= 0 {
		o.Truncate = DefaultTruncate
	}
	o.Truncate = min(o.Truncate, o.MaxRecord)
	src := &source{r: r}
	return &Splitter{opts: o, src: src, buf: make([]byte, minBuffer)}
}

// Next returns the next record. At the end of the input it returns io.EOF; any
// other error is the reader's own or [ErrTotal].
func (s *Splitter) Next() (Record, error) {
	if s.in == nil {
		s.open()
	}
	for {
		rec, ok, err := s.step()
		if err != nil {
			return Record{}, err
		}
		if ok {
			s.line++
			rec.Line = s.line
			return rec, nil
		}
	}
}

// Offset is how far into the input the records handed out so far reach, in bytes
// after decompression. whole reports whether a Splitter of what follows would go
// on as this one does: not within a container, and not in what was compressed.
func (s *Splitter) Offset() (offset int64, whole bool) {
	return s.read - int64(s.w-s.r), s.mode == modeTop && !s.zipped
}

// open looks at the first bytes: gzip, in it perhaps gzip again (as Firehose
// writes it), a byte order mark.
func (s *Splitter) open() {
	s.in = s.src
	for range 3 {
		br := bufio.NewReaderSize(s.in, minBuffer)
		s.in = br
		head, _ := br.Peek(3)
		if len(head) < 3 || head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
			break
		}
		s.zipped = true
		zr, err := gzip.NewReader(br)
		if err != nil {
			s.in = failing{err}
			break
		}
		s.in = zr
	}
	s.in = &limited{r: s.in, left: s.opts.MaxTotal, bounded: s.opts.MaxTotal > 0}
	for s.w-s.r < 3 && s.fill() {
	}
	if bytes.HasPrefix(s.buf[s.r:s.w], []byte("\xef\xbb\xbf")) {
		s.r += 3
	}
}

// fill reads more behind what is buffered, at least a byte, and reports whether
// it could. It may move the buffered bytes: offsets from s.r stay valid.
func (s *Splitter) fill() bool {
	if s.eof {
		return false
	}
	if s.w == len(s.buf) {
		if s.r > 0 {
			copy(s.buf, s.buf[s.r:s.w])
			s.w -= s.r
			s.r = 0
		}
		if s.w > len(s.buf)/2 {
			if !s.mayHold(2 * len(s.buf)) {
				return false
			}
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
	}
	for range 100 {
		n, err := s.in.Read(s.buf[s.w:])
		s.w += n
		s.read += int64(n)
		if err != nil {
			s.eof = true
			if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				s.bad = err
			}
		}
		if n > 0 && !s.asked {
			s.asked = true
			s.mayHold(len(s.buf))
		}
		if n > 0 || err != nil {
			return n > 0
		}
	}
	s.eof, s.bad = true, io.ErrNoProgress
	return false
}

// mayHold asks whether the buffer may have size bytes. If not, the input ends here.
func (s *Splitter) mayHold(size int) bool {
	if s.opts.Buffer == nil {
		return true
	}
	if err := s.opts.Buffer(size); err != nil {
		s.eof, s.src.err = true, err
		return false
	}
	return true
}

// skipSpace moves to the next byte that is not white space and returns it. The
// indentation of a line is not passed, only looked past: at says how far.
func (s *Splitter) skipSpace(separators bool) (c byte, at int, ok bool) {
	for {
		for s.r+at < s.w {
			c = s.buf[s.r+at]
			switch {
			case c == '\n', c == '\r' && at == 0, separators && (c == ',' || c == ']' || c == '}'):
				s.r += at + 1
				at = 0
			case c == ' ', c == '\t', c == '\r':
				at++
				if at > minBuffer { // a line of nothing but blanks: bounded
					s.r += at
					at = 0
				}
			default:
				return c, at, true
			}
		}
		if !s.fill() {
			s.r, at = s.w, 0
			return 0, 0, false
		}
	}
}

// peekBehind returns the first significant byte behind the one at offset at.
func (s *Splitter) peekBehind(at int) (byte, bool) {
	for i := at + 1; i < s.opts.MaxRecord; i++ {
		for s.r+i >= s.w {
			if !s.fill() {
				return 0, false
			}
		}
		if c := s.buf[s.r+i]; !isSpace(c) {
			return c, true
		}
	}
	return 0, false
}

// step makes one move: it finds a record, or changes the mode, or ends.
func (s *Splitter) step() (Record, bool, error) {
	switch s.mode {
	case modeArray:
		return s.stepArray()
	case modeTail:
		return s.stepTail()
	}
	c, at, ok := s.skipSpace(s.after)
	if !ok {
		return s.end(false)
	}
	s.after = false
	switch c {
	case '{':
		// Only a quote or the end can follow in JSON; otherwise it is text.
		if b, ok := s.peekBehind(at); !ok || b == '"' || b == '}' {
			s.r += at
			return s.object()
		}
	case '[':
		// An array of objects, or text like "[INFO] …".
		if b, ok := s.peekBehind(at); ok && (b == '{' || b == ']') {
			s.r += at + 1
			s.mode, s.inObject = modeArray, false
			s.envelope = s.envelope[:0]
			return Record{}, false, nil
		}
	}
	return s.text()
}

// end says what the end of the input means: io.EOF, the reader's error, or a
// last Record that says that something is missing.
func (s *Splitter) end(inside bool) (Record, bool, error) {
	if s.src.err != nil {
		return Record{}, false, fmt.Errorf("read input: %w", s.src.err)
	}
	bad := s.bad
	s.bad = nil
	s.mode = modeTop
	switch {
	case errors.Is(bad, ErrTotal):
		s.bad = bad // for ever
		return Record{}, false, ErrTotal
	case bad != nil:
		rec := s.piece(ReasonGzip, s.w-s.r)
		return rec, true, nil
	case inside:
		return s.piece(ReasonTruncated, s.w-s.r), true, nil
	}
	return Record{}, false, io.EOF
}

// object hands out the JSON object at s.r, or goes into it if it is a container.
func (s *Splitter) object() (Record, bool, error) {
	s.sc.reset(s.mustBeOneLine())
	for {
		switch s.advance() {
		case value:
			records := s.sc.current == fieldRecords
			if !records && (s.sc.current != fieldLogEvents || !s.head()) {
				continue
			}
			if c, ok := s.peekBehind(s.sc.off - 1); ok && c == '[' {
				if records {
					s.envelope = s.envelope[:0]
				}
				s.enter(s.sc.off)
				return Record{}, false, nil
			}
		case closed:
			return s.whole(s.sc.off)
		case tooLarge:
			return s.skipLarge()
		case broken:
			return s.fail(ReasonInvalid, s.sc.off)
		default:
			return s.cutOff()
		}
	}
}

// cutOff is for a value that the end of the input cut off.
func (s *Splitter) cutOff() (Record, bool, error) {
	if s.bad != nil || s.src.err != nil {
		return s.end(true)
	}
	return s.fail(ReasonTruncated, s.sc.off)
}

// advance runs the scanner over the value at s.r. It returns more only at the
// end of the input.
func (s *Splitter) advance() verdict {
	for {
		if s.r+s.sc.off == s.w {
			if !s.fill() {
				return more
			}
		}
		end := min(s.w, s.r+s.opts.MaxRecord)
		if s.r+s.sc.off >= end {
			return tooLarge
		}
		if _, v := s.sc.run(s.buf[s.r+s.sc.off : end]); v != more {
			return v
		}
	}
}

// mustBeOneLine reports whether too much was scanned twice already.
func (s *Splitter) mustBeOneLine() bool {
	return s.rescan > rescanAllowance+4*s.read
}

// fail hands out the first line of the value at s.r as a piece that is no
// record; the value was scanned for n bytes. Splitting goes on behind the line.
func (s *Splitter) fail(why Reason, n int) (Record, bool, error) {
	s.after = true
	if i := bytes.IndexByte(s.buf[s.r:s.r+n], '\n'); i >= 0 {
		s.rescan += int64(n - i)
		return s.piece(why, i+1), true, nil
	}
	p := newPiece(s.buf[s.r:s.r+n], s.opts.Truncate)
	s.r += n
	s.passLine(p)
	return p.record(why), true, nil
}

// skipLarge passes a value that is too long, hashing it.
func (s *Splitter) skipLarge() (Record, bool, error) {
	p := newPiece(s.buf[s.r:s.r+s.sc.off], s.opts.Truncate)
	s.r += s.sc.off
	for s.r < s.w || s.fill() {
		n, v := s.sc.run(s.buf[s.r:s.w])
		p.write(s.buf[s.r : s.r+n])
		s.r += n
		if v == closed {
			s.after = true
			return p.record(ReasonTooLarge), true, nil
		}
		if v == broken {
			if s.buf[s.r-1] != '\n' {
				s.passLine(p)
			}
			break
		}
	}
	s.mode, s.after = modeTop, true
	return p.record(ReasonTooLarge), true, nil
}

// passLine adds the rest of the line to p.
func (s *Splitter) passLine(p *piece) {
	for s.r < s.w || s.fill() {
		b := s.buf[s.r:s.w]
		i := bytes.IndexByte(b, '\n')
		if i >= 0 {
			b = b[:i+1]
		}
		p.write(b)
		s.r += len(b)
		if i >= 0 {
			return
		}
	}
}

// text hands out the line at s.r.
func (s *Splitter) text() (Record, bool, error) {
	n := 0
	for {
		if i := bytes.IndexByte(s.buf[s.r+n:s.w], '\n'); i >= 0 {
			n += i
			break
		}
		n = s.w - s.r
		if n > s.opts.MaxRecord {
			return s.fail(ReasonTooLarge, n)
		}
		if !s.fill() {
			if s.bad != nil || s.src.err != nil {
				return s.end(true)
			}
			break
		}
	}
	if n > s.opts.MaxRecord {
		return s.fail(ReasonTooLarge, n)
	}
	b := s.buf[s.r : s.r+n]
	s.r += n
	if len(b) > 0 && b[len(b)-1] == '\r' {
		b = b[:len(b)-1]
	}
	return Record{Data: b}, true, nil
}

// piece hands out the n buffered bytes at s.r as no record.
func (s *Splitter) piece(why Reason, n int) Record {
	p := newPiece(s.buf[s.r:s.r+n], s.opts.Truncate)
	s.r += n
	return p.record(why)
}
