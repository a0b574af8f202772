package pgtest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/storage/pgtest"
)

const childEnv = "VEDETTE_PGTEST_CHILD"

func TestEachTestHasItsOwn(t *testing.T) {
	first, second := pgtest.New(t), pgtest.New(t)
	ctx := t.Context()
	if _, err := first.Pool().Exec(ctx, "INSERT INTO collector_cursor (origin, cursor) VALUES ('a', '')"); err != nil {
		t.Fatal(err)
	}
	for n, db := range map[int]interface {
		Cursor(context.Context, string) ([]byte, error)
	}{1: first, 0: second} {
		c, err := db.Cursor(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if (c != nil) != (n == 1) {
			t.Errorf("want %d cursors, got %q", n, c)
		}
	}
	var tables int
	conn, err := pgx.Connect(ctx, pgtest.EmptyDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'").Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if tables != 0 {
		t.Errorf("the empty database has %d tables", tables)
	}
}

// TestChild is no test but what TestNothingIsLeft runs and kills.
func TestChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("runs in a process of its own only, started by TestNothingIsLeft")
	}
	cfg, err := pgx.ParseConfig(pgtest.NewDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("child %d %s\n", pgtest.Server(t).PID(), filepath.Dir(cfg.Host))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestNothingIsLeft(t *testing.T) {
	pgtest.Server(t) // skips without Postgres
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", kill), func(t *testing.T) {
			c := exec.Command(os.Args[0], "-test.run=^TestChild$")
			c.Env = append(os.Environ(), childEnv+"=1")
			c.Stderr = os.Stderr
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
			var pid, dir string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "child" {
					pid, dir = f[1], f[2]
					break
				}
			}
			if _, err := os.Stat(dir); dir == "" || err != nil {
				t.Fatalf("the child did not start: %v", err)
			}
			if kill {
				_ = c.Process.Kill()
			}
			in.Close()
			_ = c.Wait()
			gone := func(name string) bool {
				_, err := os.Stat(name)
				return os.IsNotExist(err)
			}
			deadline := time.After(30 * time.Second)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			for !gone(dir) || alive(n) {
				select {
				case <-deadline:
					t.Fatalf("server %s or %s is left", pid, dir)
				case <-tick.C:
				}
			}
		})
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}
