package kafkatest_test

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
	"github.com/vedette-sec/vedette/internal/kafkatest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream"
)

// service is the whole service on loopback, with a receiver of webhooks.
type service struct {
	t      *testing.T
	cfg    *config.Config
	app    *app.App
	tokens map[api.Scope]string

	mu    sync.Mutex
	hooks []string // bodies received
}

func newService(t *testing.T, k *kafkatest.Cluster) *service {
	t.Helper()
	s := &service{t: t, cfg: config.Default(), tokens: make(map[api.Scope]string)}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hooks = append(s.hooks, string(b))
	}))
	t.Cleanup(hook.Close)
	s.cfg.DataDir = t.TempDir()
	// As in production: encrypted, and by a password that never travels.
	s.cfg.Kafka.Brokers, s.cfg.Kafka.TLS, s.cfg.Kafka.CAFile = k.BrokersOn(kafkatest.SASL), true, k.Credentials.CAFile
	s.cfg.Kafka.SASL = config.SASL{Mechanism: "scram-sha-512", Username: k.Credentials.Username, Password: secret.String(k.Credentials.Password)}
	s.cfg.Kafka.LogsPartitions, s.cfg.Kafka.ObservationPartitions, s.cfg.Kafka.Replication = 2, 2, 1
	s.cfg.Postgres.DSN = secret.String(pgtest.NewDSN(t))
	s.cfg.API.Listen = "127.0.0.1:0"
	s.cfg.Alerting.Receivers = []config.Receiver{{
		Name: "hook", Type: "webhook", URL: secret.String(hook.URL), Key: "a-signing-key-of-enough-length", MinSeverity: "medium",
	}}
	s.boot()
	for _, scope := range []api.Scope{api.ScopeIngest, api.ScopeRead} {
		secret, err := s.app.DB().CreateToken(t.Context(), s.cfg.Tenant, string(scope), scope)
		if err != nil {
			t.Fatal(err)
		}
		s.tokens[scope] = secret.Reveal()
	}
	return s
}

func (s *service) boot() {
	s.t.Helper()
	a, err := app.Start(s.t.Context(), app.Options{Config: s.cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.app = a
}

// do sends a request and returns status and body.
func (s *service) do(method, path string, scope api.Scope, body []byte) (int, []byte) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	code, b, err := s.request(ctx, method, path, scope, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return code, b
}

func (s *service) request(ctx context.Context, method, path string, scope api.Scope, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.app.Addr()+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.tokens[scope])
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

// push pushes until it is taken, as a sender does: it may run beside the test.
func (s *service) push(ctx context.Context, lines []byte) error {
	for {
		code, b, err := s.request(ctx, "POST", "/v1/logs", api.ScopeIngest, lines)
		switch {
		case err != nil:
			return err
		case code == http.StatusAccepted:
			return nil
		case code != http.StatusServiceUnavailable && code != http.StatusTooManyRequests:
			return fmt.Errorf("push: %d %s", code, b)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("push: last %d %s: %w", code, b, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

type incident struct {
	ID       string `json:"id"`
	Count    int64  `json:"count"`
	Severity string `json:"severity"`
}

func (s *service) incidents() []incident {
	s.t.Helper()
	code, b := s.do("GET", "/v1/incidents", api.ScopeRead, nil)
	if code != http.StatusOK {
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

func (s *service) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(90 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

func (s *service) hooked(words ...string) bool {
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

// TestTheServiceOnRealKafka has logs in, incidents and alerts out, through a
// restart of the service, and of Kafka under it.
func TestTheServiceOnRealKafka(t *testing.T) {
	k := kafkatest.Start(t, kafkatest.Options{Secure: true})
	s := newService(t, k)
	defer func() { s.app.Stop() }()
	lines := refusals(40, "203.0.113.9", time.Now().Add(-10*time.Minute))
	if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, lines); code != http.StatusAccepted || string(bytes.TrimSpace(b)) != `{"accepted":40,"dead_lettered":0}` {
		t.Fatalf("push: %d %s", code, b)
	}
	var first incident
	s.eventually("one incident with all its events", func() bool {
		list := s.incidents()
		if len(list) == 1 {
			first = list[0]
		}
		return first.Count == 40
	})
	if first.Severity != "high" {
		t.Errorf("incident %+v, want it high", first)
	}
	s.eventually("the receiver is told", func() bool { return s.hooked(first.ID, "trigger") })

	// Another one is found, once, in spite of everything that is repeated: the
	// service starts anew and reads what it has read, the first lines are pushed
	// again, and so is whatever Kafka does not acknowledge while it is killed.
	only := func(n int) {
		t.Helper()
		s.eventually(fmt.Sprintf("%d incidents", n), func() bool {
			list := s.incidents()
			whole := 0
			for _, in := range list {
				if in.Count == 40 {
					whole++
				}
			}
			return whole == n
		})
		if list := s.incidents(); len(list) != n {
			t.Errorf("%d incidents, want %d: %+v", len(list), n, list)
		}
	}
	s.app.Stop()
	s.boot()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	if err := s.push(ctx, append(lines, refusals(40, "203.0.113.77", time.Now().Add(-9*time.Minute))...)); err != nil {
		t.Fatal(err)
	}
	only(2)

	k.Kill(1)
	pushed := make(chan error, 1)
	go func() { pushed <- s.push(ctx, refusals(40, "203.0.113.78", time.Now().Add(-8*time.Minute))) }()
	k.Start(1)
	if err := <-pushed; err != nil {
		t.Fatal(err)
	}
	only(3)
	s.eventually("it is ready again", func() bool {
		code, _ := s.do("GET", "/readyz", "", nil)
		return code == http.StatusOK
	})

	// What went over Kafka is what is in it.
	c, err := stream.NewClient(stream.Config{Brokers: k.Brokers()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, end, err := c.Bounds(t.Context(), stream.TopicDeadLetter, 0); err != nil || end != 0 {
		t.Errorf("%d dead letters (%v), want none", end, err)
	}
}
