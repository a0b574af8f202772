package api_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// signIn returns the session cookie of a token.
func (r *rig) signIn(name string) string {
	r.t.Helper()
	res := r.form("/signin", "", url.Values{"token": {r.token[name].Reveal()}}).wants(r.t, 303)
	cs := res.Cookies()
	if len(cs) != 1 || !cs[0].HttpOnly || cs[0].SameSite != 3 || cs[0].Path != "/" || cs[0].Value == "" {
		r.t.Fatalf("cookies %v", cs)
	}
	if strings.Contains(cs[0].Value, "vdt_") {
		r.t.Error("the cookie is the token")
	}
	return cs[0].Name + "=" + cs[0].Value
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func csrfOf(t *testing.T, page string) string {
	t.Helper()
	m := csrfField.FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no csrf field in\n%s", page)
	}
	return m[1]
}

var versionInput = regexp.MustCompile(`name="version" value="([0-9]+)"`)

func versionField(t *testing.T, page string) string {
	t.Helper()
	m := versionInput.FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no version field in\n%s", page)
	}
	return m[1]
}

func TestPagesAskToSignIn(t *testing.T) {
	r := newRig(t, nil)
	if got := r.do("GET", "/", "", "").wants(t, 303).Header.Get("Location"); got != "/signin" {
		t.Errorf("sent to %s", got)
	}
	got := r.do("GET", "/incidents/"+incidentNo(1).ID, "", "").wants(t, 303).Header.Get("Location")
	if want := "/signin?next=%2Fincidents%2F" + incidentNo(1).ID; got != want {
		t.Errorf("sent to %s, want %s", got, want)
	}
	r.do("GET", "/", "", "", "Cookie", "vedette=nonsense").wants(t, 303)
	r.do("GET", "/signin", "", "").wants(t, 200)
}

func TestSignIn(t *testing.T) {
	r := newRig(t, nil)
	for name, status := range map[string]int{"reader": 303, "writer": 303, "admin": 303, "ingester": 403, "revoked": 401} {
		res := r.form("/signin", "", url.Values{"token": {r.token[name].Reveal()}}).wants(t, status)
		if (status == 303) != (len(res.Cookies()) == 1) {
			t.Errorf("%s: cookies %v", name, res.Cookies())
		}
		if strings.Contains(res.body, r.token[name].Reveal()) {
			t.Errorf("%s: the token is echoed", name)
		}
	}
	r.form("/signin", "", url.Values{"token": {"<script>alert(1)</script>"}}).wants(t, 401)
	for next, want := range map[string]string{
		"/incidents/x": "/incidents/x", "/?status=open": "/?status=open", "": "/", "//evil.example": "/", "https://evil.example/": "/",
		`/\evil.example`: "/", "/signout": "/", "javascript:alert(1)": "/", "/\t/evil.example": "/",
	} {
		res := r.form("/signin", "", url.Values{"token": {r.token["reader"].Reveal()}, "next": {next}}).wants(t, 303)
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("next %q leads to %q", next, got)
		}
	}
}

func TestSessionEnds(t *testing.T) {
	r := newRig(t, nil)
	cookie := r.signIn("reader")
	page := r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 200)
	r.form("/signout", cookie, url.Values{"csrf": {"wrong"}}).wants(t, 403)
	r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 200)
	r.form("/signout", cookie, url.Values{"csrf": {csrfOf(t, page.body)}}).wants(t, 303)
	r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 303)

	cookie = r.signIn("reader")
	r.pass(11 * time.Hour)
	r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 200)
	r.pass(time.Hour)
	r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 303)

	cookie = r.signIn("reader")
	r.mem.revoke(r.token["reader"])
	r.pass(2 * time.Second)
	r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 303)
}

