package app_test

import (
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

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
)

// TestSlowReceiver: a receiver that takes connections and never answers delays its
// own alerts; another is told at once, detection goes on, and the age of what is
// undelivered says so. When it answers it is told of everything.
func TestSlowReceiver(t *testing.T) {
	t.Parallel()
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
	s := startIn(t, app.Timing{Deliver: 2 * time.Second, Survey: 200 * time.Millisecond}, func(c *config.Config) {
		c.Alerting.Receivers = append(c.Alerting.Receivers, config.Receiver{
			Name: "slow", Type: "webhook", URL: secret.String(slow.URL), Key: "another-key-of-enough-length-is-this", MinSeverity: "medium",
		})
	})
	defer func() { s.App.Stop() }()
	for i := range 5 {
		ip := fmt.Sprintf("203.0.113.%d", 100+i)
		if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, servicetest.Refusals(40, ip, time.Now().Add(-10*time.Minute))); code != 202 {
			t.Fatalf("push: %d %s", code, b)
		}
		// One after the other, so that each would wait for the one before.
		s.Eventually("the other receiver is told", func() bool { return s.Receiver.Told(ip) })
	}
	if code, b := s.Do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("a slow receiver is no reason not to be ready: %d %s", code, b)
	}
	s.Eventually("the age of what is undelivered is told", func() bool { return s.Metric("vedette_notifications_oldest_undelivered_seconds") > 0 })
	answer()
	s.Eventually("the slow receiver is told of all", func() bool {
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

// TestRuleThatMatchesEverything: a rule that fires for each record costs a row an
// hour, not a row an event, its incident counts exactly, and the receiver is told of
// it, not of each event.
func TestRuleThatMatchesEverything(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "everything.yml"), []byte(`title: Everything
id: 5f8a1b8e-8d5c-4a7f-9c9e-0d6a4f2b7c11
status: test
level: high
author: Test
logsource: {product: vedette, service: aws.apigateway}
detection:
  any: {http_request.http_method: POST}
  condition: any
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *config.Config) {
		c.Rules.Shipped, c.Rules.Paths = false, []string{dir}
	})
	defer s.App.Stop()
	from := time.Now().Add(-10 * time.Minute).Truncate(time.Hour)
	const bodies, lines = 20, 250
	for i := range bodies {
		if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, servicetest.Refusals(lines, fmt.Sprintf("203.0.113.%d", i%3), from.Add(time.Duration(i)*time.Second))); code != 202 {
			t.Fatalf("push: %d %s", code, b)
		}
	}
	var counted int64
	s.Eventually("every event is counted", func() bool {
		counted = 0
		for _, in := range s.Incidents() {
			counted += in.Count
		}
		return counted == bodies*lines
	})
	if n := len(s.Incidents()); n > 3 {
		t.Errorf("%d incidents, want one for each of the three addresses at most", n)
	}
	if n := s.Metric("vedette_storage_finding_rows_total"); n > bodies*lines/10 {
		t.Errorf("%v rows of findings were written for %d events", n, bodies*lines)
	}
	s.Eventually("the receiver is told", func() bool { return s.Receiver.Told("trigger") })
	if n := len(s.Receiver.Bodies()); n > bodies {
		t.Errorf("the receiver was told %d times", n)
	}
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
	defer func() { s.App.Stop() }()
	const keys = 2000
	from := time.Now().Add(-30 * time.Minute).Truncate(5 * time.Minute)
	var body []byte
	for i := range keys {
		body = append(body, servicetest.Refusals(1, fmt.Sprintf("198.18.%d.%d", i/250, i%250), from)...)
	}
	if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, body); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	s.Eventually("one open incident counts every event", func() bool {
		var open []servicetest.Incident
		for _, in := range s.Incidents() {
			if in.Status == "open" {
				open = append(open, in)
			}
		}
		return len(open) == 1 && open[0].Count == keys
	})
	if !s.Ready("") {
		t.Error("it is not ready")
	}
	if n := s.Metric("vedette_storage_finding_rows_total"); n > 2*keys {
		t.Errorf("%v rows of findings were written for %d keys", n, keys)
	}
	s.Eventually("the receiver is told", func() bool { return s.Receiver.Told("trigger") })
	if n := len(s.Receiver.Bodies()); n > keys/4 {
		t.Errorf("the receiver was told %d times of %d keys", n, keys)
	}
}
