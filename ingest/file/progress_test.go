package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/ingest/file"
	"github.com/vedette-sec/vedette/stream"
)

func TestCollectPromisesNothingBeforeAMovingFileWasRead(t *testing.T) {
	dir := t.TempDir()
	zipped := write(t, filepath.Join(dir, "a.json.gz"), trail("a1", 1)+"\n")
	write(t, filepath.Join(dir, "b.json"), trail("b1", 60)+"\n"+trail("b2", 61)+"\n")
	promises := func(k *kafka) (latest time.Time) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, m := range k.msgs {
			if m.Kind == stream.KindProgress && m.Through.After(latest) {
				latest = m.Through
			}
		}
		return latest
	}
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		if err := os.Chtimes(zipped, now, now); err != nil {
			t.Fatal(err)
		}
		var k kafka
		defer collecting(t, dir, &k, &cursors{})()
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		if got := promises(&k); got.After(time.Unix(0, 0)) {
			t.Errorf("promised %v while a file could not be read", got)
		}
		expect(t, &k, "b1", "b2")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := promises(&k); got.Before(now) {
			t.Errorf("promised %v after all was read, want at least %v", got, now)
		}
		expect(t, &k, "a1")
	})
}

func TestCollectPromisesWhileFilesKeepComing(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "first.json.gz"), trail("x", 1)+"\n")
	synctest.Test(t, func(t *testing.T) {
		var k kafka
		defer collecting(t, dir, &k, &cursors{})()
		for i := range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			write(t, filepath.Join(dir, fmt.Sprintf("%d.json.gz", i)), trail(fmt.Sprint("e", i), i)+"\n")
			appendTo(t, filepath.Join(dir, "plain.json"), trail(fmt.Sprint("p", i), i)+"\n")
			if i < 10 {
				continue
			}
			k.mu.Lock()
			last := k.msgs[len(k.msgs)-1]
			for j := len(k.msgs) - 1; last.Kind != stream.KindProgress; j-- {
				last = k.msgs[j]
			}
			k.mu.Unlock()
			if behind := time.Since(last.Through); behind > 6*time.Second {
				t.Fatalf("after %d files the promise is %v behind", i+1, behind)
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := k.records(t); len(got) != 121 {
			t.Errorf("%d records", len(got))
		}
	})
}

func TestCollectBacklogProgress(t *testing.T) {
	dir := t.TempDir()
	total := 0
	for f := range 40 {
		var b strings.Builder
		for i := range 400 {
			total++
			b.WriteString(trail(fmt.Sprintf("%d-%d", f, i), f*200+i*3) + "\n")
		}
		write(t, filepath.Join(dir, fmt.Sprintf("%02d.json.gz", f)), b.String())
	}
	for i := range 50 {
		appendTo(t, filepath.Join(dir, "access.log"), fmt.Sprintf(`{"requestId":"r","extendedRequestId":"g%d=","status":"200","httpMethod":"GET","requestTimeEpoch":"%d"}`+"\n",
			i, epoch.Add(time.Duration(i)*time.Minute).UnixMilli()))
	}
	files, err := file.List([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files { // at rest, by the test's clock too
		if err := os.Chtimes(f, time.Time{}, time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		var k kafka
		stop := collecting(t, dir, &k, &cursors{}, func(o *file.Options) { o.Metrics = file.NewMetrics(reg) })
		time.Sleep(30 * time.Second)
		stop()
		through := map[string]time.Time{}
		records, told := 0, 0
		var last time.Time
		for _, m := range k.msgs {
			if m.Kind == stream.KindProgress {
				told++
				if m.Through.Before(through[m.Type]) {
					t.Fatalf("progress of %s goes back from %v to %v", m.Type, through[m.Type], m.Through)
				}
				through[m.Type] = m.Through
				continue
			}
			var ev event.Event
			if err := event.NewDecoder().Decode(&ev, event.Record{Data: m.Value}); err != nil {
				t.Fatal(err)
			}
			if m.Type != string(ev.Type) || m.Tenant != "default" || m.Origin != "file:test" {
				t.Fatalf("message %+v", m)
			}
			at := time.Unix(0, ev.Time)
			if promise, ok := through[m.Type]; !ok || at.Before(promise) {
				t.Fatalf("record of %v after progress %v (declared: %v)", at, promise, ok)
			}
			if at.Before(last) {
				t.Fatalf("record of %v after one of %v", at, last)
			}
			last = at
			records++
		}
		if records != total+50 {
			t.Errorf("%d records, want %d", records, total+50)
		}
		// One progress a second at least, for both types, and at the end it is now.
		if told < 2*28 {
			t.Errorf("progress was told %d times", told)
		}
		for typ, at := range through {
			if time.Since(at) > 2*time.Second {
				t.Errorf("progress of %s ended at %v, now %v", typ, at, time.Now())
			}
		}
		if len(through) != 2 {
			t.Errorf("progress of %v", through)
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v, %v", problems, err)
		}
	})
}

func TestCollectUnreadable(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	write(t, filepath.Join(good, "a.log"), trail("a1", 1)+"\n")
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var k kafka
		m := file.NewMetrics(nil)
		stop := collecting(t, good, &k, &cursors{}, func(o *file.Options) {
			o.Paths = []string{good, loop, filepath.Join(dir, "not yet")}
			o.Metrics = m
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		told := 0
		for _, msg := range k.msgs {
			if msg.Kind == stream.KindProgress {
				told++
				if msg.Through.After(epoch.Add(time.Second)) {
					t.Fatalf("complete through %v with a path that cannot be read", msg.Through)
				}
			}
		}
		if told < 50 || testutil.ToFloat64(m.Errors.WithLabelValues("file:test", "list")) < 50 {
			t.Errorf("progress told %d times, %v errors", told, testutil.ToFloat64(m.Errors.WithLabelValues("file:test", "list")))
		}
		expect(t, &k, "a1")
		if err := os.Remove(loop); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if last := k.msgs[len(k.msgs)-1]; time.Since(last.Through) > 2*time.Second {
			t.Errorf("complete through %v after it was mended", last.Through)
		}
		stop()
	})
}
