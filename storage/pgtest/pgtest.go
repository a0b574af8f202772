// Package pgtest gives each test a Postgres database of its own, with the schema
// in place, in about the time of a file copy.
//
// A test binary runs one private server ([localpg]) that does not sync. Its data
// is a copy of a cluster that was made and migrated once on this machine and is
// kept, by the migrations' hash, under the temporary directory; there a database
// serves as the template of each test's. Several test binaries may run at once;
// whatever happens to one, its server goes and its files are removed.
package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/migrations"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/localpg"
)

const (
	template     = "vedette_template"
	setUpWithin  = 2 * time.Minute
	seedsKeptFor = 24 * time.Hour
)

// New returns a database of the test's own, migrated and empty. It is closed and
// dropped when the test ends. Without Postgres's binaries on the machine the test
// is skipped.
func New(t testing.TB) *storage.DB {
	t.Helper()
	return Open(t, storage.Options{DSN: NewDSN(t), MaxConns: 8})
}

// Open is storage.Open with a quiet log and Close at the test's end.
func Open(t testing.TB, o storage.Options) *storage.DB {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := storage.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// NewDSN names a database as New makes it.
func NewDSN(t testing.TB) string {
	t.Helper()
	return create(t, template)
}

// EmptyDSN names a database without any table.
func EmptyDSN(t testing.TB) string {
	t.Helper()
	return create(t, "template1")
}

// Server returns the test binary's Postgres, for tests that kill it.
func Server(t testing.TB) *localpg.Server {
	t.Helper()
	s, err := shared()
	if errors.Is(err, localpg.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Stop ends the server, for a TestMain that counts goroutines. It is not needed
// otherwise.
func Stop() error {
	current.Lock()
	defer current.Unlock()
	if current.server == nil {
		return nil
	}
	err := errors.Join(current.server.Stop(), current.alive.Close())
	current.server, current.err = nil, errors.New("pgtest: stopped")
	return err
}

// current is the server of this process: the only state that tests share.
var current struct {
	sync.Mutex
	server *localpg.Server
	err    error
	alive  io.Closer // our end of the janitor's pipe: referenced, or it would be collected and closed
}

var databases atomic.Int64

func create(t testing.TB, from string) string {
	t.Helper()
	s := Server(t)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	quoted := pgx.Identifier{name}.Sanitize()
	if err := admin(s, "CREATE DATABASE "+quoted+" TEMPLATE "+from); err != nil {
		t.Fatalf("create a test database: %v", err)
	}
	t.Cleanup(func() {
		if err := admin(s, "DROP DATABASE IF EXISTS "+quoted+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test database: %v", err)
		}
	})
	return s.DSNOf(name)
}

// admin runs a statement beside the tests. A test may have killed the server a
// moment ago: it comes back.
func admin(s *localpg.Server, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		err := adminOnce(ctx, s, sql)
		if err == nil || !storage.IsTransient(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-t.C:
		}
	}
}

func adminOnce(ctx context.Context, s *localpg.Server, sql string) error {
	c, err := pgx.Connect(ctx, s.DSNOf("postgres"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql)
	return err
}

func shared() (*localpg.Server, error) {
	current.Lock()
	defer current.Unlock()
	if current.server == nil && current.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), setUpWithin)
		defer cancel()
		current.server, current.err = setUp(ctx)
	}
	return current.server, current.err
}

// setUp starts the server of this process on a copy of the seed.
func setUp(ctx context.Context) (_ *localpg.Server, err error) {
	bin, major, err := localpg.Find(ctx)
	if err != nil {
		return nil, err
	}
	base, err := baseDir()
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	defer unlock()
	collect(base)

	key, err := seedKey(bin, major)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	seed := filepath.Join(base, "seed-"+key)
	if _, err := os.Stat(seed); err != nil {
		if err := makeSeed(ctx, base, seed); err != nil {
			return nil, fmt.Errorf("pgtest: make the seed: %w", err)
		}
	}
	run, err := os.MkdirTemp(base, "run-")
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(run)
		}
	}()
	if err := os.Chmod(run, 0o755); err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	// -p keeps the owner, who need not be us.
	if out, err := exec.CommandContext(ctx, "cp", "-Rp", filepath.Join(seed, "data"), run).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pgtest: copy the seed: %w: %s", err, out)
	}
	s, err := start(ctx, run)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	if current.alive, err = cleanAfterUs(run); err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: %w", err), s.Stop())
	}
	return s, nil
}

func start(ctx context.Context, dir string) (*localpg.Server, error) {
	return localpg.Start(ctx, localpg.Options{
		Dir: dir, Ephemeral: true, Database: template,
		Settings: map[string]string{"max_connections": "200", "autovacuum": "off"},
		Log:      slog.New(slog.DiscardHandler),
	})
}

// makeSeed makes a cluster with a migrated template and renames it when whole.
func makeSeed(ctx context.Context, base, seed string) error {
	tmp, err := os.MkdirTemp(base, "run-seed-") // collected like a run if we are killed
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	s, err := start(ctx, tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(migrate(ctx, s.DSNOf(template)), s.Stop()); err != nil {
		return err
	}
	return os.Rename(tmp, seed)
}

func migrate(ctx context.Context, dsn string) error {
	db, err := storage.Open(ctx, storage.Options{DSN: dsn, MaxConns: 2, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Migrate(ctx)
}

// seedKey tells seeds apart: by what runs them and by the schema in them.
func seedKey(bin string, major int) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %d %s\n", bin, major, storage.QueueSchema())
	err := fs.WalkDir(migrations.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(migrations.FS, name)
		fmt.Fprintf(h, "%s %d\n", name, len(b))
		h.Write(b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

// baseDir is where seeds and runs are kept: ours alone to write, open to enter,
// since as root Postgres runs as somebody else.
func baseDir() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("vedette-pgtest-%d", os.Geteuid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%s is not a directory of ours: remove it", dir)
	}
	return dir, os.Chmod(dir, 0o755)
}

// lock waits for the other test binaries that set up just now.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for %s: %w", name, ctx.Err())
		case <-t.C:
		}
	}
}

// collect removes what dead test binaries left, and seeds that nobody has used
// for a while. What cannot be removed now is the next one's to remove.
func collect(base string) {
	runs, _ := filepath.Glob(filepath.Join(base, "run-*"))
	for _, run := range runs {
		f, err := os.Open(filepath.Join(run, "lock"))
		if err != nil { // it never got as far as to run
			os.RemoveAll(run)
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(run)
		}
		f.Close()
	}
	seeds, _ := filepath.Glob(filepath.Join(base, "seed-*"))
	for _, seed := range seeds {
		if fi, err := os.Stat(seed); err == nil && time.Since(fi.ModTime()) > seedsKeptFor {
			os.RemoveAll(seed)
		}
	}
}

// cleanAfterUs starts a shell that outlives this process: when its end of the pipe
// closes, however that comes about, it sees Postgres off and removes the files.
func cleanAfterUs(run string) (io.Closer, error) {
	const script = `cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -INT "$pid" 2>/dev/null
i=0
while [ -e "$1/data/postmaster.pid" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
rm -rf -- "$1"`
	c := exec.Command("/bin/sh", "-c", script, "sh", run)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests
	alive, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	return alive, c.Start() // not waited for: it ends after us
}
