package api_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is the OpenAPI document as a client reads it.
type document struct {
	t        *testing.T
	doc      map[string]any
	compiler *jsonschema.Compiler
}

func readDocument(t *testing.T, r *rig) *document {
	t.Helper()
	res := r.do("GET", "/openapi.json", "", "").wants(t, 200)
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(res.body))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("mem:openapi.json", v); err != nil {
		t.Fatal(err)
	}
	return &document{t, v.(map[string]any), c}
}

// at walks into the document.
func (d *document) at(path ...string) map[string]any {
	d.t.Helper()
	v := d.doc
	for i, p := range path {
		next, ok := v[p].(map[string]any)
		if !ok {
			d.t.Fatalf("the document has no %s", strings.Join(path[:i+1], " "))
		}
		v = next
	}
	return v
}

// check validates an answer against what the document says of it.
func (d *document) check(method, path string, res reply) {
	d.t.Helper()
	responses := d.at("paths", path, strings.ToLower(method), "responses")
	status := fmt.Sprint(res.StatusCode)
	if _, ok := responses[status]; !ok {
		d.t.Errorf("%s %s: status %s is not documented", method, path, status)
		return
	}
	content := d.at("paths", path, strings.ToLower(method), "responses", status, "content")
	ct := res.Header.Get("Content-Type")
	if _, ok := content[ct]; !ok {
		d.t.Errorf("%s %s %s: content type %s is not documented", method, path, status, ct)
		return
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	s, err := d.compiler.Compile(fmt.Sprintf("mem:openapi.json#/paths/%s/%s/responses/%s/content/%s/schema",
		escape.Replace(path), strings.ToLower(method), status, escape.Replace(strings.ReplaceAll(ct, "+", "%2B"))))
	if err != nil {
		d.t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(res.body))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := s.Validate(v); err != nil {
		d.t.Errorf("%s %s %s: %v\n%s", method, path, status, err, res.body)
	}
}

func TestOpenAPIMatchesWhatIsServed(t *testing.T) {
	r := newRig(t, nil)
	d := readDocument(t, r)
	if got := d.doc["openapi"]; got != "3.1.0" {
		t.Errorf("openapi %v", got)
	}
	var ops []string
	for path, item := range d.at("paths") {
		for method, op := range item.(map[string]any) {
			o := op.(map[string]any)
			ops = append(ops, strings.ToUpper(method)+" "+path)
			if o["operationId"] == "" || o["summary"] == "" {
				t.Errorf("%s %s says nothing of itself", method, path)
			}
			if sec, _ := o["security"].([]any); strings.HasPrefix(path, "/v1/") && len(sec) != 1 {
				t.Errorf("%s %s: security %v", method, path, o["security"])
			}
		}
	}
	slices.Sort(ops)
	want := []string{
		"GET /healthz", "GET /readyz", "GET /v1/incidents", "GET /v1/incidents/{id}", "PATCH /v1/incidents/{id}", "POST /v1/logs",
	}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}

	rich, merged := incidentNo(1), incidentNo(2)
	rich.Assignee = "mara"
	merged.Status, merged.MergedInto, merged.Findings, merged.Evidence, merged.Audit, merged.Tags = "merged", rich.ID, nil, nil, nil, nil
	merged.AcknowledgedAt = &start
	r.mem.put(rich, merged)
	const list, one = "/v1/incidents", "/v1/incidents/{id}"
	id := func(n int) string { return "/v1/incidents/" + incidentNo(n).ID }
	d.check("GET", list, r.as("reader", "GET", list+"?limit=1", "").wants(t, 200))
	d.check("GET", list, r.as("reader", "GET", list, "").wants(t, 200))
	d.check("GET", list, r.as("reader", "GET", list+"?cursor=x", "").wants(t, 400))
	d.check("GET", list, r.as("reader", "GET", list+"?limit=x", "").wants(t, 422))
	d.check("GET", list, r.as("ingester", "GET", list, "").wants(t, 403))
	d.check("GET", list, r.do("GET", list, "", "").wants(t, 401))
	d.check("GET", one, r.as("reader", "GET", id(1), "").wants(t, 200))
	d.check("GET", one, r.as("reader", "GET", id(2), "").wants(t, 200))
	d.check("GET", one, r.as("reader", "GET", id(3), "").wants(t, 404))
	d.check("PATCH", one, r.as("writer", "PATCH", id(1), `{"status":"acknowledged"}`).wants(t, 200))
	d.check("PATCH", one, r.as("writer", "PATCH", id(2), `{"status":"acknowledged"}`).wants(t, 409))
	d.check("PATCH", one, r.as("writer", "PATCH", id(1), `{"status":"open"}`, "If-Match", `"77"`).wants(t, 412))
	d.check("PATCH", one, r.as("writer", "PATCH", id(1), `{`).wants(t, 400))
	d.check("PATCH", one, r.as("writer", "PATCH", id(1), `x`, "Content-Type", "text/x").wants(t, 415))
	d.check("PATCH", one, r.as("writer", "PATCH", id(1), `{"assignee":"`+strings.Repeat("x", 1<<17)+`"}`).wants(t, 413))
	d.check("POST", "/v1/logs", r.as("reader", "POST", "/v1/logs", "{}").wants(t, 403))
	d.check("GET", "/healthz", r.do("GET", "/healthz", "", "").wants(t, 200))
	d.check("GET", "/readyz", r.do("GET", "/readyz", "", "").wants(t, 200))
	r.mem.away(errAway)
	d.check("GET", list, r.as("reader", "GET", list, "").wants(t, http.StatusServiceUnavailable))
	r.mem.away(fmt.Errorf("a fault"))
	d.check("GET", list, r.as("reader", "GET", list, "").wants(t, http.StatusInternalServerError))
}

// A process that only takes logs has no incidents, and says so.
func TestProcessWithoutIncidents(t *testing.T) {
	r := newRig(t, withoutIncidents)
	r.as("ingester", "POST", "/v1/logs", "{}").wants(t, 202)
	r.as("admin", "GET", "/v1/incidents", "").wants(t, 404)
	r.do("GET", "/", "", "").wants(t, 404)
	paths := slices.Sorted(maps.Keys(readDocument(t, r).at("paths")))
	if diff := cmp.Diff([]string{"/healthz", "/readyz", "/v1/logs"}, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}
