package storage

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

var _ api.Incidents = (*DB)(nil)

// What one answer of the API shows at most.
const (
	listEntities   = 20
	detailEntities = 200
	detailFindings = 200
	detailEvidence = 50
	detailAudit    = 200
	evidenceBytes  = 256 << 10 // of one record
)

// forAPI says what the API has to know of an error.
func forAPI(err error) error {
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return api.ErrNotFound
	case IsTransient(err):
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return err
}

// ListIncidents returns the incidents that q selects, newest first. The query is
// put together by hand, so that Postgres plans for the filters that there are.
func (db *DB) ListIncidents(ctx context.Context, tenant string, q api.Query) ([]api.Incident, error) {
	sql, args := listQuery(tenant, q)
	var list []api.Incident
	err := db.readTx(ctx, func(tx pgx.Tx, qs *dbsqlc.Queries) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanIncident)
		if err != nil {
			return err
		}
		ids := make([]string, len(list))
		for i := range list {
			ids[i] = list[i].ID
		}
		es, err := entitiesOf(ctx, qs, tenant, ids, listEntities)
		for i := range list {
			list[i].Entities = es[list[i].ID]
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list incidents: %w", forAPI(err))
	}
	return list, nil
}

// listQuery writes the query for q. All values are parameters.
func listQuery(tenant string, q api.Query) (sql string, args []any) {
	var b strings.Builder
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	and := func(cond string) { b.WriteString("\n  AND " + cond) }
	t := arg(tenant)
	b.WriteString(`SELECT i.id::text, i.rule_id, i.rule_ids, i.title, i.severity, i.status, i.assignee, i.account, i.count, i.first_seen, i.last_seen, i.opened_at
FROM incident i
WHERE i.tenant = ` + t)
	if len(q.Statuses) > 0 {
		and("i.status = ANY (" + arg(q.Statuses) + "::text[])")
	} else {
		and("i.status <> 'merged'")
	}
	if q.MinSeverity > 0 {
		and("i.severity >= " + arg(int16(q.MinSeverity)))
	}
	if q.Rule != "" {
		and(arg(q.Rule) + " = ANY (i.rule_ids)")
	}
	if q.Entity != "" {
		cond := "e.value = ANY (" + arg(spellings(q.Entity)) + "::text[])"
		// "type:value", unless it is a value with a colon in it: both are looked for.
		if typ, value, ok := strings.Cut(q.Entity, ":"); ok {
			cond = "(" + cond + " OR e.type = " + arg(typ) + " AND e.value = ANY (" + arg(spellings(value)) + "::text[]))"
		}
		and("i.id IN (SELECT f.incident_id FROM finding_entity e JOIN finding f ON f.tenant = e.tenant AND f.id = e.finding_id WHERE e.tenant = " + t + " AND " + cond + ")")
	}
	for _, c := range []struct {
		cond string
		at   time.Time
	}{{"i.last_seen >= ", q.Since}, {"i.first_seen < ", q.Until}} {
		if !c.at.IsZero() {
			and(c.cond + arg(c.at.UnixNano()))
		}
	}
	for _, c := range []struct {
		cond string
		at   time.Time
	}{{"i.opened_at >= ", q.OpenedSince}, {"i.opened_at < ", q.OpenedUntil}} {
		if !c.at.IsZero() {
			and(c.cond + arg(c.at))
		}
	}
	if !q.After.IsZero() {
		and("(i.opened_at, i.id) < (" + arg(q.After.OpenedAt) + "::timestamptz, " + arg(q.After.ID) + "::text::uuid)")
	}
	b.WriteString("\nORDER BY i.opened_at DESC, i.id DESC\nLIMIT " + arg(q.Limit))
	return b.String(), args
}

// spellings are the value and, for an address, its canonical form, in which
// entities are kept.
func spellings(value string) []string {
	vs := []string{value}
	if a, err := netip.ParseAddr(value); err == nil {
		if c := a.WithZone("").Unmap().String(); c != value {
			vs = append(vs, c)
		}
	}
	return vs
}

