package app_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
)

// TestProcessesShareTheWork: match here, correlate there, more of both join, and
// those that had everything leave.
func TestProcessesShareTheWork(t *testing.T) {
	s := start(t)
	s.app.Stop()
	boot := func(roles ...app.Role) *app.App {
		t.Helper()
		cfg := *s.cfg
		a, err := app.Start(context.Background(), app.Options{Config: &cfg, Roles: roles, Logger: discard, Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	push := func(ip string) {
		t.Helper()
		if code, b := s.do("POST", "/v1/logs", api.ScopeIngest, refusals(40, ip, time.Now().Add(-10*time.Minute))); code != 202 {
			t.Fatalf("push: %d %s", code, b)
		}
	}
	found := func(n int) {
		t.Helper()
		s.eventually(fmt.Sprintf("%d incidents with all their events", n), func() bool {
			list := s.incidents()
			for _, in := range list {
				if in.Count != 40 {
					return false
				}
			}
			return len(list) == n
		})
	}
	// assigned waits until the process has so many partitions of match's.
	assigned := func(a *app.App, n int) {
		t.Helper()
		s.eventually(fmt.Sprintf("%d partitions assigned", n), func() bool {
			res, err := http.Get("http://" + a.Addr() + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(b), fmt.Sprintf("vedette_group_partitions{group=\"vedette.match\"} %d\n", n))
		})
	}

	s.app = boot(app.Match, app.API)
	other := boot(app.Correlate, app.Alert)
	push("203.0.113.1")
	found(1)

	third := boot(app.Match, app.Correlate, app.API)
	assigned(s.app, 1)
	assigned(third, 1)
	push("203.0.113.2")
	found(2)

	other.Stop()
	s.app.Stop()
	s.app = third
	last := boot(app.Alert)
	assigned(third, 2)
	push("203.0.113.3")
	found(3)
	if code, b := s.do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, b)
	}
	third.Stop()
	last.Stop()
}
