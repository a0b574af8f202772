package app_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/internal/servicetest"
)

// TestProcessesShareTheWork: match here, correlate there, more of both join, and
// those that had everything leave.
func TestProcessesShareTheWork(t *testing.T) {
	s := start(t)
	s.App.Stop()
	push := func(ip string) {
		t.Helper()
		if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, servicetest.Refusals(40, ip, time.Now().Add(-10*time.Minute))); code != 202 {
			t.Fatalf("push: %d %s", code, b)
		}
	}
	// assigned waits until the process has so many partitions of match's.
	assigned := func(a *app.App, n int) {
		t.Helper()
		s.Eventually(fmt.Sprintf("%d partitions assigned", n), func() bool {
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

	s.App = s.Run(app.Match, app.API)
	other := s.Run(app.Correlate, app.Alert)
	push("203.0.113.1")
	s.Found(1, 40)

	third := s.Run(app.Match, app.Correlate, app.API)
	assigned(s.App, 1)
	assigned(third, 1)
	push("203.0.113.2")
	s.Found(2, 40)

	other.Stop()
	s.App.Stop()
	s.App = third
	last := s.Run(app.Alert)
	assigned(third, 2)
	push("203.0.113.3")
	s.Found(3, 40)
	if code, b := s.Do("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, b)
	}
	third.Stop()
	last.Stop()
}
