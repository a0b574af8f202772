package localpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	readyWithin = 60 * time.Second // recovery after a crash can take a while
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 10 * time.Second
	steadyAfter = time.Minute // a server that ran this long earns a fresh backoff
	tailLines   = 20
	maxLogLine  = 64 << 10
)

// process is one run of the postmaster.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been waited for
	read   chan struct{} // closed when its log has been read to the end
	log    *slog.Logger

	mu   sync.Mutex
	tail []string // its last words, for the error
}

// supervise starts Postgres again whenever it dies, until ctx ends; then it stops it.
func (s *Server) supervise(ctx context.Context, p *process) {
	defer close(s.done)
	backoff := minBackoff
	for {
		up := time.Now()
		select {
		case <-ctx.Done():
			s.stopErr = p.stop()
			return
		case <-p.exited:
		}
		s.log.Warn("Postgres died; starting it again", "state", p.cmd.ProcessState.String(), "said", p.said(3))
		if time.Since(up) >= steadyAfter {
			backoff = minBackoff
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff):
			}
			backoff = min(2*backoff, maxBackoff)
			next, err := s.again(ctx)
			if err == nil {
				p = next
				break
			}
			if ctx.Err() == nil {
				s.log.Error("Postgres does not start", "err", err, "retry_in", backoff)
			}
		}
		s.pid.Store(int64(p.cmd.Process.Pid))
		s.restarts.Add(1)
		s.log.Info("Postgres is up again", "pid", p.cmd.Process.Pid)
	}
}

func (s *Server) again(ctx context.Context) (*process, error) {
	if err := s.clearOrphans(ctx); err != nil {
		return nil, err
	}
	return s.spawn(ctx)
}

// spawn starts the postmaster and returns when it accepts connections.
func (s *Server) spawn(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	p, err := s.exec()
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		err := s.ping(ctx)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.exited:
			<-p.read
			return nil, fmt.Errorf("postgres ended before it was ready (%s): %s", p.cmd.ProcessState, p.said(tailLines))
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("postgres is not ready: %w (%w): %s", ctx.Err(), err, p.said(3)), p.stop())
		case <-t.C:
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.DSNOf("postgres")) // 57P03 while it starts up or recovers
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

func (s *Server) arguments() []string {
	set := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": s.run,
		"unix_socket_permissions": "0700",
		"port":                    "5432", // names the socket
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"log_line_prefix":         "",
		"max_connections":         "100",
		"shared_buffers":          "128MB",
	}
	if s.opts.Ephemeral {
		maps.Copy(set, map[string]string{
			"fsync": "off", "full_page_writes": "off",
			"shared_buffers": "32MB", "max_wal_size": "256MB", "min_wal_size": "2MB",
		})
	}
	maps.Copy(set, s.opts.Settings)
	args := []string{"-D", s.data}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "-c", k+"="+set[k])
	}
	return args
}

func (s *Server) exec() (*process, error) {
	// Not bound to a context: being killed is not how a database should end.
	cmd := s.command(context.Background(), "postgres", s.arguments()...)
	dieWithParent(cmd.SysProcAttr)
	r, w, err := os.Pipe() // not StderrPipe: Wait would close it under the reader
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	p := &process{cmd: cmd, exited: make(chan struct{}), read: make(chan struct{}), log: s.log}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread has to live as long as the child, no longer.
		runtime.LockOSThread()
		err := cmd.Start()
		w.Close()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in ProcessState
		// Backends may hold the pipe for a moment longer.
		_ = r.SetReadDeadline(time.Now().Add(time.Second))
		close(p.exited)
	}()
	if err := <-started; err != nil {
		r.Close()
		return nil, err
	}
	go p.readLog(r)
	return p, nil
}

func (p *process) readLog(r *os.File) {
	defer close(p.read)
	defer r.Close()
	sc := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := sc.ReadString('\n')
		if line = strings.TrimRight(line, "\n"); line != "" {
			p.log.Debug("postgres", "line", line)
			p.mu.Lock()
			p.tail = append(p.tail, line)
			p.tail = p.tail[max(0, len(p.tail)-tailLines):]
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

func (p *process) said(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail[max(0, len(p.tail)-n):], "; ")
}

// stop asks for a fast shutdown, then for an immediate one, then kills: within StopWithin.
func (p *process) stop() error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{
		{syscall.SIGINT, StopWithin - 1500*time.Millisecond},
		{syscall.SIGQUIT, time.Second},
		{syscall.SIGKILL, 300 * time.Millisecond},
	} {
		_ = p.cmd.Process.Signal(step.signal) // gone already is as good
		select {
		case <-p.exited:
			<-p.read
			return nil
		case <-time.After(step.wait):
		}
	}
	return fmt.Errorf("postgres (process %d) does not stop", p.cmd.Process.Pid)
}
