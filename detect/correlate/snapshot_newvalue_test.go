package correlate_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// What waits to settle is in a snapshot with all that is known of it: which event of
// a value is the least, since only an earlier one fires at once, and whether it came
// late, which the finding says.
func TestSnapshotOfWaitingValues(t *testing.T) {
	at := func(d time.Duration) int64 { return start + int64(d) }
	visit := func(id uint64, label string, stamp, happened time.Duration, through time.Duration) simRecord {
		r := simRecord{stamp: at(stamp), crc: uint32(id), progress: []detect.Progress{{Origin: "file", Through: at(through)}}}
		if label != "" {
			r.events = []simEvent{{time: at(happened), id: id, key: "a", label: label}}
		}
		return r
	}
	s := &sim{
		rules: []*rule.Rule{newRule(rule.Correlation{Type: rule.NewValue, Field: "country", Learning: 4 * time.Hour}, 1)},
		n:     1, opts: correlate.Options{Sources: 1, EvidenceLimit: 5, Skew: 1},
		sources: [][]simRecord{{
			visit(1, "x", 0, 0, 0),
			visit(0, "", 6*time.Hour, 0, 5*time.Hour),                           // x is learned; the collector lags from here on
			visit(2, "y", 7*time.Hour, 6*time.Hour+30*time.Minute, 5*time.Hour), // later than a quarter of an hour
			visit(5, "z", 7*time.Hour, 6*time.Hour+40*time.Minute, 5*time.Hour),
			visit(3, "y", 7*time.Hour+time.Second, 6*time.Hour+20*time.Minute, 5*time.Hour),
			visit(4, "y", 7*time.Hour+time.Minute, 6*time.Hour+50*time.Minute, 5*time.Hour),
			visit(0, "", 8*time.Hour, 0, 8*time.Hour),
		}},
	}
	const written = 4 // the records that the snapshot has seen
	a := s.engine(t)
	b := s.engine(t)
	var pages []correlate.Page
	var late int64
	for i := range int64(len(s.sources[0])) {
		sec := s.section(0, i, i+1)
		a.Apply(&sec, false)
		if i >= written {
			b.Apply(&sec, false)
		}
		want, ps := a.Flush()
		pages = append(pages, ps...)
		if i == written-1 {
			var w bytes.Buffer
			if err := errors.Join(a.Snapshot(&w), b.Restore(pages), b.Reset(a.State()), b.Load(&w)); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range want {
			late += f.Late
		}
		if i < written {
			continue
		}
		got, _ := b.Flush()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("record %d behind a snapshot (-that wrote it +that loaded it):\n%s", i, d)
		}
		if i == written && len(want) != 1 {
			t.Errorf("%d findings of an earlier event of the value, want one at once", len(want))
		}
	}
	if late < 3 {
		t.Errorf("%d findings of late events: the test is empty", late)
	}
}
