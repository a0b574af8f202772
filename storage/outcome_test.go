package storage_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// cutter stands between the client and Postgres. When armed it cuts the client's
// connection off at its next COMMIT.
type cutter struct {
	ln     net.Listener
	server string // socket of Postgres
	wg     sync.WaitGroup

	mu    sync.Mutex
	armed *cut
	conns map[net.Conn]bool
}

// cut is what happens at COMMIT: it is passed on or not, then the hook runs, then
// the client is cut off; then the server is, when release says so.
type cut struct {
	forward bool
	hook    func()
	release <-chan struct{} // nil: at once
}

func newCutter(t *testing.T, dsn string) (*cutter, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	dir, err := os.MkdirTemp("/tmp", "vedette-cutter-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{server: filepath.Join(q.Get("host"), ".s.PGSQL.5432"), conns: make(map[net.Conn]bool)}
	if c.ln, err = net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432")); err != nil {
		t.Fatal(err)
	}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		c.ln.Close()
		c.mu.Lock()
		for conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
		os.RemoveAll(dir)
	})
	q.Set("host", dir)
	u.RawQuery = q.Encode()
	return c, u.String()
}

func (c *cutter) arm(next cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = &next
}

func (c *cutter) disarm() *cut {
	c.mu.Lock()
	defer c.mu.Unlock()
	armed := c.armed
	c.armed = nil
	return armed
}

func (c *cutter) accept() {
	for {
		client, err := c.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", c.server)
		if err != nil {
			client.Close()
			continue
		}
		c.mu.Lock()
		c.conns[client], c.conns[server] = true, true
		c.mu.Unlock()
		deaf := new(atomic.Bool)
		c.wg.Go(func() {
			defer client.Close()
			b := make([]byte, 64<<10)
			for {
				n, err := server.Read(b)
				if err != nil {
					return
				}
				if deaf.Load() {
					continue
				}
				if _, err := client.Write(b[:n]); err != nil {
					return
				}
			}
		})
		c.wg.Go(func() { c.requests(client, server, deaf) })
	}
}

// requests passes the client's messages on, one by one.
func (c *cutter) requests(client, server net.Conn, deaf *atomic.Bool) {
	defer server.Close()
	defer client.Close()
	header := 4 // the first message has no type
	for {
		head := make([]byte, header)
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[header-4:])-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return
		}
		if header == 5 && head[0] == 'Q' && string(body) == "commit\x00" {
			if cut := c.disarm(); cut != nil {
				deaf.Store(true) // the answer must not get through
				c.cut(cut, append(head, body...), client, server)
				return
			}
		}
		if _, err := server.Write(append(head, body...)); err != nil {
			return
		}
		header = 5
	}
}

func (c *cutter) cut(cut *cut, message []byte, client, server net.Conn) {
	if cut.forward {
		if _, err := server.Write(message); err != nil {
			return
		}
	}
	if cut.hook != nil {
		cut.hook()
	}
	client.Close()
	if cut.release != nil {
		<-cut.release
	}
}

func TestUnknownOutcomeOfCommit(t *testing.T) {
	// committed waits, past the proxy, until the checkpoint of that number is there.
	committed := func(t *testing.T, direct *storage.DB, number int64) {
		eventually(t, func() (bool, error) {
			states, err := direct.CheckpointStates(context.Background())
			return err == nil && len(states) == 1 && states[0].Number == number, err
		})
	}
	t.Run("committed", func(t *testing.T) {
		u := newUnknown(t)
		u.cutter.arm(cut{forward: true, hook: func() { committed(t, u.direct, 1) }})
		if err := u.commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		u.check(t, 1)
	})
	t.Run("not committed", func(t *testing.T) {
		u := newUnknown(t)
		u.cutter.arm(cut{})
		if err := u.commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		u.check(t, 1)
	})
	t.Run("not committed, and the server does not know that the client has gone", func(t *testing.T) {
		u := newUnknown(t)
		release := make(chan struct{})
		u.cutter.arm(cut{release: release})
		done := make(chan error, 1)
		go func() { done <- u.commit(context.Background()) }()
		eventually(t, func() (waits bool, err error) {
			err = u.direct.Pool().QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM pg_stat_activity "+
				"WHERE datname = current_database() AND wait_event_type = 'Lock')").Scan(&waits)
			return waits, err
		})
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		u.check(t, 1)
	})
	t.Run("committed, then taken over", func(t *testing.T) {
		u := newUnknown(t)
		u.cutter.arm(cut{forward: true, hook: func() {
			committed(t, u.direct, 1)
			if _, err := u.direct.Acquire(context.Background(), 0); err != nil {
				t.Error(err)
			}
		}})
		if err := u.commit(t.Context()); !errors.Is(err, correlate.ErrFenced) {
			t.Fatalf("want ErrFenced, got %v", err)
		}
		u.check(t, 1)
	})
	t.Run("nobody can be asked", func(t *testing.T) {
		u := newUnknown(t)
		u.cutter.arm(cut{forward: true, hook: func() {
			committed(t, u.direct, 1)
			u.cutter.ln.Close()
		}})
		err := u.commit(t.Context())
		if _, ok := errors.AsType[*storage.UnknownOutcomeError](err); !ok || storage.IsTransient(err) {
			t.Fatalf("want an UnknownOutcomeError that nobody tries again on, got %v", err)
		}
	})
	t.Run("the caller has given up", func(t *testing.T) {
		u := newUnknown(t)
		ctx, cancel := context.WithCancel(t.Context())
		u.cutter.arm(cut{forward: true, hook: func() {
			committed(t, u.direct, 1)
			cancel()
		}})
		if err := u.commit(ctx); err != nil {
			t.Fatalf("it was committed, and that could be found out: %v", err)
		}
		u.check(t, 1)
	})
}

