package api_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vedette-sec/vedette/api"
)

const tenant = "default"

// start is where every test's clock begins.
var start = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// memory is the stores in memory. Filters are Postgres's job and tested with it;
// here a list is ordered and cut.
type memory struct {
	mu        sync.Mutex
	incidents map[string]api.IncidentDetail
	tokens    map[[sha256.Size]byte]api.Token
	asked     api.Query // by the last list
	changes   []string
	err       error // of everything
	tokenErr  error
}

func newMemory() *memory {
	return &memory{incidents: map[string]api.IncidentDetail{}, tokens: map[[sha256.Size]byte]api.Token{}}
}

func (m *memory) ListIncidents(_ context.Context, tn string, q api.Query) ([]api.Incident, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = q
	if m.err != nil || tn != tenant {
		return nil, m.err
	}
	var list []api.Incident
	for _, d := range m.incidents {
		if len(q.Statuses) > 0 && !slices.Contains(q.Statuses, d.Status) {
			continue
		}
		if q.After.IsZero() || newer(q.After.OpenedAt, q.After.ID, d.OpenedAt, d.ID) {
			list = append(list, d.Incident)
		}
	}
	slices.SortFunc(list, func(a, b api.Incident) int {
		return cmp.Or(b.OpenedAt.Compare(a.OpenedAt), strings.Compare(b.ID, a.ID))
	})
	return list[:min(len(list), q.Limit)], nil
}

func newer(at time.Time, id string, at2 time.Time, id2 string) bool {
	return cmp.Or(at.Compare(at2), strings.Compare(id, id2)) > 0
}

func (m *memory) CountIncidents(context.Context, string) (map[api.Status]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := map[api.Status]int64{}
	for _, d := range m.incidents {
		n[d.Status]++
	}
	return n, m.err
}

func (m *memory) FindIncident(_ context.Context, tn, id string) (api.IncidentDetail, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.incidents[id]
	if m.err != nil || !ok || tn != tenant {
		return api.IncidentDetail{}, cmp.Or(m.err, api.ErrNotFound)
	}
	d.Findings = slices.Clone(d.Findings)
	d.Evidence = slices.Clone(d.Evidence)
	return d, nil
}

func (m *memory) ChangeIncident(_ context.Context, tn, id, actor string, c api.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.incidents[id]
	switch {
	case m.err != nil:
		return m.err
	case !ok || tn != tenant:
		return fmt.Errorf("change incident: %w", api.ErrNotFound)
	case d.Status == api.StatusMerged:
		return api.ErrMerged
	case c.IfVersion != 0 && c.IfVersion != d.Version:
		return api.ErrConflict
	}
	if c.Status != "" {
		d.Status = c.Status
	}
	if c.Assignee != nil {
		d.Assignee = *c.Assignee
	}
	d.Version++
	d.Audit = append(d.Audit, api.AuditEntry{At: start, Actor: actor, Action: string(d.Status)})
	m.incidents[id] = d
	m.changes = append(m.changes, fmt.Sprintf("%s %s by %s", d.Status, d.Assignee, actor))
	return nil
}

func (m *memory) TokenByHash(_ context.Context, hash [sha256.Size]byte) (api.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.tokens[hash]
	if m.tokenErr != nil || !ok {
		return api.Token{}, cmp.Or(m.tokenErr, api.ErrNotFound)
	}
	return t, nil
}

func (m *memory) PutToken(_ context.Context, t api.Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokenErr != nil {
		return m.tokenErr
	}
	for h, old := range m.tokens {
		if old.Tenant == t.Tenant && old.Name == t.Name {
			delete(m.tokens, h)
		}
	}
	m.tokens[t.Hash] = t
	return nil
}

func (m *memory) revoke(s api.Secret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tokens[s.Hash()]
	t.RevokedAt = start
	m.tokens[s.Hash()] = t
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokenErr = err
}

