package file

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/vedette-sec/vedette/ingest"
	"github.com/vedette-sec/vedette/stream"
)

// Bounds of a batch.
const (
	batchBytes   = 1 << 20
	batchRecords = 4096
)

// watch is what is remembered of a file between looks.
type watch struct {
	size  int64
	mtime time.Time
	since time.Time // when it was first seen like this
	held  bool      // its end could not be read yet
	from  time.Time // since when there is something in it that cannot be read yet; zero if there is not
}

// waiting is a file with something to read.
type waiting struct {
	path  string
	place *place
	size  int64 // up to which it is read
	rest  bool  // it is not being written
	begin int64 // where this pass begins in it, bytes
	held  bool  // it ended within a record: the rest waits
	last  Item  // of the batch, its position only
	moved bool
}

// look finds the files with something to read. failed says that some could not
// be looked at; moving, since when there is something in files being written that
// cannot be read yet, the zero time if there is not.
func (c *Collector) look() (files []*waiting, moving time.Time, failed bool) {
	var paths []string
	for _, p := range c.o.Paths {
		found, err := List([]string{p})
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				failed = true
				c.fail("list", err)
			}
			continue // it may come to be
		}
		paths = append(paths, found...)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		w, from, err := c.lookAt(path, seen)
		if !from.IsZero() && (moving.IsZero() || from.Before(moving)) {
			moving = from
		}
		switch {
		case errors.Is(err, os.ErrNotExist): // gone meanwhile
		case err != nil:
			failed = true
			c.fail("read", err)
		case w != nil:
			files = append(files, w)
		}
	}
	for id := range c.watched {
		if !seen[id] {
			delete(c.watched, id)
		}
	}
	c.o.Metrics.Files.WithLabelValues(c.o.Origin).Set(float64(len(seen)))
	c.o.Metrics.Waiting.WithLabelValues(c.o.Origin).Set(float64(len(files)))
	return files, moving, failed
}

// lookAt returns the file at path if there is something to read in it. moving is
// since when there is what cannot be read before the file is at rest.
func (c *Collector) lookAt(path string, seen map[string]bool) (w *waiting, moving time.Time, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, moving, err
	}
	id := identity(path, st)
	if seen[id] { // under another name
		return nil, moving, nil
	}
	seen[id] = true
	now := c.o.Now()
	known := c.watched[id]
	unchanged := known != nil && known.size == st.Size() && known.mtime.Equal(st.ModTime())
	if !unchanged {
		k := &watch{size: st.Size(), mtime: st.ModTime(), since: now}
		if known != nil {
			k.held, k.from = known.held, known.from
		}
		known = k
		c.watched[id] = known
	}
	rest := now.Sub(known.since) >= c.o.Rest || now.Sub(known.mtime) >= c.o.Rest
	p := c.places[id]
	if p != nil {
		p.Seen = now.Unix()
		if unchanged && p.Path == path {
			switch {
			case known.held && !rest:
				return nil, known.from, nil
			case p.Size == st.Size() && !known.held:
				return nil, moving, nil
			}
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, moving, err
	}
	defer f.Close()
	if p != nil {
		same, err := p.same(f, st.Size())
		if err != nil {
			return nil, moving, err
		}
		if !same {
			c.o.Logger.Info("log file begins anew", "path", path)
			p = nil
		}
	}
	from := int64(0)
	if p != nil {
		from = p.Size
	}
	size, busy, err := readable(f, from, st.Size(), rest)
	if err != nil {
		return nil, moving, err
	}
	switch busy = busy || known.held && !rest; {
	case !busy:
		known.from = time.Time{}
	case known.from.IsZero():
		known.from = now
	}
	if p == nil || p.Head < maxHead && p.Head < st.Size() {
		if p == nil {
			p = &place{ID: id}
		}
		p.Head = min(maxHead, st.Size())
		if p.Sum, err = headSum(f, p.Head); err != nil {
			return nil, moving, err
		}
		c.places[id] = p
		c.dirty = true
	}
	p.Path, p.Seen = path, now.Unix()
	if size <= p.Size && !(known.held && rest) {
		return nil, known.from, nil
	}
	return &waiting{path: path, place: p, size: size, rest: rest, begin: p.Offset}, known.from, nil
}

// input opens the file where its place says, up to the size seen.
func (w *waiting) input() Input {
	from, size := w.begin, w.size
	return Input{
		Path: w.path, Base: w.place.Base, Skip: w.place.Records - w.place.Base,
		Open: func() (io.ReadCloser, error) {
			f, err := os.Open(w.path)
			if err != nil {
				return nil, err
			}
			return &section{io.NewSectionReader(f, from, max(size-from, 0)), f}, nil
		},
	}
}

// section is a stretch of a file.
type section struct {
	*io.SectionReader
	f *os.File
}

func (s *section) Close() error { return s.f.Close() }

// batch is records read and not appended yet.
type batch struct {
	arena []byte
	ends  []int
	types []string
	msgs  []stream.LogMessage
	began time.Time // when its first record was read
}

