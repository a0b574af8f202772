package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/storage/dbsqlc"
)

// incidentTx implements [incident.Tx].
type incidentTx struct {
	q     *dbsqlc.Queries
	shard int32
}

func (t *incidentTx) Changed(ctx context.Context, limit int) ([]incident.Finding, error) {
	share, err := shareOf(ctx, t.q, limit)
	if err != nil {
		return nil, err
	}
	rows, err := t.q.ChangedFindings(ctx, dbsqlc.ChangedFindingsParams{TenantShard: t.shard, MaxRows: share})
	if err != nil {
		return nil, err
	}
	fs := make([]incident.Finding, len(rows))
	cursors := map[[2]int32]int64{}
	for i, r := range rows {
		fs[i] = incident.Finding{Incident: incidentID(r.IncidentID), Finding: detect.Finding{
			ID: findingID(r.ID), Tenant: r.Tenant, RuleVersion: r.RuleVersion, Key: r.Key, Tile: r.Tile,
			Merge: detect.Merge(r.Merge), Count: r.Count, Peak: r.Peak, First: r.FirstTime, Last: r.LastTime,
			Detail: r.Detail, Verdict: r.Verdict,
		}}
		at := [2]int32{r.Layout, r.Partition}
		cursors[at] = max(cursors[at], r.Number)
	}
	for at, number := range cursors {
		if err := t.q.SaveAssemblerCursor(ctx, dbsqlc.SaveAssemblerCursorParams{
			TenantShard: t.shard, Layout: at[0], Partition: at[1], Number: number,
		}); err != nil {
			return nil, fmt.Errorf("move the cursor: %w", err)
		}
	}
	return fs, nil
}

func (t *incidentTx) Rules(ctx context.Context, versions []string) ([]incident.Rule, error) {
	rows, err := t.q.RuleVersions(ctx, versions)
	if err != nil {
		return nil, err
	}
	rs := make([]incident.Rule, len(rows))
	for i, r := range rows {
		rs[i] = ruleOf(r)
	}
	return rs, nil
}

func ruleOf(r dbsqlc.RuleVersionsRow) incident.Rule {
	return incident.Rule{
		Version: r.Version, ID: r.RuleID, Title: r.Title, Level: detect.Level(r.Level), Author: r.Author, License: r.License,
		Description: r.Description, References: r.RuleReferences, Tags: r.Tags, FalsePositives: r.FalsePositives,
		GroupBy: r.GroupBy, Summary: r.Summary,
	}
}

func (t *incidentTx) RulesSeen(ctx context.Context, tenant string, on []incident.EntityDay) ([]incident.RuleSeen, error) {
	p := dbsqlc.RulesSeenParams{Tenant: tenant}
	for _, e := range on {
		p.Types, p.Values, p.Days = append(p.Types, e.Type), append(p.Values, e.Value), append(p.Days, e.Day)
	}
	rows, err := t.q.RulesSeen(ctx, p)
	if err != nil {
		return nil, err
	}
	seen := make([]incident.RuleSeen, len(rows))
	for i, r := range rows {
		seen[i] = incident.RuleSeen{EntityDay: incident.EntityDay{Type: r.Type, Value: r.Value, Day: r.Day}, RuleID: r.RuleID}
	}
	return seen, nil
}

func (t *incidentTx) AddRulesSeen(ctx context.Context, tenant string, seen []incident.RuleSeen) error {
	if len(seen) == 0 {
		return nil
	}
	p := dbsqlc.AddRulesSeenParams{Tenant: tenant}
	for _, s := range seen {
		p.Types, p.Values = append(p.Types, s.Type), append(p.Values, s.Value)
		p.Days, p.RuleIds = append(p.Days, s.Day), append(p.RuleIds, s.RuleID)
	}
	return t.q.AddRulesSeen(ctx, p)
}

