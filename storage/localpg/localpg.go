// Package localpg runs a private Postgres from the binaries installed on the
// machine: for `vedette dev`, where nobody should have to set a database up, and
// for tests.
//
// A [Server] owns one directory:
//
//	data/  the cluster, made on first use by initdb beside it and renamed when whole
//	run/   the Unix socket, 0700; under the temporary directory if the path is too long for a socket
//	lock   a flock, held as long as the Server lives
//
// It listens on the Unix socket only and lets in, by peer authentication, the
// user that runs this process and the one that runs Postgres, nobody else.
// Postgres refuses to run as root; started by root, it runs as the user
// "postgres", or as "nobody" where there is none.
//
// Postgres is told to go when this process dies, however it dies (Linux). What
// an earlier run left behind all the same is recognised and stopped on the next
// start. A Postgres that dies is started again. What it guarantees is what
// Postgres guarantees: a committed transaction survives kill -9 of either.
package localpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// What can be wrong on this machine; errors.Is tells them apart. The messages
// say what to do about it.
var (
	ErrNotInstalled = errors.New("no Postgres server was found")
	ErrVersion      = errors.New("wrong Postgres version")
	ErrDirectory    = errors.New("the Postgres directory cannot be used")
	ErrUser         = errors.New("no user to run Postgres as")
	ErrInUse        = errors.New("the Postgres directory is in use")
)

// MinMajor is the oldest major version of Postgres that the schema works with.
const MinMajor = 14

// StopWithin is the longest that [Server.Stop] takes.
const StopWithin = 5 * time.Second

// Options say what to run. Only Dir is needed.
type Options struct {
	Dir       string            // gets data/, run/ and lock; made if missing
	BinDir    string            // where initdb and postgres are; empty: look for them
	RunAs     string            // as root, the user to run Postgres as; empty: see the package's comment
	User      string            // the superuser role, "vedette" if empty
	Database  string            // created if missing, "vedette" if empty
	Settings  map[string]string // more of postgresql.conf
	Ephemeral bool              // the data need not survive a crash of the machine: no fsync, small files
	Log       *slog.Logger      // slog.Default() if nil
}

// Server is a running Postgres. Its methods may be called from any goroutine.
type Server struct {
	opts Options
	log  *slog.Logger

	dir, data, run string
	bin            string
	major          int
	owner          owner
	lock           *os.File // referenced for ever: a collected file drops its flock

	cancel   context.CancelFunc // stops the supervisor, and with it Postgres
	done     chan struct{}      // closed when the supervisor has returned
	stopErr  error              // set before done is closed
	stopOnce sync.Once
	pid      atomic.Int64
	restarts atomic.Int64
}

// Start starts Postgres in o.Dir, making the cluster and the database first where
// they do not exist, and returns when it accepts connections. ctx bounds the
// start only; the server runs until Stop.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("localpg: Options.Dir is empty")
	}
	if o.User == "" {
		o.User = "vedette"
	}
	if o.Database == "" {
		o.Database = "vedette"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	s := &Server{
		opts: o,
		log:  o.Log.With("component", "localpg"),
		dir:  dir,
		data: filepath.Join(dir, "data"),
		done: make(chan struct{}),
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%w: %w; name another directory or make it writable", ErrDirectory, err)
	}
	// Processes see the resolved path in /proc, and Postgres in its pid file.
	if s.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	s.data = filepath.Join(s.dir, "data")
	if s.lock, err = takeLock(s.dir); err != nil {
		return nil, err
	}
	p, err := s.start(ctx)
	if err != nil {
		s.lock.Close()
		return nil, err
	}
	s.pid.Store(int64(p.cmd.Process.Pid))
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.supervise(life, p)
	return s, nil
}

// start does everything that comes before the supervisor.
func (s *Server) start(ctx context.Context) (*process, error) {
	made, err := clusterMajor(s.data)
	if err != nil {
		return nil, err
	}
	if s.bin, s.major, err = findBinaries(ctx, s.opts.BinDir, made, s.data); err != nil {
		return nil, err
	}
	if s.owner, err = pickOwner(ctx, s.opts.RunAs, s.dir, s.data, s.bin); err != nil {
		return nil, err
	}
	if s.run, err = s.socketDir(); err != nil {
		return nil, err
	}
	if made == 0 {
		s.log.Info("making a Postgres cluster", "data", s.data, "version", s.major, "user", s.owner.name)
		if err := s.initdb(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.writeAccess(s.data); err != nil {
		return nil, err
	}
	if err := s.clearOrphans(ctx); err != nil {
		return nil, err
	}
	p, err := s.spawn(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.createDatabase(ctx); err != nil {
		p.stop()
		return nil, err
	}
	s.log.Info("Postgres is up", "version", s.major, "user", s.owner.name, "data", s.data, "pid", p.cmd.Process.Pid)
	return p, nil
}

// DSN names the server's database, for pgx.
func (s *Server) DSN() string { return s.DSNOf(s.opts.Database) }

// DSNOf names another database of the server.
func (s *Server) DSNOf(database string) string {
	q := url.Values{"host": {s.run}, "user": {s.opts.User}, "sslmode": {"disable"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// Major is the major version of Postgres that runs.
func (s *Server) Major() int { return s.major }

// PID is the process id of the postmaster that runs, or ran last.
func (s *Server) PID() int { return int(s.pid.Load()) }

// Restarts counts how often Postgres had to be started again since Start.
func (s *Server) Restarts() int { return int(s.restarts.Load()) }

// Stop ends Postgres within StopWithin, in order if it can, and gives the
// directory free. It may be called more than once.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() {
		s.cancel()
		<-s.done
		_ = os.Remove(s.run) // not if somebody else put a file there
		s.lock.Close()
	})
	return s.stopErr
}

func (s *Server) createDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.DSNOf("postgres"))
	if err != nil {
		return fmt.Errorf("connect to the local Postgres: %w", err)
	}
	defer c.Close(ctx)
	var n int
	if err := c.QueryRow(ctx, "SELECT count(*) FROM pg_database WHERE datname = $1", s.opts.Database).Scan(&n); err != nil {
		return fmt.Errorf("look for database %s: %w", s.opts.Database, err)
	}
	if n > 0 {
		return nil
	}
	if _, err := c.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{s.opts.Database}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", s.opts.Database, err)
	}
	return nil
}

// takeLock makes sure that one process at a time uses dir.
func takeLock(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; it may belong to another user", ErrDirectory, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		b := make([]byte, 32)
		n, _ := f.ReadAt(b, 0)
		f.Close()
		by := ""
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
			by = fmt.Sprintf(" by process %d", pid)
		}
		return nil, fmt.Errorf("%w%s: %s; stop that one or name another directory", ErrInUse, by, dir)
	}
	// For the message above; the lock does not depend on it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}
