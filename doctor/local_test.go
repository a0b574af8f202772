package doctor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/alerting/webhook"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/doctor"
	"github.com/vedette-sec/vedette/secret"
)

// alone is a world whose servers are never asked: what needs them is skipped.
func alone(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, cfg: config.Default()}
	w.cfg.DataDir = t.TempDir()
	w.o = w.options()
	w.o.OpenKafka = func() (doctor.Kafka, error) { return nil, errors.New("not in this test") }
	w.o.OpenLedger = func(context.Context) (doctor.Ledger, error) { return nil, errors.New("not in this test") }
	w.o.Inventory = enrich.Inventory{}
	return w
}

// look runs and wants these findings among those that begin with check.
func (w *world) look(check string, want ...finding) {
	w.t.Helper()
	n := 0
	for _, r := range w.run() {
		if !strings.HasPrefix(r.Check, check) {
			continue
		}
		if n++; n > len(want) {
			w.t.Errorf("unexpected: %s %s: %s → %s", r.Status, r.Check, r.Detail, r.Remedy)
			continue
		}
		if f := want[n-1]; f.status != r.Status || !strings.Contains(r.Detail, f.detail) || !strings.Contains(r.Remedy, f.remedy) {
			w.t.Errorf("got %s %s: %s → %s\nwant %s: %s → %s", r.Status, r.Check, r.Detail, r.Remedy, f.status, f.detail, f.remedy)
		}
	}
	if n < len(want) {
		w.t.Errorf("%d findings for %s, want %d", n, check, len(want))
	}
}

func TestDataDir(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for name, tt := range map[string]struct {
		dir  string
		want finding
	}{
		"writable":       {t.TempDir(), finding{"", doctor.OK, "is writable", ""}},
		"absent":         {filepath.Join(t.TempDir(), "none"), finding{"", doctor.Fail, "does not exist", "create the directory"}},
		"no directory":   {file, finding{"", doctor.Fail, "no directory", "data_dir"}},
		"cannot be made": {"/proc/self/task", finding{"", doctor.Fail, "cannot be written", "data_dir"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := alone(t)
			w.cfg.DataDir = tt.dir
			w.look("data_dir", tt.want)
		})
	}
}

func TestCertificate(t *testing.T) {
	for name, tt := range map[string]struct {
		listen, cert string
		left         time.Duration
		want         finding
	}{
		"loopback":        {"127.0.0.1:8080", "", 0, finding{"", doctor.OK, "none needed", ""}},
		"open":            {"0.0.0.0:8080", "", 0, finding{"", doctor.Warn, "readably", "tls_cert_file"}},
		"every interface": {":8080", "", 0, finding{"", doctor.Warn, "readably", "tls_cert_file"}},
		"good":            {":8080", "new", 100 * 24 * time.Hour, finding{"", doctor.OK, "good until", ""}},
		"ends soon":       {":8080", "new", 5 * 24 * time.Hour, finding{"", doctor.Warn, "ends on", "renew"}},
		"ended":           {":8080", "new", -time.Hour, finding{"", doctor.Fail, "ended on", "renew"}},
		"absent":          {":8080", "/none", 0, finding{"", doctor.Fail, "no such file", "api.tls_cert_file"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := alone(t)
			w.cfg.API.Listen, w.cfg.API.TLSCertFile, w.cfg.API.TLSKeyFile = tt.listen, tt.cert, tt.cert
			if tt.cert == "new" {
				w.cfg.API.TLSCertFile, w.cfg.API.TLSKeyFile = certificate(t, time.Now().Add(tt.left))
			}
			w.look("api certificate", tt.want)
		})
	}
}

// certificate writes one and its key.
func certificate(t *testing.T, until time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return cert, key
}

func TestExternalURL(t *testing.T) {
	for _, tt := range []struct {
		url  string
		told bool
		want finding
	}{
		{"", false, finding{"", doctor.OK, "nobody to send links to", ""}},
		{"", true, finding{"", doctor.Warn, "http://127.0.0.1:8080", "api.external_url"}},
		{"https://vedette.example/console", true, finding{"", doctor.OK, "https://vedette.example/console", ""}},
		{"http://vedette.example", true, finding{"", doctor.Warn, "not encrypted", "https"}},
		{"http://localhost:8080", true, finding{"", doctor.Warn, "their own machine", "api.external_url"}},
		{"http://localhost:8080", false, finding{"", doctor.OK, "localhost", ""}},
		{"https://0.0.0.0:8080", true, finding{"", doctor.Fail, "where to listen", "api.external_url"}},
		{"https://vedette.example/?a=b", true, finding{"", doctor.Fail, "more than scheme", "api.external_url"}},
		{"https://user@vedette.example/", true, finding{"", doctor.Fail, "more than scheme", "api.external_url"}},
		{"https://:443/", true, finding{"", doctor.Fail, "no URL", "api.external_url"}},
	} {
		t.Run(fmt.Sprintf("%s told=%v", tt.url, tt.told), func(t *testing.T) {
			w := alone(t)
			w.cfg.API.ExternalURL = tt.url
			if tt.told {
				w.cfg.Alerting.Receivers = []config.Receiver{{Name: "x", MinSeverity: "low"}}
			}
			w.look("external_url", tt.want)
		})
	}
}

