package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// system is the whole service on loopback, with a receiver of webhooks.
type system struct {
	t      *testing.T
	cfg    *config.Config
	timing app.Timing
	app    *app.App
	broker *devbroker.Broker
	kafka  devbroker.Options // to start the broker again with
	tokens map[api.Scope]string

	mu    sync.Mutex
	hooks []string // bodies received
}

// start brings the service up, its configuration changed by tweaks.
func start(t *testing.T, tweaks ...func(*config.Config)) *system {
	t.Helper()
	return startIn(t, app.Timing{}, tweaks...)
}

// startIn brings the service up that waits as the timing says.
func startIn(t *testing.T, timing app.Timing, tweaks ...func(*config.Config)) *system {
	t.Helper()
	s := &system{t: t, cfg: config.Default(), timing: timing, tokens: map[api.Scope]string{}}
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.hooks = append(s.hooks, string(b))
		s.mu.Unlock()
	}))
	t.Cleanup(hook.Close)
	s.kafka = devbroker.Options{Logger: discard, Dir: t.TempDir(), NoSync: true}
	s.startBroker()
	t.Cleanup(func() { s.broker.Close() })
	s.kafka.Listen = s.broker.Addr()
	s.cfg.DataDir = t.TempDir()
	s.cfg.Kafka.Brokers = []string{s.broker.Addr()}
	s.cfg.Kafka.LogsPartitions, s.cfg.Kafka.ObservationPartitions, s.cfg.Kafka.Replication = 2, 2, 1
	s.cfg.Postgres.DSN = secret.String(pgtest.NewDSN(t))
	s.cfg.API.Listen = "127.0.0.1:0"
	s.cfg.Alerting.Receivers = []config.Receiver{{
		Name: "hook", Type: "webhook", URL: secret.String(hook.URL), Key: "a-signing-key-of-enough-length", MinSeverity: "medium",
	}}
	for _, tweak := range tweaks {
		tweak(s.cfg)
	}
	s.boot()
	for _, scope := range []api.Scope{api.ScopeIngest, api.ScopeRead, api.ScopeWrite} {
		secret, err := s.app.DB().CreateToken(t.Context(), s.cfg.Tenant, string(scope), scope)
		if err != nil {
			t.Fatal(err)
		}
		s.tokens[scope] = secret.Reveal()
	}
	return s
}

func (s *system) startBroker() {
	s.t.Helper()
	b, err := devbroker.Start(s.kafka)
	if err != nil {
		s.t.Fatal(err)
	}
	s.broker = b
}

var discard = slog.New(slog.DiscardHandler)

func (s *system) boot() {
	s.t.Helper()
	a, err := app.Start(s.t.Context(), app.Options{Config: s.cfg, Logger: discard, Version: "test", Timing: s.timing})
	if err != nil {
		s.t.Fatal(err)
	}
	s.app = a
}

// do sends a request and returns status and body.
func (s *system) do(method, path string, scope api.Scope, body []byte) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.app.Addr()+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if scope != "" {
		req.Header.Set("Authorization", "Bearer "+s.tokens[scope])
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, b
}

// eventually waits for a condition.
func (s *system) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			_, ready := s.do("GET", "/readyz", "", nil)
			_, list := s.do("GET", "/v1/incidents", api.ScopeRead, nil)
			_, metrics := s.do("GET", "/metrics", api.ScopeRead, nil)
			s.t.Logf("readyz: %s\nincidents: %s\n%s", ready, list, metrics)
			s.t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

type incident struct {
	ID       string   `json:"id"`
	RuleID   string   `json:"rule_id"`
	Title    string   `json:"title"`
	Severity string   `json:"severity"`
	Status   string   `json:"status"`
	Count    int64    `json:"count"`
	RuleIDs  []string `json:"rule_ids"`
	Findings []struct {
		Explanation string `json:"explanation"`
		Author      string `json:"author"`
	} `json:"findings"`
	Evidence []struct {
		State string `json:"state"`
	} `json:"evidence"`
}

func (s *system) incidents() []incident {
	s.t.Helper()
	code, b := s.do("GET", "/v1/incidents", api.ScopeRead, nil)
	if code != 200 {
		s.t.Fatalf("GET /v1/incidents: %d %s", code, b)
	}
	var list struct {
		Incidents []incident `json:"incidents"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		s.t.Fatal(err)
	}
	return list.Incidents
}

func (s *system) incident(id string) incident {
	s.t.Helper()
	code, b := s.do("GET", "/v1/incidents/"+id, api.ScopeRead, nil)
	if code != 200 {
		s.t.Fatalf("GET incident: %d %s", code, b)
	}
	var in incident
	if err := json.Unmarshal(b, &in); err != nil {
		s.t.Fatal(err)
	}
	return in
}

func (s *system) hooked(words ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hooks {
		all := true
		for _, w := range words {
			all = all && strings.Contains(h, w)
		}
		if all {
			return true
		}
	}
	return false
}

// refusals is n access log lines of requests answered with 401.
func refusals(n int, ip string, from time.Time) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"requestId":"r%d","extendedRequestId":"x-%s-%d=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod","requestTimeEpoch":"%d","httpMethod":"POST","path":"/prod/login","resourcePath":"/login","sourceIp":"%s","userAgent":"curl/8","status":"401","errorType":"UNAUTHORIZED","errorMessage":"no","integrationRequestId":"-","responseLatency":"9","responseLength":"26"}`+"\n",
			i, ip, i, from.Add(time.Duration(i)*time.Second).UnixMilli(), ip)
	}
	return b.Bytes()
}

