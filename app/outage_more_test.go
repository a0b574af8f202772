package app_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/secret"
)

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

// TestStopInAnOutage: whatever is away, the service ends within a bounded time.
func TestStopInAnOutage(t *testing.T) {
	for what, fail := range map[string]func(*outage, *proxy){
		"Kafka is gone":      func(o *outage, _ *proxy) { o.broker.Close() },
		"Postgres is gone":   func(_ *outage, p *proxy) { p.cut() },
		"Postgres is silent": func(_ *outage, p *proxy) { p.hang() },
	} {
		t.Run(what, func(t *testing.T) {
			if what == "Postgres is silent" && testing.Short() {
				t.Skip("it takes as long as deadlines do")
			}
			var p *proxy
			o := beset(t, func(c *config.Config) {
				var dsn string
				p, dsn = pgProxy(t, c.Postgres.DSN.Reveal())
				c.Postgres.DSN = secret.String(dsn)
			})
			name := "postgres"
			if what == "Kafka is gone" {
				name = "kafka"
			}
			fail(o, p)
			o.eventually("readiness tells", func() bool { return o.ready(name) })
			o.cancel()
			o.done.Wait()
			began := time.Now()
			o.app.Stop()
			if took := time.Since(began); took > stopWithin {
				t.Errorf("stopping took %v", took)
			}
		})
	}
}

// stopWithin is what docs/operations.md promises, and shorter than the half minute
// that a container gets.
const stopWithin = 20 * time.Second

// TestSlowReceiver: a receiver that takes connections and never answers delays its
// own alerts; another is told at once, detection goes on, and the age of what is
// undelivered says so. When it answers it is told of everything.
func TestSlowReceiver(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as a receiver may")
	}
	var mu sync.Mutex
	var told []string
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		select {
		case <-release:
		case <-r.Context().Done():
			return
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, string(b))
	}))
	t.Cleanup(slow.Close)
	answer := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answer)
	s := start(t, func(c *config.Config) {
		c.Alerting.Receivers = append(c.Alerting.Receivers, config.Receiver{
			Name: "slow", Type: "webhook", URL: secret.String(slow.URL), Key: "another-key-of-enough-length-is-this", MinSeverity: "medium",
		})
	})
	defer func() { s.app.Stop() }()
	o := &outage{system: s, t: t}
	for i := range 5 {
		ip := fmt.Sprintf("203.0.113.%d", 100+i)
		if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, refusals(40, ip, time.Now().Add(-10*time.Minute))); code != 202 {
			t.Fatalf("push: %d %s", code, b)
		}
		// One after the other, so that each would wait for the one before.
		s.eventually("the other receiver is told", func() bool { return s.hooked(ip) })
	}
	if code, b := s.do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("a slow receiver is no reason not to be ready: %d %s", code, b)
	}
	s.eventually("the age of what is undelivered is told", func() bool { return o.metric("vedette_notifications_oldest_undelivered_seconds") > 0 })
	answer()
	s.eventually("the slow receiver is told of all", func() bool {
		mu.Lock()
		defer mu.Unlock()
		all := strings.Join(told, "\n")
		for i := range 5 {
			if !strings.Contains(all, fmt.Sprintf("203.0.113.%d", 100+i)) {
				return false
			}
		}
		return true
	})
}

// TestRuleThatMatchesEverythingByKey: a rule that fires for each record under a key
// of its own is one incident, a flood, with every event in it; the receiver is not
// told of each.
func TestRuleThatMatchesEverythingByKey(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "everything.yml"), []byte(`title: Any request
id: 5f8a1b8e-8d5c-4a7f-9c9e-0d6a4f2b7c12
name: any_request
status: test
level: informational
logsource: {product: vedette, service: aws.apigateway}
detection:
  any: {http_request.http_method: POST}
  condition: any
---
title: Everybody
id: 5f8a1b8e-8d5c-4a7f-9c9e-0d6a4f2b7c13
status: test
level: high
author: Test
correlation: {type: event_count, rules: [any_request], group-by: [src_endpoint.ip], timespan: 5m, condition: {gte: 1}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *config.Config) { c.Rules.Shipped, c.Rules.Paths = false, []string{dir} })
	defer func() { s.app.Stop() }()
	o := &outage{system: s, t: t}
	const keys = 2000
	from := time.Now().Add(-30 * time.Minute).Truncate(5 * time.Minute)
	var body []byte
	for i := range keys {
		body = append(body, refusals(1, fmt.Sprintf("198.18.%d.%d", i/250, i%250), from)...)
	}
	if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, body); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	s.eventually("one open incident counts every event", func() bool {
		var open []incident
		for _, in := range s.incidents() {
			if in.Status == "open" {
				open = append(open, in)
			}
		}
		return len(open) == 1 && open[0].Count == keys
	})
	if !o.ready("") {
		t.Error("it is not ready")
	}
	if n := o.metric("vedette_storage_finding_rows_total"); n > 2*keys {
		t.Errorf("%v rows of findings were written for %d keys", n, keys)
	}
	s.eventually("the receiver is told", func() bool { return s.hooked("trigger") })
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit := keys / 4; len(s.hooks) > limit {
		t.Errorf("the receiver was told %d times of %d keys", len(s.hooks), keys)
	}
}
