package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/api"
)

// Each endpoint with each token.
func TestScopes(t *testing.T) {
	r := newRig(t, nil)
	d := incidentNo(1)
	r.mem.put(d)
	one := "/v1/incidents/" + d.ID
	// Metrics are open to loopback, so they are asked for as if through a proxy.
	proxied := []string{"X-Forwarded-For", "198.51.100.1"}
	for _, tc := range []struct {
		method, path, body string
		headers            []string
		want               map[string]int // by token; "" is none
	}{
		{"POST", "/v1/logs", "{}", nil, map[string]int{"": 401, "revoked": 401, "ingester": 202, "reader": 403, "writer": 403, "admin": 202}},
		{"GET", "/v1/incidents", "", nil, map[string]int{"": 401, "revoked": 401, "ingester": 403, "reader": 200, "writer": 200, "admin": 200}},
		{"GET", one, "", nil, map[string]int{"": 401, "revoked": 401, "ingester": 403, "reader": 200, "writer": 200, "admin": 200}},
		{"PATCH", one, `{"status":"open"}`, nil, map[string]int{"": 401, "revoked": 401, "ingester": 403, "reader": 403, "writer": 200, "admin": 200}},
		{"GET", "/metrics", "", proxied, map[string]int{"": 401, "revoked": 401, "ingester": 403, "reader": 200, "writer": 200, "admin": 200}},
		{"GET", "/openapi.json", "", nil, map[string]int{"": 200, "ingester": 200}},
		{"GET", "/healthz", "", nil, map[string]int{"": 200}},
		{"GET", "/readyz", "", nil, map[string]int{"": 200}},
		{"GET", "/v1/nothing", "", nil, map[string]int{"": 404, "admin": 404}},
		// Pages take sessions, not tokens.
		{"GET", "/", "", nil, map[string]int{"": 303, "admin": 303}},
		{"GET", "/incidents/" + d.ID, "", nil, map[string]int{"": 303, "admin": 303}},
		{"POST", "/incidents/" + d.ID, "status=open", nil, map[string]int{"": 303, "admin": 303}},
	} {
		for name, want := range tc.want {
			t.Run(fmt.Sprintf("%s %s %s", tc.method, tc.path, name), func(t *testing.T) {
				token := ""
				if name != "" {
					token = r.token[name].Reveal()
				}
				res := r.do(tc.method, tc.path, token, tc.body, tc.headers...).wants(t, want)
				if want == 401 != (res.Header.Get("WWW-Authenticate") != "") {
					t.Errorf("WWW-Authenticate: %q", res.Header.Get("WWW-Authenticate"))
				}
				if want >= 400 && res.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("content type %q", res.Header.Get("Content-Type"))
				}
			})
		}
	}
}

func TestPushKnowsTheClient(t *testing.T) {
	r := newRig(t, nil)
	res := r.as("ingester", "POST", "/v1/logs", "{}").wants(t, 202)
	if want := `{"tenant":"default","origin":"push:ingester"}`; res.body != want {
		t.Errorf("push was told %s, want %s", res.body, want)
	}
}

func TestMalformedAuthorization(t *testing.T) {
	r := newRig(t, nil)
	good := r.token["reader"].Reveal()
	for name, h := range map[string]string{
		"basic": "Basic " + good, "bare": good, "no prefix": "Bearer " + strings.TrimPrefix(good, "vdt_"), "cut": "Bearer " + good[:40],
		"longer": "Bearer " + good + "A", "empty": "Bearer ", "unknown": "Bearer " + api.NewSecret().Reveal(), "junk": "Bearer " + strings.Repeat("A", 30000),
	} {
		t.Run(name, func(t *testing.T) {
			r.do("GET", "/v1/incidents", "", "", "Authorization", h).wants(t, 401)
		})
	}
	r.do("GET", "/v1/incidents", "", "", "Authorization", "bearer "+good).wants(t, 200)
}

// A revoked token is refused at once or a second later.
func TestRevocation(t *testing.T) {
	r := newRig(t, nil)
	r.as("reader", "GET", "/v1/incidents", "").wants(t, 200)
	r.mem.revoke(r.token["reader"])
	r.pass(time.Second)
	r.as("reader", "GET", "/v1/incidents", "").wants(t, 401)
}

// While the store is away, tokens that it vouched for lately still push, others
// are told to come back.
func TestStoreAway(t *testing.T) {
	r := newRig(t, nil)
	r.as("ingester", "POST", "/v1/logs", "{}").wants(t, 202)
	r.mem.fail(errAway)
	r.pass(9 * time.Minute)
	r.as("ingester", "POST", "/v1/logs", "{}").wants(t, 202)
	res := r.as("admin", "POST", "/v1/logs", "{}").wants(t, 503)
	if res.Header.Get("Retry-After") == "" || strings.Contains(res.body, "secret") {
		t.Errorf("answer %v %s", res.Header, res.body)
	}
	r.pass(2 * time.Minute)
	r.as("ingester", "POST", "/v1/logs", "{}").wants(t, 503)
}

