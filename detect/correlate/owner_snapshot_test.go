package correlate_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/detect/correlate"
)

func openSnapshots(t testing.TB, dir string) *correlate.Snapshots {
	t.Helper()
	s, err := correlate.OpenSnapshots(dir, "observations", 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func snapshotFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// damage spoils a snapshot, as a disk does.
func damage(t testing.TB, dir string, rnd *rand.Rand) {
	t.Helper()
	for _, path := range snapshotFiles(t, dir) {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || len(b) == 0 {
			continue // its owner has a newer one
		}
		if err != nil {
			t.Fatal(err)
		}
		if i := rnd.IntN(len(b)); rnd.IntN(2) == 0 {
			b[i] ^= 0x40
		} else {
			b = b[:i]
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// TestOwnerGoesOnFromASnapshot: an owner that ends in order leaves one from which the
// next one goes on without reading anything again; one of a place that the ledger
// does not know, of another topic or partition, or none at all costs only time.
func TestOwnerGoesOnFromASnapshot(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		whole := newPartition(sets)
		whole.generate(rand.New(rand.NewPCG(5, 1)), sets["g0"])
		stop := run(t, whole.options(1))
		whole.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want := whole.effects(t)

		dir := t.TempDir()
		p := newPartition(sets)
		log := whole.log
		at := 0
		// next has an owner do some more of the log. It says how many messages of what
		// went before it read, and what became of snapshots.
		next := func(s *correlate.Snapshots) (again int, used, refused float64) {
			t.Helper()
			p.mu.Lock()
			before := int64(at)
			at = min(at+len(log)/8, len(log))
			p.log = log[:at]
			p.mu.Unlock()
			o := p.options(2)
			o.Snapshots, o.SnapshotAtStop = s, true
			open := o.Open
			first := int64(-1)
			o.Open = func(offset int64) correlate.PartitionReader {
				if offset != before-1 || first >= 0 { // not the look at the last message
					first = offset
				}
				return open(offset)
			}
			stop := run(t, o)
			p.done(t)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			count := func(outcome string) float64 { return testutil.ToFloat64(o.Metrics.Snapshots.WithLabelValues(outcome)) }
			return int(before - first), count("used"), count("refused")
		}
		s := openSnapshots(t, dir)
		next(s)
		if again, used, _ := next(s); again != 0 || used != 1 {
			t.Errorf("read %d messages again, %v snapshots used", again, used)
		}
		other, err := correlate.OpenSnapshots(dir, "another.topic", 0)
		if err != nil {
			t.Fatal(err)
		}
		if again, used, refused := next(other); again == 0 || used != 0 || refused == 0 {
			t.Errorf("of another topic: read %d messages again, %v used, %v refused", again, used, refused)
		}
		files := snapshotFiles(t, dir)
		if len(files) == 0 || len(files) > 2 {
			t.Errorf("%d snapshots are kept, want one or two", len(files))
		}
		// A ledger that went back does not know the place.
		for _, path := range files {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if again, used, refused := next(s); again == 0 || used+refused != 0 {
			t.Errorf("without: read %d messages again, %v used, %v refused", again, used, refused)
		}
		ahead := snapshotFiles(t, dir)
		if len(ahead) != 1 {
			t.Fatalf("%d snapshots, want one", len(ahead))
		}
		if err := os.Rename(ahead[0], filepath.Join(dir, "0-999999999.snapshot")); err != nil {
			t.Fatal(err)
		}
		if again, used, refused := next(s); again == 0 || used != 0 || refused != 1 {
			t.Errorf("of another place: read %d messages again, %v used, %v refused", again, used, refused)
		}
		for at < len(log) {
			next(s)
		}
		compare(t, p.effects(t), want)
	})
}

// A ledger that was put back to an earlier state does not know the place of a
// snapshot that was written since, though the log is the same.
func TestOwnerRefusesASnapshotBeyondTheCheckpoint(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(5, 1)), sets["g0"])
		o := p.options(1)
		o.Snapshots, o.SnapshotAtStop = openSnapshots(t, dir), true
		stop := run(t, o)
		p.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want := p.effects(t)

		back := newPartition(sets) // its ledger is empty
		back.log = p.log
		o = back.options(1)
		o.Snapshots = openSnapshots(t, dir)
		stop = run(t, o)
		back.done(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := testutil.ToFloat64(o.Metrics.Snapshots.WithLabelValues("refused")); n == 0 {
			t.Error("it was not refused")
		}
		compare(t, back.effects(t), want)
	})
}

// What is larger than allowed is not written, and what was left half written goes.
func TestSnapshotsAreBounded(t *testing.T) {
	sets := generations(t)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		half := filepath.Join(dir, "writing-1")
		if err := os.WriteFile(half, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		long := time.Unix(0, 0)
		if err := os.Chtimes(half, long, long); err != nil {
			t.Fatal(err)
		}
		p := newPartition(sets)
		p.generate(rand.New(rand.NewPCG(5, 1)), sets["g0"])
		run := func(maxBytes int64) correlate.OwnerOptions {
			o := p.options(1)
			s, err := correlate.OpenSnapshots(dir, "observations", maxBytes)
			if err != nil {
				t.Fatal(err)
			}
			o.Snapshots, o.SnapshotAtStop = s, true
			stop := run(t, o)
			p.done(t)
			for testutil.ToFloat64(o.Metrics.Live.WithLabelValues("0")) == 0 {
				time.Sleep(time.Millisecond) // of the bubble's time
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			return o
		}
		o := run(100)
		if n := testutil.ToFloat64(o.Metrics.Snapshots.WithLabelValues("too_large")); n != 1 || len(snapshotFiles(t, dir)) != 0 {
			t.Errorf("%v too large, %d files", n, len(snapshotFiles(t, dir)))
		}
		run(0)
		if n := len(snapshotFiles(t, dir)); n != 1 {
			t.Errorf("%d files, want one", n)
		}
		if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was left half written: %v", err)
		}
	})
}
