package app_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/storage/pgtest"
	"github.com/vedette-sec/vedette/stream/devbroker"
)

// system is the whole service on loopback over an embedded broker.
type system struct {
	*servicetest.Service
	broker *devbroker.Broker
	kafka  devbroker.Options // to start the broker again with
}

// start brings the service up, its configuration changed by tweaks.
func start(t *testing.T, tweaks ...func(*config.Config)) *system {
	t.Helper()
	return startIn(t, app.Timing{}, tweaks...)
}

// startIn brings the service up that waits as the timing says.
func startIn(t *testing.T, timing app.Timing, tweaks ...func(*config.Config)) *system {
	t.Helper()
	return startOn(t, devbroker.Options{}, timing, tweaks...)
}

// startOn brings it up over such a broker.
func startOn(t *testing.T, kafka devbroker.Options, timing app.Timing, tweaks ...func(*config.Config)) *system {
	t.Helper()
	kafka.Logger, kafka.Dir, kafka.NoSync, kafka.MinSession = discard, t.TempDir(), true, timing.Session
	s := &system{kafka: kafka}
	s.startBroker(t)
	t.Cleanup(func() { s.broker.Close() })
	s.kafka.Listen = s.broker.Addr()
	s.Service = servicetest.New(t, append([]func(*config.Config){func(c *config.Config) {
		c.Kafka.Brokers = []string{s.broker.Addr()}
	}}, tweaks...)...)
	s.Timing = timing
	s.Boot()
	return s
}

func (s *system) startBroker(t *testing.T) {
	t.Helper()
	b, err := devbroker.Start(s.kafka)
	if err != nil {
		t.Fatal(err)
	}
	s.broker = b
}

var discard = slog.New(slog.DiscardHandler)

func TestLogsInIncidentsAndAlertsOut(t *testing.T) {
	s := start(t)
	lines := servicetest.Refusals(40, "203.0.113.9", time.Now().Add(-10*time.Minute))

	if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, lines); code != 202 || string(bytes.TrimSpace(b)) != `{"accepted":40,"dead_lettered":0}` {
		t.Fatalf("push: %d %s", code, b)
	}
	if code, _ := s.Do("GET", "/v1/incidents", api.ScopeIngest, nil); code != 403 {
		t.Errorf("an ingest token reads incidents: %d", code)
	}
	if code, _ := s.Do("POST", "/v1/logs", api.ScopeRead, lines); code != 403 {
		t.Errorf("a read token pushes: %d", code)
	}

	var in servicetest.Incident
	s.Eventually("one incident with all its events", func() bool {
		list := s.Incidents()
		if len(list) != 1 || list[0].Count != 40 {
			return false
		}
		in = s.Incident(list[0].ID)
		return len(in.Evidence) == s.Config.Incidents.Evidence
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
	s.Eventually("the receiver is told", func() bool { return s.Receiver.Told(in.ID, "trigger") })

	if code, b := s.Do("PATCH", "/v1/incidents/"+in.ID, api.ScopeRead, []byte(`{"status":"resolved"}`)); code != 403 {
		t.Errorf("a read token resolves: %d %s", code, b)
	}
	if code, b := s.Do("PATCH", "/v1/incidents/"+in.ID, api.ScopeWrite, []byte(`{"status":"resolved"}`)); code != 200 {
		t.Fatalf("resolve: %d %s", code, b)
	}
	s.Eventually("the receiver is told of the end", func() bool { return s.Receiver.Told(in.ID, "resolve") })

	if code, b := s.Do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, b)
	}

	// The same logs once more, after a restart: nothing is counted twice.
	began := time.Now()
	s.App.Stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	s.Boot()
	if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, append(lines, servicetest.Refusals(30, "203.0.113.77", time.Now().Add(-9*time.Minute))...)); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	s.Eventually("the second incident", func() bool { return len(s.Incidents()) == 2 })
	for _, got := range s.Incidents() {
		if got.ID == in.ID && (got.Count != 40 || got.Status != "resolved") {
			t.Errorf("after the repeat: %+v", got)
		}
	}
	s.App.Stop()
}

func TestReloadKeepsTheOldSetIfTheNewOneIsBad(t *testing.T) {
	s := start(t)
	defer s.App.Stop()
	bad := *s.Config
	bad.Rules.Paths = []string{t.TempDir() + "/nowhere"}
	if err := s.App.Reload(t.Context(), &bad); err == nil {
		t.Fatal("a rule directory that is not there was accepted")
	}
	if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, servicetest.Refusals(40, "203.0.113.9", time.Now().Add(-5*time.Minute))); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	s.Eventually("the shipped rules still find", func() bool { return len(s.Incidents()) == 1 })
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	s := start(t)
	defer s.App.Stop()
	taken := *s.Config
	taken.API.Listen = s.App.Addr()
	_, err := app.Start(context.Background(), app.Options{Config: &taken, Logger: discard})
	if err == nil || !strings.Contains(err.Error(), "listen on "+s.App.Addr()) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("port in use: %v", err)
	}
	layout := *s.Config
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