func TestChangeFromThePage(t *testing.T) {
	r := newRig(t, nil)
	d := incidentNo(1)
	r.mem.put(d)
	path := "/incidents/" + d.ID
	cookie := r.signIn("admin")
	page := r.do("GET", path, "", "", "Cookie", cookie).wants(t, 200)
	csrf := csrfOf(t, page.body)
	ok := url.Values{"csrf": {csrf}, "status": {"acknowledged"}, "version": {"1"}}
	with := func(k, v string) url.Values {
		vs := url.Values{}
		for key := range ok {
			vs.Set(key, ok.Get(key))
		}
		vs.Set(k, v)
		return vs
	}
	r.form(path, cookie, with("csrf", "")).wants(t, 403)
	r.form(path, cookie, with("csrf", csrfOf(t, r.do("GET", path, "", "", "Cookie", r.signIn("writer")).body))).wants(t, 403)
	r.form(path, cookie, with("version", "7")).wants(t, 412)
	r.form(path, cookie, with("version", "")).wants(t, 400)
	r.form(path, cookie, with("status", "merged")).wants(t, 400)
	r.form(path, cookie, with("assignee", "a\u202eb")).wants(t, 400)
	r.form(path, cookie, ok, "Origin", "https://evil.example").wants(t, 403)
	r.form(path, "", ok).wants(t, 303) // to sign in
	r.form("/incidents/"+incidentNo(2).ID, cookie, ok).wants(t, 404)
	r.form("/incidents/x", cookie, ok).wants(t, 400)
	if len(r.mem.changes) > 0 {
		t.Fatalf("changed: %v", r.mem.changes)
	}
	if got := r.form(path, cookie, ok).wants(t, 303).Header.Get("Location"); got != path {
		t.Errorf("sent to %s", got)
	}
	r.form(path, cookie, url.Values{"csrf": {csrf}, "assignee": {" mara "}, "version": {"2"}}).wants(t, 303)
	want := []string{"acknowledged  by admin", "acknowledged mara by admin"}
	if diff := cmp.Diff(want, r.mem.changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}

	reader := r.signIn("reader")
	page = r.do("GET", path, "", "", "Cookie", reader).wants(t, 200)
	if strings.Contains(page.body, "Resolve") {
		t.Error("a reader is offered to resolve")
	}
	r.form(path, reader, url.Values{"csrf": {csrfOf(t, page.body)}, "status": {"resolved"}, "version": {"3"}}).wants(t, 403)
}

// A viewer on this machine reads the pages without a token, and nothing else.
func TestOpenOnLoopback(t *testing.T) {
	r := newRig(t, func(o *api.Options) { o.OpenOnLoopback = true })
	r.mem.put(incidentNo(1))
	path := "/incidents/" + incidentNo(1).ID
	for _, p := range []string{"/", path} {
		page := r.do("GET", p, "", "").wants(t, 200)
		if !strings.Contains(page.body, "Read only") || strings.Contains(page.body, "Acknowledge<") {
			t.Errorf("%s:\n%s", p, page.body)
		}
	}
	r.do("GET", "/", "", "", "Host", "localhost:8080").wants(t, 200)
	r.do("GET", "/", "", "", "Host", "[::1]:8080").wants(t, 200)
	for _, host := range []string{"evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.0.2.1"} {
		r.do("GET", "/", "", "", "Host", host).wants(t, 303)
	}
	for _, h := range []string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip"} {
		r.do("GET", "/", "", "", h, "198.51.100.1").wants(t, 303)
	}
	r.form(path, "", url.Values{"status": {"resolved"}, "version": {"1"}}).wants(t, 403)
	r.do("GET", "/v1/incidents", "", "").wants(t, 401)
	r.do("PATCH", "/v1"+path, "", `{"status":"open"}`).wants(t, 401)
	if len(r.mem.changes) > 0 {
		t.Errorf("changed: %v", r.mem.changes)
	}
}

