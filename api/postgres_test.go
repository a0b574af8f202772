package api_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// onPostgres is a rig whose incidents, acts and tokens are in Postgres.
func onPostgres(t *testing.T, o storage.Options) (*rig, *storage.DB, api.Secret) {
	t.Helper()
	o.DSN = pgtest.NewDSN(t)
	db := pgtest.Open(t, o)
	admin, err := api.EnsureAdminToken(t.Context(), db, tenant, "admin", filepath.Join(t.TempDir(), "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	actions, err := api.NewActions(incident.Options{Ledger: db, Receivers: []incident.Receiver{{Name: "pager"}}}, storage.IsTransient)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(o *api.Options) { o.Tokens, o.Incidents, o.Actions = db, db, actions })
	return r, db, admin
}

// insert puts incident n with one finding and one record into the tables.
func insert(t *testing.T, db *storage.DB, n int, status string) string {
	t.Helper()
	id := idOf(n)
	finding := []byte(fmt.Sprintf("finding-%08d", n))
	var into any
	if status == "merged" {
		into = idOf(1)
	}
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO rule_version (version, rule_id, title, level, author, group_by, summary)
			VALUES ('v1', 'rule-a', 'Repeated <b>denials</b>', 3, 'Mara', '{src_endpoint.ip}', 'more than 50 denials in 5 minutes') ON CONFLICT DO NOTHING`, nil},
		{`INSERT INTO incident (tenant, id, status, merged_into, opener, rule_id, rule_ids, title, severity, first_seen, last_seen, opened_at)
			VALUES ('default', $1, $2, $3, $4, 'rule-a', '{rule-a}', 'Repeated <b>denials</b>', 3, $5, $5, $6)`, []any{id, status, into, finding, start.UnixNano(), start}},
		{`INSERT INTO finding (tenant, id, rule_version, key, tile, count, peak, first_time, last_time, partition, number, incident_id)
			VALUES ('default', $1, 'v1', $2, 0, 240, 57, $3, $3, 0, 1, $4)`, []any{finding, detect.AppendKey(nil, []byte("203.0.113.7")), start.UnixNano(), id}},
		{`INSERT INTO finding_entity (tenant, finding_id, type, value) VALUES ('default', $1, 'src_endpoint.ip', '203.0.113.7')`, []any{finding}},
		{`INSERT INTO evidence_record (tenant, finding_id, incarnation, partition, record_offset, event_time, state, log_type, event_uid, raw)
			VALUES ('default', $1, 1, 0, 4711, $2, 'copied', 'aws.cloudtrail', 'e1', '{"userAgent":"<script>alert(1)</script>"}')`, []any{finding, start.UnixNano()}},
	} {
		if _, err := db.Pool().Exec(t.Context(), q.sql, q.args...); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

func idOf(n int) string { return incidentNo(n).ID }

func TestOnPostgres(t *testing.T) {
	r, db, admin := onPostgres(t, storage.Options{})
	id := insert(t, db, 1, "open")
	merged := insert(t, db, 2, "merged")
	do := func(method, path, body string, headers ...string) reply {
		t.Helper()
		return r.do(method, path, admin.Reveal(), body, headers...)
	}
	d := readDocument(t, r)

	var list listAnswer
	res := do("GET", "/v1/incidents?entity=src_endpoint.ip:203.0.113.7&severity=high&status=open", "").wants(t, 200)
	d.check("GET", "/v1/incidents", res)
	res.json(t, &list)
	if len(list.Incidents) != 1 || list.Incidents[0].ID != id || list.Next != "" {
		t.Fatalf("list %+v", list)
	}
	path := "/v1/incidents/" + id
	res = do("GET", path, "").wants(t, 200)
	d.check("GET", "/v1/incidents/{id}", res)
	tag := res.Header.Get("ETag")

	// Acknowledge and assign at once; then with an ETag that is out of date.
	var got api.IncidentDetail
	res = do("PATCH", path, `{"status":"acknowledged","assignee":"mara"}`, "If-Match", tag).wants(t, 200)
	d.check("PATCH", "/v1/incidents/{id}", res)
	res.json(t, &got)
	if got.Status != api.StatusAcknowledged || got.Assignee != "mara" || got.AcknowledgedAt == nil {
		t.Errorf("after the change: %+v", got.Incident)
	}
	do("PATCH", path, `{"status":"resolved"}`, "If-Match", tag).wants(t, 412)
	do("PATCH", path, `{"status":"resolved"}`).wants(t, 200)
	do("PATCH", path, `{"status":"acknowledged"}`).wants(t, 409) // reopen it first
	do("PATCH", "/v1/incidents/"+merged, `{"status":"resolved"}`).wants(t, 409)
	do("PATCH", path, `{"status":"resolved"}`).wants(t, 200) // changes nothing
	do("GET", path, "").wants(t, 200).json(t, &got)
	var trail []string
	for _, a := range got.Audit {
		trail = append(trail, a.Action+" by "+a.Actor)
	}
	if diff := cmp.Diff([]string{"acknowledged by admin", "assigned by admin", "resolved by admin"}, trail); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
	do("GET", "/v1/incidents/"+merged, "").wants(t, 200).json(t, &got)
	if got.MergedInto != id {
		t.Errorf("merged into %q", got.MergedInto)
	}
	do("GET", "/v1/incidents/"+idOf(9), "").wants(t, 404)

	// The page, as somebody who signs in.
	res = r.form("/signin", "", url.Values{"token": {admin.Reveal()}}).wants(t, 303)
	cookie := res.Cookies()[0].Name + "=" + res.Cookies()[0].Value
	page := r.do("GET", "/incidents/"+id, "", "", "Cookie", cookie).wants(t, 200)
	for _, want := range []string{"Repeated &lt;b&gt;denials", "&lt;script&gt;", "203.0.113.7", "Reopen", "more than 50 denials"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	r.form("/incidents/"+id, cookie, url.Values{"csrf": {csrfOf(t, page.body)}, "status": {"open"}, "version": {versionField(t, page.body)}}).wants(t, 303)
	do("GET", path, "").wants(t, 200).json(t, &got)
	if got.Status != api.StatusOpen {
		t.Errorf("after reopening: %s", got.Status)
	}

	if err := db.RevokeToken(t.Context(), tenant, "admin"); err != nil {
		t.Fatal(err)
	}
	r.pass(time.Second)
	do("GET", path, "").wants(t, 401)
	r.do("GET", "/", "", "", "Cookie", cookie).wants(t, 303)
}

// Of two who change the same version one is told that it was the other.
func TestRacingChanges(t *testing.T) {
	r, db, admin := onPostgres(t, storage.Options{})
	path := "/v1/incidents/" + insert(t, db, 1, "open")
	codes := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, status := range []string{"acknowledged", "resolved"} {
		wg.Go(func() {
			res := r.do("PATCH", path, admin.Reveal(), `{"status":"`+status+`"}`, "If-Match", `"1"`)
			mu.Lock()
			defer mu.Unlock()
			codes[res.StatusCode]++
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[int]int{200: 1, 412: 1}, codes); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// Half of a change is none: a status that cannot be set takes the assignment back.
func TestChangesAreAllOrNothing(t *testing.T) {
	r, db, admin := onPostgres(t, storage.Options{})
	path := "/v1/incidents/" + insert(t, db, 1, "open")
	r.do("PATCH", path, admin.Reveal(), `{"status":"resolved"}`).wants(t, 200)
	r.do("PATCH", path, admin.Reveal(), `{"status":"acknowledged","assignee":"mara"}`).wants(t, 409)
	var got api.IncidentDetail
	r.do("GET", path, admin.Reveal(), "").wants(t, 200).json(t, &got)
	if got.Assignee != "" || len(got.Audit) != 1 {
		t.Errorf("assignee %q, audit %+v", got.Assignee, got.Audit)
	}
}

// What a database that is in the way makes of a request is worth trying again.
func TestPostgresInTheWay(t *testing.T) {
	r, db, admin := onPostgres(t, storage.Options{LockTimeout: 100 * time.Millisecond})
	path := "/v1/incidents/" + insert(t, db, 1, "open")
	tx, err := db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // nothing was written
	if _, err := tx.Exec(t.Context(), "LOCK TABLE incident IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	for _, req := range [][3]string{{"GET", "/v1/incidents"}, {"GET", path}, {"PATCH", path, `{"status":"resolved"}`}} {
		res := r.do(req[0], req[1], admin.Reveal(), req[2]).wants(t, 503)
		if res.Header.Get("Retry-After") == "" || strings.Contains(res.body, "lock") {
			t.Errorf("%s %s: %v %s", req[0], req[1], res.Header, res.body)
		}
	}
}
