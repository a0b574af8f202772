package riverqueue_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/riverqueue"
	"github.com/vedette-sec/vedette/alerting/webhook"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := pgtest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop Postgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// within bounds every wait of these tests.
const within = 20 * time.Second

// want inserts an incident with an intent for each receiver.
func want(t *testing.T, db *storage.DB, n byte, receivers ...string) incident.ID {
	t.Helper()
	id := incident.ID{15: n}
	err := db.Act(t.Context(), func(tx incident.Tx) error {
		in := incident.Incident{
			Tenant: "default", ID: id, Status: incident.StatusOpen, RuleID: "r", Title: "A title",
			Severity: detect.LevelHigh, Version: 1, OpenedAt: time.Now(),
		}
		if err := tx.SaveIncidents(t.Context(), []incident.Incident{in}); err != nil {
			return err
		}
		var intents []incident.Intent
		for _, r := range receivers {
			intents = append(intents, incident.Intent{Tenant: in.Tenant, Incident: id, Receiver: r, Event: incident.EventTrigger, Wanted: 1})
		}
		return tx.SaveIntents(t.Context(), intents)
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// run runs alerting until the test ends, and then waits for it.
func run(t *testing.T, db *storage.DB, receivers ...alerting.Receiver) {
	t.Helper()
	var names []string
	for _, r := range receivers {
		names = append(names, r.Name)
	}
	q, err := riverqueue.New(riverqueue.Options{Pool: db.Pool(), Receivers: names, Stop: 2 * time.Second, Fetch: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	a, err := alerting.New(alerting.Options{
		Store: db.Intents(), Queue: q, Receivers: receivers,
		Poll: 20 * time.Millisecond, Repair: 100 * time.Millisecond, Backoff: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(within):
			t.Error("Run does not end")
		}
	})
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		case <-tick.C:
		}
	}
}

func delivered(t *testing.T, db *storage.DB, id incident.ID, receiver string) func() bool {
	return func() bool {
		var yes bool
		err := db.Pool().QueryRow(t.Context(), `SELECT delivered >= wanted AND job IS NULL FROM intent WHERE incident_id = $1 AND receiver = $2`,
			[16]byte(id), receiver).Scan(&yes)
		if err != nil {
			t.Fatal(err)
		}
		return yes
	}
}

func hookTo(t *testing.T, h http.HandlerFunc, timeout time.Duration) alerting.Notifier {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return hookAt(t, s.URL, timeout)
}

func hookAt(t *testing.T, url string, timeout time.Duration) alerting.Notifier {
	t.Helper()
	c := alerting.NewClient(alerting.ClientOptions{Timeout: timeout})
	t.Cleanup(c.Close)
	n, err := webhook.New(webhook.Options{URL: secret.String(url), Secrets: []secret.String{"a secret of at least 24 bytes"}, Client: c})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestReceiversThatMisbehaveThenRecover has one receiver fail, one hang and one
// work: the one that works waits for nobody, and all are told in the end.
func TestReceiversThatMisbehaveThenRecover(t *testing.T) {
	db := pgtest.New(t)
	var failures atomic.Int64
	failing := hookTo(t, func(w http.ResponseWriter, r *http.Request) {
		switch failures.Add(1) {
		case 1:
			w.WriteHeader(500)
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
		}
	}, 5*time.Second)
	healed := make(chan struct{})
	var hung atomic.Int64
	hanging := hookTo(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-healed:
		default:
			hung.Add(1)
			select {
			case <-healed:
			case <-r.Context().Done():
			}
		}
	}, 200*time.Millisecond)
	var mu sync.Mutex
	seen := map[string]int{}
	working := hookTo(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Header.Get("webhook-id")]++
	}, 5*time.Second)
	run(t, db, alerting.Receiver{Name: "failing", Notifier: failing}, alerting.Receiver{Name: "hanging", Notifier: hanging}, alerting.Receiver{Name: "it works: ja/é", Notifier: working})

	var ids []incident.ID
	for n := range byte(20) {
		ids = append(ids, want(t, db, n+1, "hanging", "it works: ja/é"))
	}
	first := want(t, db, 100, "failing")
	for _, id := range ids {
		eventually(t, "the receiver that works is told", delivered(t, db, id, "it works: ja/é"))
	}
	if hung.Load() == 0 {
		t.Error("nothing was sent to the receiver that hangs")
	}
	eventually(t, "the receiver that fails is told", delivered(t, db, first, "failing"))
	if n := failures.Load(); n != 4 {
		t.Errorf("%d requests to the receiver that fails, want 4", n)
	}
	close(healed)
	for _, id := range ids {
		eventually(t, "the receiver that hung is told", delivered(t, db, id, "hanging"))
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was told %d times though nothing failed", id, n)
		}
	}
	if len(seen) != len(ids) {
		t.Errorf("%d incidents told, want %d", len(seen), len(ids))
	}
}

// TestLostJobIsQueuedAgain deletes a job from under its intent, while the
// receiver's port answers to nobody.
func TestLostJobIsQueuedAgain(t *testing.T) {
	db := pgtest.New(t)
	var down atomic.Bool
	down.Store(true)
	n := hookTo(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
		}
	}, 5*time.Second)
	id := want(t, db, 1, "hook")
	run(t, db, alerting.Receiver{Name: "hook", Notifier: n})
	eventually(t, "a failure is recorded", func() bool {
		var failed string
		if err := db.Pool().QueryRow(t.Context(), `SELECT last_error FROM intent`).Scan(&failed); err != nil {
			t.Fatal(err)
		}
		return strings.HasPrefix(failed, "server: status 503")
	})
	down.Store(false)
	eventually(t, "the job waits for an hour", func() bool {
		tag, err := db.Pool().Exec(t.Context(), `DELETE FROM river_job WHERE state = 'scheduled'`)
		if err != nil {
			t.Fatal(err)
		}
		return tag.RowsAffected() == 1
	})
	eventually(t, "the incident is told all the same", delivered(t, db, id, "hook"))
}

func TestRollbackLeavesNoJob(t *testing.T) {
	db := pgtest.New(t)
	id := want(t, db, 1, "hook")
	q, err := riverqueue.New(riverqueue.Options{Pool: db.Pool(), Receivers: []string{"hook"}})
	if err != nil {
		t.Fatal(err)
	}
	killed := errors.New("killed")
	_, err = db.Intents().Dispatch(t.Context(), []string{"hook"}, 10, func(ctx context.Context, tx pgx.Tx, ds []alerting.Delivery) ([]int64, error) {
		if ids, err := q.Enqueue(ctx, tx, ds); err != nil || len(ids) != 1 || ds[0].Incident != id {
			t.Errorf("%v, %v, %v", ds, ids, err)
		}
		return nil, killed
	})
	if !errors.Is(err, killed) {
		t.Fatal(err)
	}
	var jobs, queued int
	if err := db.Pool().QueryRow(t.Context(), `SELECT (SELECT count(*) FROM river_job), (SELECT count(*) FROM intent WHERE job IS NOT NULL OR queued > 0)`).Scan(&jobs, &queued); err != nil {
		t.Fatal(err)
	}
	if jobs != 0 || queued != 0 {
		t.Errorf("%d jobs, %d intents queued", jobs, queued)
	}
}

func TestNew(t *testing.T) {
	if _, err := riverqueue.New(riverqueue.Options{}); err == nil {
		t.Error("no pool: no error")
	}
}
