package file_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest/file"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/stream"
)

var (
	_ file.Appender = (*stream.LogAppender)(nil)
	_ file.Cursors  = (*storage.DB)(nil)
)

// kafka takes what a collector appends.
type kafka struct {
	mu      sync.Mutex
	msgs    []stream.LogMessage // records and progress in order
	letters []stream.DeadLetter
	fail    func() error // before anything is taken, if set
}

func (k *kafka) take(msgs ...stream.LogMessage) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		if err := k.fail(); err != nil {
			return err
		}
	}
	for _, m := range msgs {
		m.Value = bytes.Clone(m.Value)
		k.msgs = append(k.msgs, m)
	}
	return nil
}

func (k *kafka) Append(_ context.Context, msgs []stream.LogMessage) error { return k.take(msgs...) }
func (k *kafka) Broadcast(_ context.Context, m stream.LogMessage) error   { return k.take(m) }

func (k *kafka) DeadLetter(_ context.Context, d stream.DeadLetter) error {
	if err := k.take(); err != nil {
		return err
	}
	d.Value = bytes.Clone(d.Value)
	k.letters = append(k.letters, d)
	return nil
}

// records are the ids, or the bytes, of the records taken since the last call.
func (k *kafka) records(t testing.TB) []string {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	var got []string
	for _, m := range k.msgs {
		if m.Kind == stream.KindRecord {
			got = append(got, idOf(m.Value))
		}
	}
	k.msgs = nil
	return got
}

func idOf(rec []byte) string {
	var ev event.Event
	if err := event.NewDecoder().Decode(&ev, event.Record{Data: rec}); err != nil {
		return string(rec)
	}
	return string(ev.Attr(event.AttrUID))
}

// cursors keeps cursors in memory.
type cursors struct {
	mu    sync.Mutex
	saved []byte
	fail  error
}

func (c *cursors) Cursor(context.Context, string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saved, c.fail
}

func (c *cursors) SaveCursor(_ context.Context, _ string, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail == nil {
		c.saved = b
	}
	return c.fail
}