func TestCollectors(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"a.json", "b.json"} {
		write(t, filepath.Join(dir, f), "{}")
	}
	dangling := t.TempDir()
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dangling, "c.json")); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		paths []string
		want  []finding
	}{
		"directory":      {[]string{dir}, []finding{{"", doctor.OK, "2 files can be read", ""}}},
		"file":           {[]string{filepath.Join(dir, "a.json")}, []finding{{"", doctor.OK, "1 file can be read", ""}}},
		"both":           {[]string{filepath.Join(dir, "a.json"), dir}, []finding{{"", doctor.OK, "3 files can be read", ""}}},
		"absent":         {[]string{filepath.Join(dir, "none")}, []finding{{"", doctor.Fail, "does not exist", "collect.files"}}},
		"one is absent":  {[]string{dir, filepath.Join(dir, "none")}, []finding{{"", doctor.Fail, "does not exist", "collect.files"}}},
		"nothing yet":    {[]string{t.TempDir()}, []finding{{"", doctor.Warn, "no file yet", "still to come"}}},
		"cannot be read": {[]string{dangling}, []finding{{"", doctor.Fail, "1 file or directory cannot be read", "collect.files"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := alone(t)
			w.cfg.Collect.Files = []config.FileSource{{Name: "it", Paths: tt.paths}}
			w.look("collector it", tt.want...)
		})
	}
}

func TestDatabases(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk.mmdb")
	write(t, junk, "no database at all")
	fresh, old := database(t, time.Now().Add(-24*time.Hour)), database(t, time.Now().Add(-400*24*time.Hour))
	w := alone(t)
	w.look("databases", finding{"", doctor.OK, "none configured", ""})
	w.cfg.Enrich.GeoDatabases = []string{fresh, old, junk, "/none.mmdb"}
	w.look("database",
		finding{"", doctor.OK, "Test-Country-ASN of ", ""},
		finding{"", doctor.Warn, "400 days", "newer"},
		finding{"", doctor.Fail, "junk.mmdb", "MMDB"},
		finding{"", doctor.Fail, "no such file", "MMDB"})
}

func TestInventory(t *testing.T) {
	w := alone(t)
	w.o.Inventory = enrich.Inventory{Functions: []enrich.Function{{Name: "orders"}}}
	w.look("inventory", finding{"", doctor.Fail, "orders", "enrich.inventory"})
}

// sources makes rules from text.
func sources(texts ...string) func() (*rule.Set, []rule.Warning, error) {
	return func() (*rule.Set, []rule.Warning, error) {
		files := map[string][]byte{}
		for i, text := range texts {
			files[fmt.Sprintf("rule%02d.yml", i)] = []byte(text)
		}
		return rule.FromSources(files)
	}
}

const plain = `
title: Plain
id: 00000000-0000-4000-8000-000000000001
status: test
level: low
logsource: {product: vedette, category: http_activity}
detection: {selection: {http_response.code: 500}, condition: selection}
`