func TestListPageFilters(t *testing.T) {
	r := newRig(t, func(o *api.Options) { o.OpenOnLoopback = true })
	for n := range 53 {
		r.mem.put(incidentNo(n))
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	page := r.do("GET", "/?status=open&severity=high&rule=r1&entity=203.0.113.7&since=2026-03-01T12:00&until=2026-03-01T12:00:00", "", "").wants(t, 200)
	want := api.Query{Statuses: []api.Status{"open"}, MinSeverity: 3, Rule: "r1", Entity: "203.0.113.7", Since: at, Until: at, Limit: 51}
	if diff := cmp.Diff(want, r.mem.query()); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	m := regexp.MustCompile(`href="(/\?cursor=[^"]+)" rel="next"`).FindStringSubmatch(page.body)
	if m == nil {
		t.Fatalf("no next page in\n%s", page.body)
	}
	next := strings.ReplaceAll(m[1], "&amp;", "&")
	second := r.do("GET", next, "", "").wants(t, 200)
	if n := strings.Count(second.body, `class="title"`); n != 3 {
		t.Errorf("%d incidents on the second page", n)
	}
	if q := r.mem.query(); q.Rule != "r1" || q.After.IsZero() {
		t.Errorf("the second page asked for %+v", q)
	}
	for _, bad := range []string{"status=EVIL", "severity=EVIL", "since=EVIL", "cursor=EVIL", "entity=%00"} {
		page := r.do("GET", "/?"+bad, "", "").wants(t, 400)
		if !strings.Contains(page.body, `role="alert"`) {
			t.Errorf("%s: no message", bad)
		}
	}
	r.do("GET", "/incidents/EVIL", "", "").wants(t, 404)
	r.mem.away(errAway)
	for _, p := range []string{"/", "/incidents/" + incidentNo(1).ID} {
		if page := r.do("GET", p, "", "").wants(t, 503); strings.Contains(page.body, "secret") || !strings.Contains(page.body, "<h1>") {
			t.Errorf("%s:\n%s", p, page.body)
		}
	}
}

// Every field that comes from a log, a rule or a person holds markup, and shows
// as text.
func TestHostileFieldsAreEscaped(t *testing.T) {
	const evil = `"'><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}` + "\u202e\x00\x1b[31m\n\xff"
	d := incidentNo(1)
	d.RuleID, d.RuleIDs, d.Title, d.Assignee, d.Account, d.Tags = evil, []string{evil}, evil, evil, evil, []string{evil, "attack." + evil}
	d.Entities = []api.Entity{{Type: evil, Value: evil}}
	f := &d.Findings[0]
	f.RuleID, f.RuleTitle, f.Verdict, f.Explanation, f.Description, f.Author, f.License = evil, evil, evil, evil, evil, evil, evil
	f.Key, f.Fields, f.FalsePos, f.Tags = []string{evil}, []string{evil}, []string{evil}, []string{evil}
	f.References = []string{evil, "javascript:alert(1)", "https://example.com/" + evil, "//evil.example/", "data:text/html," + evil}
	inJSON, err := json.Marshal(map[string]string{evil: evil})
	if err != nil {
		t.Fatal(err)
	}
	f.Detail = inJSON
	for _, raw := range []string{evil, string(inJSON), strings.Repeat(evil, 1000)} {
		d.Evidence = append(d.Evidence, api.Evidence{FindingID: f.FindingID, LogType: evil, EventID: evil, State: "copied", Source: "1/0/1", Raw: raw})
	}
	d.Audit = append(d.Audit, api.AuditEntry{At: start, Actor: evil, Action: "assigned", Detail: inJSON})

	r := newRig(t, nil)
	r.mem.put(d)
	name := r.token["admin"]
	if err := r.mem.PutToken(t.Context(), api.Token{Tenant: tenant, Name: evil, Scopes: []api.Scope{api.ScopeWrite}, Hash: name.Hash()}); err != nil {
		t.Fatal(err)
	}
	cookie := r.signIn("admin")
	for _, path := range []string{"/", "/incidents/" + d.ID, "/?entity=" + url.QueryEscape(strings.ReplaceAll(evil, "\x00", "")) + "&rule=" + url.QueryEscape(`"><script>`), "/?status=" + url.QueryEscape(evil)} {
		page := r.do("GET", path, "", "", "Cookie", cookie)
		if page.StatusCode >= 500 {
			t.Fatalf("%s: %d %s", path, page.StatusCode, page.body)
		}
		for _, bad := range []string{"<script", "<img src=x", "href=\"javascript", "href=\"data", "href=\"//", "\u202e\x00", "\x1b", "onerror=alert(1)>"} {
			if i := strings.Index(page.body, bad); i >= 0 {
				t.Errorf("%s shows %q: …%s…", path, bad, page.body[max(0, i-80):min(len(page.body), i+80)])
			}
		}
	}
	page := r.do("GET", "/incidents/"+d.ID, "", "", "Cookie", cookie).wants(t, 200)
	if strings.ContainsRune(page.body, '\u202e') {
		i := strings.IndexRune(page.body, '\u202e')
		t.Errorf("a bidi override gets through: …%s…", page.body[max(0, i-80):i])
	}
	if !strings.Contains(page.body, "&lt;script&gt;alert(1)") {
		t.Error("the text itself is not shown")
	}
	// The API hands out JSON, and says so.
	res := r.as("reader", "GET", "/v1/incidents/"+d.ID, "").wants(t, 200)
	if ct := res.Header.Get("Content-Type"); ct != "application/json" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("content type %q", ct)
	}
	var back api.IncidentDetail
	res.json(t, &back)
}

