package file

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest"
)

// Input is a log file for a Merger.
type Input struct {
	Path string
	// Open opens the file where reading begins. It may be called again, unless Once.
	Open func() (io.ReadCloser, error)
	Once bool  // it cannot be opened again: standard input
	Base int64 // records before where Open begins
	Skip int64 // records behind it that are passed over
}

// Item is one record of one file.
type Item struct {
	Input     int   // index into MergeOptions.Inputs
	Line      int64 // number of the record in the file, from 1
	Data      []byte
	Err       error        // of the splitter: Data is no record; a *ingest.SplitError
	Event     *event.Event // the record, decoded; nil if Err or DecodeErr
	DecodeErr error        // a *event.DecodeError
	Time      int64        // ns; of a record that cannot be decoded that of the one before
	// Offset is where the record ends in what Open returned, in bytes; Whole tells
	// whether reading can begin there.
	Offset int64
	Whole  bool
}

// InputError is an error of reading one file. The merger goes on without it.
type InputError struct {
	Input int
	Path  string
	Err   error
}

func (e *InputError) Error() string { return fmt.Sprintf("read %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// MergeOptions are the options of a Merger.
type MergeOptions struct {
	Inputs    []Input    // in the order in which ties in time are taken
	Type      event.Type // of all records; empty: told from each
	MaxRecord int        // bytes; 0: ingest.DefaultMaxRecord
	MaxOpen   int        // files open at a time; 0: 512
}

// Merger reads many files as one, in the order of event time: it always hands
// out the earliest of the files' next records. Within a file the order is the
// file's own. Files are opened for their first record and then not again before
// their turn, so that years of files can be merged; no more than MaxOpen are open.
// It is not safe for concurrent use, but for Read.
type Merger struct {
	o       MergeOptions
	dec     *event.Decoder
	inputs  []*input
	queue   queue
	started bool
	last    *input // whose record was handed out last
	open    int
	types   map[event.Type]bool
	read    atomic.Int64
	pending []error
}

// input is the state of one file.
type input struct {
	Input
	i       int
	rc      io.ReadCloser
	split   *ingest.Splitter
	item    Item // the next record, if loaded
	ev      *event.Event
	loaded  bool
	taken   int64 // records of the reader handed out or skipped
	time    int64 // of the next record
	counted int64 // most bytes ever read, for Read
	habit   habit
}

// NewMerger returns a Merger.
func NewMerger(o MergeOptions) *Merger {
	if o.MaxOpen <= 0 {
		o.MaxOpen = 512
	}
	return &Merger{o: o, dec: event.NewDecoder(), types: map[event.Type]bool{}}
}

// keepOpen is how many files may stay open after their first record was read.
func (m *Merger) keepOpen() int { return min(64, m.o.MaxOpen/2) }

// Start reads every file's first record. Next does so, too, if it has not been
// done. The error joins one *InputError for each file that cannot be read.
func (m *Merger) Start() error {
	if m.started {
		return nil
	}
	m.started = true
	var errs []error
	for i, in := range m.o.Inputs {
		s := &input{Input: in, i: i, time: math.MinInt64, taken: in.Skip}
		m.inputs = append(m.inputs, s)
		ok, err := m.load(s)
		switch {
		case err != nil:
			errs = append(errs, err)
		case ok:
			m.queue = append(m.queue, s)
			if !s.Once && m.open > m.keepOpen() {
				m.close(s)
			}
		}
	}
	heap.Init(&m.queue)
	return errors.Join(errs...)
}

// Next hands out the next record. It is valid until the following call. At the
// end the error is io.EOF; an *InputError is that of one file, and Next may be
// called again.
func (m *Merger) Next() (*Item, error) {
	if err := m.Start(); err != nil {
		m.pending = append(m.pending, unjoin(err)...)
	}
	if len(m.pending) > 0 {
		err := m.pending[0]
		m.pending = m.pending[1:]
		return nil, err
	}
	if s := m.last; s != nil {
		m.last = nil
		s.taken++
		s.loaded = false
		ok, err := m.load(s)
		if ok {
			heap.Fix(&m.queue, 0)
		} else {
			heap.Pop(&m.queue)
		}
		if err != nil {
			return nil, err
		}
	}
	for len(m.queue) > 0 {
		s := m.queue[0]
		if !s.loaded { // its file was closed meanwhile
			ok, err := m.load(s)
			if !ok {
				heap.Pop(&m.queue)
			} else {
				heap.Fix(&m.queue, 0)
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		m.last = s
		return &s.item, nil
	}
	return nil, io.EOF
}

func unjoin(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

// Head is the event time of the record that Next would hand out, ns, or that it
// has handed out last if that is more: everything before has been handed out, as
// far as the files are in order. It is the greatest int64 at the end.
func (m *Merger) Head() int64 {
	if len(m.queue) == 0 {
		return math.MaxInt64
	}
	return m.queue[0].time
}

// Types are the log types met so far, the first records of all files included.
func (m *Merger) Types() map[event.Type]bool { return m.types }

// Read is how many bytes of the files have been read, compressed as they are.
// What is read twice counts once. It may be called at any time.
func (m *Merger) Read() int64 { return m.read.Load() }

// Close closes the files.
func (m *Merger) Close() error {
	var errs []error
	for _, s := range m.inputs {
		errs = append(errs, m.close(s))
	}
	m.queue, m.last = nil, nil
	return errors.Join(errs...)
}

// load reads the file's next record; false at its end.
func (m *Merger) load(s *input) (bool, error) {
	fail := func(err error) (bool, error) {
		m.close(s)
		return false, &InputError{Input: s.i, Path: s.Path, Err: err}
	}
	if s.split == nil {
		if m.open >= m.o.MaxOpen {
			m.suspend(s)
		}
		rc, err := s.Open()
		if err != nil {
			return fail(err)
		}
		m.open++
		s.rc = rc
		s.split = ingest.NewSplitter(&counter{r: rc, m: m, s: s}, ingest.SplitOptions{MaxRecord: m.o.MaxRecord})
		for range s.taken {
			if _, err := s.split.Next(); err != nil {
				if errors.Is(err, io.EOF) {
					return false, m.close(s) // it has become shorter
				}
				return fail(err)
			}
		}
	}
	rec, err := s.split.Next()
	if errors.Is(err, io.EOF) {
		return false, m.close(s)
	}
	if err != nil {
		return fail(err)
	}
	m.understand(s, rec)
	return true, nil
}

// understand decodes a record.
func (m *Merger) understand(s *input, rec ingest.Record) {
	if s.ev == nil {
		s.ev = new(event.Event)
	}
	s.item = Item{Input: s.i, Line: s.Base + rec.Line, Data: rec.Data, Err: rec.Err, Time: s.time}
	s.item.Offset, s.item.Whole = s.split.Offset()
	s.loaded = true
	if rec.Err != nil {
		return
	}
	if err := m.decode(s, rec.Data); err != nil {
		s.item.DecodeErr = err
		return
	}
	s.item.Event = s.ev
	if !m.types[s.ev.Type] {
		m.types[s.ev.Type] = true
	}
	if s.ev.Time != 0 {
		s.item.Time = s.ev.Time
		s.time = s.ev.Time
	}
}

// decode decodes a record, first as what it is likely to be.
func (m *Merger) decode(s *input, data []byte) error {
	if m.o.Type == event.TypeUnknown {
		if t := s.habit.guess(data); t != event.TypeUnknown && m.dec.Decode(s.ev, event.Record{Type: t, Data: data}) == nil {
			return nil
		}
	}
	err := m.dec.Decode(s.ev, event.Record{Type: m.o.Type, Data: data})
	if err == nil && m.o.Type == event.TypeUnknown {
		s.habit.learn(s.ev.Type, data)
	}
	return err
}

func (m *Merger) close(s *input) error {
	if s.rc == nil {
		return nil
	}
	err := s.rc.Close()
	s.rc, s.split, s.ev, s.loaded = nil, nil, nil, false
	s.item = Item{}
	m.open--
	if err != nil {
		return &InputError{Input: s.i, Path: s.Path, Err: err}
	}
	return nil
}

// suspend closes the open file whose turn is farthest off; it is read again up
// to where it was when its turn comes.
func (m *Merger) suspend(but *input) {
	var victim *input
	for _, s := range m.inputs {
		if s != but && s.rc != nil && !s.Once && (victim == nil || s.time > victim.time) {
			victim = s
		}
	}
	if victim != nil {
		m.close(victim) // its error would be that of a file only read from
	}
}

// counter counts what is read of a file, once however often it is opened.
type counter struct {
	r   io.Reader
	m   *Merger
	s   *input
	off int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.off += int64(n)
	if c.off > c.s.counted {
		c.m.read.Add(c.off - c.s.counted)
		c.s.counted = c.off
	}
	return n, err
}

// queue is the files by the time of their next record.
type queue []*input

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].time < q[j].time || q[i].time == q[j].time && q[i].i < q[j].i
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*input)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}