func TestRules(t *testing.T) {
	const (
		windows = `
title: For Windows
id: 00000000-0000-4000-8000-000000000002
status: test
level: low
logsource: {product: windows, category: process_creation}
detection: {selection: {Image: cmd.exe}, condition: selection}
`
		foreign = `
title: From Abroad
id: 00000000-0000-4000-8000-000000000003
status: test
level: low
logsource: {product: vedette, category: http_activity}
detection: {selection: {http_response.code: 200}, home: {src_endpoint.location.country: DE}, condition: selection and not home}
`
		grouped = `
title: Many Entries
id: 00000000-0000-4000-8000-000000000004
status: test
level: low
correlation: {type: event_count, rules: [plain], group-by: [function.entry_point], timespan: 1m, condition: {gte: 10}}
---
title: Plain
name: plain
id: 00000000-0000-4000-8000-000000000005
status: test
level: low
logsource: {product: vedette, category: http_activity}
detection: {selection: {http_response.code: 500}, condition: selection}
`
	)
	t.Run("good", func(t *testing.T) {
		w := alone(t)
		w.o.Rules = sources(plain)
		w.look("rules", finding{"", doctor.OK, "1 rule can fire; state is kept for", ""})
		w.look("blind rules", finding{"", doctor.OK, "none", ""})
	})
	t.Run("bad", func(t *testing.T) {
		w := alone(t)
		w.o.Rules = sources(strings.Replace(plain, "condition: selection", "condition: selektion", 1))
		w.look("rules", finding{"", doctor.Fail, "rule00.yml", "correct the rule"})
		w.look("blind rules", finding{"", doctor.Skip, "the rules do not load", ""})
	})
	t.Run("several bad", func(t *testing.T) {
		w := alone(t)
		bad := strings.Replace(plain, "condition: selection", "condition: selektion", 1)
		w.o.Rules = sources(bad, strings.Replace(bad, "0001", "0002", 1))
		w.look("rules", finding{"", doctor.Fail, "rule00.yml", "correct the rule"}, finding{"", doctor.Fail, "rule01.yml", "correct the rule"})
	})
	t.Run("none", func(t *testing.T) {
		w := alone(t)
		w.o.Rules = sources(windows)
		w.look("rules", finding{"", doctor.Warn, "For Windows", ""}, finding{"", doctor.Fail, "no rule can fire", "rules.shipped"})
	})
	t.Run("warnings", func(t *testing.T) {
		var many []string
		for i := range 25 {
			many = append(many, strings.Replace(windows, "000000000002", fmt.Sprintf("0000000001%02d", i), 1))
		}
		w := alone(t)
		w.o.Rules = sources(append(many, plain)...)
		want := make([]finding, 20)
		for i := range want {
			want[i] = finding{"", doctor.Warn, fmt.Sprintf("rule%02d.yml", i), "if it is meant to fire"}
		}
		w.look("rules", append(want, finding{"", doctor.Warn, "and 5 more warnings", "vedette replay"}, finding{"", doctor.OK, "1 rule can fire, 25 inactive", ""})...)
	})
	t.Run("blind", func(t *testing.T) {
		w := alone(t)
		w.o.Rules = sources(plain, foreign, grouped)
		w.look("blind rules",
			finding{"", doctor.Warn, "src_endpoint.location.country is never known, and 1 rule asks for it: From Abroad", "enrich.geo_databases"},
			finding{"", doctor.Warn, "function.entry_point is never known, and 1 rule asks for it: Many Entries", "enrich.inventory"})
	})
	t.Run("sees with a database", func(t *testing.T) {
		w := alone(t)
		w.o.Rules = sources(foreign)
		w.cfg.Enrich.GeoDatabases = []string{database(t, time.Now())}
		w.look("blind rules", finding{"", doctor.OK, "none", ""})
	})
}

// hook receives what receivers are told.
type hook struct {
	mu     sync.Mutex
	status int
	bodies []webhook.Body
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := io.ReadAll(r.Body)
	var body webhook.Body
	if err == nil {
		err = json.Unmarshal(b, &body)
	}
	if err == nil {
		err = webhook.Verify(secret.String(key), r.Header, b, time.Now(), time.Minute)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.bodies = append(h.bodies, body)
	w.WriteHeader(h.status)
}

const key = "a-signing-key-of-enough-length"

func TestReceivers(t *testing.T) {
	h := &hook{status: http.StatusOK}
	server := httptest.NewServer(h)
	defer server.Close()
	w := alone(t)
	w.look("receiver", finding{"", doctor.Warn, "nobody is told", "alerting.receivers"})

	receiver := func(name, url string) config.Receiver {
		return config.Receiver{Name: name, Type: "webhook", URL: secret.String(url), Key: key, MinSeverity: "high"}
	}
	w.cfg.Alerting.Receivers = []config.Receiver{receiver("good", server.URL), receiver("bad", "http://hooks.example/secret-path")}
	bad := finding{"", doctor.Fail, "plain http", "alerting.receivers"}
	w.look("receiver", finding{"", doctor.OK, "nothing was sent", ""}, bad)
	if len(h.bodies) > 0 {
		t.Fatalf("%d messages were sent", len(h.bodies))
	}

	w.o.SendTest = true
	w.look("receiver", finding{"", doctor.OK, "accepted a test message and its resolution", ""}, bad)
	if len(h.bodies) != 2 || h.bodies[0].Incident.ID != h.bodies[1].Incident.ID {
		t.Fatalf("messages %+v, want one and its resolution", h.bodies)
	}
	if first := h.bodies[0].Incident; !strings.Contains(first.Title, "Test message") || first.Severity != "high" {
		t.Errorf("told of %+v, want a test message of the least severity that the receiver takes", first)
	}

	h.status = http.StatusUnauthorized
	w.look("receiver", finding{"", doctor.Fail, "401", "key"}, bad)
	for _, r := range w.run() {
		if strings.Contains(r.Detail+r.Remedy, "secret-path") || strings.Contains(r.Detail, key) {
			t.Errorf("a secret shows: %+v", r)
		}
	}
}
