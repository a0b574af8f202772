package app_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/secret"
)

// TestPostgresAway: connections are ended by the server, then cut and refused, then
// nothing goes through any more.
func TestPostgresAway(t *testing.T) {
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
		o.eventually("pushes go on", func() bool { now, _ := o.sent(); return now > before+1 })
	}

	for name, fail := range map[string]func(){"cut": p.cut, "hung": p.hang} {
		fail()
		o.eventually(name+": readiness names Postgres", func() bool { return o.ready("postgres") })
		o.alive()
		p.heal()
		o.eventually(name+": ready again", func() bool { return o.ready("") })
	}
	o.settle()
}

// TestPostgresFull: the disk that holds the tables is full for a while.
func TestPostgresFull(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute until nothing can be written any more")
	}
	disk := smallDisk(t)
	o := beset(t, func(c *config.Config) {
		name, _, _ := strings.Cut(strings.TrimPrefix(c.Postgres.DSN.Reveal(), "postgres:///"), "?")
		disk.hold(t, name)
	})
	disk.fill(t)
	failures := func() float64 {
		return o.metric("vedette_correlate_restarts_total") + o.metric("vedette_assembler_failures_total") + o.metric("vedette_file_errors_total")
	}
	before := failures()
	o.eventually("what cannot be written is counted", func() bool { return failures() > before })
	o.eventually("readiness tells, although Postgres answers", func() bool { return o.ready("roles") })
	o.alive()
	disk.empty(t)
	o.settle()
}

// TestPostgresTakesNoWrites: a server that answers but may not be written to, as one
// that was a primary before a failover, is not called ready, and connections to it
// are not kept once it may be written to again.
func TestPostgresTakesNoWrites(t *testing.T) {
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
	o.eventually("readiness names Postgres", func() bool { return o.ready("postgres") })
	o.alive()
	run("ALTER DATABASE " + name + " RESET default_transaction_read_only")
	o.settle() // nobody ends connections this time
}