func TestMetricsOnLoopback(t *testing.T) {
	r := newRig(t, nil)
	r.as("reader", "GET", "/v1/incidents", "").wants(t, 200)
	res := r.do("GET", "/metrics", "", "").wants(t, 200)
	if !strings.Contains(res.body, `vedette_http_requests_total{code="200",route="GET /v1/incidents"} 1`) {
		t.Errorf("metrics:\n%s", res.body)
	}
	r.do("GET", "/metrics", "", "", "Host", "evil.example").wants(t, 401)
	open := newRig(t, func(o *api.Options) { o.OpenMetrics = true })
	open.do("GET", "/metrics", "", "", "Host", "metrics.internal").wants(t, 200)
}

func TestReadiness(t *testing.T) {
	r := newRig(t, func(o *api.Options) {
		o.Checks = []api.Check{
			{Name: "postgres", Func: func(context.Context) error { return nil }},
			{Name: "kafka", Func: func(context.Context) error { return errors.New("dial secret:9092") }},
		}
	})
	r.do("GET", "/healthz", "", "").wants(t, 200)
	res := r.do("GET", "/readyz", "", "").wants(t, 503)
	if want := `{"checks":{"kafka":"failing","postgres":"ok"},"status":"not ready"}`; strings.TrimSpace(res.body) != want {
		t.Errorf("got %s, want %s", res.body, want)
	}
	if !strings.Contains(r.log.String(), "dial secret:9092") {
		t.Error("the log does not say why")
	}
}

// What another site's page makes a browser send is refused, even by somebody
// signed in.
func TestCrossOrigin(t *testing.T) {
	r := newRig(t, nil)
	r.mem.put(incidentNo(1))
	for _, h := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		r.as("admin", "PATCH", "/v1/incidents/"+incidentNo(1).ID, `{"status":"resolved"}`, h...).wants(t, 403)
		r.as("admin", "POST", "/v1/logs", `{}`, h...).wants(t, 403)
		r.do("POST", "/signin", "", "token="+r.token["admin"].Reveal(), append(h, "Content-Type", "application/x-www-form-urlencoded")...).wants(t, 403)
	}
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	r := newRig(t, nil)
	for _, path := range []string{"/", "/signin", "/v1/incidents", "/healthz", "/nothing", "/static/icon.svg"} {
		res := r.do("GET", path, "", "")
		csp := res.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: policy %q", path, csp)
		}
		for h, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} {
			if got := res.Header.Get(h); got != want {
				t.Errorf("%s: %s is %q", path, h, got)
			}
		}
		if res.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", path)
		}
	}
}

func TestHugeHeaderIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.do("GET", "/healthz", "", "", "X-Big", strings.Repeat("A", 128<<10)).wants(t, http.StatusRequestHeaderFieldsTooLarge)
}

func TestSecretKeepsItself(t *testing.T) {
	s := api.NewSecret()
	if !strings.HasPrefix(s.Reveal(), "vdt_") || len(s.Reveal()) != 47 || s == api.NewSecret() {
		t.Errorf("secret %q", s.Reveal())
	}
	b, err := json.Marshal(struct{ S api.Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s", s, &s, s, s), string(b), s.LogValue().String()} {
		if strings.Contains(text, s.Reveal()) {
			t.Errorf("shows itself: %s", text)
		}
	}
	back, err := api.ParseSecret(s.Reveal())
	if err != nil || back != s {
		t.Errorf("ParseSecret: %v", err)
	}
}

func TestEnsureAdminToken(t *testing.T) {
	mem := newMemory()
	file := filepath.Join(t.TempDir(), "admin-token")
	ensure := func() api.Secret {
		t.Helper()
		s, err := api.EnsureAdminToken(t.Context(), mem, tenant, "admin", file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(b)) != s.Reveal() {
			t.Errorf("file holds %q (%v)", b, err)
		}
		if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %v (%v)", fi.Mode(), err)
		}
		tk, err := mem.TokenByHash(t.Context(), s.Hash())
		if err != nil || !tk.RevokedAt.IsZero() || !tk.Allows(api.ScopeIngest) || !tk.Allows(api.ScopeRead) || !tk.Allows(api.ScopeWrite) {
			t.Errorf("token %+v (%v)", tk, err)
		}
		return s
	}
	first := ensure()
	if again := ensure(); again != first {
		t.Error("a good token was replaced")
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if again := ensure(); again != first {
		t.Error("a good token was replaced because of its mode")
	}
	clear(mem.tokens) // a new database: the file's token goes on
	if again := ensure(); again != first {
		t.Error("the file's token was replaced")
	}
	mem.revoke(first)
	second := ensure()
	if second == first {
		t.Error("a revoked token came back")
	}
	if err := os.WriteFile(file, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := ensure()
	if _, err := mem.TokenByHash(t.Context(), second.Hash()); third == second || !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the token that the file lost is still good: %v", err)
	}
	mem.fail(errAway)
	if _, err := api.EnsureAdminToken(t.Context(), mem, tenant, "admin", file); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if _, err := api.EnsureAdminToken(t.Context(), mem, tenant, "admin", filepath.Join(t.TempDir(), "no", "dir")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestOptionsNameWhatIsMissing(t *testing.T) {
	if _, err := api.New(api.Options{}); err == nil || !strings.Contains(err.Error(), "Tokens") {
		t.Errorf("error %v", err)
	}
}
