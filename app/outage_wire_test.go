package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// TestKafkaConnectionsReset: connections to Kafka are reset in the middle of requests,
// and in place of answers to what was done, while traffic goes on.
func TestKafkaConnectionsReset(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := &wires{}
	o := besetOn(t, devbroker.Options{ListenFunc: w.listen})
	w.reset(rand.New(rand.NewPCG(seed, 1)))
	before, filed := o.sent()
	o.Eventually("many are reset, and pushes and files go on all the same", func() bool {
		pushed, f := o.sent()
		return w.counted() >= 60 && pushed >= before+6 && f >= filed+6
	})
	w.heal()
	t.Logf("%d connections were reset", w.counted())
	o.alive()
	o.settle()
}

// TestPostgresConnectionsTaken: others hold all connections that Postgres allows, those
// for superusers too, and the service loses those it has. It has the server alone: no
// parallel test is at work.
func TestPostgresConnectionsTaken(t *testing.T) {
	var dsn string
	o := beset(t, func(c *config.Config) { dsn = c.Postgres.DSN.Reveal() })
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	var others []*pgx.Conn
	leave := func() {
		for _, c := range others {
			c.Close(context.Background())
		}
		others = nil
	}
	defer leave()
	var full *pgconn.PgError
	// Each that the service gives back is taken.
	o.Eventually("others have all connections, and readiness names Postgres", func() bool {
		if _, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'vedette'`); err != nil {
			t.Fatal(err)
		}
		for {
			c, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				if !errors.As(err, &full) || full.Code != "53300" {
					t.Fatalf("want that there are too many: %v", err)
				}
				return o.Ready("postgres")
			}
			others = append(others, c)
		}
	})
	t.Logf("others hold %d connections: %s", len(others), full.Message)
	before, _ := o.sent()
	o.Eventually("pushes are taken all the same", func() bool { now, _ := o.sent(); return now > before+1 })
	if !o.Ready("postgres") {
		t.Error("readiness says that Postgres is well")
	}
	o.alive()
	leave()
	o.settle()
}

// TestMemoryInALongOutage: while Kafka, or Postgres, does not answer and clients and
// files bring ever more, the service holds little more than before: clients are
// refused, files stay where they are.
func TestMemoryInALongOutage(t *testing.T) {
	if testing.Short() {
		t.Skip("it watches memory for some seconds")
	}
	t.Parallel()
	for _, what := range []string{"kafka", "postgres"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			testMemory(t, what)
		})
	}
}

const (
	maxInFlight = 4 << 20   // of pushes, bytes
	maxHeap     = 100 << 20 // what the heap may grow by, garbage too: a small part of what comes in
)

func testMemory(t *testing.T, what string) {
	w, logs := &wires{}, t.TempDir()
	defer w.heal()
	var p *proxy
	s := startOn(t, devbroker.Options{ListenFunc: w.listen}, app.Timing{}, func(c *config.Config) {
		var dsn string
		p, dsn = pgProxy(t, c.Postgres.DSN.Reveal())
		c.Postgres.DSN = secret.String(dsn)
		c.API.MaxBody, c.API.MaxInFlight = maxInFlight, maxInFlight
		c.Collect.Files = []config.FileSource{{Name: "files", Paths: []string{logs}, Poll: 50 * time.Millisecond}}
	})
	s.App.Stop() // it made the tokens; the broker, which holds all in memory, is not to share its heap
	service := s.spawn()
	ask := func(path string) string {
		_, b, err := s.Request(t.Context(), service.addr, "GET", path, api.ScopeRead, nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	gauge := func(name string) float64 {
		for line := range strings.Lines(ask("/metrics")) {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatalf("there is no %s", name)
		return 0
	}
	ready := func() bool { return strings.Contains(ask("/readyz"), `"status":"ready"`) }
	await := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.Now().Add(90 * time.Second)
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatalf("never came true: %s: %s", what, ask("/readyz"))
			}
			pause(t.Context(), 50*time.Millisecond)
		}
	}
	await("ready", ready)
	from := time.Now().Add(-10 * time.Minute)
	body := bytes.Repeat(servicetest.Refusals(1000, "203.0.115.1", from), 10) // 4 MB, which count once
	if err := s.Push(t.Context(), func() string { return service.addr }, servicetest.Refusals(1, "203.0.115.1", from)); err != nil {
		t.Fatal(err)
	}
	const heap = "go_memstats_heap_alloc_bytes"
	before := gauge(heap)
	if what == "kafka" {
		w.hang()
	} else {
		p.hang()
	}
	await("readiness tells", func() bool { return strings.Contains(ask("/readyz"), fmt.Sprintf("%q:\"failing\"", what)) })

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var clients sync.WaitGroup
	var mu sync.Mutex
	codes, sent := map[int]int{}, 0
	for i := range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				code, _, err := s.Request(ctx, service.addr, http.MethodPost, "/v1/logs", api.ScopeIngest, body)
				if err == nil {
					mu.Lock()
					codes[code]++
					sent += len(body)
					mu.Unlock()
				}
				pause(ctx, 200*time.Millisecond)
			}
		})
		clients.Go(func() {
			for n := range 5 {
				name := filepath.Join(logs, fmt.Sprintf("%d-%d.json", i, n))
				if os.WriteFile(name+".tmp", body, 0o600) == nil {
					_ = os.Rename(name+".tmp", name)
				}
				pause(ctx, 500*time.Millisecond)
			}
		})
	}
	most, inFlight := 0.0, 0.0
	for ctx.Err() == nil {
		pause(ctx, 250*time.Millisecond)
		most, inFlight = max(most, gauge(heap)), max(inFlight, gauge("vedette_push_in_flight_bytes"))
	}
	clients.Wait()
	t.Logf("the heap was %.0f MiB and became %.0f MiB at most, %.1f MiB in flight; answers %v to %d MB; 320 MB of files", before/(1<<20), most/(1<<20), inFlight/(1<<20), codes, sent/1e6)
	if most > before+maxHeap {
		t.Errorf("the heap grew from %.0f to %.0f bytes", before, most)
	}
	if inFlight > maxInFlight+float64(len(body)) { // whoever is alone may always
		t.Errorf("pushes hold %v bytes, %d are allowed", inFlight, maxInFlight)
	}
	if what == "kafka" && codes[http.StatusTooManyRequests]+codes[http.StatusServiceUnavailable] == 0 {
		t.Error("no client was refused")
	}
	for code, n := range codes {
		if code != http.StatusAccepted && code != http.StatusTooManyRequests && code != http.StatusServiceUnavailable {
			t.Errorf("%d pushes were answered with %d", n, code)
		}
	}
	w.heal()
	p.heal()
	await("ready again", ready)
	if err := service.kill(); err != nil {
		t.Error(err)
	}
}