// pass reads files to their ends as one, and returns the number of records read.
// failed says that some files could not be.
func (c *Collector) pass(ctx context.Context, files []*waiting) (read int, failed bool) {
	inputs := make([]Input, len(files))
	for i, w := range files {
		inputs[i] = w.input()
	}
	m := NewMerger(MergeOptions{Inputs: inputs, Type: c.o.Type, MaxRecord: c.o.MaxRecord})
	defer m.Close()
	broken := map[int]bool{}
	var b batch
	told := 0
	for ctx.Err() == nil {
		it, err := m.Next()
		var ie *InputError
		if errors.As(err, &ie) {
			if !errors.Is(err, os.ErrNotExist) {
				failed = true
				c.fail("read", err)
			}
			broken[ie.Input] = true
			continue
		}
		if err != nil { // io.EOF
			if c.flush(ctx, files, &b) {
				c.finish(files, broken)
			}
			return read, failed
		}
		c.declare(ctx, m.Types(), m.Head())
		w := files[it.Input]
		if w.held {
			continue
		}
		var se *ingest.SplitError
		if errors.As(it.Err, &se) && !w.rest && se.Reason == ingest.ReasonTruncated {
			w.held = true // the rest of it may be on its way
			continue
		}
		if it.Err != nil {
			if !c.bury(ctx, it) {
				return read, failed
			}
		} else {
			if len(b.ends) == 0 {
				b.began = c.o.Now()
			}
			b.add(it, string(c.o.Type))
		}
		read++
		w.last = Item{Line: it.Line, Offset: it.Offset, Whole: it.Whole}
		w.moved = true
		if len(b.arena) < batchBytes && len(b.ends) < batchRecords {
			continue
		}
		told += len(b.ends)
		if !c.flush(ctx, files, &b) {
			return read, failed
		}
		c.progress(ctx, m.Head(), false, told >= tellRecords)
		if told >= tellRecords {
			told = 0
		}
		c.save(ctx, false)
	}
	return read, failed
}

func (b *batch) add(it *Item, typ string) {
	if it.Event != nil {
		typ = string(it.Event.Type)
	}
	b.arena = append(b.arena, it.Data...)
	b.ends = append(b.ends, len(b.arena))
	b.types = append(b.types, typ)
}

// flush appends the batch and moves the places behind it; false if ctx ended
// before.
func (c *Collector) flush(ctx context.Context, files []*waiting, b *batch) bool {
	b.msgs = b.msgs[:0]
	from := 0
	for i, end := range b.ends {
		b.msgs = append(b.msgs, stream.LogMessage{
			Kind: stream.KindRecord, Tenant: c.o.Tenant, Type: b.types[i], Origin: c.o.Origin, Value: b.arena[from:end:end],
		})
		from = end
	}
	if len(b.msgs) > 0 {
		ctx, span := c.o.Tracer.Start(ctx, "collect page", trace.WithTimestamp(b.began))
		if span.IsRecording() {
			span.SetAttributes(attribute.String("vedette.origin", c.o.Origin), attribute.Int("vedette.records", len(b.msgs)),
				attribute.Int("vedette.bytes", len(b.arena)))
		}
		appended := c.retry(ctx, "append", func() error { return c.o.Appender.Append(ctx, b.msgs) })
		if !appended {
			span.SetStatus(codes.Error, "stopped before it was appended")
		}
		span.End()
		if !appended {
			return false
		}
		c.o.Metrics.Records.WithLabelValues(c.o.Origin, "appended").Add(float64(len(b.msgs)))
		c.o.Metrics.Bytes.WithLabelValues(c.o.Origin).Add(float64(len(b.arena)))
	}
	b.arena, b.ends, b.types = b.arena[:0], b.ends[:0], b.types[:0]
	for _, w := range files {
		if w.moved {
			w.move()
			c.dirty = true
		}
	}
	return true
}

// move puts the place behind the last record.
func (w *waiting) move() {
	p := w.place
	p.Records = w.last.Line
	if w.last.Whole {
		// Offsets are counted from where the file was opened in this pass.
		p.Offset, p.Base = w.begin+w.last.Offset, w.last.Line
	}
	w.moved = false
}

// finish notes which files have been read to their ends.
func (c *Collector) finish(files []*waiting, broken map[int]bool) {
	for i, w := range files {
		if broken[i] {
			continue
		}
		if !w.held {
			w.place.Size = w.size
		}
		if s := c.watched[w.place.ID]; s != nil {
			s.held = w.held
			if w.held && s.from.IsZero() {
				s.from = c.o.Now()
			}
			if w.held && (c.moving.IsZero() || s.from.Before(c.moving)) {
				c.moving = s.from
			}
		}
		c.dirty = true
	}
}

// bury keeps a piece that is no record; false if ctx ended before.
func (c *Collector) bury(ctx context.Context, it *Item) bool {
	d := stream.DeadLetter{
		Reason: string(ingest.ReasonInvalid), Detail: it.Err.Error(), Tenant: c.o.Tenant, Type: string(c.o.Type), Origin: c.o.Origin,
		Partition: -1, Offset: -1, Value: it.Data,
	}
	var se *ingest.SplitError
	if errors.As(it.Err, &se) {
		d.Reason, d.SHA256 = string(se.Reason), se.SHA256
	}
	if !c.retry(ctx, "append", func() error { return c.o.Appender.DeadLetter(ctx, d) }) {
		return false
	}
	c.o.Metrics.Records.WithLabelValues(c.o.Origin, "dead_lettered").Inc()
	return true
}
