package alerting_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/pagerduty"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

const tenant = "default"

var start = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// house is everything up to the intents: a database with an assembler and a desk.
type house struct {
	t     *testing.T
	db    *storage.DB
	epoch int64
	a     *incident.Assembler
	desk  *incident.Desk
	now   time.Time
}

func newHouse(t *testing.T, receivers ...string) *house {
	ctx := t.Context()
	h := &house{t: t, db: pgtest.New(t), now: start}
	if err := h.db.EnsureLayout(ctx, 1, 1); err != nil {
		t.Fatal(err)
	}
	cp, err := h.db.Acquire(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.epoch = cp.Epoch
	for _, r := range []struct {
		version string
		level   detect.Level
		groupBy []string
	}{
		{"flood", detect.LevelMedium, []string{"src_endpoint.ip"}},
		{"who", detect.LevelHigh, []string{"actor.user.uid"}},
		{"both", detect.LevelMedium, []string{"src_endpoint.ip", "actor.user.uid"}},
	} {
		if _, err := h.db.Pool().Exec(ctx, `INSERT INTO rule_version (version, rule_id, title, level, author, license, group_by)
			VALUES ($1, $1, 'Rule ' || $1, $2, 'Jane Doe', 'DRL-1.1', $3)`, r.version, int16(r.level), r.groupBy); err != nil {
			t.Fatal(err)
		}
	}
	o := incident.Options{Ledger: h.db, Now: func() time.Time { return h.now }}
	for _, r := range receivers {
		o.Receivers = append(o.Receivers, incident.Receiver{Name: r})
	}
	if h.a, err = incident.New(o); err != nil {
		t.Fatal(err)
	}
	if h.desk, err = incident.NewDesk(o); err != nil {
		t.Fatal(err)
	}
	if err := h.a.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// find commits a finding and assembles it.
func (h *house) find(version string, minute int, values ...string) incident.ID {
	h.t.Helper()
	var key []byte
	for _, v := range values {
		key = detect.AppendKey(key, []byte(v))
	}
	at := start.Add(time.Duration(minute) * time.Minute).UnixNano()
	f := detect.Finding{Tenant: tenant, RuleVersion: version, Key: key, Count: 1, First: at, Last: at, Tile: at, Detail: `{"count":1,"threshold":1,"window":"1s"}`}
	f.ID = detect.NewFindingID(tenant, version, key, at)
	if err := h.db.Commit(h.t.Context(), correlate.Commit{Epoch: h.epoch, Findings: []detect.Finding{f}}); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.a.Step(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	var id incident.ID
	if err := h.db.Pool().QueryRow(h.t.Context(), `SELECT incident_id FROM finding WHERE id = $1`, f.ID[:]).Scan((*[16]byte)(&id)); err != nil {
		h.t.Fatal(err)
	}
	return id
}

func (h *house) resolve(id incident.ID) {
	h.t.Helper()
	if _, err := h.desk.Resolve(h.t.Context(), tenant, id, "ann", ""); err != nil {
		h.t.Fatal(err)
	}
}

// intent is a row of that table.
type intent struct {
	Wanted, Queued, Delivered int64
	Job                       *int64
	LastError, LastEvent      string
	GivenUp                   bool
}

func (h *house) intent(id incident.ID, receiver string) intent {
	h.t.Helper()
	var in intent
	err := h.db.Pool().QueryRow(h.t.Context(), `SELECT wanted, queued, delivered, job, last_error, last_event, given_up
		FROM intent WHERE incident_id = $1 AND receiver = $2`, [16]byte(id), receiver).
		Scan(&in.Wanted, &in.Queued, &in.Delivered, &in.Job, &in.LastError, &in.LastEvent, &in.GivenUp)
	if err != nil {
		h.t.Fatal(err)
	}
	return in
}

// hand is a Queue worked by hand.
type hand struct {
	next int64
	jobs []job
}

type job struct {
	id int64
	d  alerting.Delivery
}

func (q *hand) Enqueue(_ context.Context, _ pgx.Tx, ds []alerting.Delivery) ([]int64, error) {
	var ids []int64
	for _, d := range ds {
		q.next++
		q.jobs = append(q.jobs, job{q.next, d})
		ids = append(ids, q.next)
	}
	return ids, nil
}

func (q *hand) Run(ctx context.Context, _ func(context.Context, int64, alerting.Delivery) (time.Duration, error)) error {
	<-ctx.Done()
	return nil
}

// pager is a PagerDuty of our own: it answers as told, then accepts.
type pager struct {
	mu      sync.Mutex
	answers []int // statuses; 0 cuts the connection
	events  []pageEvent
	state   map[string]string // dedup key → last accepted action
}

type pageEvent struct {
	Action   string `json:"event_action"`
	DedupKey string `json:"dedup_key"`
	Payload  struct {
		Summary string
		Details struct {
			MergedInto  string `json:"merged_into"`
			Explanation string
			Rules       []struct{ Author string }
		} `json:"custom_details"`
	}
	accepted bool
}

func (p *pager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e pageEvent
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	code := http.StatusAccepted
	if len(p.answers) > 0 {
		code, p.answers = p.answers[0], p.answers[1:]
	}
	e.accepted = code == http.StatusAccepted
	p.events = append(p.events, e)
	if e.accepted {
		p.state[e.DedupKey] = e.Action
	}
	if code == 0 {
		panic(http.ErrAbortHandler)
	}
	if code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "30")
	}
	w.WriteHeader(code)
}

func (p *pager) actions() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, e := range p.events {
		b.WriteString(e.Action)
		if !e.accepted {
			b.WriteByte('!')
		}
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String())
}

func newPager(t *testing.T, answers ...int) (*pager, alerting.Notifier) {
	p := &pager{answers: answers, state: map[string]string{}}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	c := alerting.NewClient(alerting.ClientOptions{Timeout: 5 * time.Second})
	t.Cleanup(c.Close)
	n, err := pagerduty.New(pagerduty.Options{RoutingKey: "0123456789abcdef0123456789abcdef", URL: secret.String(s.URL), Client: c})
	if err != nil {
		t.Fatal(err)
	}
	return p, n
}

// delivery is alerting over a house with a queue worked by hand.
type delivery struct {
	*house
	a   *alerting.Alerting
	q   *hand
	reg *prometheus.Registry
}

func deliver(t *testing.T, h *house, n alerting.Notifier, change func(*alerting.Options)) *delivery {
	d := &delivery{house: h, q: &hand{}, reg: prometheus.NewPedanticRegistry()}
	o := alerting.Options{
		Store: h.db.Intents(), Queue: d.q, Receivers: []alerting.Receiver{{Name: "pager", Notifier: n}},
		Now: func() time.Time { return h.now }, Jitter: func() float64 { return 0 }, Registerer: d.reg,
		Link: func(_ string, id incident.ID) string { return "https://vedette.example/incidents/" + id.String() },
	}
	if change != nil {
		change(&o)
	}
	var err error
	if d.a, err = alerting.New(o); err != nil {
		t.Fatal(err)
	}
	return d
}

// work queues what is due and works every job once. It returns what they said.
func (d *delivery) work() []time.Duration {
	d.t.Helper()
	if _, err := d.a.Dispatch(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	var agains []time.Duration
	jobs := d.q.jobs
	d.q.jobs = nil
	for _, j := range jobs {
		again, err := d.a.Work(d.t.Context(), j.id, j.d)
		if err != nil {
			d.t.Fatal(err)
		}
		agains = append(agains, again)
		if again >= 0 {
			d.q.jobs = append(d.q.jobs, j)
		}
	}
	return agains
}
