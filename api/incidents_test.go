package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/detect"
)

type listAnswer struct {
	Incidents []api.Incident `json:"incidents"`
	Next      string         `json:"next_cursor"`
}

func TestListHasExactlyTheFieldsPromised(t *testing.T) {
	r := newRig(t, nil)
	r.mem.put(incidentNo(1))
	var got map[string]any
	r.as("reader", "GET", "/v1/incidents", "").wants(t, 200).json(t, &got)
	if diff := cmp.Diff([]string{"incidents", "next_cursor"}, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	item := got["incidents"].([]any)[0].(map[string]any)
	want := []string{
		"account", "assignee", "count", "entities", "first_seen", "id", "last_seen", "opened_at", "rule_id", "rule_ids",
		"severity", "status", "title",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(item))); diff != "" {
		t.Errorf("incident (-want +got):\n%s", diff)
	}
	if got := item["opened_at"]; got != "2026-03-14T09:26:54Z" {
		t.Errorf("opened_at is %v", got)
	}
}

func TestEmptyListIsAnArray(t *testing.T) {
	r := newRig(t, nil)
	got := strings.TrimSpace(r.as("reader", "GET", "/v1/incidents", "").wants(t, 200).body)
	if want := `{"incidents":[],"next_cursor":""}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDetail(t *testing.T) {
	r := newRig(t, func(o *api.Options) {
		o.OCSF = func(typ string, raw []byte) ([]byte, error) {
			if typ != "aws.apigateway" || !strings.Contains(string(raw), "req-1") {
				return nil, fmt.Errorf("asked for %s %s", typ, raw)
			}
			return []byte(`{"class_uid":4002}`), nil
		}
	})
	d := incidentNo(1)
	r.mem.put(d)
	res := r.as("reader", "GET", "/v1/incidents/"+d.ID, "").wants(t, 200)
	if got := res.Header.Get("ETag"); got != `"1"` {
		t.Errorf("ETag %q", got)
	}
	var got map[string]any
	res.json(t, &got)
	f := got["findings"].([]any)[0].(map[string]any)
	for _, field := range []string{
		"finding_id", "rule_id", "rule_title", "level", "key", "fields", "count", "late", "peak", "first_time", "last_time", "verdict",
		"explanation", "author", "references", "tags",
	} {
		if _, ok := f[field]; !ok {
			t.Errorf("finding has no %s", field)
		}
	}
	why := d.Findings[0].Explanation
	if f["explanation"] != why {
		t.Errorf("explanation of the finding: %v", f["explanation"])
	}
	if want := "Opened by “Repeated denials”: " + why; got["explanation"] != want {
		t.Errorf("explanation: %v, want %v", got["explanation"], want)
	}
	e := got["evidence"].([]any)
	if first := e[0].(map[string]any); first["raw"] != d.Evidence[0].Raw || first["event"].(map[string]any)["class_uid"] != 4002.0 {
		t.Errorf("evidence: %v", first)
	}
	if second := e[1].(map[string]any); second["state"] != "expired" || second["event"] != nil {
		t.Errorf("expired evidence: %v", second)
	}
	if a := got["audit"].([]any)[0].(map[string]any); a["actor"] != "assembler" || a["action"] != "opened" {
		t.Errorf("audit: %v", a)
	}
	if _, ok := got["merged_into"]; ok {
		t.Error("merged_into on an incident that was not merged")
	}
}

func TestExplanationCountsWhatElseBelongs(t *testing.T) {
	r := newRig(t, nil)
	for n, want := range map[int64]string{
		1: "UTC.", 2: "UTC. One more finding belongs to it, 2 rules in all.", 301: "UTC. 300 more findings belong to it, 2 rules in all.",
	} {
		d := incidentNo(1)
		d.FindingsTotal = n
		if n > 1 {
			d.RuleIDs = append(d.RuleIDs, "another")
		}
		r.mem.put(d)
		var got api.IncidentDetail
		r.as("reader", "GET", "/v1/incidents/"+d.ID, "").wants(t, 200).json(t, &got)
		if !strings.HasSuffix(got.Explanation, want) {
			t.Errorf("%d findings: %q, want it to end in %q", n, got.Explanation, want)
		}
	}
}

func TestMergedIncidentPointsOn(t *testing.T) {
	r := newRig(t, nil)
	d := incidentNo(1)
	d.Status, d.MergedInto, d.Findings = api.StatusMerged, incidentNo(2).ID, nil
	r.mem.put(d)
	var got api.IncidentDetail
	r.as("reader", "GET", "/v1/incidents/"+d.ID, "").wants(t, 200).json(t, &got)
	if got.MergedInto != incidentNo(2).ID || !strings.Contains(got.Explanation, "part of another") {
		t.Errorf("got %+v", got)
	}
	r.as("writer", "PATCH", "/v1/incidents/"+d.ID, `{"status":"resolved"}`).wants(t, 409)
}

func TestFiltersReachTheStore(t *testing.T) {
	r := newRig(t, nil)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for q, want := range map[string]api.Query{
		"":                           {Limit: 51},
		"limit=200":                  {Limit: 201},
		"status=open":                {Statuses: []api.Status{"open"}, Limit: 51},
		"status=open,resolved":       {Statuses: []api.Status{"open", "resolved"}, Limit: 51},
		"severity=high":              {MinSeverity: detect.LevelHigh, Limit: 51},
		"rule=abc":                   {Rule: "abc", Limit: 51},
		"entity=src_endpoint.ip:::1": {Entity: "src_endpoint.ip:::1", Limit: 51},
		"since=2026-03-01T12:00:00Z": {Since: at, Limit: 51},
		"until=2026-03-01T13:00:00%2B01:00&opened_since=2026-03-01T12:00:00Z&opened_until=2026-03-01T12:00:00.5Z": {
			Until: at, OpenedSince: at, OpenedUntil: at.Add(time.Second / 2), Limit: 51,
		},
	} {
		t.Run(q, func(t *testing.T) {
			r.as("reader", "GET", "/v1/incidents?"+q, "").wants(t, 200)
			if diff := cmp.Diff(want, r.mem.query()); diff != "" {
				t.Errorf("query (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever is wrong is named and not repeated.
func TestBadRequestsAreNotEchoed(t *testing.T) {
	const evil = "<script>EVIL</script>"
	r := newRig(t, nil)
	d := incidentNo(1)
	r.mem.put(d)
	one := "/v1/incidents/" + d.ID
	for _, tc := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		location                 string
	}{
		{"status", "GET", "/v1/incidents?status=" + url.QueryEscape(evil), "", nil, 422, "query.status"},
		{"severity", "GET", "/v1/incidents?severity=" + url.QueryEscape(evil), "", nil, 422, "query.severity"},
		{"limit text", "GET", "/v1/incidents?limit=EVIL", "", nil, 422, "query.limit"},
		{"limit low", "GET", "/v1/incidents?limit=0", "", nil, 422, "query.limit"},
		{"limit high", "GET", "/v1/incidents?limit=201", "", nil, 422, "query.limit"},
		{"limit negative", "GET", "/v1/incidents?limit=-1", "", nil, 422, "query.limit"},
		{"since", "GET", "/v1/incidents?since=EVIL", "", nil, 422, "query.since"},
		{"until far", "GET", "/v1/incidents?until=9999-01-01T00:00:00Z", "", nil, 422, "query.until"},
		{"cursor", "GET", "/v1/incidents?cursor=EVIL", "", nil, 400, "query.cursor"},
		{"cursor long", "GET", "/v1/incidents?cursor=" + strings.Repeat("A", 100), "", nil, 422, "query.cursor"},
		{"unknown parameter", "GET", "/v1/incidents?EVIL=1", "", nil, 422, "query"},
		{"NUL", "GET", "/v1/incidents?entity=EVIL%00", "", nil, 422, "query.entity"},
		{"id", "GET", "/v1/incidents/EVIL", "", nil, 422, "path.id"},
		{"body no JSON", "PATCH", one, `{"status":EVIL`, nil, 400, "body"},
		{"body wrong type", "PATCH", one, `{"status":"EVIL"}`, nil, 422, "body.status"},
		{"body merged", "PATCH", one, `{"status":"merged"}`, nil, 422, "body.status"},
		{"body unknown field", "PATCH", one, `{"EVIL":1,"status":"open"}`, nil, 422, "body"},
		{"body empty change", "PATCH", one, `{}`, nil, 422, "body"},
		{"body version", "PATCH", one, `{"status":"open","version":"EVIL"}`, nil, 422, "body.version"},
		{"assignee control", "PATCH", one, `{"assignee":"EVIL\u202e"}`, nil, 422, "body.assignee"},
		{"assignee long", "PATCH", one, `{"assignee":"` + strings.Repeat("EVIL", 100) + `"}`, nil, 422, "body.assignee"},
		{"If-Match", "PATCH", one, `{"status":"open"}`, []string{"If-Match", "EVIL"}, 422, "header.If-Match"},
		{"body of no type", "PATCH", one, `EVIL`, []string{"Content-Type", "text/EVIL"}, 415, ""},
		{"body too large", "PATCH", one, `{"assignee":"` + strings.Repeat("EVIL", 1<<15) + `"}`, nil, 413, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := r.as("writer", tc.method, tc.path, tc.body, tc.headers...).wants(t, tc.status)
			if strings.Contains(strings.ToUpper(res.body), "EVIL") || strings.Contains(res.body, "script") {
				t.Errorf("echoed: %s", res.body)
			}
			if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %s", ct)
			}
			var p struct {
				Status int
				Errors []struct{ Location, Message string }
			}
			res.json(t, &p)
			if p.Status != tc.status {
				t.Errorf("problem says %d", p.Status)
			}
			if tc.location != "" && (len(p.Errors) == 0 || p.Errors[0].Location != tc.location) {
				t.Errorf("errors %+v, want one at %s", p.Errors, tc.location)
			}
		})
	}
	if len(r.mem.changes) > 0 {
		t.Errorf("changed all the same: %v", r.mem.changes)
	}
}

// Pages are walked while incidents are added at the top: nothing comes twice and
// nothing that was there at the start is missing.
func TestPaginationIsStableUnderInserts(t *testing.T) {
	r := newRig(t, nil)
	want := map[string]bool{}
	for n := range 23 {
		d := incidentNo(n)
		d.OpenedAt = start.Add(time.Duration(n/4) * time.Second) // ties
		r.mem.put(d)
		want[d.ID] = true
	}
	seen := map[string]bool{}
	cursor := ""
	for page := range 20 {
		var got listAnswer
		r.as("reader", "GET", "/v1/incidents?limit=5&cursor="+cursor, "").wants(t, 200).json(t, &got)
		for _, inc := range got.Incidents {
			if seen[inc.ID] {
				t.Fatalf("%s came twice", inc.ID)
			}
			seen[inc.ID] = true
		}
		r.mem.put(incidentNo(100 + page))
		if cursor = got.Next; cursor == "" {
			break
		}
		if len(got.Incidents) != 5 {
			t.Errorf("page %d has %d incidents", page, len(got.Incidents))
		}
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
}

func TestPatch(t *testing.T) {
	r := newRig(t, nil)
	d := incidentNo(1)
	r.mem.put(d)
	path := "/v1/incidents/" + d.ID

	var got api.IncidentDetail
	res := r.as("writer", "PATCH", path, `{"status":"acknowledged","assignee":"mara"}`).wants(t, 200)
	res.json(t, &got)
	if got.Status != api.StatusAcknowledged || got.Assignee != "mara" || got.Version != 2 || res.Header.Get("ETag") != `"2"` {
		t.Errorf("got %s, %s, version %d, ETag %s", got.Status, got.Assignee, got.Version, res.Header.Get("ETag"))
	}
	r.as("writer", "PATCH", path, `{"status":"resolved"}`, "If-Match", `"1"`).wants(t, 412)
	r.as("writer", "PATCH", path, `{"status":"resolved","version":1}`).wants(t, 412)
	r.as("writer", "PATCH", path, `{"status":"resolved","version":1}`, "If-Match", `"2"`).wants(t, 422)
	r.as("writer", "PATCH", path, `{"status":"resolved"}`, "If-Match", `"2"`).wants(t, 200)
	r.as("admin", "PATCH", strings.ToUpper(path[:14])+path[14:], `{"assignee":""}`).wants(t, 404) // paths are case-sensitive
	r.as("admin", "PATCH", path, `{"assignee":""}`).wants(t, 200)
	r.as("writer", "PATCH", "/v1/incidents/"+incidentNo(9).ID, `{"status":"open"}`).wants(t, 404)
	want := []string{"acknowledged mara by writer", "resolved mara by writer", "resolved  by admin"}
	if diff := cmp.Diff(want, r.mem.changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestStoreErrors(t *testing.T) {
	r := newRig(t, nil)
	d := incidentNo(1)
	r.mem.put(d)
	for _, tc := range []struct {
		err    error
		status int
		retry  string
	}{
		{errAway, 503, "5"},
		{fmt.Errorf("query: syntax error near postgres://secret"), 500, ""},
	} {
		r.mem.away(tc.err)
		for _, req := range [][2]string{{"GET", "/v1/incidents"}, {"GET", "/v1/incidents/" + d.ID}, {"PATCH", "/v1/incidents/" + d.ID}} {
			body := ""
			if req[0] == "PATCH" {
				body = `{"status":"open"}`
			}
			res := r.as("admin", req[0], req[1], body).wants(t, tc.status)
			if strings.Contains(res.body, "secret") {
				t.Errorf("tells: %s", res.body)
			}
			if got := res.Header.Get("Retry-After"); got != tc.retry {
				t.Errorf("Retry-After %q, want %q", got, tc.retry)
			}
			id := res.Header.Get("X-Request-Id")
			if id == "" || !strings.Contains(r.log.String(), id) || !strings.Contains(r.log.String(), "secret") {
				t.Errorf("the log does not have the cause under %q", id)
			}
		}
	}
}

// One line a request, with what an operator asks for.
func TestAccessLog(t *testing.T) {
	r := newRig(t, nil)
	r.mem.put(incidentNo(1))
	res := r.as("reader", "GET", "/v1/incidents?limit=1", "").wants(t, 200)
	r.srv.Close() // waits for the handler to be done
	var lines []map[string]any
	for line := range strings.Lines(r.log.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] == "request" {
			lines = append(lines, m)
		}
	}
	if len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	got := lines[0]
	for k, want := range map[string]any{
		"request_id": res.Header.Get("X-Request-Id"), "method": "GET", "path": "/v1/incidents", "status": 200.0, "token": "reader",
	} {
		if got[k] != want {
			t.Errorf("%s is %v, want %v", k, got[k], want)
		}
	}
	if strings.Contains(r.log.String(), r.token["reader"].Reveal()) {
		t.Error("the token is in the log")
	}
}

func TestPanicIsAnswered(t *testing.T) {
	r := newRig(t, func(o *api.Options) {
		o.OCSF = func(string, []byte) ([]byte, error) { panic("at the disco") }
	})
	r.mem.put(incidentNo(1))
	res := r.as("reader", "GET", "/v1/incidents/"+incidentNo(1).ID, "").wants(t, http.StatusInternalServerError)
	if strings.Contains(res.body, "disco") || !strings.Contains(r.log.String(), "disco") {
		t.Errorf("body %s", res.body)
	}
}