func (t *incidentTx) Entities(ctx context.Context, tenant string, findings []detect.FindingID) (map[detect.FindingID][]incident.Entity, error) {
	rows, err := t.q.FindingEntities(ctx, dbsqlc.FindingEntitiesParams{Tenant: tenant, FindingIds: idBytes(findings)})
	if err != nil {
		return nil, err
	}
	es := map[detect.FindingID][]incident.Entity{}
	for _, r := range rows {
		id := findingID(r.FindingID)
		es[id] = append(es[id], incident.Entity{Type: r.Type, Value: r.Value})
	}
	return es, nil
}

func (t *incidentTx) AddEntities(ctx context.Context, tenant string, es map[detect.FindingID][]incident.Entity) error {
	p := dbsqlc.AddEntitiesParams{Tenant: tenant}
	for id, list := range es {
		for _, e := range list {
			p.FindingIds = append(p.FindingIds, id[:])
			p.Types, p.Values = append(p.Types, text(e.Type)), append(p.Values, text(e.Value))
		}
	}
	if len(p.Types) == 0 {
		return nil
	}
	return t.q.AddEntities(ctx, p)
}

func (t *incidentTx) Links(ctx context.Context, tenant string, findings []detect.FindingID) ([]incident.Link, error) {
	rows, err := t.q.FindingLinks(ctx, dbsqlc.FindingLinksParams{Tenant: tenant, FindingIds: idBytes(findings)})
	if err != nil {
		return nil, err
	}
	links := make([]incident.Link, len(rows))
	for i, r := range rows {
		links[i] = linkOf(r)
	}
	return links, nil
}

func (t *incidentTx) LinksOfIncidents(ctx context.Context, tenant string, incidents []incident.ID) ([]incident.Link, error) {
	rows, err := t.q.IncidentLinks(ctx, dbsqlc.IncidentLinksParams{Tenant: tenant, IncidentIds: uuidsOf(incidents)})
	if err != nil {
		return nil, err
	}
	links := make([]incident.Link, len(rows))
	for i, r := range rows {
		links[i] = linkOf(dbsqlc.FindingLinksRow(r))
	}
	return links, nil
}

func linkOf(r dbsqlc.FindingLinksRow) incident.Link {
	l := incident.Link{
		Finding: findingID(r.FindingID), Incident: incidentID(r.IncidentID), Kind: incident.LinkKind(r.Kind),
		First: r.FirstTime, Last: r.LastTime,
	}
	copy(l.Hash[:], r.Link)
	return l
}

func (t *incidentTx) SaveLinks(ctx context.Context, tenant string, links []incident.Link) error {
	p := dbsqlc.SaveLinksParams{Tenant: tenant}
	for i := range links {
		l := &links[i]
		p.FindingIds, p.Links = append(p.FindingIds, l.Finding[:]), append(p.Links, l.Hash[:])
		p.Kinds, p.Firsts, p.Lasts = append(p.Kinds, int16(l.Kind)), append(p.Firsts, l.First), append(p.Lasts, l.Last)
	}
	return t.q.SaveLinks(ctx, p)
}