// golden compares with a file of testdata, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it anew:\n%s", file, diff)
	}
}

var volatile = regexp.MustCompile(`(name="csrf" value=")[^"]+|(/static/)[0-9a-f]{12}(\.css)`)

func TestGoldenPages(t *testing.T) {
	r := newRig(t, func(o *api.Options) {
		o.OCSF = func(string, []byte) ([]byte, error) { return []byte(`{"class_uid":4002}`), nil }
	})
	r.pass(40 * time.Minute)
	viewer := newRig(t, func(o *api.Options) { o.OpenOnLoopback = true })
	titles := []string{
		"Repeated denials from 203.0.113.7 on GET /orders/{id}", "Function orders-export invoked past its gateway",
		"Execution time of orders-list far above what was learned", "Access from a country new to ci-deploy",
	}
	for i, sev := range []string{"high", "critical", "medium", "low"} {
		d := incidentNo(i + 1)
		d.Severity, d.Title = sev, titles[i]
		switch i {
		case 1:
			d.Entities = []api.Entity{
				{Type: "function.name", Value: "orders-export"},
				{Type: "actor.user.uid", Value: "arn:aws:iam::111122223333:role/reporting"},
				{Type: "cloud.account.uid", Value: "111122223333"},
				{Type: "src_endpoint.ip", Value: "2001:db8::17"},
				{Type: "cloud.region", Value: "eu-central-1"},
			}
			d.Count = 1234567
		case 2:
			d.Status, d.Assignee = api.StatusAcknowledged, "mara"
		case 3:
			d.Status = api.StatusResolved
		}
		r.mem.put(d)
		viewer.mem.put(d)
	}
	cookie := r.signIn("admin")
	for name, page := range map[string]reply{
		"list.html":     r.do("GET", "/", "", "", "Cookie", cookie),
		"incident.html": r.do("GET", "/incidents/"+incidentNo(1).ID, "", "", "Cookie", cookie),
		"viewer.html":   viewer.do("GET", "/?entity=203.0.113.2", "", ""),
		"empty.html":    newRig(t, func(o *api.Options) { o.OpenOnLoopback = true }).do("GET", "/", "", ""),
		"signin.html":   r.do("GET", "/signin?next=/incidents/x", "", ""),
		"missing.html":  r.do("GET", "/incidents/"+incidentNo(99).ID, "", "", "Cookie", cookie),
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, name, volatile.ReplaceAllString(page.body, "${1}${2}X${3}"))
		})
	}
}

// A newcomer who opens the page too early need not reload it.
func TestEmptyListLooksAgain(t *testing.T) {
	r := newRig(t, func(o *api.Options) { o.OpenOnLoopback = true })
	if got := r.do("GET", "/", "", "").wants(t, 200).Header.Get("Refresh"); got != "5" {
		t.Errorf("Refresh %q on an empty list", got)
	}
	if got := r.do("GET", "/?entity=x", "", "").wants(t, 200).Header.Get("Refresh"); got != "" {
		t.Errorf("Refresh %q on a filtered list", got)
	}
	r.mem.put(incidentNo(1))
	if got := r.do("GET", "/", "", "").wants(t, 200).Header.Get("Refresh"); got != "" {
		t.Errorf("Refresh %q on a list with something in it", got)
	}
}

func TestStylesheetIsServedUnderItsContentsName(t *testing.T) {
	r := newRig(t, nil)
	page := r.do("GET", "/signin", "", "").wants(t, 200)
	m := regexp.MustCompile(`href="(/static/[0-9a-f]+\.css)"`).FindStringSubmatch(page.body)
	if m == nil {
		t.Fatalf("no stylesheet in\n%s", page.body)
	}
	res := r.do("GET", m[1], "", "").wants(t, 200)
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/css") || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") || len(res.body) < 1000 {
		t.Errorf("stylesheet: %v, %d bytes", res.Header, len(res.body))
	}
}

func TestSecureCookies(t *testing.T) {
	r := newRig(t, func(o *api.Options) { o.SecureCookies = true })
	res := r.form("/signin", "", url.Values{"token": {r.token["reader"].Reveal()}}).wants(t, 303)
	c := res.Cookies()[0]
	if !c.Secure || c.Name != "__Host-vedette" {
		t.Errorf("cookie %v", c)
	}
	r.do("GET", "/", "", "", "Cookie", fmt.Sprintf("%s=%s", c.Name, c.Value)).wants(t, 200)
}
