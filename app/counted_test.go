package app_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
)

const countedRule = `title: Refused
id: 0d7d0b40-6c1e-4b1f-9f0e-7a8c5b3e1a01
name: refused
author: Somebody
references: [https://example.com/why]
logsource: {product: vedette, service: aws.apigateway}
detection: {sel: {http_response.code: 401}, condition: sel}
---
title: Many Refused
id: 0d7d0b40-6c1e-4b1f-9f0e-7a8c5b3e1a02
author: Somebody
references: [https://example.com/why]
level: high
correlation: {type: event_count, rules: [refused], group-by: [src_endpoint.ip], timespan: 1h, condition: {gte: 20}}
`

// series is the sum of the series of a metric that have the labels, given as name and
// value in turns.
func series(t *testing.T, a *app.App, name string, labels ...string) float64 {
	t.Helper()
	families, err := a.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := 0
			for i := 0; i < len(labels); i += 2 {
				for _, l := range m.GetLabel() {
					if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
						has++
					}
				}
			}
			if has == len(labels)/2 {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestMetricsCountWhatWasSent: what /metrics counts of records, dead letters, late
// events and repeats, incidents and notifications is what was sent and what came of it,
// to one. After a restart match counts again what it reads again; what is behind it
// counts everything once.
func TestMetricsCountWhatWasSent(t *testing.T) {
	dir, logs := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rule.yml"), []byte(countedRule), 0o644); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *config.Config) {
		c.Rules = config.Rules{Paths: []string{dir}}
		c.Snapshots.Every = 0 // so that windows are rebuilt from the log
		c.Collect.Files = []config.FileSource{{Name: "files", Paths: []string{logs}, Type: "aws.apigateway", Poll: 50 * time.Millisecond}}
	})
	t.Cleanup(func() { s.App.Stop() })
	now := time.Now()
	pushes := 0
	push := func(lines []byte, accepted, dead int) {
		t.Helper()
		pushes++
		want := fmt.Sprintf(`{"accepted":%d,"dead_lettered":%d}`, accepted, dead)
		if code, b := s.Do("POST", "/v1/logs?type=aws.apigateway", api.ScopeIngest, lines); code != 202 || string(bytes.TrimSpace(b)) != want {
			t.Fatalf("push: %d %s, want %s", code, b, want)
		}
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	recent := func(ip string, n int) []byte { return servicetest.Refusals(n, ip, now.Add(-time.Minute)) }

	for i := range 4 {
		push(recent(fmt.Sprintf("203.0.113.%d", i), 50), 50, 0)
	}
	push(join(recent("203.0.113.0", 30), recent("203.0.113.1", 10)), 40, 0)       // delivered again
	push(servicetest.Refusals(11, "203.0.113.20", now.Add(-30*time.Hour)), 11, 0) // late
	push(servicetest.Refusals(7, "203.0.113.21", now.Add(48*time.Hour)), 7, 0)    // of a clock that is ahead
	// Match cannot decode these, and nobody can tell where the last one ends.
	push([]byte(strings.Repeat(`{"nothing":"of use"}`+"\n", 5)+"not JSON\nnor this\n"), 7, 0)
	push(join(recent("203.0.113.3", 1), []byte(`{"requestId":"cut`)), 1, 1)
	if err := os.WriteFile(filepath.Join(logs, "access.log"), recent("203.0.113.30", 25), 0o644); err != nil {
		t.Fatal(err)
	}
	const (
		pushed   = 4*50 + 40 + 11 + 7 + 7 + 1
		filed    = 25
		decoded  = pushed + filed - 7
		repeated = 40 + 1
	)
	type want struct {
		name   string
		n      float64
		labels []string
	}
	check := func(wants ...want) {
		t.Helper()
		for _, w := range wants {
			if got := series(t, s.App, w.name, w.labels...); got != w.n {
				t.Errorf("%s%v is %v, want %v", w.name, w.labels, got, w.n)
			}
		}
	}
	rest := func(observations float64) {
		t.Helper()
		s.Eventually("everything has been applied and committed", func() bool {
			return series(t, s.App, "vedette_correlate_observations_total") >= observations &&
				series(t, s.App, "vedette_match_lag_records") == 0 && series(t, s.App, "vedette_correlate_lag_messages") == 0
		})
	}
	rest(decoded)
	s.Eventually("five incidents, all told", func() bool {
		return len(s.Incidents()) == 5 && series(t, s.App, "vedette_notifications_delivered_total") >= 5
	})
	s.Eventually("the dead letters are written", func() bool {
		return series(t, s.App, "vedette_produced_records_total", "topic", "vedette.deadletter") >= 8
	})
	check(
		want{"vedette_push_records_total", pushed, []string{"result", "accepted"}},
		want{"vedette_push_records_total", 1, []string{"result", "dead_lettered"}},
		want{"vedette_http_requests_total", float64(pushes), []string{"route", "POST /v1/logs", "code", "202"}},
		want{"vedette_file_records_total", filed, []string{"result", "appended", "origin", "files"}},
		want{"vedette_file_records_total", 0, []string{"result", "dead_lettered"}},
		want{"vedette_match_records_total", pushed + filed, []string{"kind", "record"}},
		want{"vedette_match_decoded_records_total", decoded, nil},
		want{"vedette_match_dead_letters_total", 7, nil},
		want{"vedette_produced_records_total", 8, []string{"topic", "vedette.deadletter"}},
		want{"vedette_match_future_events_total", 7, nil},
		want{"vedette_match_matches_total", decoded, nil},
		want{"vedette_match_observations_total", decoded, nil},
		want{"vedette_match_lost_records_total", 0, nil},
		want{"vedette_correlate_observations_total", decoded, nil},
		want{"vedette_correlate_engine_events_total", repeated, []string{"what", "duplicates"}},
		want{"vedette_correlate_engine_events_total", 11, []string{"what", "late"}},
		want{"vedette_correlate_engine_events_total", 0, []string{"what", "folded"}},
		want{"vedette_incident_changes_total", 5, []string{"action", "opened"}},
		want{"vedette_notifications_delivered_total", float64(len(s.Receiver.Bodies())), []string{"receiver", "hook"}},
		want{"vedette_notifications_failed_total", 0, nil},
		want{"vedette_notifications_oldest_undelivered_seconds", 0, nil},
		want{"vedette_unread_partitions", 0, nil},
		want{"vedette_failing_parts", 0, nil},
		want{"vedette_correlate_live", 2, nil},
		want{"vedette_correlate_findings_total", series(t, s.App, "vedette_storage_finding_rows_total"), nil},
	)
	var evidence float64
	for _, in := range s.Incidents() {
		evidence += float64(len(s.Incident(in.ID).Evidence))
	}
	s.Eventually("the evidence is copied", func() bool { return series(t, s.App, "vedette_evidence_records_total") >= evidence })
	check(want{"vedette_evidence_records_total", evidence, []string{"state", "copied"}})
	// The clocks tell how far behind it is: at rest, a tick or two.
	for _, name := range []string{"vedette_match_clock_timestamp_seconds", "vedette_correlate_clock_timestamp_seconds"} {
		s.Eventually(name+" goes on", func() bool { return series(t, s.App, name)/2 > float64(time.Now().Unix()-10) })
	}

	// Another process goes on, and counts only what is new: what it builds its windows
	// from was counted.
	told := len(s.Receiver.Bodies())
	s.App.Stop()
	s.Boot()
	pushes = 0
	push(join(recent("203.0.113.40", 22), recent("203.0.113.0", 50)), 72, 0)
	rest(72)
	s.Eventually("the sixth incident is told", func() bool {
		return len(s.Incidents()) == 6 && series(t, s.App, "vedette_notifications_delivered_total") >= 1
	})
	check(
		want{"vedette_push_records_total", 72, []string{"result", "accepted"}},
		want{"vedette_push_records_total", 0, []string{"result", "dead_lettered"}},
		want{"vedette_file_records_total", 0, nil},
		want{"vedette_correlate_observations_total", 72, nil},
		want{"vedette_correlate_engine_events_total", 50, []string{"what", "duplicates"}},
		want{"vedette_correlate_engine_events_total", 0, []string{"what", "late"}},
		want{"vedette_incident_changes_total", 1, []string{"action", "opened"}},
		want{"vedette_notifications_delivered_total", float64(len(s.Receiver.Bodies()) - told), nil},
		want{"vedette_correlate_rebuild_mismatches_total", 0, nil},
	)
	if n := series(t, s.App, "vedette_match_observations_total"); n < 72 || n > 72+decoded {
		t.Errorf("match made %v observations of 72 new records and what it read again", n)
	}
}