// Probe asks in one statement for each kind of probe.
func (t *incidentTx) Probe(ctx context.Context, tenant string, probes []incident.Probe, closed time.Time) ([]incident.Hit, error) {
	var first, last, spanning dbsqlc.ProbeFirstParams
	for i := range probes {
		pr := &probes[i]
		p := &first
		switch {
		case pr.Spanning:
			p = &spanning
		case pr.ByLast:
			p = &last
		}
		p.Ords, p.Links = append(p.Ords, pr.Ord), append(p.Links, pr.Hash[:])
		p.Froms, p.Tos = append(p.Froms, pr.From), append(p.Tos, pr.To)
	}
	var hits []incident.Hit
	for _, kind := range []struct {
		p   dbsqlc.ProbeFirstParams
		ask func(dbsqlc.ProbeFirstParams) ([]dbsqlc.ProbeFirstRow, error)
	}{
		{first, func(p dbsqlc.ProbeFirstParams) ([]dbsqlc.ProbeFirstRow, error) { return t.q.ProbeFirst(ctx, p) }},
		{last, func(p dbsqlc.ProbeFirstParams) ([]dbsqlc.ProbeFirstRow, error) {
			rows, err := t.q.ProbeLast(ctx, dbsqlc.ProbeLastParams(p))
			return probed(rows), err
		}},
		{spanning, func(p dbsqlc.ProbeFirstParams) ([]dbsqlc.ProbeFirstRow, error) {
			rows, err := t.q.ProbeSpanning(ctx, dbsqlc.ProbeSpanningParams(p))
			return probed(rows), err
		}},
	} {
		if len(kind.p.Ords) == 0 {
			continue
		}
		kind.p.Tenant, kind.p.Closed = tenant, timeOf(closed)
		rows, err := kind.ask(kind.p)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			hits = append(hits, incident.Hit{Ord: r.Ord, Incident: incidentID(r.IncidentID)})
		}
	}
	return hits, nil
}

func probed[R dbsqlc.ProbeLastRow | dbsqlc.ProbeSpanningRow](rows []R) []dbsqlc.ProbeFirstRow {
	out := make([]dbsqlc.ProbeFirstRow, len(rows))
	for i, r := range rows {
		out[i] = dbsqlc.ProbeFirstRow(r)
	}
	return out
}

func (t *incidentTx) Incidents(ctx context.Context, tenant string, ids []incident.ID) ([]incident.Incident, error) {
	rows, err := t.q.LockIncidents(ctx, dbsqlc.LockIncidentsParams{Tenant: tenant, Ids: uuidsOf(ids)})
	if err != nil {
		return nil, err
	}
	ins := make([]incident.Incident, len(rows))
	for i, r := range rows {
		ins[i] = incidentOf(r)
	}
	return ins, nil
}

func incidentOf(r dbsqlc.Incident) incident.Incident {
	return incident.Incident{
		Tenant: r.Tenant, ID: incidentID(r.ID), Status: incident.Status(r.Status), MergedInto: incidentID(r.MergedInto),
		Opener: findingID(r.Opener), RuleID: r.RuleID, RuleIDs: r.RuleIds, Title: r.Title, Severity: detect.Level(r.Severity),
		Account: r.Account, Tags: r.Tags, Count: r.Count, Findings: r.Findings, Keys: r.Keys, First: r.FirstSeen, Last: r.LastSeen, Assignee: r.Assignee, Version: r.Version,
		OpenedAt: timeFrom(r.OpenedAt), UpdatedAt: timeFrom(r.UpdatedAt),
		AcknowledgedAt: timeFrom(r.AcknowledgedAt), ResolvedAt: timeFrom(r.ResolvedAt),
	}
}

func (t *incidentTx) Totals(ctx context.Context, tenant string, ids []incident.ID) ([]incident.Total, error) {
	rows, err := t.q.IncidentTotals(ctx, dbsqlc.IncidentTotalsParams{Tenant: tenant, IncidentIds: uuidsOf(ids)})
	if err != nil {
		return nil, err
	}
	ts := make([]incident.Total, len(rows))
	for i, r := range rows {
		ts[i] = incident.Total{
			Incident: incidentID(r.IncidentID), RuleVersion: r.RuleVersion, Unknown: r.Unknown, Findings: r.Findings, Count: r.Count,
			First: r.FirstTime, Last: r.LastTime, Opener: findingID(r.Opener), OpenerFirst: r.FirstTime, Account: r.Account,
		}
	}
	return ts, nil
}