func scanIncident(row pgx.CollectableRow) (api.Incident, error) {
	var in api.Incident
	var severity int16
	var first, last int64
	err := row.Scan(&in.ID, &in.RuleID, &in.RuleIDs, &in.Title, &severity, &in.Status, &in.Assignee, &in.Account,
		&in.Count, &first, &last, &in.OpenedAt)
	in.Severity = detect.Level(severity).String()
	in.FirstSeen, in.LastSeen, in.OpenedAt = nanos(first), nanos(last), in.OpenedAt.UTC()
	return in, err
}

// entitiesOf returns the most frequent entities of incidents. An incident that
// has none gets an empty list, not nil: it is shown as [].
func entitiesOf(ctx context.Context, qs *dbsqlc.Queries, tenant string, ids []string, top int64) (map[string][]api.Entity, error) {
	rows, err := qs.ShowEntities(ctx, dbsqlc.ShowEntitiesParams{Tenant: tenant, Ids: ids, Top: top})
	if err != nil {
		return nil, fmt.Errorf("read entities: %w", err)
	}
	es := make(map[string][]api.Entity, len(ids))
	for _, id := range ids {
		es[id] = []api.Entity{}
	}
	for _, r := range rows {
		es[r.IncidentID] = append(es[r.IncidentID], api.Entity{Type: r.Type, Value: r.Value})
	}
	return es, nil
}

// CountIncidents counts the tenant's incidents by status.
func (db *DB) CountIncidents(ctx context.Context, tenant string) (map[api.Status]int64, error) {
	rows, err := db.q.CountIncidents(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("count incidents: %w", forAPI(err))
	}
	n := make(map[api.Status]int64, len(rows))
	for _, r := range rows {
		n[api.Status(r.Status)] = r.N
	}
	return n, nil
}

// FindIncident returns an incident with everything about it, read at one instant.
func (db *DB) FindIncident(ctx context.Context, tenant, id string) (api.IncidentDetail, error) {
	var d api.IncidentDetail
	err := db.readTx(ctx, func(_ pgx.Tx, qs *dbsqlc.Queries) (err error) {
		d, err = findIncident(ctx, qs, tenant, id)
		return err
	})
	if err != nil {
		return api.IncidentDetail{}, fmt.Errorf("read incident: %w", forAPI(err))
	}
	return d, nil
}

func findIncident(ctx context.Context, qs *dbsqlc.Queries, tenant, id string) (api.IncidentDetail, error) {
	r, err := qs.ShowIncident(ctx, dbsqlc.ShowIncidentParams{Tenant: tenant, ID: id})
	if err != nil {
		return api.IncidentDetail{}, err
	}
	d := api.IncidentDetail{
		Incident: api.Incident{
			ID: id, RuleID: r.RuleID, RuleIDs: r.RuleIds, Title: r.Title, Severity: detect.Level(r.Severity).String(),
			Status: api.Status(r.Status), Assignee: r.Assignee, Account: r.Account, Count: r.Count,
			FirstSeen: nanos(r.FirstSeen), LastSeen: nanos(r.LastSeen), OpenedAt: r.OpenedAt.Time.UTC(),
		},
		Version: r.Version, UpdatedAt: r.UpdatedAt.Time.UTC(), MergedInto: r.MergedInto, Tags: r.Tags,
		AcknowledgedAt: timeOrNil(r.AcknowledgedAt), ResolvedAt: timeOrNil(r.ResolvedAt),
		Findings: []api.Finding{}, Evidence: []api.Evidence{}, Audit: []api.AuditEntry{},
	}
	es, err := entitiesOf(ctx, qs, tenant, []string{id}, detailEntities)
	if err != nil {
		return d, err
	}
	d.Entities = es[id]
	findings, err := qs.ShowFindings(ctx, dbsqlc.ShowFindingsParams{Tenant: tenant, ID: id, Top: detailFindings})
	if err != nil {
		return d, fmt.Errorf("read findings: %w", err)
	}
	if d.FindingsTotal = r.Findings; d.FindingsTotal == 0 { // assembled before they were counted
		if d.FindingsTotal, err = qs.CountFindings(ctx, dbsqlc.CountFindingsParams{Tenant: tenant, ID: id}); err != nil {
			return d, fmt.Errorf("count findings: %w", err)
		}
	}
	d.Keys = r.Keys
	for _, f := range findings {
		shown, err := showFinding(&f)
		if err != nil {
			return d, err
		}
		d.Findings = append(d.Findings, shown)
	}
	evidence, err := qs.ShowEvidence(ctx, dbsqlc.ShowEvidenceParams{Tenant: tenant, ID: id, Top: detailEvidence, Most: evidenceBytes})
	if err != nil {
		return d, fmt.Errorf("read evidence: %w", err)
	}
	for _, e := range evidence {
		d.Evidence = append(d.Evidence, api.Evidence{
			FindingID: hex.EncodeToString(e.FindingID), LogType: e.LogType, EventID: e.EventUid, Time: nanos(e.EventTime), State: e.State,
			Source: fmt.Sprintf("%d/%d/%d", e.Incarnation, e.Partition, e.RecordOffset),
			Size:   e.Size, Truncated: e.Size > int64(len(e.Raw)), Raw: strings.ToValidUTF8(string(e.Raw), "\uFFFD"),
		})
	}
	slices.SortStableFunc(d.Evidence, func(a, b api.Evidence) int { return a.Time.Compare(b.Time) })
	audit, err := qs.ShowAudit(ctx, dbsqlc.ShowAuditParams{Tenant: tenant, ID: id, Top: detailAudit})
	if err != nil {
		return d, fmt.Errorf("read audit trail: %w", err)
	}
	for _, a := range slices.Backward(audit) {
		d.Audit = append(d.Audit, api.AuditEntry{At: a.At.Time.UTC(), Actor: a.Actor, Action: a.Action, Detail: object(a.Detail)})
	}
	return d, nil
}