// unknown is a ledger behind a cutter, and the same one without.
type unknown struct {
	cutter  *cutter
	proxied *storage.DB
	direct  *storage.DB
	epoch   int64
}

func newUnknown(t *testing.T) *unknown {
	t.Helper()
	dsn := pgtest.NewDSN(t)
	u := &unknown{direct: pgtest.Open(t, storage.Options{DSN: dsn})}
	if err := u.direct.EnsureLayout(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}
	var through string
	u.cutter, through = newCutter(t, dsn)
	u.proxied = pgtest.Open(t, storage.Options{DSN: through, Patience: 3 * time.Second})
	u.epoch = acquire(t, u.proxied, 0).Epoch
	return u
}

func (u *unknown) commit(ctx context.Context) error {
	return u.proxied.Commit(ctx, correlate.Commit{
		Partition: 0, Epoch: u.epoch, Mark: correlate.Mark{Position: 5}, Findings: []detect.Finding{finding(1)},
	})
}

// check makes sure that the commit took place as often as wanted.
func (u *unknown) check(t *testing.T, times int64) {
	t.Helper()
	fs := findings(t, u.direct)
	if len(fs) != 1 || fs[0].Count != times {
		t.Errorf("want one finding with a count of %d, got %+v", times, fs)
	}
	states, err := u.direct.CheckpointStates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if states[0].Number != times || states[0].Mark.Position != 5 {
		t.Errorf("the checkpoint is %+v", states[0])
	}
}

func TestOutageIsRiddenOut(t *testing.T) {
	db := newLedger(t)
	cp := acquire(t, db, 0)
	server := pgtest.Server(t)
	before := server.Restarts()
	p, err := os.FindProcess(server.PID())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	var commits int64
	for after := false; !after; {
		after = server.Restarts() > before // once more then
		commit(t, db, correlate.Commit{Partition: 0, Epoch: cp.Epoch, Findings: []detect.Finding{finding(1)}})
		commits++
	}
	if got := findings(t, db); len(got) != 1 || got[0].Count != commits {
		t.Errorf("after %d commits: %+v", commits, got)
	}
}

func TestTransientErrors(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	_, err := db.Pool().Exec(ctx, "SELECT 1/0")
	if storage.IsTransient(err) {
		t.Errorf("%v will not go away", err)
	}
	_, err = db.Pool().Exec(ctx, "SET statement_timeout = 1; SELECT pg_sleep(10)")
	if !storage.IsTransient(err) {
		t.Errorf("%v may go away", err)
	}
	_, err = pgx.Connect(ctx, "postgres:///x?host=/tmp/no-such-directory&user=x")
	if !storage.IsTransient(err) {
		t.Errorf("%v may go away", err)
	}
	for _, code := range []string{"25006", "53100", "53200", "53300", "57P03", "58030"} {
		if err := fmt.Errorf("commit: %w", &pgconn.PgError{Severity: "ERROR", Code: code}); !storage.IsTransient(err) {
			t.Errorf("%v may go away", err)
		}
	}
	for _, err := range []error{nil, context.Canceled, storage.ErrNotFound, errors.New("other")} {
		if storage.IsTransient(err) {
			t.Errorf("%v is not about Postgres's state", err)
		}
	}
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, cond func() (bool, error)) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Errorf("not within 30 s: %v", err)
			return
		case <-tick.C:
		}
	}
}
