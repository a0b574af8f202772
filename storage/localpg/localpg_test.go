package localpg_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/storage/localpg"
)

// childEnv makes the test binary start a server and wait to be killed.
const childEnv = "VEDETTE_LOCALPG_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// child prints a line of JSON: what it found out.
func child(dir string) int {
	s, err := localpg.Start(context.Background(), localpg.Options{Dir: dir, Ephemeral: true, Log: slog.New(slog.DiscardHandler)})
	report := childReport{}
	if err != nil {
		report.Err = err.Error()
	} else {
		report.PID, report.DSN = s.PID(), s.DSN()
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil || report.Err != "" {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it
	if err := s.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

type childReport struct {
	PID int
	DSN string
	Err string
}

// stateDir is a directory that other users can enter, unlike t.TempDir, and short
// enough for a socket.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vedette-localpg-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return filepath.Join(dir, "state")
}

func start(t *testing.T, o localpg.Options) *localpg.Server {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	s, err := localpg.Start(t.Context(), o)
	if errors.Is(err, localpg.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func exec1(t *testing.T, dsn, sql string) {
	t.Helper()
	if err := tryExec(t.Context(), dsn, sql); err != nil {
		t.Fatal(err)
	}
}

func tryExec(ctx context.Context, dsn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql)
	return err
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within 30 s", what)
		case <-tick.C:
		}
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestSecondStartFindsTheData(t *testing.T) {
	dir := stateDir(t)
	s := start(t, localpg.Options{Dir: dir})
	exec1(t, s.DSN(), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
	began := time.Now()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > localpg.StopWithin {
		t.Errorf("stopping took %v", took)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
	began = time.Now()
	s = start(t, localpg.Options{Dir: dir})
	t.Logf("warm start: %v", time.Since(began))
	exec1(t, s.DSN(), "DO $$ BEGIN ASSERT (SELECT n FROM kept) = 7; END $$")

	for name, want := range map[string]os.FileMode{"data": 0o700, "run": 0o700} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, fi.Mode().Perm(), want)
		}
	}
	exec1(t, s.DSN(), `DO $$ BEGIN
		ASSERT current_setting('listen_addresses') = '';
		ASSERT current_setting('data_checksums') = 'on';
		ASSERT current_setting('server_encoding') = 'UTF8';
		ASSERT (SELECT datcollate FROM pg_database WHERE datname = current_database()) = 'C';
	END $$`)
}

func TestNobodyElseIsLetIn(t *testing.T) {
	s := start(t, localpg.Options{Dir: stateDir(t), Ephemeral: true})
	cfg, err := pgx.ParseConfig(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	exec1(t, s.DSN(), "CREATE ROLE intruder LOGIN")
	cfg.User = "intruder"
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err == nil {
		c.Close(t.Context())
		t.Fatal("a role outside the map was let in")
	}
	if !strings.Contains(err.Error(), "28000") {
		t.Fatalf("want an authentication error, got %v", err)
	}
}

func TestRecoversWhenPostgresIsKilled(t *testing.T) {
	s := start(t, localpg.Options{Dir: stateDir(t)})
	exec1(t, s.DSN(), "CREATE TABLE kept (n int)")
	for n := 1; n <= 2; n++ {
		exec1(t, s.DSN(), "INSERT INTO kept VALUES (1)")
		killed := s.PID()
		if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		eventually(t, "restart", func() bool { return s.Restarts() == n })
		t.Logf("writable after %v", time.Since(began))
		if s.PID() == killed {
			t.Errorf("the process id did not change")
		}
		exec1(t, s.DSN(), fmt.Sprintf("DO $$ BEGIN ASSERT (SELECT count(*) FROM kept) = %d; END $$", n))
	}
}

func TestStopWhilePostgresIsBusyIsBounded(t *testing.T) {
	s := start(t, localpg.Options{Dir: stateDir(t), Ephemeral: true})
	busy := make(chan error, 1)
	go func() { busy <- tryExec(context.Background(), s.DSN(), "SELECT pg_sleep(600)") }()
	eventually(t, "the sleeper runs", func() bool {
		return tryExec(t.Context(), s.DSN(), "DO $$ BEGIN ASSERT EXISTS "+
			"(SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'); END $$") == nil
	})
	// Stopped processes do not heed signals: the last resort has to work too.
	if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > localpg.StopWithin+500*time.Millisecond {
		t.Errorf("stopping took %v", took)
	}
	if err := <-busy; err == nil {
		t.Error("the query outlived its server")
	}
}

// command runs the test binary as a child that starts a server in dir, as the
// user with the given credential if there is one.
func command(t *testing.T, dir string, cred *syscall.Credential) (*exec.Cmd, io.WriteCloser, childReport) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if cred != nil { // go test builds where others cannot enter
		b, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		self = filepath.Join(filepath.Dir(dir), "child.test")
		if err := os.WriteFile(self, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), childEnv+"="+dir)
	c.Dir = "/"
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = c.Wait()
	})
	var r childReport
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return c, in, r
}