// collecting runs a collector over dir until stop is called.
func collecting(t testing.TB, dir string, k *kafka, cs *cursors, change ...func(*file.Options)) (stop func()) {
	t.Helper()
	o := file.Options{Origin: "file:test", Paths: []string{dir}, Appender: k, Cursors: cs, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	c, err := file.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func appendTo(t testing.TB, path, content string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, k *kafka, want ...string) {
	t.Helper()
	synctest.Wait()
	if d := cmp.Diff(want, k.records(t)); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

func TestCollectGrowingFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.log"), filepath.Join(dir, "b.log")
	write(t, a, trail("a1", 10)+"\n"+trail("a2", 30)+"\n"+trail("a3", 40)[:50])
	write(t, b, trail("b1", 20)+"\n")
	synctest.Test(t, func(t *testing.T) {
		var k kafka
		defer collecting(t, dir, &k, &cursors{})()
		expect(t, &k, "a1", "b1", "a2")
		appendTo(t, a, trail("a3", 40)[50:]+"\n")
		appendTo(t, b, trail("b2", 50)) // without a line break
		time.Sleep(2 * time.Second)
		expect(t, &k, "a3")
		time.Sleep(5 * time.Second) // at rest: it is taken as it is
		expect(t, &k, "b2")
		appendTo(t, b, "\n"+trail("b3", 60)+"\n")
		time.Sleep(2 * time.Second)
		expect(t, &k, "b3")
		time.Sleep(time.Minute)
		expect(t, &k)
		write(t, filepath.Join(dir, "sub", "c.log"), trail("c1", 5)+"\n")
		time.Sleep(2 * time.Second)
		expect(t, &k, "c1")
	})
}

// What is in a compressed file that is still being written may be older than all
// that can be read: until it was read, nothing is called complete.
// Files that keep coming, each unreadable for a while, hold no promise back for
// longer than that.
func TestCollectDocumentsBeingWritten(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.json")
	pretty := "{\n\"Records\": [\n" + trail("a1", 1) + ",\n"
	write(t, a, pretty)
	zipped := write(t, filepath.Join(dir, "b.json.gz"), `{"Records":[`+trail("b1", 1)+"]}")
	whole, err := os.ReadFile(zipped)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(zipped, whole[:40], 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var k kafka
		defer collecting(t, dir, &k, &cursors{})()
		expect(t, &k, "a1")
		time.Sleep(2 * time.Second)
		appendTo(t, a, trail("a2", 2)+"\n]\n}\n"+trail("a3", 3)+"\n")
		appendTo(t, zipped, string(whole[40:]))
		time.Sleep(2 * time.Second)
		expect(t, &k, "a2", "a3")
		time.Sleep(5 * time.Second)
		expect(t, &k, "b1")
		appendTo(t, zipped, zipOf(trail("b2", 2)+"\n"))
		time.Sleep(10 * time.Second)
		expect(t, &k, "b2")
		// Cut off for good: what there is of it is kept.
		appendTo(t, a, "{\"cut\":\n")
		time.Sleep(10 * time.Second)
		expect(t, &k)
		if len(k.letters) != 1 || k.letters[0].Reason != "truncated" || string(k.letters[0].Value) != "{\"cut\":\n" || k.letters[0].Origin != "file:test" {
			t.Errorf("dead letters %+v", k.letters)
		}
	})
}

func zipOf(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

func TestCollectRotatedFiles(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.log")
	write(t, a, trail("a1", 1)+"\n")
	synctest.Test(t, func(t *testing.T) {
		var k kafka
		cs := &cursors{}
		stop := collecting(t, dir, &k, cs)
		expect(t, &k, "a1")
		step := func() {
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}

		// Renamed, with a last line after the rename, and a new file in its place.
		if err := os.Rename(a, a+".1"); err != nil {
			t.Fatal(err)
		}
		appendTo(t, a+".1", trail("a2", 2)+"\n")
		write(t, a, trail("b1", 3)+"\n")
		step()
		expect(t, &k, "a2", "b1")

		// Truncated and written anew, shorter.
		if err := os.Truncate(a, 0); err != nil {
			t.Fatal(err)
		}
		step()
		appendTo(t, a, "START RequestId: 1 Version: $LATEST\n")
		step()
		expect(t, &k, "START RequestId: 1 Version: $LATEST")

		// Overwritten in place with something longer.
		write(t, a, trail("c1", 4)+"\n"+trail("c2", 5)+"\n")
		step()
		expect(t, &k, "c1", "c2")

		// The same while the collector is away.
		stop()
		appendTo(t, a, trail("c3", 6)+"\n")
		if err := os.Rename(a, a+".2"); err != nil {
			t.Fatal(err)
		}
		write(t, a, trail("d1", 7)+"\n")
		stop = collecting(t, dir, &k, cs)
		step()
		expect(t, &k, "c3", "d1")
		stop()
	})
}

// TestCollectBacklogProgress reads a backlog of many files and holds every
// promise of the way against what came after it.
// TestCollectThroughFailures fails appends and cursors at random and stops the
// collector at random: every record arrives, in the order of its file, and
// without a crash none twice.
func TestCollectThroughFailures(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				var k kafka
				cs := &cursors{}
				n := 0
				faults := rand.New(rand.NewPCG(seed, 2)) // guarded by k.mu
				k.fail = func() error {
					if faults.IntN(3) == 0 {
						return errors.New("no leader")
					}
					return nil
				}
				var want []string
				for range 6 {
					stop := collecting(t, dir, &k, cs)
					for range 1 + rng.IntN(4) {
						path := filepath.Join(dir, fmt.Sprintf("%d.log", rng.IntN(3)))
						var b strings.Builder
						for range rng.IntN(50) {
							n++
							want = append(want, fmt.Sprint("e", n))
							if rng.IntN(5) == 0 {
								b.WriteString(`{"Records":[` + trail(fmt.Sprint("e", n), n) + "]}\n")
								continue
							}
							b.WriteString(trail(fmt.Sprint("e", n), n) + "\n")
						}
						appendTo(t, path, b.String())
						time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
					}
					stop()
				}
				k.mu.Lock()
				k.fail = nil
				k.mu.Unlock()
				stop := collecting(t, dir, &k, cs)
				time.Sleep(time.Minute)
				stop()
				got := k.records(t)
				slices.Sort(got)
				slices.Sort(want)
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("records (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestCollectAfterCrash goes on from a cursor that is older than what was
// appended: records come again, none is missing.
func TestCollectAfterCrash(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.log")
	write(t, a, trail("a1", 1)+"\n")
	synctest.Test(t, func(t *testing.T) {
		var k kafka
		cs := &cursors{}
		stop := collecting(t, dir, &k, cs)
		time.Sleep(10 * time.Second)
		expect(t, &k, "a1")
		cs.fail = errors.New("database is away")
		appendTo(t, a, trail("a2", 2)+"\n")
		time.Sleep(10 * time.Second)
		expect(t, &k, "a2")
		stop()
		cs.fail = nil
		appendTo(t, a, trail("a3", 3)+"\n")
		stop = collecting(t, dir, &k, cs)
		time.Sleep(10 * time.Second)
		expect(t, &k, "a2", "a3")
		stop()
	})
}

// TestCollectUnreadable keeps its promise where it was while something cannot be
// read.
func TestCollectorRefuses(t *testing.T) {
	k, cs := &kafka{}, &cursors{}
	for want, o := range map[string]file.Options{
		"origin":      {Paths: []string{"x"}, Appender: k, Cursors: cs},
		"paths":       {Origin: "o", Appender: k, Cursors: cs},
		"an appender": {Origin: "o", Paths: []string{"x"}, Cursors: cs},
	} {
		if _, err := file.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %s", err, want)
		}
	}
	for _, saved := range []string{"no JSON", `{"version":9}`} {
		c, err := file.New(file.Options{Origin: "o", Paths: []string{"x"}, Appender: k, Cursors: &cursors{saved: []byte(saved)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "cursor") {
			t.Errorf("cursor %q: %v", saved, err)
		}
	}
}