func TestLogsInIncidentsAndAlertsOut(t *testing.T) {
	s := start(t)
	lines := refusals(40, "203.0.113.9", time.Now().Add(-10*time.Minute))

	if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, lines); code != 202 || string(bytes.TrimSpace(b)) != `{"accepted":40,"dead_lettered":0}` {
		t.Fatalf("push: %d %s", code, b)
	}
	if code, _ := s.do("GET", "/v1/incidents", api.ScopeIngest, nil); code != 403 {
		t.Errorf("an ingest token reads incidents: %d", code)
	}
	if code, _ := s.do("POST", "/v1/logs", api.ScopeRead, lines); code != 403 {
		t.Errorf("a read token pushes: %d", code)
	}

	var in incident
	s.eventually("one incident with all its events", func() bool {
		list := s.incidents()
		if len(list) != 1 || list[0].Count != 40 {
			return false
		}
		in = s.incident(list[0].ID)
		return len(in.Evidence) == s.cfg.Incidents.Evidence
	})
	if in.Severity != "high" || in.Status != "open" || len(in.Findings) == 0 {
		t.Errorf("incident: %+v", in)
	}
	for _, e := range in.Evidence {
		if e.State != "copied" {
			t.Errorf("evidence %q, want it copied", e.State)
		}
	}
	if f := in.Findings[0]; f.Author != "Vedette" || !strings.Contains(f.Explanation, "203.0.113.9") {
		t.Errorf("finding: %+v", f)
	}
	s.eventually("the receiver is told", func() bool { return s.hooked(in.ID, "trigger") })

	if code, b := s.do("PATCH", "/v1/incidents/"+in.ID, api.ScopeRead, []byte(`{"status":"resolved"}`)); code != 403 {
		t.Errorf("a read token resolves: %d %s", code, b)
	}
	if code, b := s.do("PATCH", "/v1/incidents/"+in.ID, api.ScopeWrite, []byte(`{"status":"resolved"}`)); code != 200 {
		t.Fatalf("resolve: %d %s", code, b)
	}
	s.eventually("the receiver is told of the end", func() bool { return s.hooked(in.ID, "resolve") })

	if code, b := s.do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, b)
	}

	// The same logs once more, after a restart: nothing is counted twice.
	began := time.Now()
	s.app.Stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	s.boot()
	if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, append(lines, refusals(30, "203.0.113.77", time.Now().Add(-9*time.Minute))...)); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	s.eventually("the second incident", func() bool { return len(s.incidents()) == 2 })
	for _, got := range s.incidents() {
		if got.ID == in.ID && (got.Count != 40 || got.Status != "resolved") {
			t.Errorf("after the repeat: %+v", got)
		}
	}
	s.app.Stop()
}

func TestReloadKeepsTheOldSetIfTheNewOneIsBad(t *testing.T) {
	s := start(t)
	defer s.app.Stop()
	bad := *s.cfg
	bad.Rules.Paths = []string{t.TempDir() + "/nowhere"}
	if err := s.app.Reload(t.Context(), &bad); err == nil {
		t.Fatal("a rule directory that is not there was accepted")
	}
	if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, refusals(40, "203.0.113.9", time.Now().Add(-5*time.Minute))); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	s.eventually("the shipped rules still find", func() bool { return len(s.incidents()) == 1 })
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	s := start(t)
	defer s.app.Stop()
	taken := *s.cfg
	taken.API.Listen = s.app.Addr()
	_, err := app.Start(context.Background(), app.Options{Config: &taken, Logger: discard})
	if err == nil || !strings.Contains(err.Error(), "listen on "+s.app.Addr()) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("port in use: %v", err)
	}
	layout := *s.cfg
	layout.Kafka.ObservationPartitions = 3
	if _, err := app.Start(context.Background(), app.Options{Config: &layout, Logger: discard}); err == nil || !strings.Contains(err.Error(), "partition") {
		t.Errorf("another layout: %v", err)
	}
}

// TestRetentionTooShort: a topic of observations that keeps less than windows are
// rebuilt from stops the start, and the error says how much it takes.
func TestRetentionTooShort(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.Kafka.Brokers = []string{broker.Addr()}
	cfg.Kafka.LogsPartitions, cfg.Kafka.ObservationPartitions, cfg.Kafka.Replication = 1, 1, 1
	cfg.Postgres.DSN = secret.String(pgtest.NewDSN(t))
	cfg.API.Listen = "127.0.0.1:0"
	for _, roles := range [][]app.Role{nil, {app.Correlate}} {
		a, err := app.Start(t.Context(), app.Options{
			Config: cfg, Roles: roles, Logger: discard, Version: "test", Retention: app.Retention{Age: time.Hour},
		})
		if err == nil {
			a.Stop()
			t.Fatalf("it starts, roles %v", roles)
		}
		for _, want := range []string{"vedette.observations is kept 1h0m0s", "the rules need ", "retention.ms to "} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("roles %v: error %q, want %q in it", roles, err, want)
			}
		}
	}
}