// away makes everything but tokens fail.
func (m *memory) away(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) query() api.Query {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// echoPush answers with what it was told about the client.
type echoPush struct{}

func (echoPush) ServePush(w http.ResponseWriter, _ *http.Request, tenant, origin string) {
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"tenant":%q,"origin":%q}`, tenant, origin)
}

// rig is a server under test, with a token of each kind.
type rig struct {
	t     *testing.T
	mem   *memory
	srv   *httptest.Server
	log   *lockedBuffer
	mu    sync.Mutex
	now   time.Time
	token map[string]api.Secret // by name
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T, edit func(*api.Options)) *rig {
	t.Helper()
	r := &rig{t: t, mem: newMemory(), log: new(lockedBuffer), now: start, token: map[string]api.Secret{}}
	for name, scopes := range map[string][]api.Scope{
		"ingester": {api.ScopeIngest}, "reader": {api.ScopeRead}, "writer": {api.ScopeWrite},
		"admin": {api.ScopeIngest, api.ScopeRead, api.ScopeWrite}, "revoked": {api.ScopeIngest, api.ScopeWrite},
	} {
		s := api.NewSecret()
		r.token[name] = s
		if err := r.mem.PutToken(t.Context(), api.Token{Tenant: tenant, Name: name, Scopes: scopes, Hash: s.Hash()}); err != nil {
			t.Fatal(err)
		}
	}
	r.mem.revoke(r.token["revoked"])
	reg := prometheus.NewRegistry()
	o := api.Options{
		Tokens: r.mem, Incidents: r.mem, Actions: r.mem, Push: echoPush{}, Registerer: reg, Gatherer: reg,
		Logger: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test",
		Clock: func() time.Time {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.now
		},
	}
	if edit != nil {
		edit(&o)
	}
	s, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.srv = httptest.NewUnstartedServer(s.Handler())
	r.srv.Config = s.HTTP()
	r.srv.Start()
	t.Cleanup(r.srv.Close)
	return r
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body string
}

// do sends a request; headers are name, value pairs.
func (r *rig) do(method, path, token, body string, headers ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.srv.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply{res, string(b)}
}

func (r *rig) as(name, method, path, body string, headers ...string) reply {
	r.t.Helper()
	return r.do(method, path, r.token[name].Reveal(), body, headers...)
}

// form posts a form with a session cookie.
func (r *rig) form(path, cookie string, vs url.Values, headers ...string) reply {
	r.t.Helper()
	return r.do("POST", path, "", vs.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded", "Cookie", cookie}, headers...)...)
}

func (r reply) wants(t *testing.T, status int) reply {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("%s %s: status %d, want %d\n%s", r.Request.Method, r.Request.URL, r.StatusCode, status, r.body)
	}
	return r
}

func (r reply) json(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("answer %q: %v", r.body, err)
	}
}

// incidentNo is a plausible incident number n.
func incidentNo(n int) api.IncidentDetail {
	return api.IncidentDetail{
		Incident: api.Incident{
			ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), RuleID: "0f9b2c1e-0000-4000-8000-000000000001",
			RuleIDs: []string{"0f9b2c1e-0000-4000-8000-000000000001"}, Title: fmt.Sprintf("Repeated denials from 203.0.113.%d", n%250),
			Severity: "high", Status: api.StatusOpen, Account: "111122223333",
			Entities:  []api.Entity{{Type: "src_endpoint.ip", Value: fmt.Sprintf("203.0.113.%d", n%250)}},
			Count:     240,
			FirstSeen: start.Add(-time.Hour), LastSeen: start.Add(-50 * time.Minute), OpenedAt: start.Add(time.Duration(n) * time.Second),
		},
		Version: 1, UpdatedAt: start, Tags: []string{"attack.credential_access", "attack.t1110.003"}, FindingsTotal: 1,
		Findings: []api.Finding{{
			FindingID: "000102030405060708090a0b0c0d0e0f", RuleID: "0f9b2c1e-0000-4000-8000-000000000001",
			RuleTitle: "Repeated denials", Level: "high", Key: []string{fmt.Sprintf("203.0.113.%d", n%250)}, Fields: []string{"src_endpoint.ip"},
			Count: 240, Peak: 57, FirstTime: start.Add(-time.Hour), LastTime: start.Add(-50 * time.Minute),
			Explanation: "57 events in 5m from 203.0.113.7 (threshold: more than 50), from 2026-03-14 08:26:53 to 08:36:53 UTC.", Detail: json.RawMessage(`{"threshold":50,"window":"5m"}`),
			Description: "Somebody tries doors.", FalsePos: []string{"A client with an expired key"}, Author: "Vedette", License: "Apache-2.0",
			References: []string{"https://attack.mitre.org/techniques/T1110/003/"}, Tags: []string{"attack.t1110.003"},
		}},
		Evidence: []api.Evidence{{
			FindingID: "000102030405060708090a0b0c0d0e0f", LogType: "aws.apigateway", EventID: "req-1", Time: start.Add(-time.Hour),
			State: "copied", Source: "1/0/4711", Size: 64, Raw: `{"requestId":"req-1","status":"403","ip":"203.0.113.7"}`,
		}, {
			FindingID: "000102030405060708090a0b0c0d0e0f", LogType: "aws.apigateway", EventID: "req-2", Time: start.Add(-59 * time.Minute),
			State: "expired", Source: "1/0/4712",
		}, {
			FindingID: "000102030405060708090a0b0c0d0e0f", LogType: "aws.apigateway", EventID: "req-3", Time: start.Add(-58 * time.Minute),
			State: "copied", Source: "1/0/4713", Size: 64, Raw: `{"owner":"111122223333","logGroup":"/aws/apigateway/orders","id":"1","message":"{\"requestId\":\"req-3\",\"status\":\"403\"}"}`,
		}},
		Audit: []api.AuditEntry{{At: start, Actor: "assembler", Action: "opened", Detail: json.RawMessage(`{"findings":1}`)}},
	}
}

func (m *memory) put(ds ...api.IncidentDetail) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range ds {
		m.incidents[d.ID] = d
	}
}

var errAway = fmt.Errorf("dial: %w", errors.Join(api.ErrUnavailable, errors.New("postgres://secret@host")))

func withoutIncidents(o *api.Options) { o.Incidents, o.Actions = nil, nil }
