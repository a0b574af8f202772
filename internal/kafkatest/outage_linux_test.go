package kafkatest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/internal/servicetest"
)

// TestHungAndFullKafka: a broker that says nothing for longer than every deadline,
// and one whose disk fills up until it gives up. Pushes are repeated meanwhile, as
// senders do; nothing is lost, and the service is ready again by itself.
func TestHungAndFullKafka(t *testing.T) {
	dir := smallDisk(t)
	k := kafkatest.Start(t, kafkatest.Options{Secure: true, Properties: map[string]string{
		"log.dirs": filepath.Join(dir, "data"), "log.segment.bytes": "4194304",
	}})
	s := newService(t, k)
	defer func() { s.App.Stop() }()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n := 0
	push := func() {
		t.Helper()
		n++
		if err := s.Push(ctx, s.App.Addr, servicetest.Refusals(40, fmt.Sprintf("203.0.113.%d", n), time.Now().Add(-8*time.Minute))); err != nil {
			t.Fatal(err)
		}
	}
	// beset has one body pushed from before the outage until it is over.
	beset := func(begin, end func()) {
		t.Helper()
		push()
		begin()
		n++
		lines := servicetest.Refusals(40, fmt.Sprintf("203.0.113.%d", n), time.Now().Add(-8*time.Minute))
		pushed := make(chan error, 1)
		go func() { pushed <- s.Push(ctx, s.App.Addr, lines) }()
		s.Eventually("it is not ready", func() bool { return s.Ready("kafka") })
		select {
		case err := <-pushed:
			t.Errorf("a push was answered by %v while nothing could be written", err)
			pushed <- nil
		default:
		}
		end()
		if err := <-pushed; err != nil {
			t.Fatal(err)
		}
		push()
		s.Found(n, 40)
		s.Eventually("it is ready again", func() bool { return s.Ready("") })
	}
	beset(func() { k.Pause(1) }, func() { k.Resume(1) })

	ballast := filepath.Join(dir, "ballast")
	beset(func() {
		fill(t, ballast)
		// Ticks go on, so that it notices by itself; then it has no directory left, and ends.
		k.Wait(1)
	}, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		k.Start(1)
	})
}

// smallDisk mounts a small file system, or skips where that is not allowed.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Getenv("VEDETTE_KAFKA") == "" {
		return dir // the test is about to be skipped
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=700"); err != nil {
		t.Skipf("SKIPPED, a full disk is not tested: a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the small file system: %v", err)
		}
	})
	return dir
}

// fill takes all the room there is.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 1<<20); len(b) > 0; {
		_, err := f.Write(b)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			b = b[:len(b)/2]
		case err != nil:
			t.Fatal(err)
		}
	}
}
