package tracing_test

import (
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/vedette-sec/vedette/secret"
	"github.com/vedette-sec/vedette/tracing"
	"github.com/vedette-sec/vedette/tracing/tracingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noEnv is an environment without anything in it.
func noEnv(string) string { return "" }

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func open(t *testing.T, o tracing.Options) (*tracing.Tracing, *prometheus.Registry) {
	t.Helper()
	r := prometheus.NewRegistry()
	o.Registerer, o.Logger = r, slog.New(slog.DiscardHandler)
	if o.Getenv == nil {
		o.Getenv = noEnv
	}
	tr, err := tracing.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return tr, r
}

func closeWithin(t *testing.T, tr *tracing.Tracing, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return tr.Close(ctx)
}

// spans is the counter of an outcome.
func spans(t *testing.T, r *prometheus.Registry, outcome string) int {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "vedette_trace_spans_total" && m.Label[0].GetValue() == outcome {
				return int(m.Counter.GetValue())
			}
		}
	}
	t.Fatalf("nothing counts spans that were %s", outcome)
	return 0
}

func make1(ctx context.Context, tr *tracing.Tracing) trace.SpanContext {
	_, s := tr.Tracer("test").Start(ctx, "one")
	s.End()
	return s.SpanContext()
}

func TestOff(t *testing.T) {
	for _, e := range []map[string]string{
		nil,
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		tr, _ := open(t, tracing.Options{Getenv: env(e), Ratio: 1})
		if tr.Tracer("x") != nil {
			t.Errorf("with %v there are traces", e)
		}
		if err := tr.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestWhereTo(t *testing.T) {
	for _, tt := range []struct {
		name     string
		endpoint string // after the collector's address
		env      map[string]string
		path     string
		key      string
	}{
		{"configured", "", nil, "/v1/traces", ""},
		{"configured, below", "/otel/", nil, "/otel/v1/traces", ""},
		{"environment", "-", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_EXPORTER_OTLP_HEADERS": "x-key=s%20cret"}, "/v1/traces", "s cret"},
		{"environment of traces, whole", "-", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "/here"}, "/here", ""},
		{"configured wins", "/a", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "/b"}, "/a/v1/traces", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tracingtest.Start(t)
			for k := range tt.env {
				if strings.HasSuffix(k, "ENDPOINT") {
					tt.env[k] = c.URL + tt.env[k]
				}
			}
			o := tracing.Options{Endpoint: c.URL + tt.endpoint, Getenv: env(tt.env), Ratio: 1}
			if tt.endpoint == "-" {
				o.Endpoint = ""
			}
			tr, _ := open(t, o)
			make1(t.Context(), tr)
			if err := closeWithin(t, tr, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			_, paths, headers := c.Bytes()
			if len(paths) != 1 || paths[0] != tt.path || headers[0].Get("X-Key") != tt.key {
				t.Errorf("posted to %v with key %q, want %s, %q", paths, headers, tt.path, tt.key)
			}
		})
	}
}

func TestWhatArrives(t *testing.T) {
	c := tracingtest.Start(t)
	tr, r := open(t, tracing.Options{
		Endpoint: c.URL, Ratio: 1, Version: "1.2", Instance: "abc", Roles: []string{"match", "api"},
		Headers: map[string]secret.String{"X-Key": "k"},
	})
	ctx, parent := tr.Tracer("detect/match").Start(t.Context(), "outer")
	make1(ctx, tr)
	parent.End()
	if err := closeWithin(t, tr, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	got := c.Spans()
	if len(got) != 2 || got[0].Parent != parent.SpanContext().SpanID().String() || got[0].Trace != got[1].Trace || got[1].Parent != "" {
		t.Fatalf("spans %+v", got)
	}
	if got[1].Scope != "github.com/vedette-sec/vedette/detect/match" {
		t.Errorf("scope %q", got[1].Scope)
	}
	for k, v := range map[string]string{"service.name": "vedette", "service.version": "1.2", "service.instance.id": "abc"} {
		if got[0].Resource[k] != v {
			t.Errorf("%s is %q, want %q", k, got[0].Resource[k], v)
		}
	}
	if got[0].Resource["host.name"] == "" || !strings.Contains(got[0].Resource["vedette.roles"], "match") {
		t.Errorf("resource %v", got[0].Resource)
	}
	if _, _, h := c.Bytes(); h[0].Get("X-Key") != "k" || h[0].Get("Content-Encoding") != "gzip" {
		t.Errorf("headers %v", h)
	}
	if n := spans(t, r, "sent"); n != 2 {
		t.Errorf("%d counted as sent", n)
	}
}

// What a caller has decided stands; what begins here is sampled.
func TestSampling(t *testing.T) {
	c := tracingtest.Start(t)
	tr, _ := open(t, tracing.Options{Endpoint: c.URL, Ratio: 0.25})
	caller := func(flags trace.TraceFlags, i byte) context.Context {
		return trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, i}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true,
		}))
	}
	for i := range byte(10) {
		if !make1(caller(trace.FlagsSampled, i), tr).IsSampled() || make1(caller(0, i), tr).IsSampled() {
			t.Fatal("the caller's decision does not stand")
		}
	}
	const begun = 2000
	for range begun {
		make1(t.Context(), tr)
	}
	if err := closeWithin(t, tr, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	// 4 standard deviations are 77.
	if n := len(c.Spans()) - 10; n < begun/4-90 || n > begun/4+90 {
		t.Errorf("%d of %d kept, want about a quarter", n, begun)
	}
}