func (t *incidentTx) SaveIncidents(ctx context.Context, ins []incident.Incident) error {
	ps := make([]dbsqlc.SaveIncidentParams, len(ins))
	for i := range ins {
		in := &ins[i]
		ps[i] = dbsqlc.SaveIncidentParams{
			Tenant: in.Tenant, ID: uuidOf(in.ID), Status: string(in.Status), MergedInto: uuidOf(in.MergedInto), Opener: in.Opener[:],
			RuleID: in.RuleID, RuleIds: nonNil(in.RuleIDs), Title: text(in.Title), Severity: int16(in.Severity), Account: in.Account,
			Tags: nonNil(in.Tags), Count: in.Count, Findings: in.Findings, Keys: in.Keys, FirstSeen: in.First, LastSeen: in.Last, Assignee: text(in.Assignee), Version: in.Version,
			OpenedAt: timeOf(in.OpenedAt), UpdatedAt: timeOf(in.UpdatedAt),
			AcknowledgedAt: timeOf(in.AcknowledgedAt), ResolvedAt: timeOf(in.ResolvedAt),
		}
		if in.UpdatedAt.IsZero() {
			ps[i].UpdatedAt = ps[i].OpenedAt
		}
	}
	return firstError(t.q.SaveIncident(ctx, ps).Exec)
}

func (t *incidentTx) Assign(ctx context.Context, tenant string, to map[detect.FindingID]incident.ID) error {
	p := dbsqlc.AssignFindingsParams{Tenant: tenant}
	for f, in := range to {
		p.FindingIds, p.IncidentIds = append(p.FindingIds, f[:]), append(p.IncidentIds, uuidOf(in))
	}
	if err := t.q.LockFindingsToAssign(ctx, dbsqlc.LockFindingsToAssignParams{Tenant: tenant, FindingIds: p.FindingIds}); err != nil {
		return err
	}
	return t.q.AssignFindings(ctx, p)
}

func (t *incidentTx) Move(ctx context.Context, tenant string, from, to incident.ID) error {
	if err := t.q.LockIncidentFindings(ctx, dbsqlc.LockIncidentFindingsParams{Tenant: tenant, IncidentID: uuidOf(from)}); err != nil {
		return err
	}
	return t.q.MoveFindings(ctx, dbsqlc.MoveFindingsParams{Tenant: tenant, FromID: uuidOf(from), IntoID: uuidOf(to)})
}

func (t *incidentTx) AddAudit(ctx context.Context, entries []incident.Audit) error {
	if len(entries) == 0 {
		return nil
	}
	var p dbsqlc.AddAuditParams
	for _, e := range entries {
		detail, err := detailOf(e.Detail)
		if err != nil {
			return fmt.Errorf("encode detail: %w", err)
		}
		p.Tenants, p.IncidentIds = append(p.Tenants, e.Tenant), append(p.IncidentIds, uuidOf(e.Incident))
		p.Ats, p.Actors = append(p.Ats, timeOf(e.At)), append(p.Actors, text(e.Actor))
		p.Actions, p.Details = append(p.Actions, string(e.Action)), append(p.Details, detail)
	}
	return t.q.AddAudit(ctx, p)
}

func (t *incidentTx) SaveIntents(ctx context.Context, intents []incident.Intent) error {
	var trigger, resolve dbsqlc.WantTriggerParams
	for _, in := range intents {
		p := &trigger
		if in.Event == incident.EventResolve {
			p = &resolve
		}
		p.Tenants, p.IncidentIds = append(p.Tenants, in.Tenant), append(p.IncidentIds, uuidOf(in.Incident))
		p.Receivers, p.Wanteds = append(p.Receivers, in.Receiver), append(p.Wanteds, in.Wanted)
	}
	if len(trigger.Tenants) > 0 {
		if err := t.q.WantTrigger(ctx, trigger); err != nil {
			return err
		}
	}
	if len(resolve.Tenants) > 0 {
		return t.q.WantResolve(ctx, dbsqlc.WantResolveParams(resolve))
	}
	return nil
}

func idBytes(ids []detect.FindingID) [][]byte {
	out := make([][]byte, len(ids))
	for i := range ids {
		out[i] = ids[i][:]
	}
	return out
}

var _ incident.Tx = (*incidentTx)(nil)
