package incident_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/incident"
)

// logs are the records of vedette.logs by offset.
type logs struct {
	records map[int64]incident.LogRecord
	err     error
	reads   int
}

func (l *logs) Read(_ context.Context, ps []detect.Pointer) ([]incident.LogRecord, error) {
	l.reads += len(ps)
	out := make([]incident.LogRecord, len(ps))
	for i, p := range ps {
		out[i] = l.records[p.Offset]
	}
	return out, l.err
}

func raw(offset int64) []byte { return fmt.Appendf(nil, `{"eventID":"e-%d"}`, offset) }

func at(offset int64) detect.Evidence {
	return detect.Evidence{
		Pointer: detect.Pointer{
			Source: detect.Source{Incarnation: 1, Partition: 2}, Offset: offset,
			CRC: crc32.Checksum(raw(offset), crc32.MakeTable(crc32.Castagnoli)),
		},
		Time: start + offset, IDHash: uint64(offset),
	}
}

func TestEvidence(t *testing.T) {
	l := newLedger(t)
	ctx := t.Context()
	src := &logs{records: map[int64]incident.LogRecord{}, err: errors.New("the log is away")}
	for _, o := range []int64{10, 11, 12, 20} {
		src.records[o] = incident.LogRecord{Found: true, Type: "aws.cloudtrail", UID: fmt.Sprintf("e-%d", o), Raw: raw(o)}
	}
	src.records[11] = incident.LogRecord{Found: true, Raw: []byte("another record")}
	a, err := incident.New(incident.Options{Ledger: l, Records: src})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	f := finding("flood1", 0, "198.51.100.7")
	f.Evidence = []detect.Evidence{at(10), at(11), at(12), at(13)} // 13 has expired
	if err := l.checkpoint(ctx, 1, f); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CopyEvidence(ctx); err == nil {
		t.Fatal("no error while the log is away")
	}
	src.err = nil
	copyAll := func() {
		t.Helper()
		for more := true; more; {
			if more, err = a.CopyEvidence(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	type rec struct {
		Offset          int64
		State, UID, Raw string
	}
	kept := func() []rec {
		t.Helper()
		rows, err := l.Pool().Query(ctx, `SELECT record_offset, state, event_uid, convert_from(raw, 'UTF8') FROM evidence_record ORDER BY record_offset`)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[rec])
		if err != nil {
			t.Fatal(err)
		}
		return recs
	}
	copied := func(o int64) rec {
		return rec{o, "copied", fmt.Sprintf("e-%d", o), string(raw(o))}
	}
	copyAll()
	want := []rec{copied(10), {11, "mismatch", "", ""}, copied(12), {13, "expired", "", ""}}
	if d := cmp.Diff(want, kept()); d != "" {
		t.Fatal(d)
	}

	// Earlier events come: the first ten are kept, what is copied is not read anew.
	src.reads = 0
	for o := range int64(9) {
		src.records[o+1] = incident.LogRecord{Found: true, UID: fmt.Sprintf("e-%d", o+1), Raw: raw(o + 1)}
		f.Evidence = append(f.Evidence, at(o+1))
	}
	if err := l.checkpoint(ctx, 1, f); err != nil {
		t.Fatal(err)
	}
	copyAll()
	want = nil
	for o := range int64(10) {
		want = append(want, copied(o+1))
	}
	if d := cmp.Diff(want, kept()); d != "" {
		t.Fatal(d)
	}
	if src.reads != 9 {
		t.Errorf("%d records read, want 9", src.reads)
	}

	// An owner that was fenced copies no more.
	if _, err := l.AcquireAssembler(ctx, 0); err != nil {
		t.Fatal(err)
	}
	g := finding("flood1", 100, "203.0.113.9")
	g.Evidence = []detect.Evidence{at(20)}
	if err := l.checkpoint(ctx, 0, g); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CopyEvidence(ctx); !errors.Is(err, incident.ErrFenced) {
		t.Errorf("copying when fenced: %v", err)
	}
	if n := len(kept()); n != 10 {
		t.Errorf("%d records kept", n)
	}
}

// TestWritersAtOnce assembles while checkpoints change the same findings, as the
// running service does.
func TestWritersAtOnce(t *testing.T) {
	l := newLedger(t)
	ctx := t.Context()
	a, err := incident.New(incident.Options{Ledger: l, Batch: 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	writing := make(chan error, partitions)
	for p := range int32(partitions) {
		go func() {
			var err error
			for round := 0; round < 30 && err == nil; round++ {
				var fs []detect.Finding
				for i := range 30 {
					f := finding("who", round+i, "arn:aws:iam::111122223333:user/ann", fmt.Sprintf("198.51.100.%d", i*partitions+int(p)))
					fs = append(fs, f)
				}
				err = l.Commit(ctx, correlate.Commit{Partition: p, Epoch: l.owners[p].Epoch, Findings: fs})
			}
			writing <- err
		}()
	}
	for left := partitions; left > 0; {
		select {
		case err := <-writing:
			if err != nil {
				t.Fatal(err)
			}
			left--
		default:
			if _, err := a.Step(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := drain(ctx, a); err != nil {
		t.Fatal(err)
	}
	got, fs, err := l.views(ctx, "t1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(reference(fs, 30*60e9, 120*60e9, 50), got); d != "" {
		t.Fatalf("incidents (-want +got):\n%s", d)
	}
}

// BenchmarkSpray assembles new findings of one address and as many principals,
// all of which belong into one incident.
func BenchmarkSpray(b *testing.B) {
	l := newLedger(b)
	ctx := b.Context()
	a, err := incident.New(incident.Options{Ledger: l, Receivers: []incident.Receiver{{Name: "all"}}})
	if err != nil {
		b.Fatal(err)
	}
	if err := a.Acquire(ctx); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		b.StopTimer()
		var fs []detect.Finding
		for range 500 {
			n++
			fs = append(fs, finding("who", n%60, fmt.Sprintf("arn:aws:iam::111122223333:user/u%d", n), "198.51.100.7"))
		}
		if err := l.checkpoint(ctx, 0, fs...); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := drain(ctx, a); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "findings/s")
}