// A collector that does not answer holds nobody back: what there is no room for is
// dropped and counted, and the end comes in time.
func TestCollectorHangs(t *testing.T) {
	c := tracingtest.Start(t)
	release := make(chan struct{})
	c.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	defer close(release)
	tr, r := open(t, tracing.Options{Endpoint: c.URL, Ratio: 1, Queue: 100})
	const made = 10_000
	began := time.Now()
	for range made {
		make1(t.Context(), tr)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d spans took %v", made, took)
	}
	began = time.Now()
	if err := closeWithin(t, tr, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closing: %v, want that it ran out of time", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closing took %v", took)
	}
	dropped, failed := spans(t, r, "dropped"), spans(t, r, "failed")
	if dropped == 0 || dropped+failed != made || spans(t, r, "sent") != 0 {
		t.Errorf("%d dropped, %d failed of %d: want all accounted for", dropped, failed, made)
	}
}

// Failures are counted and forgotten, and it goes on when the collector is back. A
// redirect is not followed: headers may be keys.
func TestCollectorFails(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	c := tracingtest.Start(t)
	for _, answer := range []func(http.ResponseWriter, *http.Request) bool{
		func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "no", http.StatusInternalServerError)
			return true
		},
		func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			return true
		},
	} {
		c.Answer(answer)
		tr, r := open(t, tracing.Options{Endpoint: c.URL, Ratio: 1})
		wait := func(outcome string, n int) {
			t.Helper()
			deadline := time.Now().Add(20 * time.Second)
			for spans(t, r, outcome) < n {
				if time.Now().After(deadline) {
					t.Fatalf("%d spans %s, want %d", spans(t, r, outcome), outcome, n)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		make1(t.Context(), tr)
		wait("failed", 1)
		c.Answer(nil)
		kept := make1(t.Context(), tr)
		wait("sent", 1)
		if err := closeWithin(t, tr, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if got := c.Spans(); got[len(got)-1].ID != kept.SpanID().String() {
			t.Errorf("received %+v", got)
		}
	}
}

func TestRefused(t *testing.T) {
	const key = "k-hunter2"
	for _, tt := range []struct {
		name string
		o    tracing.Options
		want string
	}{
		{"no URL", tracing.Options{Endpoint: "otel:4318/" + key}, "no http or https URL"},
		{"key in the open", tracing.Options{Endpoint: "http://otel.example:4318", Headers: map[string]secret.String{"x": key}}, "must be https"},
		{"the environment's key in the open", tracing.Options{Getenv: env(map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel.example", "OTEL_EXPORTER_OTLP_HEADERS": "x=" + key,
		})}, "must be https"},
		{"ratio", tracing.Options{Endpoint: "http://otel.example", Ratio: 2}, "ratio"},
		{"no CA file", tracing.Options{Endpoint: "https://otel.example", CAFile: filepath.Join(t.TempDir(), "none.pem")}, "CA file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.o.Getenv == nil {
				tt.o.Getenv = noEnv
			}
			_, err := tracing.Open(tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), key) {
				t.Errorf("got %v, want %q and no key", err, tt.want)
			}
		})
	}
}

// Certificates are verified: only a collector of the CA given is talked to.
func TestTLS(t *testing.T) {
	got := make(chan struct{}, 10)
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got <- struct{}{} }))
	defer server.Close()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		ca      string
		outcome string
	}{{ca, "sent"}, {"", "failed"}} {
		tr, r := open(t, tracing.Options{Endpoint: server.URL, CAFile: tt.ca, Ratio: 1})
		make1(t.Context(), tr)
		_ = closeWithin(t, tr, 10*time.Second)
		if n := spans(t, r, tt.outcome); n != 1 {
			t.Errorf("CA file %q: %d spans %s, want 1", tt.ca, n, tt.outcome)
		}
	}
	if len(got) != 1 {
		t.Errorf("%d requests came through, want 1", len(got))
	}
}
