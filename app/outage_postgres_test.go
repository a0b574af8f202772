package app_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/secret"
)

// TestPostgresAway: connections are ended by the server, then cut and refused, then
// nothing goes through any more.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	var p *proxy
	var direct string
	o := beset(t, func(c *config.Config) {
		direct = c.Postgres.DSN.Reveal()
		var dsn string
		p, dsn = pgProxy(t, direct)
		c.Postgres.DSN = secret.String(dsn)
	})
	admin, err := pgx.Connect(t.Context(), direct)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	for range 3 {
		var ended int
		if err := admin.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&ended); err != nil {
			t.Fatal(err)
		}
		if ended == 0 {
			t.Error("there was no connection to end")
		}
		before, _ := o.sent()
		o.Eventually("pushes go on", func() bool { now, _ := o.sent(); return now > before+1 })
	}

	for name, fail := range map[string]func(){"cut": p.cut, "hung": p.hang} {
		fail()
		o.Eventually(name+": readiness names Postgres", func() bool { return o.Ready("postgres") })
		o.alive()
		p.heal()
		o.Eventually(name+": ready again", func() bool { return o.Ready("") })
	}
	o.settle()
}

// TestPostgresFull: the disk that holds the tables is full for a while.
func TestPostgresFull(t *testing.T) {
	disk := smallDisk(t)
	o := beset(t, func(c *config.Config) {
		name, _, _ := strings.Cut(strings.TrimPrefix(c.Postgres.DSN.Reveal(), "postgres:///"), "?")
		disk.hold(t, name)
	})
	disk.fill(t)
	began := time.Now()
	failures := func() float64 {
		return o.Metric("vedette_storage_retries_total") + o.Metric("vedette_assembler_failures_total")
	}
	before := failures()
	o.Eventually("readiness tells, although Postgres answers", func() bool { return o.Ready("postgres") })
	if took := time.Since(began); took > tellWithin {
		t.Errorf("readiness told after %v", took)
	}
	if failures() == before {
		t.Error("what cannot be written is not counted")
	}
	o.alive()
	disk.empty(t)
	o.settle()
}

// tellWithin is the few seconds that docs/operations.md promises, on a loaded machine.
const tellWithin = 15 * time.Second

// TestPostgresTakesNoWrites: a server that answers but may not be written to, as one
// that was a primary before a failover, is not called ready, and connections to it
// are not kept once it may be written to again.
func TestPostgresTakesNoWrites(t *testing.T) {
	t.Parallel()
	var dsn string
	o := beset(t, func(c *config.Config) { dsn = c.Postgres.DSN.Reveal() })
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	run := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	name := pgx.Identifier{admin.Config().Database}.Sanitize()
	run("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
	run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	o.Eventually("readiness names Postgres", func() bool { return o.Ready("postgres") })
	o.alive()
	run("ALTER DATABASE " + name + " RESET default_transaction_read_only")
	o.settle() // nobody ends connections this time
}
