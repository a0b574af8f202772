package simulate

import (
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

func beforeRecord(a, b *record) bool { return a.t < b.t || a.t == b.t && a.seq < b.seq }

// output puts records in order and hands them to the writers of the files:
// CloudTrail's one for five minutes, a log group's one a day.
type output struct {
	root    string
	pending queue[record]
	seq     int
	trail   *writer
	window  int64 // of the trail's file
	groups  map[string]*groupOutput
	token   func(n int) string
	records int
	files   int
}

// groupOutput is where the records of a log group go.
type groupOutput struct {
	*writer
	day int64
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
	return &output{
		root: root, pending: queue[record]{before: beforeRecord},
		trail: newWriter(&trailFormat{}), window: -1, groups: map[string]*groupOutput{},
	}, nil
}

func (o *output) add(r record) {
	o.seq++
	r.seq = o.seq
	o.pending.push(r)
}

// flush hands the records before t, ms, to the writers.
func (o *output) flush(t int64) error {
	for o.pending.len() > 0 && o.pending.top().t < t {
		r := o.pending.pop()
		if err := o.put(r); err != nil {
			return fmt.Errorf("simulate: write logs: %w", err)
		}
	}
	return nil
}

func (o *output) put(r record) error {
	o.records++
	if r.group == "" {
		return o.putTrail(r)
	}
	return o.putGroup(r)
}

// delivery is how often CloudTrail writes a file, ms.
const delivery = 5 * 60_000

func (o *output) putTrail(r record) error {
	if w := r.t / delivery; w != o.window {
		o.window = w
		o.files++
		at := time.UnixMilli(w * delivery).UTC()
		if err := o.trail.create(filepath.Join(o.root, "cloudtrail", "AWSLogs", accountID, "CloudTrail", region, at.Format("2006/01/02"),
			accountID+"_CloudTrail_"+region+"_"+at.Format("20060102T1504Z")+"_"+o.token(16)+".json.gz")); err != nil {
			return err
		}
	}
	return o.trail.put(r)
}

func (o *output) putGroup(r record) error {
	g := o.groups[r.group]
	if g == nil {
		g = &groupOutput{newWriter(&groupFormat{group: r.group, events: map[string][]record{}}), -1}
		o.groups[r.group] = g
	}
	if d := r.t / day; d != g.day {
		g.day = d
		o.files++
		kind, name := "lambda", filepath.Base(r.group)
		if r.group == apiGroup {
			kind = "apigateway"
		}
		if err := g.create(filepath.Join(o.root, kind, name, time.UnixMilli(r.t).UTC().Format("2006-01-02")+".json.gz")); err != nil {
			return err
		}
	}
	return g.put(r)
}

// close writes what is pending and closes the files. end is the end of the
// simulated time.
func (o *output) close(end int64) error {
	if err := o.flush(end); err != nil {
		return errors.Join(err, o.abort())
	}
	// What CloudTrail would deliver after the end comes with its last file.
	for o.pending.len() > 0 {
		r := o.pending.pop()
		r.group, r.t = "", end-1
		if err := o.put(r); err != nil {
			return errors.Join(fmt.Errorf("simulate: write logs: %w", err), o.abort())
		}
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
		return fmt.Errorf("simulate: write logs: %w", err)
	}
	return nil
}

// trailFormat writes CloudTrail's files.
type trailFormat struct{ any bool }

func (f *trailFormat) begin(b []byte) []byte {
	f.any = false
	return append(b, `{"Records":[`...)
}

func (f *trailFormat) append(b []byte, r *record) []byte {
	if f.any {
		b = append(b, ',')
	}
	f.any = true
	return append(b, r.data...)
}

func (f *trailFormat) end(b []byte) []byte { return append(b, "]}"...) }

// batching is how long log events of a stream are gathered for one envelope, ms.
const batching = 10_000

// groupFormat writes a log group's files: the subscription messages of windows,
// one a stream and line.
type groupFormat struct {
	group   string
	window  int64
	streams []string // of this window, in the order of their first event
	events  map[string][]record
	free    [][]record
}

func (f *groupFormat) begin(b []byte) []byte { return b }

func (f *groupFormat) append(b []byte, r *record) []byte {
	if w := r.t / batching; w != f.window {
		b = f.end(b)
		f.window = w
	}
	es, ok := f.events[r.stream]
	if !ok {
		f.streams = append(f.streams, r.stream)
		if n := len(f.free); n > 0 {
			es, f.free = f.free[n-1], f.free[:n-1]
		}
	}
	f.events[r.stream] = append(es, *r)
	return b
}

// end writes the window's envelopes.
func (f *groupFormat) end(b []byte) []byte {
	for _, stream := range f.streams {
		b = append(b, `{"messageType":"DATA_MESSAGE","owner":"`+accountID+`","logGroup":`...)
		b = appendString(b, f.group)
		b = append(b, `,"logStream":`...)
		b = appendString(b, stream)
		b = append(b, `,"subscriptionFilters":["to-vedette"],"logEvents":[`...)
		events := f.events[stream]
		for i := range events {
			e := &events[i]
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
		clear(events)
		f.free = append(f.free, events[:0])
		delete(f.events, stream)
	}
	f.streams = f.streams[:0]
	return b
}

// appendString appends s as a JSON string. It is for the simulation's own texts,
// which are valid UTF-8.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0 // from where on nothing needs an escape
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[plain:i]...)
		plain = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[plain:]...), '"')
}
