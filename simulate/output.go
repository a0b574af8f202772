package simulate

import (
	"bufio"
	"compress/gzip"
	"container/heap"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// record is one log record on its way to a file. Records are made out of order,
// but never before the time that the simulation has come to.
type record struct {
	t      int64 // when it is written, ms
	seq    int
	group  string // CloudWatch Logs log group; empty for CloudTrail
	stream string
	id     string
	data   string // the message, or the CloudTrail record
}

type records []record

func (r records) Len() int { return len(r) }
func (r records) Less(i, j int) bool {
	return r[i].t < r[j].t || r[i].t == r[j].t && r[i].seq < r[j].seq
}
func (r records) Swap(i, j int) { r[i], r[j] = r[j], r[i] }
func (r *records) Push(x any)   { *r = append(*r, x.(record)) }
func (r *records) Pop() any {
	old := *r
	x := old[len(old)-1]
	*r = old[:len(old)-1]
	return x
}

// output puts records in order and writes the files: CloudTrail's one for five
// minutes, a log group's one a day.
type output struct {
	root    string
	pending records
	seq     int
	trail   trailFile
	groups  map[string]*groupFile
	token   func(n int) string
	records int
	files   int
}

func newOutput(dir string) (*output, error) {
	root := filepath.Join(dir, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("simulate: make directory: %w", err)
	}
	// Logs of two runs in one directory would be one account's logs that make no sense.
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, fmt.Errorf("simulate: make directory (a run does not add to another's logs): %w", err)
	}
	for _, d := range []string{"cloudtrail", "apigateway", "lambda"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			return nil, fmt.Errorf("simulate: make directory: %w", err)
		}
	}
	return &output{root: root, groups: map[string]*groupFile{}}, nil
}

func (o *output) add(r record) {
	o.seq++
	r.seq = o.seq
	heap.Push(&o.pending, r)
}

// flush writes the records before t, ms.
func (o *output) flush(t int64) error {
	for len(o.pending) > 0 && o.pending[0].t < t {
		r := heap.Pop(&o.pending).(record)
		var err error
		if r.group == "" {
			err = o.writeTrail(r)
		} else {
			err = o.writeGroup(r)
		}
		if err != nil {
			return fmt.Errorf("simulate: write logs: %w", err)
		}
		o.records++
	}
	return nil
}

// close writes what is pending and closes the files. end is the end of the
// simulated time.
func (o *output) close(end int64) error {
	if err := o.flush(end); err != nil {
		return errors.Join(err, o.abort())
	}
	// What CloudTrail would deliver after the end comes with its last file.
	for len(o.pending) > 0 {
		r := heap.Pop(&o.pending).(record)
		r.t = end - 1
		if err := o.writeTrail(r); err != nil {
			return errors.Join(fmt.Errorf("simulate: write logs: %w", err), o.abort())
		}
		o.records++
	}
	return o.abort()
}

// abort closes the files as they are.
func (o *output) abort() error {
	err := o.trail.close()
	for _, g := range o.groups {
		err = errors.Join(err, g.close())
	}
	if err != nil {
		return fmt.Errorf("simulate: close logs: %w", err)
	}
	return nil
}

// zipFile is a file written compressed.
type zipFile struct {
	f *os.File
	z *gzip.Writer
	w *bufio.Writer
}

func createZip(path string) (*zipFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &zipFile{f, z, bufio.NewWriterSize(z, 64<<10)}, nil
}

func (z *zipFile) close() error {
	return errors.Join(z.w.Flush(), z.z.Close(), z.f.Close())
}

// delivery is how often CloudTrail writes a file, ms.
const delivery = 5 * 60_000

// trailFile is the CloudTrail file being written.
type trailFile struct {
	window int64
	zip    *zipFile
	any    bool
}

func (o *output) writeTrail(r record) error {
	f := &o.trail
	if w := r.t / delivery; f.zip == nil || w != f.window {
		if err := f.close(); err != nil {
			return err
		}
		at := time.UnixMilli(w * delivery).UTC()
		z, err := createZip(filepath.Join(o.root, "cloudtrail", "AWSLogs", accountID, "CloudTrail", region, at.Format("2006/01/02"),
			accountID+"_CloudTrail_"+region+"_"+at.Format("20060102T1504Z")+"_"+o.token(16)+".json.gz"))
		if err != nil {
			return err
		}
		o.files++
		f.zip, f.window, f.any = z, w, false
		z.w.WriteString(`{"Records":[`)
	}
	if f.any {
		f.zip.w.WriteByte(',')
	}
	f.any = true
	_, err := f.zip.w.WriteString(r.data)
	return err
}

func (f *trailFile) close() error {
	if f.zip == nil {
		return nil
	}
	z := f.zip
	f.zip = nil
	_, err := z.w.WriteString("]}")
	return errors.Join(err, z.close())
}

// batching is how long log events of a stream are gathered for one envelope, ms.
const batching = 10_000

// groupFile is the file of one log group and day being written.
type groupFile struct {
	group   string
	day     int64
	zip     *zipFile
	window  int64
	streams []string // of this window, in the order of their first event
	events  map[string][]record
}

func (o *output) writeGroup(r record) error {
	g := o.groups[r.group]
	if g == nil {
		g = &groupFile{group: r.group, events: map[string][]record{}}
		o.groups[r.group] = g
	}
	if w := r.t / batching; w != g.window {
		if err := g.writeEnvelopes(); err != nil {
			return err
		}
		g.window = w
	}
	if day := r.t / 86_400_000; g.zip == nil || day != g.day {
		if err := g.close(); err != nil {
			return err
		}
		kind, name := "lambda", filepath.Base(r.group)
		if r.group == apiGroup {
			kind = "apigateway"
		}
		z, err := createZip(filepath.Join(o.root, kind, name, time.UnixMilli(r.t).UTC().Format("2006-01-02")+".json.gz"))
		if err != nil {
			return err
		}
		o.files++
		g.zip, g.day = z, day
	}
	if len(g.events[r.stream]) == 0 {
		g.streams = append(g.streams, r.stream)
	}
	g.events[r.stream] = append(g.events[r.stream], r)
	return nil
}

// writeEnvelopes writes the window's events, one subscription message a stream
// and line.
func (g *groupFile) writeEnvelopes() error {
	for _, stream := range g.streams {
		events := g.events[stream]
		b := make([]byte, 0, 512*len(events))
		b = append(b, `{"messageType":"DATA_MESSAGE","owner":"`+accountID+`","logGroup":`...)
		b = appendString(b, g.group)
		b = append(b, `,"logStream":`...)
		b = appendString(b, stream)
		b = append(b, `,"subscriptionFilters":["to-vedette"],"logEvents":[`...)
		for i, e := range events {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"id":"`...)
			b = append(b, e.id...)
			b = append(b, `","timestamp":`...)
			b = strconv.AppendInt(b, e.t, 10)
			b = append(b, `,"message":`...)
			b = appendString(b, e.data)
			b = append(b, '}')
		}
		b = append(b, "]}\n"...)
		if _, err := g.zip.w.Write(b); err != nil {
			return err
		}
		delete(g.events, stream)
	}
	g.streams = g.streams[:0]
	return nil
}

func (g *groupFile) close() error {
	if g.zip == nil {
		return nil
	}
	err := g.writeEnvelopes()
	z := g.zip
	g.zip = nil
	return errors.Join(err, z.close())
}

// appendString appends s as a JSON string. It is for the simulation's own texts,
// which are valid UTF-8.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"', c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < 0x20:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