func showFinding(r *dbsqlc.ShowFindingsRow) (api.Finding, error) {
	f := detect.Finding{
		ID: findingID(r.ID), Key: r.Key, Count: r.Count, Late: r.Late, Peak: r.Peak, First: r.FirstTime, Last: r.LastTime, Detail: r.Detail, Verdict: r.Verdict,
	}
	rule := incident.Rule{
		ID: r.RuleID, Title: r.Title, Level: detect.Level(r.Level), Author: r.Author, License: r.License, Description: r.Description,
		References: r.RuleReferences, Tags: r.Tags, FalsePositives: r.FalsePositives, GroupBy: r.GroupBy, Summary: r.Summary,
	}
	key, err := detect.SplitKey(f.Key)
	if err != nil {
		return api.Finding{}, fmt.Errorf("finding %s: %w", f.ID, err)
	}
	for i := range key {
		key[i] = strings.ToValidUTF8(key[i], "\uFFFD")
	}
	if rule.Title == "" {
		rule.Title = rule.ID
	}
	return api.Finding{
		FindingID: f.ID.String(), RuleID: rule.ID, RuleTitle: rule.Title, Level: rule.Level.String(),
		Key: key, Fields: rule.GroupBy, Count: f.Count, Late: f.Late, Peak: f.Peak, FirstTime: nanos(f.First), LastTime: nanos(f.Last),
		Verdict: f.Verdict, Explanation: incident.Explain(f, rule), Detail: object([]byte(f.Detail)), Description: rule.Description,
		FalsePos: rule.FalsePositives, Author: rule.Author, License: rule.License, References: rule.References, Tags: rule.Tags,
	}, nil
}

// object passes a JSON object that says something.
func object(b []byte) json.RawMessage {
	if len(b) <= len("{}") || b[0] != '{' || !json.Valid(b) {
		return nil
	}
	return b
}

func nanos(ns int64) time.Time { return time.Unix(0, ns).UTC() }

func timeOrNil(t pgtype.Timestamptz) *time.Time {
	if !t.Valid {
		return nil
	}
	u := t.Time.UTC()
	return &u
}

// readTx runs f on what the database holds at one instant.
func (db *DB) readTx(ctx context.Context, f func(pgx.Tx, *dbsqlc.Queries) error) (err error) {
	ctx, s := span(ctx, "read")
	defer func() { end(s, err) }()
	return pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return f(tx, db.q.WithTx(tx))
	})
}
