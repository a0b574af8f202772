package storage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/storage"
	"github.com/vedette-sec/vedette/storage/pgtest"
)

// t0 is where the seeded incidents begin.
var t0 = time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)

// seeded is one incident to be put into the tables as the assembler would.
type seeded struct {
	n        int // its id; also orders opened_at unless that is given
	tenant   string
	status   string // open
	into     int    // merged into
	severity detect.Level
	rules    []string
	entities [][2]string
	first    time.Duration // after t0
	last     time.Duration
	opened   time.Duration
}

func seedID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func findingID(n int) []byte { return []byte(fmt.Sprintf("finding-%08d", n)) }

func seed(t *testing.T, db *storage.DB, ins ...seeded) {
	t.Helper()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Pool().Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO rule_version (version, rule_id, title, level, author, license, description, rule_references, tags, false_positives, group_by, summary)
		VALUES ('v1', 'rule-a', 'Repeated denials', 3, 'Mara', 'DRL 1.1', 'Somebody tries doors.', '{https://example.com/a}', '{attack.t1110}', '{an expired key}', '{src_endpoint.ip}', 'more than 50 denials in 5 minutes')
		ON CONFLICT DO NOTHING`)
	for _, in := range ins {
		if in.tenant == "" {
			in.tenant = "default"
		}
		if in.status == "" {
			in.status = "open"
		}
		if in.rules == nil {
			in.rules = []string{"rule-a"}
		}
		if in.opened == 0 {
			in.opened = time.Duration(in.n) * time.Minute
		}
		var into any
		if in.into != 0 {
			into = seedID(in.into)
		}
		first, last := t0.Add(in.first).UnixNano(), t0.Add(max(in.first, in.last)).UnixNano()
		exec(`INSERT INTO incident (tenant, id, status, merged_into, opener, rule_id, rule_ids, title, severity, account, tags, count, first_seen, last_seen, opened_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '111122223333', '{attack.t1110}', 240, $10, $11, $12, $12)`,
			in.tenant, seedID(in.n), in.status, into, findingID(in.n), in.rules[0], in.rules, fmt.Sprintf("Incident %d", in.n), int16(in.severity),
			first, last, t0.Add(in.opened))
		exec(`INSERT INTO finding (tenant, id, rule_version, key, tile, count, peak, first_time, last_time, detail, partition, number, incident_id)
			VALUES ($1, $2, 'v1', $3, 0, 240, 57, $4, $5, '{"threshold":50}', 0, 1, $6)`,
			in.tenant, findingID(in.n), detect.AppendKey(nil, []byte("203.0.113.7")), first, last, seedID(in.n))
		for _, e := range in.entities {
			exec(`INSERT INTO finding_entity (tenant, finding_id, type, value) VALUES ($1, $2, $3, $4)`, in.tenant, findingID(in.n), e[0], e[1])
		}
	}
}

func numbers(list []api.Incident) []int {
	ns := []int{}
	for _, in := range list {
		var n int
		fmt.Sscanf(strings.TrimLeft(in.ID[len(in.ID)-12:], "0"), "%d", &n)
		ns = append(ns, n)
	}
	return ns
}

func TestListIncidentsFilters(t *testing.T) {
	db := pgtest.New(t)
	const role = "arn:aws:iam::111122223333:role/deploy"
	seed(t, db,
		seeded{n: 1, severity: detect.LevelLow, entities: [][2]string{{"src_endpoint.ip", "203.0.113.7"}, {"actor.user.uid", role}}, last: time.Hour},
		seeded{n: 2, severity: detect.LevelHigh, status: "acknowledged", rules: []string{"rule-b", "rule-a"}, entities: [][2]string{{"src_endpoint.ip", "2001:db8::1"}}, first: time.Hour, last: 3 * time.Hour},
		seeded{n: 3, severity: detect.LevelCritical, status: "resolved", entities: [][2]string{{"function.name", "203.0.113.7"}}, first: 5 * time.Hour},
		seeded{n: 4, severity: detect.LevelMedium, status: "merged", into: 1},
		seeded{n: 5, tenant: "other", severity: detect.LevelCritical, entities: [][2]string{{"src_endpoint.ip", "203.0.113.7"}}},
	)
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	for name, tc := range map[string]struct {
		q    api.Query
		want []int
	}{
		"nothing":             {api.Query{}, []int{3, 2, 1}},
		"status":              {api.Query{Statuses: []api.Status{"open"}}, []int{1}},
		"statuses":            {api.Query{Statuses: []api.Status{"open", "resolved"}}, []int{3, 1}},
		"merged":              {api.Query{Statuses: []api.Status{"merged"}}, []int{4}},
		"severity":            {api.Query{MinSeverity: detect.LevelHigh}, []int{3, 2}},
		"severity and status": {api.Query{MinSeverity: detect.LevelMedium, Statuses: []api.Status{"open"}}, []int{}},
		"rule of the opener":  {api.Query{Rule: "rule-b"}, []int{2}},
		"rule of another":     {api.Query{Rule: "rule-a"}, []int{3, 2, 1}},
		"no such rule":        {api.Query{Rule: "rule"}, []int{}},
		"bare value":          {api.Query{Entity: "203.0.113.7"}, []int{3, 1}},
		"type and value":      {api.Query{Entity: "src_endpoint.ip:203.0.113.7"}, []int{1}},
		"another type":        {api.Query{Entity: "actor.user.uid:203.0.113.7"}, []int{}},
		"value with colons":   {api.Query{Entity: role}, []int{1}},
		"type with colons":    {api.Query{Entity: "actor.user.uid:" + role}, []int{1}},
		"other spelling":      {api.Query{Entity: "2001:DB8:0::1"}, []int{2}},
		"typed spelling":      {api.Query{Entity: "src_endpoint.ip:2001:0db8::0001"}, []int{2}},
		"mapped address":      {api.Query{Entity: "::ffff:203.0.113.7"}, []int{3, 1}},
		"part of a value":     {api.Query{Entity: "203.0.113"}, []int{}},
		"pattern":             {api.Query{Entity: "%"}, []int{}},
		"quote":               {api.Query{Entity: `' OR 1=1 --`, Rule: `'; DROP TABLE incident; --`}, []int{}},
		"since":               {api.Query{Since: at(3 * time.Hour)}, []int{3, 2}},
		"until":               {api.Query{Until: at(time.Hour)}, []int{1}},
		"since and until":     {api.Query{Since: at(2 * time.Hour), Until: at(5 * time.Hour)}, []int{2}},
		"opened since":        {api.Query{OpenedSince: at(2 * time.Minute)}, []int{3, 2}},
		"opened until":        {api.Query{OpenedUntil: at(2 * time.Minute)}, []int{1}},
		"limit":               {api.Query{Limit: 2}, []int{3, 2}},
		"after":               {api.Query{After: api.Cursor{OpenedAt: at(2 * time.Minute), ID: seedID(2)}}, []int{1}},
		"after, between":      {api.Query{After: api.Cursor{OpenedAt: at(2*time.Minute + time.Second), ID: seedID(0)}}, []int{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.q.Limit == 0 {
				tc.q.Limit = 100
			}
			list, err := db.ListIncidents(t.Context(), "default", tc.q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, numbers(list)); diff != "" {
				t.Errorf("incidents (-want +got):\n%s", diff)
			}
		})
	}
}

func TestListedIncident(t *testing.T) {
	db := pgtest.New(t)
	var es [][2]string
	for i := range 30 {
		es = append(es, [2]string{"src_endpoint.ip", fmt.Sprintf("203.0.113.%d", 100+i)})
	}
	seed(t, db, seeded{n: 1, severity: detect.LevelHigh, entities: es, first: time.Nanosecond, last: time.Hour}, seeded{n: 2})
	list, err := db.ListIncidents(t.Context(), "default", api.Query{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list[1].Entities); n != 20 {
		t.Errorf("%d entities in the list", n)
	}
	list[1].Entities = list[1].Entities[:1]
	want := []api.Incident{{
		ID: seedID(2), RuleID: "rule-a", RuleIDs: []string{"rule-a"}, Title: "Incident 2", Severity: "informational", Status: "open",
		Account: "111122223333", Entities: []api.Entity{}, Count: 240, FirstSeen: t0, LastSeen: t0, OpenedAt: t0.Add(2 * time.Minute),
	}, {
		ID: seedID(1), RuleID: "rule-a", RuleIDs: []string{"rule-a"}, Title: "Incident 1", Severity: "high", Status: "open",
		Account: "111122223333", Entities: []api.Entity{{Type: "src_endpoint.ip", Value: "203.0.113.100"}}, Count: 240,
		FirstSeen: t0.Add(1), LastSeen: t0.Add(time.Hour), OpenedAt: t0.Add(time.Minute),
	}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	n, err := db.CountIncidents(t.Context(), "default")
	if diff := cmp.Diff(map[api.Status]int64{"open": 2}, n); diff != "" || err != nil {
		t.Errorf("counts (-want +got): %v\n%s", err, diff)
	}
}

// A list is walked in pages while incidents are opened, resolved and merged:
// nothing comes twice, and nothing is left out that stayed as it was.
func TestPagesAreStable(t *testing.T) {
	db := pgtest.New(t)
	var ins []seeded
	for n := 1; n <= 40; n++ {
		ins = append(ins, seeded{n: n, opened: time.Duration(1+n/7) * time.Minute}) // many at one instant
	}
	seed(t, db, ins...)
	seen := map[int]bool{}
	var after api.Cursor
	for page := 0; ; page++ {
		list, err := db.ListIncidents(t.Context(), "default", api.Query{Statuses: []api.Status{"open"}, Limit: 6, After: after})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, n := range numbers(list) {
			if seen[n] {
				t.Fatalf("%d came twice", n)
			}
			seen[n] = true
		}
		last := list[len(list)-1]
		after = api.Cursor{OpenedAt: last.OpenedAt, ID: last.ID}
		seed(t, db, seeded{n: 100 + page, opened: 2 * time.Hour})
		if _, err := db.Pool().Exec(t.Context(), `UPDATE incident SET status = 'resolved' WHERE id = $1`, last.ID); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n <= 40; n++ {
		if !seen[n] {
			t.Errorf("%d is missing", n)
		}
	}
}

func TestFindIncident(t *testing.T) {
	db := pgtest.New(t)
	seed(t, db,
		seeded{n: 1, severity: detect.LevelHigh, entities: [][2]string{{"src_endpoint.ip", "203.0.113.7"}}, last: time.Hour},
		seeded{n: 2, status: "merged", into: 1},
		seeded{n: 3, tenant: "other"},
	)
	raw := `{"eventID":"e1","n":` + strings.Repeat("1", 300<<10) + `}`
	for i, state := range []string{"copied", "expired", "copied"} {
		body := []byte{}
		switch i {
		case 0:
			body = []byte(raw)
		case 2:
			body = []byte("text \xff")
		}
		if _, err := db.Pool().Exec(t.Context(), `INSERT INTO evidence_record (tenant, finding_id, incarnation, partition, record_offset, event_time, state, log_type, event_uid, raw)
			VALUES ('default', $1, 1, 0, $2, $3, $4, 'aws.cloudtrail', $5, $6)`,
			findingID(1), 4711+i, t0.Add(time.Duration(i)*time.Second).UnixNano(), state, fmt.Sprintf("e%d", i+1), body); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []string{"opened", "acknowledged"} {
		if _, err := db.Pool().Exec(t.Context(), `INSERT INTO incident_audit (tenant, incident_id, at, actor, action, detail) VALUES ('default', $1, $2, 'mara', $3, '{"note":"x"}')`,
			seedID(1), t0, a); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.FindIncident(t.Context(), "default", seedID(1))
	if err != nil {
		t.Fatal(err)
	}
	if f := got.Findings; len(f) != 1 || f[0].RuleTitle != "Repeated denials" || f[0].Author != "Mara" || f[0].Level != "high" ||
		!slices.Equal(f[0].Key, []string{"203.0.113.7"}) || !slices.Equal(f[0].Fields, []string{"src_endpoint.ip"}) || f[0].Peak != 57 ||
		string(f[0].Detail) != `{"threshold":50}` || !strings.Contains(f[0].Explanation, "203.0.113.7") ||
		!strings.Contains(f[0].Explanation, "more than 50 denials in 5 minutes") || !slices.Equal(f[0].References, []string{"https://example.com/a"}) || !f[0].LastTime.Equal(t0.Add(time.Hour)) {
		t.Errorf("findings %+v", f)
	}
	if got.FindingsTotal != 1 || got.Version != 1 || got.MergedInto != "" || got.AcknowledgedAt != nil || len(got.Entities) != 1 {
		t.Errorf("incident %+v", got)
	}
	if len(got.Evidence) != 3 {
		t.Fatalf("%d records", len(got.Evidence))
	}
	if e := got.Evidence[0]; !e.Truncated || e.Size != int64(len(raw)) || e.Raw != raw[:256<<10] || e.Source != "1/0/4711" || e.EventID != "e1" || e.State != "copied" {
		t.Errorf("long record: %v, %d of %d bytes, %s", e.Truncated, len(e.Raw), e.Size, e.Source)
	}
	if e := got.Evidence[1]; e.State != "expired" || e.Raw != "" || e.Truncated {
		t.Errorf("expired record %+v", e)
	}
	if e := got.Evidence[2]; e.Raw != "text \uFFFD" {
		t.Errorf("text record %q", e.Raw)
	}
	if a := got.Audit; len(a) != 2 || a[0].Action != "opened" || a[1].Action != "acknowledged" || string(a[0].Detail) != `{"note": "x"}` {
		t.Errorf("audit %+v", a)
	}

	got, err = db.FindIncident(t.Context(), "default", seedID(2))
	if err != nil || got.Status != api.StatusMerged || got.MergedInto != seedID(1) {
		t.Errorf("merged: %v, %+v", err, got)
	}
	for _, id := range []string{seedID(3), seedID(99)} { // another tenant's, nobody's
		if _, err := db.FindIncident(t.Context(), "default", id); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: error %v", id, err)
		}
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
}

// An incident of very many findings is still shown: its first findings, and some
// records of each.
func TestLargeIncident(t *testing.T) {
	db := pgtest.New(t)
	seed(t, db, seeded{n: 1})
	if _, err := db.Pool().Exec(t.Context(), `
		INSERT INTO finding (tenant, id, rule_version, key, tile, count, peak, first_time, last_time, partition, number, incident_id)
		SELECT 'default', decode(lpad(to_hex(n), 32, '0'), 'hex'), 'gone', '', 0, 1, 1, $1::bigint + n, $1::bigint + n, 0, 1, $2::text::uuid FROM generate_series(1, 1000) n`,
		t0.UnixNano(), seedID(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool().Exec(t.Context(), `
		INSERT INTO evidence_record (tenant, finding_id, incarnation, partition, record_offset, event_time, state)
		SELECT tenant, id, 1, 0, o, first_time + o, 'expired' FROM finding, generate_series(1, 3) o WHERE id <> $1`, findingID(1)); err != nil {
		t.Fatal(err)
	}
	got, err := db.FindIncident(t.Context(), "default", seedID(1))
	if err != nil {
		t.Fatal(err)
	}
	if got.FindingsTotal != 1001 || len(got.Findings) != 200 || got.Findings[1].RuleTitle != "gone" {
		t.Errorf("%d findings of %d, %+v", len(got.Findings), got.FindingsTotal, got.Findings[1])
	}
	of := map[string]int{}
	for _, e := range got.Evidence {
		of[e.FindingID]++
	}
	if len(got.Evidence) != 50 || len(of) != 50 {
		t.Errorf("%d records of %d findings", len(got.Evidence), len(of))
	}
}

func TestTokens(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	secret, err := db.CreateToken(ctx, "default", "ci", api.ScopeIngest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := db.TokenByHash(ctx, secret.Hash())
	if err != nil || got.Tenant != "default" || got.Name != "ci" || !slices.Equal(got.Scopes, []api.Scope{api.ScopeIngest}) || got.Hash != secret.Hash() || !got.RevokedAt.IsZero() {
		t.Errorf("token %+v, %v", got, err)
	}
	if _, err := db.CreateToken(ctx, "default", "ci", api.ScopeRead); !errors.Is(err, storage.ErrExists) {
		t.Errorf("the same name: %v", err)
	}
	if _, err := db.CreateToken(ctx, "other", "ci", api.ScopeRead); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
	if _, err := db.TokenByHash(ctx, api.NewSecret().Hash()); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	for range 2 {
		if err := db.RevokeToken(ctx, "default", "ci"); err != nil {
			t.Error(err)
		}
	}
	if err := db.RevokeToken(ctx, "default", "nobody"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("revoke nobody: %v", err)
	}
	if got, err := db.TokenByHash(ctx, secret.Hash()); err != nil || got.RevokedAt.IsZero() {
		t.Errorf("revoked token %+v, %v", got, err)
	}
	if _, err := db.CreateToken(ctx, "default", "ci", api.ScopeRead); !errors.Is(err, storage.ErrExists) {
		t.Errorf("a revoked token's name: %v", err)
	}
	// An admin token is put anew under its name: the old secret is void.
	first, second := api.NewSecret(), api.NewSecret()
	for _, s := range []api.Secret{first, second} {
		if err := db.PutToken(ctx, api.Token{Tenant: "default", Name: "admin", Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}, Hash: s.Hash()}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.TokenByHash(ctx, first.Hash()); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("old secret: %v", err)
	}
	list, err := db.ListTokens(ctx, "default")
	if err != nil || len(list) != 2 || list[0].Name != "admin" || list[0].Hash != second.Hash() || list[1].Name != "ci" || list[1].RevokedAt.IsZero() {
		t.Errorf("list %+v, %v", list, err)
	}
	for name, bad := range map[string]api.Token{
		"no name":   {Tenant: "default", Scopes: []api.Scope{api.ScopeRead}},
		"long name": {Tenant: "default", Name: strings.Repeat("x", 101), Scopes: []api.Scope{api.ScopeRead}},
		"newline":   {Tenant: "default", Name: "a\nb", Scopes: []api.Scope{api.ScopeRead}},
		"no scope":  {Tenant: "default", Name: "x"},
		"no such":   {Tenant: "default", Name: "x", Scopes: []api.Scope{"root"}},
	} {
		if err := db.PutToken(ctx, bad); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
