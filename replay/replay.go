// Package replay runs detection over log files without any server: the same
// decoding, matching and correlation as the service, in one process and memory.
//
// Files are merged by event time. The clock A is the highest event time read, and
// infinity at the end, so that everything settles. What comes out is a function of
// the files' contents and the rules, whatever the order in which files are named.
package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest"
	"github.com/vedette-sec/vedette/ingest/file"
)

// Stdin is the path that names standard input.
const Stdin = "-"

// tenant owns everything in a replay.
const tenant = "default"

// Enricher adds to events what their records do not say.
type Enricher interface{ Enrich(*event.Event) }

// Options say what to replay.
type Options struct {
	Rules    *rule.Set
	Enricher Enricher   // nil: none
	Type     event.Type // of all records; empty: told from each
	Paths    []string   // files, directories, or Stdin
	Stdin    io.Reader  // what Stdin reads; nil: os.Stdin

	MaxRecord int            // longest record, bytes; 0: ingest.DefaultMaxRecord
	Progress  func(Progress) // called now and then by Run's own goroutine; may be nil
}

// Progress says how far a replay has come.
type Progress struct {
	Bytes, Total int64 // of the files as they are; standard input is not in Total
	Records      int64
}

// Result is what a replay found and what it read.
type Result struct {
	Findings     []Finding        // by first time, then rule and id
	Files        int              // read
	Read         int64            // records, and pieces that are none
	Decoded      int64            // of them
	DeadLettered map[string]int64 // the rest, by reason
	Skipped      error            // rules that could not be run; nil if none
}

// Finding is one finding, with all its records.
type Finding struct {
	ID          string    `json:"finding_id"`
	RuleID      string    `json:"rule_id"`
	RuleTitle   string    `json:"rule_title"`
	Level       string    `json:"level"`
	Key         Key       `json:"key"`
	Count       int64     `json:"count"`
	First       time.Time `json:"first_time"`
	Last        time.Time `json:"last_time"`
	Verdict     string    `json:"verdict,omitempty"` // of absences: bypass or unknown
	Peak        float64   `json:"peak"`
	Detail      string    `json:"-"`
	Author      string    `json:"author,omitempty"`
	References  []string  `json:"references,omitempty"`
	Tags        []string  `json:"tags,omitempty"`
	RuleVersion string    `json:"rule_version"`
	Records     []Record  `json:"records"`
}

// Key is the finding's group key: the rule's group-by fields and their values.
type Key []Field

// Field is one field of a Key.
type Field struct{ Name, Value string }

// Record says where a record of a finding stands.
type Record struct {
	File    string `json:"file"`
	Line    int64  `json:"line"` // number of the record in the file, from 1
	EventID string `json:"event_id"`
}

// sectionRecords is how many records make a section, flushSections how many
// sections go by before findings are taken out of the engine.
const (
	sectionRecords = 512
	flushSections  = 64
)

// run is one replay.
type run struct {
	o       Options
	paths   []string
	total   int64
	merger  *file.Merger
	matcher *match.Matcher
	engine  *correlate.Engine

	builder  detect.SectionBuilder
	from, at int64 // offsets: of the section's first record, of the next
	clock    int64 // A: highest event time read, ns
	seen     map[event.Type]int64
	sections int
	observed bool

	refs     []ref
	resolved map[int64]Record // records of findings, by offset
	findings map[detect.FindingID]*detect.Finding
	res      Result
}

// ref says where a record stands that made an observation.
type ref struct {
	offset, stamp int64
	path          int
	line          int64
	id            string
}

// Run replays. The error is about reading; findings and counts up to there come
// with it.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Rules == nil {
		return Result{}, errors.New("replay: no rules")
	}
	r := &run{
		o: o, matcher: match.New(o.Rules), engine: correlate.NewEngine(correlate.Options{Sources: 1}),
		seen: map[event.Type]int64{}, resolved: map[int64]Record{}, findings: map[detect.FindingID]*detect.Finding{},
		res: Result{DeadLettered: map[string]int64{}},
	}
	r.res.Skipped = r.engine.AddRules(o.Rules)
	inputs, err := r.inputs(ctx)
	if err != nil {
		return r.res, err
	}
	r.merger = file.NewMerger(file.MergeOptions{Inputs: inputs, Type: o.Type, MaxRecord: o.MaxRecord})
	err = r.read(ctx)
	if cerr := r.merger.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("replay: %w", cerr)
	}
	if err != nil {
		return r.res, err
	}
	r.section()
	r.engine.Finish()
	r.flush()
	r.finish()
	return r.res, nil
}

// inputs opens nothing yet; it finds the files.
func (r *run) inputs(ctx context.Context) ([]file.Input, error) {
	var paths []string
	stdin := false
	for _, p := range r.o.Paths {
		if p == Stdin {
			stdin = true
			continue
		}
		paths = append(paths, p)
	}
	files, err := file.List(paths)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	if len(files) == 0 && !stdin {
		return nil, fmt.Errorf("replay: no log files in %s", strings.Join(r.o.Paths, ", "))
	}
	var inputs []file.Input
	for _, p := range files {
		open := func() (io.ReadCloser, error) { return os.Open(p) }
		st, err := os.Stat(p)
		regular := err != nil || st.Mode().IsRegular()
		if err == nil && regular {
			r.total += st.Size()
		}
		if !regular {
			open = func() (io.ReadCloser, error) {
				return newPump(ctx, func() (io.Reader, error) { return os.Open(p) }), nil
			}
		}
		inputs = append(inputs, file.Input{Path: p, Once: !regular, Open: open})
		r.paths = append(r.paths, p)
	}
	if stdin {
		in := r.o.Stdin
		if in == nil {
			in = os.Stdin
		}
		inputs = append(inputs, file.Input{Path: Stdin, Once: true, Open: func() (io.ReadCloser, error) {
			return newPump(ctx, func() (io.Reader, error) { return in, nil }), nil
		}})
		r.paths = append(r.paths, Stdin)
	}
	r.res.Files = len(inputs)
	return inputs, nil
}

