// Package servicetest runs the whole service on loopback for tests, with Postgres and
// a receiver of webhooks; Kafka is the caller's.
package servicetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// Service is a service and what a test asks of it. Its methods fail the test when the
// service cannot be asked.
type Service struct {
	T        testing.TB
	Config   *config.Config
	Timing   app.Timing
	App      *app.App // set by Boot
	Receiver *Receiver
	// Patience is how long Eventually waits; 60 s.
	Patience time.Duration

	tokens map[api.Scope]string
}

// discard is a log that nobody reads.
var discard = slog.New(slog.DiscardHandler)

// New configures a service with a database and a receiver of its own, in two
// partitions; tweaks say where Kafka is, and what else differs. Boot runs it.
func New(t testing.TB, tweaks ...func(*config.Config)) *Service {
	t.Helper()
	s := &Service{T: t, Config: config.Default(), Patience: 60 * time.Second, Receiver: NewReceiver(t), tokens: make(map[api.Scope]string)}
	s.Config.DataDir = t.TempDir()
	s.Config.Kafka.LogsPartitions, s.Config.Kafka.ObservationPartitions, s.Config.Kafka.Replication = 2, 2, 1
	s.Config.Postgres.DSN = secret.String(pgtest.NewDSN(t))
	s.Config.API.Listen = "127.0.0.1:0"
	s.Config.Alerting.Receivers = []config.Receiver{{
		Name: "hook", Type: "webhook", URL: secret.String(s.Receiver.URL()), Key: "a-signing-key-of-enough-length", MinSeverity: "medium",
	}}
	for _, tweak := range tweaks {
		tweak(s.Config)
	}
	return s
}

// Boot runs the service, with all roles, until its App is stopped.
func (s *Service) Boot() {
	s.T.Helper()
	s.App = s.Run()
	for _, scope := range []api.Scope{api.ScopeIngest, api.ScopeRead, api.ScopeWrite} {
		if s.tokens[scope] != "" {
			continue
		}
		secret, err := s.App.DB().CreateToken(s.T.Context(), s.Config.Tenant, string(scope), scope)
		if err != nil {
			s.T.Fatal(err)
		}
		s.tokens[scope] = secret.Reveal()
	}
}

// Run runs another process's share of the service, all roles if none are named.
func (s *Service) Run(roles ...app.Role) *app.App {
	s.T.Helper()
	cfg := *s.Config
	a, err := app.Start(s.T.Context(), app.Options{Config: &cfg, Roles: roles, Logger: discard, Version: "test", Timing: s.Timing})
	if err != nil {
		s.T.Fatal(err)
	}
	return a
}

// Token is what a request of that scope says.
func (s *Service) Token(scope api.Scope) string { return s.tokens[scope] }

// Request sends a request to whoever listens on addr and returns status and body.
func (s *Service) Request(ctx context.Context, addr, method, path string, scope api.Scope, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if scope != "" {
		req.Header.Set("Authorization", "Bearer "+s.tokens[scope])
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

// Do sends a request to the service and returns status and body.
func (s *Service) Do(method, path string, scope api.Scope, body []byte) (int, []byte) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), 30*time.Second)
	defer cancel()
	code, b, err := s.Request(ctx, s.App.Addr(), method, path, scope, body)
	if err != nil {
		s.T.Fatal(err)
	}
	return code, b
}

// Push pushes lines to whoever listens on the address that addr says until they are
// taken, as a sender does. It may run beside the test.
func (s *Service) Push(ctx context.Context, addr func() string, lines []byte) error {
	for {
		code, b, err := s.Request(ctx, addr(), "POST", "/v1/logs", api.ScopeIngest, lines)
		switch {
		case code == http.StatusAccepted:
			return nil
		case err == nil && code != http.StatusServiceUnavailable && code != http.StatusTooManyRequests:
			return fmt.Errorf("push: %d %s", code, b)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("push: last %d %s (%v): %w", code, b, err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Incident is what the API says of one, as far as tests ask.
type Incident struct {
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

// Incidents lists incidents.
func (s *Service) Incidents() []Incident {
	s.T.Helper()
	var list struct {
		Incidents []Incident `json:"incidents"`
	}
	s.read("/v1/incidents", &list)
	return list.Incidents
}

// Incident reads one.
func (s *Service) Incident(id string) Incident {
	s.T.Helper()
	var in Incident
	s.read("/v1/incidents/"+id, &in)
	return in
}

func (s *Service) read(path string, into any) {
	s.T.Helper()
	code, b := s.Do("GET", path, api.ScopeRead, nil)
	if code != http.StatusOK {
		s.T.Fatalf("GET %s: %d %s", path, code, b)
	}
	if err := json.Unmarshal(b, into); err != nil {
		s.T.Fatal(err)
	}
}

// Eventually waits for a condition, and says how things stand when it does not come
// true.
func (s *Service) Eventually(what string, ok func() bool) {
	s.T.Helper()
	deadline := time.After(s.Patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			_, ready := s.Do("GET", "/readyz", "", nil)
			_, list := s.Do("GET", "/v1/incidents", api.ScopeRead, nil)
			_, metrics := s.Do("GET", "/metrics", api.ScopeRead, nil)
			s.T.Logf("readyz: %s\nincidents: %s\n%s", ready, list, metrics)
			s.T.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

// Found waits for so many incidents, each of which counts so many events.
func (s *Service) Found(incidents int, events int64) {
	s.T.Helper()
	s.Eventually(fmt.Sprintf("%d incidents with all their events", incidents), func() bool {
		list := s.Incidents()
		for _, in := range list {
			if in.Count != events {
				return false
			}
		}
		return len(list) == incidents
	})
}

// Ready reports whether /readyz says that all is well or, given a name, that this is
// what fails.
func (s *Service) Ready(failing string) bool {
	s.T.Helper()
	code, b := s.Do("GET", "/readyz", "", nil)
	if failing == "" {
		return code == http.StatusOK
	}
	return code == http.StatusServiceUnavailable && strings.Contains(string(b), fmt.Sprintf("%q:\"failing\"", failing))
}

// Metric sums the samples of a metric of the service.
func (s *Service) Metric(name string) float64 {
	s.T.Helper()
	fs, err := s.App.Metrics().Gather()
	if err != nil {
		s.T.Fatal(err)
	}
	sum := 0.0
	for _, f := range fs {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// Refusals is n access log lines of requests answered with 401, a second apart.
func Refusals(n int, ip string, from time.Time) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"requestId":"r%d","extendedRequestId":"x-%s-%d=","accountId":"111122223333","apiId":"a1b2c3d4e5","stage":"prod","requestTimeEpoch":"%d","httpMethod":"POST","path":"/prod/login","resourcePath":"/login","sourceIp":"%s","userAgent":"curl/8","status":"401","errorType":"UNAUTHORIZED","errorMessage":"no","integrationRequestId":"-","responseLatency":"9","responseLength":"26"}`+"\n",
			i, ip, i, from.Add(time.Duration(i)*time.Second).UnixMilli(), ip)
	}
	return b.Bytes()
}
