package localpg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clearOrphans stops what an earlier run left on our data and removes a pid file
// that nobody stands behind. We hold the lock, so a server on our data is an
// orphan, whoever started it.
func (s *Server) clearOrphans(ctx context.Context) error {
	if pid := s.pidFile(); pid > 1 && s.ours(pid) {
		s.log.Warn("stopping the Postgres that an earlier run left behind", "pid", pid)
		steps := []struct {
			signal syscall.Signal
			wait   time.Duration
		}{{syscall.SIGINT, 10 * time.Second}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}}
		gone := false
		for _, step := range steps {
			_ = syscall.Kill(pid, step.signal)     // gone already is as good
			_ = syscall.Kill(pid, syscall.SIGCONT) // a suspended one has to wake up to heed it
			if gone = poll(ctx, step.wait, func() bool { return !s.ours(pid) }); gone || ctx.Err() != nil {
				break
			}
		}
		if !gone {
			return fmt.Errorf("%w: process %d, a Postgres of an earlier run, does not stop", ErrInUse, pid)
		}
	}
	// The children of a postmaster that was killed leave by themselves, unless
	// busy. While one lives, Postgres refuses to start on its shared memory.
	none := func() bool { return len(s.leftovers()) == 0 }
	if !poll(ctx, 2*time.Second, none) {
		for _, pid := range s.leftovers() {
			s.log.Warn("stopping a Postgres backend that an earlier run left behind", "pid", pid)
			_ = syscall.Kill(pid, syscall.SIGQUIT)
		}
		if !poll(ctx, 5*time.Second, none) {
			return fmt.Errorf("%w: processes %v of an earlier run still hold %s", ErrInUse, s.leftovers(), s.data)
		}
	}
	if pid := s.pidFile(); pid != 0 {
		// Nothing of ours lives: stale, even if the number is a stranger's now.
		s.log.Info("removing a stale postmaster.pid", "pid", pid)
		if err := os.Remove(filepath.Join(s.data, "postmaster.pid")); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	return ctx.Err()
}

// pidFile is the process that the cluster's pid file names; 0 if there is none.
func (s *Server) pidFile() int {
	b, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return -1 // half written by a server that was killed: stale
	}
	return pid
}

// poll asks done until it holds, for as long as wait or ctx allow.
func poll(ctx context.Context, wait time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return done()
		case <-t.C:
		}
	}
	return true
}
