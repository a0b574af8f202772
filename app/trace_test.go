package app_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/tracing/tracingtest"
)

// TestTraces follows logs from the request that pushes them, and the file that is
// collected, to the alert, by what a collector of traces is told; and finds in that
// neither a secret nor a record.
func TestTraces(t *testing.T) {
	c := tracingtest.Start(t)
	logs := t.TempDir()
	const canary, key = "/prod/login", "a-key-of-the-collector"
	s := start(t, func(cfg *config.Config) {
		cfg.Tracing.Endpoint, cfg.Tracing.Headers = c.URL, map[string]secret.String{"x-key": key}
		cfg.Collect.Files = []config.FileSource{{Name: "local", Paths: []string{logs}, Poll: 50 * time.Millisecond}}
	})
	const trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.App.Addr()+"/v1/logs",
		bytes.NewReader(servicetest.Refusals(40, "203.0.113.9", time.Now().Add(-10*time.Minute))))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token(api.ScopeIngest))
	req.Header.Set("traceparent", "00-"+trace+"-"+caller+"-01")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusAccepted {
		t.Fatalf("push: %s", res.Status)
	}
	var in servicetest.Incident
	s.Eventually("an incident", func() bool {
		list := s.Incidents()
		if len(list) == 1 && list[0].Count == 40 {
			in = list[0]
			return true
		}
		return false
	})
	s.Eventually("the receiver is told", func() bool { return s.Receiver.Told(in.ID, "trigger") })
	if err := os.WriteFile(filepath.Join(logs, "access.json"), servicetest.Refusals(5, "203.0.113.10", time.Now().Add(-5*time.Minute)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Eventually("the file is collected", func() bool {
		return slices.ContainsFunc(c.Spans(), func(sp tracingtest.Span) bool { return sp.Name == "collect page" })
	})
	s.Do("PATCH", "/v1/incidents/"+in.ID, api.ScopeWrite, []byte(`{"status":"resolved"}`))
	s.Do("GET", "/readyz", "", nil)
	s.App.Stop()

	spans := c.Spans()
	one := func(what string, ok func(*tracingtest.Span) bool) *tracingtest.Span {
		t.Helper()
		for i := range spans {
			if ok(&spans[i]) {
				return &spans[i]
			}
		}
		t.Fatalf("no span is %s", what)
		return nil
	}
	named := func(name, parent string) func(*tracingtest.Span) bool {
		return func(sp *tracingtest.Span) bool { return sp.Name == name && sp.Parent == parent }
	}
	linked := func(name string, to *tracingtest.Span) func(*tracingtest.Span) bool {
		return func(sp *tracingtest.Span) bool {
			return sp.Name == name && slices.Contains(sp.Links, to.Trace+"/"+to.ID)
		}
	}
	about := func(name string) func(*tracingtest.Span) bool {
		return func(sp *tracingtest.Span) bool {
			return sp.Name == name && sp.Attributes["vedette.incident.id"] == in.ID
		}
	}
	push := one("the request, within the caller's", named("POST /v1/logs", caller))
	if push.Trace != trace || push.Attributes["http.route"] != "POST /v1/logs" || !strings.Contains(push.Attributes["http.response.status_code"], "202") {
		t.Errorf("the request: %+v", push)
	}
	appended := one("what the request appended", named("append", push.ID))
	match := one("the batch with what was appended", linked("match batch", appended))
	for _, step := range []string{"fetch", "judge", "produce"} {
		one(step+" of that batch", named(step, match.ID))
	}
	one("a batch that saved its position", func(sp *tracingtest.Span) bool {
		return sp.Name == "postgres save_source" && slices.ContainsFunc(spans, func(p tracingtest.Span) bool { return p.Name == "match batch" && p.ID == sp.Parent })
	})
	batch := one("what correlate made of that batch", linked("correlate batch", match))
	one("apply of that", named("apply", batch.ID))
	one("its checkpoint", named("postgres commit", batch.ID))
	takeover := one("a takeover", named("take over", ""))
	one("its acquiring", named("postgres acquire", takeover.ID))
	one("its rebuild", named("rebuild", takeover.ID))
	one("a source's takeover", named("take source over", ""))
	one("the round that opened the incident", func(sp *tracingtest.Span) bool {
		return sp.Name == "assemble" && slices.ContainsFunc(sp.Events, func(e tracingtest.Event) bool {
			return e.Name == "incident opened" && e.Attributes["vedette.incident.id"] == in.ID
		})
	})
	alert := one("the alert", about("deliver alert"))
	if len(alert.Links) != 1 || alert.Attributes["vedette.receiver"] != "hook" || alert.Failed {
		t.Errorf("the alert: %+v", alert)
	}
	one("where the alert was queued", func(sp *tracingtest.Span) bool {
		return sp.Name == "queue alerts" && sp.Trace+"/"+sp.ID == alert.Links[0]
	})
	page := one("a page of the collector", named("collect page", ""))
	one("what it appended", named("append", page.ID))
	patch := one("what a person did", named("PATCH /v1/incidents/{id}", ""))
	one("its transaction", named("postgres act", patch.ID))

	for i := range spans {
		if sp := &spans[i]; strings.Contains(sp.Name, "readyz") || sp.Resource["service.name"] != "vedette" || sp.Resource["service.version"] != "test" {
			t.Errorf("span %+v", sp)
		}
	}
	bodies, _, _ := c.Bytes()
	secrets := []string{canary, "203.0.113.", key, "a-signing-key-of-enough-length", s.Token(api.ScopeIngest), s.Token(api.ScopeWrite)}
	for _, secret := range secrets {
		if bytes.Contains(bodies, []byte(secret)) {
			t.Errorf("the traces hold %q", secret)
		}
	}
	if !bytes.Contains(bodies, []byte(in.ID)) {
		t.Error("the search for secrets finds nothing at all")
	}
}