func TestServerGoesWithItsKilledParent(t *testing.T) {
	dir := stateDir(t)
	s := start(t, localpg.Options{Dir: dir, Ephemeral: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	c, _, r := command(t, dir, nil)
	if r.Err != "" {
		t.Fatal(r.Err)
	}
	if !alive(r.PID) {
		t.Fatal("the child's server does not run")
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	s = start(t, localpg.Options{Dir: dir, Ephemeral: true})
	exec1(t, s.DSN(), "SELECT 1")
	if alive(r.PID) {
		t.Errorf("process %d, the killed parent's server, still runs", r.PID)
	}
}

func TestOrphanIsStopped(t *testing.T) {
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		t.Skip("needs /proc")
	}
	dir := stateDir(t)
	c, _, r := command(t, dir, nil)
	if r.Err != "" {
		if strings.Contains(r.Err, localpg.ErrNotInstalled.Error()) {
			t.Skip(r.Err)
		}
		t.Fatal(r.Err)
	}
	// A stopped process cannot act on its parent's death: an orphan.
	if err := syscall.Kill(r.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if !alive(r.PID) {
		t.Fatal("the server did not become an orphan")
	}
	s := start(t, localpg.Options{Dir: dir, Ephemeral: true})
	exec1(t, s.DSN(), "SELECT 1")
	if alive(r.PID) {
		t.Errorf("orphan %d still runs", r.PID)
	}
}

func TestStalePidFileOfAStranger(t *testing.T) {
	dir := stateDir(t)
	s := start(t, localpg.Options{Dir: dir, Ephemeral: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	stranger := exec.Command("sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	pidFile := fmt.Sprintf("%d\n%s\n1\n5432\n", stranger.Process.Pid, filepath.Join(dir, "data"))
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(pidFile), 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, localpg.Options{Dir: dir, Ephemeral: true})
	exec1(t, s.DSN(), "SELECT 1")
	if !alive(stranger.Process.Pid) {
		t.Error("a stranger was killed")
	}
}

func TestLock(t *testing.T) {
	dir := stateDir(t)
	start(t, localpg.Options{Dir: dir, Ephemeral: true})
	_, err := localpg.Start(t.Context(), localpg.Options{Dir: dir})
	if !errors.Is(err, localpg.ErrInUse) {
		t.Fatalf("want ErrInUse, got %v", err)
	}
	if want := fmt.Sprintf("process %d", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not name %s", err, want)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	start(t, localpg.Options{Dir: stateDir(t), Ephemeral: true}) // skips without binaries
	tests := []struct {
		name    string
		prepare func(t *testing.T) localpg.Options
		is      error
		says    []string
	}{
		{"no binaries", func(t *testing.T) localpg.Options {
			return localpg.Options{Dir: stateDir(t), BinDir: t.TempDir()}
		}, localpg.ErrNotInstalled, []string{"initdb and postgres"}},
		{"a wrapper alone", func(t *testing.T) localpg.Options {
			bin := t.TempDir()
			if err := os.WriteFile(filepath.Join(bin, "postgres"), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 17.1'\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			return localpg.Options{Dir: stateDir(t), BinDir: bin}
		}, localpg.ErrNotInstalled, []string{"does not hold both"}},
		{"an old server", func(t *testing.T) localpg.Options {
			bin := t.TempDir()
			for _, n := range []string{"postgres", "initdb"} {
				if err := os.WriteFile(filepath.Join(bin, n), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.2'\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			return localpg.Options{Dir: stateDir(t), BinDir: bin}
		}, localpg.ErrVersion, []string{"14 or newer", "9 in "}},
		{"a cluster of another version", func(t *testing.T) localpg.Options {
			dir := stateDir(t)
			if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("8\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return localpg.Options{Dir: dir}
		}, localpg.ErrVersion, []string{"made by Postgres 8", "pg_upgrade"}},
		{"data that is no cluster", func(t *testing.T) localpg.Options {
			dir := stateDir(t)
			if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
				t.Fatal(err)
			}
			return localpg.Options{Dir: dir}
		}, localpg.ErrDirectory, []string{"holds no Postgres cluster"}},
		{"a directory that cannot be made", func(*testing.T) localpg.Options {
			return localpg.Options{Dir: "/proc/vedette"}
		}, localpg.ErrDirectory, []string{"/proc/vedette", "name another directory"}},
		{"a file in its place", func(t *testing.T) localpg.Options {
			f := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return localpg.Options{Dir: f}
		}, localpg.ErrDirectory, []string{"file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := localpg.Start(t.Context(), tt.prepare(t))
			if err == nil {
				t.Fatal(errors.Join(errors.New("it started"), s.Stop()))
			}
			if !errors.Is(err, tt.is) {
				t.Errorf("want %q, got %v", tt.is, err)
			}
			for _, w := range tt.says {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

func TestAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)

	t.Run("a closed parent is named", func(t *testing.T) {
		dir := stateDir(t)
		closed := filepath.Join(dir, "closed")
		if err := os.MkdirAll(closed, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := localpg.Start(t.Context(), localpg.Options{Dir: filepath.Join(closed, "a", "b")})
		if !errors.Is(err, localpg.ErrDirectory) || !strings.Contains(err.Error(), closed+" (mode 0700) cannot be entered by user postgres") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("a user that does not exist", func(t *testing.T) {
		_, err := localpg.Start(t.Context(), localpg.Options{Dir: stateDir(t), RunAs: "no-such-user"})
		if !errors.Is(err, localpg.ErrUser) || !strings.Contains(err.Error(), "useradd") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("root itself", func(t *testing.T) {
		_, err := localpg.Start(t.Context(), localpg.Options{Dir: stateDir(t), RunAs: "root"})
		if !errors.Is(err, localpg.ErrUser) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("an ordinary user", func(t *testing.T) {
		cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		dir := stateDir(t)
		_, _, r := command(t, dir, cred)
		if !strings.Contains(r.Err, localpg.ErrDirectory.Error()) || !strings.Contains(r.Err, "permission denied") {
			t.Fatalf("in root's directory: got %q", r.Err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		c, in, r := command(t, dir, cred)
		if r.Err != "" {
			t.Fatal(r.Err)
		}
		in.Close()
		if err := c.Wait(); err != nil {
			t.Fatalf("the child: %v", err)
		}
		// Root finds what the user made, and runs it as that user.
		s := start(t, localpg.Options{Dir: dir})
		exec1(t, s.DSN(), "SELECT 1")
	})
}

func TestLongPathsHaveTheirSocketElsewhere(t *testing.T) {
	dir := filepath.Join(stateDir(t), strings.Repeat("long", 30))
	s := start(t, localpg.Options{Dir: dir, Ephemeral: true})
	if strings.Contains(s.DSN(), "longlong") {
		t.Errorf("the socket is at %s", s.DSN())
	}
	exec1(t, s.DSN(), "SELECT 1")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgx.ParseConfig(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cfg.Host); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was left behind: %v", cfg.Host, err)
	}
}