func (r *run) read(ctx context.Context) error {
	for {
		it, err := r.merger.Next()
		if errors.Is(err, io.EOF) {
			r.progress()
			return nil
		}
		if err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		r.record(it)
		if r.at-r.from >= sectionRecords {
			r.section()
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("replay: %w", err)
			}
			if r.sections++; r.sections%flushSections == 0 {
				r.flush()
				r.progress()
			}
		}
	}
}

func (r *run) progress() {
	if r.o.Progress != nil {
		r.o.Progress(Progress{Bytes: r.merger.Read(), Total: r.total, Records: r.res.Read})
	}
}

// record matches one record.
func (r *run) record(it *file.Item) {
	offset := r.at
	r.at++
	r.res.Read++
	if it.Event == nil {
		r.res.DeadLettered[reason(it)]++
		return
	}
	r.res.Decoded++
	ev := it.Event
	r.clock = max(r.clock, ev.Time)
	if t, ok := r.seen[ev.Type]; !ok || ev.Time > t {
		r.seen[ev.Type] = ev.Time
	}
	if r.o.Enricher != nil {
		r.o.Enricher.Enrich(ev)
	}
	r.observed = false
	r.matcher.Observe(ev, tenant, detect.Pointer{Offset: offset}, r.clock, r)
	if r.observed {
		r.refs = append(r.refs, ref{offset: offset, stamp: r.clock, path: it.Input, line: it.Line, id: string(ev.Attr(event.AttrUID))})
	}
}

// reason is why an item is no event, as a word.
func reason(it *file.Item) string {
	var se *ingest.SplitError
	if errors.As(it.Err, &se) {
		return string(se.Reason)
	}
	var de *event.DecodeError
	if errors.As(it.DecodeErr, &de) {
		return de.Reason.String()
	}
	return "other"
}

// Observe implements [match.Sink].
func (r *run) Observe(rl *rule.Rule, tenant string, key []byte, o detect.Observation) {
	r.observed = true
	r.builder.Add(tenant, rl.Version, key, o)
}

// section applies what was observed since the last.
func (r *run) section() {
	if r.at == r.from {
		return
	}
	sec := detect.Section{From: r.from, To: r.at, Clock: r.clock, Groups: r.builder.Groups()}
	for t, at := range r.seen {
		sec.Seen = append(sec.Seen, detect.Seen{Type: string(t), Time: at})
	}
	r.engine.Apply(&sec, false) // its one source has neither gaps nor repeats
	r.builder.Reset()
	r.from = r.at
}

// flush takes the findings out of the engine, notes where their records stand,
// and forgets the records that no finding can point at any more.
func (r *run) flush() {
	deltas, _ := r.engine.Flush()
	for _, d := range deltas {
		for _, ev := range d.Evidence {
			if _, ok := r.resolved[ev.Offset]; ok {
				continue
			}
			if i, ok := slices.BinarySearchFunc(r.refs, ev.Offset, func(a ref, o int64) int { return cmp.Compare(a.offset, o) }); ok {
				a := r.refs[i]
				r.resolved[ev.Offset] = Record{File: r.paths[a.path], Line: a.line, EventID: a.id}
			}
		}
		if f, ok := r.findings[d.ID]; ok {
			f.Add(d, 0)
			continue
		}
		f := d
		r.findings[d.ID] = &f
	}
	horizon := r.engine.RebuildClock()
	n, _ := slices.BinarySearchFunc(r.refs, horizon, func(a ref, h int64) int { return cmp.Compare(a.stamp, h) })
	if horizon != math.MinInt64 && n > len(r.refs)/2 {
		r.refs = append(make([]ref, 0, len(r.refs)-n+sectionRecords*flushSections), r.refs[n:]...)
	}
}

// finish writes the findings out.
func (r *run) finish() {
	r.res.Findings = make([]Finding, 0, len(r.findings))
	for _, f := range r.findings {
		r.res.Findings = append(r.res.Findings, r.finding(f))
	}
	slices.SortFunc(r.res.Findings, func(a, b Finding) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.RuleID, b.RuleID), cmp.Compare(a.ID, b.ID))
	})
}

func (r *run) finding(f *detect.Finding) Finding {
	out := Finding{
		ID: f.ID.String(), RuleVersion: f.RuleVersion, Count: f.Count, Peak: f.Peak, Detail: f.Detail, Verdict: f.Verdict,
		First: time.Unix(0, f.First).UTC(), Last: time.Unix(0, f.Last).UTC(), Records: []Record{}, Key: Key{},
	}
	values, err := detect.SplitKey(f.Key)
	if err != nil {
		values = []string{string(f.Key)} // the engine's own; shown as it is
	}
	if rl := r.o.Rules.ByVersion(f.RuleVersion); rl != nil {
		out.RuleID, out.RuleTitle, out.Level = rl.ID, rl.Title, rl.Level.String()
		out.Author, out.References, out.Tags = rl.Author, rl.References, rl.Tags
		for i, v := range values {
			name := "key"
			if i < len(rl.Correlation.GroupBy) {
				name = rl.Correlation.GroupBy[i]
			}
			out.Key = append(out.Key, Field{name, v})
		}
	}
	for _, ev := range f.Evidence {
		if rec, ok := r.resolved[ev.Offset]; ok {
			out.Records = append(out.Records, rec)
		}
	}
	return out
}
