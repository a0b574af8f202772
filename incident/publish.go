package incident

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// publish sums the changed incidents up, and writes them with audit and intents.
func (t *tenantBatch) publish(ctx context.Context, changes map[ID]*change) error {
	ids := sortedIDs(changes)
	if len(ids) == 0 {
		return nil
	}
	totals, err := t.tx.Totals(ctx, t.tenant, ids)
	if err != nil {
		return fmt.Errorf("sum findings up: %w", err)
	}
	byIncident := map[ID][]Total{}
	var versions []string
	for _, tot := range totals {
		byIncident[tot.Incident] = append(byIncident[tot.Incident], tot)
		versions = append(versions, tot.RuleVersion)
	}
	if err := t.loadRules(ctx, versions); err != nil {
		return err
	}
	keys, err := t.tx.Keys(ctx, t.tenant, ids)
	if err != nil {
		return fmt.Errorf("count keys: %w", err)
	}
	t.keys = map[ID]map[string]int64{}
	for _, k := range keys {
		if t.keys[k.Incident] == nil {
			t.keys[k.Incident] = map[string]int64{}
		}
		t.keys[k.Incident][k.RuleID] = k.Keys
	}
	var leads []detect.FindingID
	for _, id := range ids {
		lead, opener := t.leadOf(byIncident[id])
		leads = append(leads, lead.Opener, opener.Opener)
	}
	entities, err := t.tx.Entities(ctx, t.tenant, leads)
	if err != nil {
		return fmt.Errorf("read entities: %w", err)
	}
	var w writing
	for _, id := range ids {
		if len(byIncident[id]) == 0 {
			return fmt.Errorf("incident %s is left without findings", id)
		}
		t.tell(&w, changes[id], byIncident[id], entities)
	}
	t.audit = append(t.audit, w.audit...)
	if err := t.tx.SaveIncidents(ctx, w.incidents); err != nil {
		return fmt.Errorf("write incidents: %w", err)
	}
	if err := t.tx.AddAudit(ctx, w.audit); err != nil {
		return fmt.Errorf("write audit: %w", err)
	}
	if err := t.tx.SaveIntents(ctx, w.intents); err != nil {
		return fmt.Errorf("write intents: %w", err)
	}
	return nil
}

// writing is what a batch writes at its end.
type writing struct {
	incidents []Incident
	audit     []Audit
	intents   []Intent
}

// tell brings one incident up to date and says what is worth telling of it.
func (t *tenantBatch) tell(w *writing, c *change, totals []Total, entities map[detect.FindingID][]Entity) {
	in := c.incident
	severity := in.Severity
	t.sumUp(in, totals, entities)
	in.UpdatedAt = t.now

	entry := func(id ID, action Action, detail map[string]string) {
		w.audit = append(w.audit, Audit{Tenant: t.tenant, Incident: id, At: t.now, Actor: ActorAssembler, Action: action, Detail: detail})
	}
	status := in.Status
	for _, gone := range c.absorbed {
		switch { // what was open stays open
		case in.Status == StatusResolved && gone.Status != StatusResolved:
			in.Status = gone.Status
			in.AcknowledgedAt = gone.AcknowledgedAt
		}
		if in.Assignee == "" {
			in.Assignee = gone.Assignee
		}
		wasOpen := gone.Status != StatusResolved
		gone.Status, gone.MergedInto, gone.UpdatedAt = StatusMerged, in.ID, t.now
		gone.AcknowledgedAt, gone.ResolvedAt = time.Time{}, time.Time{}
		gone.Version++
		w.incidents = append(w.incidents, *gone)
		entry(gone.ID, ActionMerged, map[string]string{"into": in.ID.String()})
		entry(in.ID, ActionAbsorbed, map[string]string{"incident": gone.ID.String()})
		if wasOpen {
			w.intents = append(w.intents, Intent{Tenant: t.tenant, Incident: gone.ID, Event: EventResolve, Wanted: gone.Version})
		}
	}
	if in.Status == StatusResolved && c.added > 0 {
		in.Status = StatusOpen
	}
	if status == StatusResolved && in.Status != StatusResolved {
		in.ResolvedAt = time.Time{}
		entry(in.ID, ActionReopened, map[string]string{"findings": strconv.Itoa(c.added)})
	}

	raised := !c.opened && in.Severity > severity
	switch {
	case c.opened:
		entry(in.ID, ActionOpened, map[string]string{"findings": strconv.Itoa(c.added), "severity": in.Severity.String()})
	case c.added > 0 || raised:
		d := map[string]string{"findings": strconv.Itoa(c.added)}
		if raised {
			d["severity"] = in.Severity.String()
		}
		entry(in.ID, ActionAmended, d)
	}
	if c.lost {
		entry(in.ID, ActionSplit, nil)
	}
	if c.opened || c.added > 0 || c.regained || c.lost || raised || len(c.absorbed) > 0 || in.Status != status {
		in.Version++
		if in.Status != StatusResolved {
			w.intents = append(w.intents, triggers(t.opts.Receivers, in)...)
		}
	}
	w.incidents = append(w.incidents, *in)
}

// triggers are the intents to tell every receiver that asks for such incidents.
func triggers(rs []Receiver, in *Incident) []Intent {
	var is []Intent
	for _, r := range rs {
		if in.Severity >= r.MinSeverity {
			is = append(is, Intent{Tenant: in.Tenant, Incident: in.ID, Receiver: r.Name, Event: EventTrigger, Wanted: in.Version})
		}
	}
	return is
}

// leadOf returns the totals with the finding that an incident is named for (one
// that could be judged before one that could not, then the most severe, then the
// earliest) and with the earliest of all.
func (t *tenantBatch) leadOf(totals []Total) (lead, opener Total) {
	for i, tot := range totals {
		if i == 0 || earlier(tot.OpenerFirst, tot.Opener, opener.OpenerFirst, opener.Opener) {
			opener = tot
		}
		if i == 0 || t.leads(tot, lead) {
			lead = tot
		}
	}
	return lead, opener
}

func (t *tenantBatch) leads(a, b Total) bool {
	if a.Unknown != b.Unknown {
		return b.Unknown
	}
	if la, lb := t.rules[a.RuleVersion].Level, t.rules[b.RuleVersion].Level; la != lb {
		return la > lb
	}
	return earlier(a.OpenerFirst, a.Opener, b.OpenerFirst, b.Opener)
}

// sumUp sets what follows from the findings.
func (t *tenantBatch) sumUp(in *Incident, totals []Total, entities map[detect.FindingID][]Entity) {
	lead, opener := t.leadOf(totals)
	in.Opener, in.RuleID = opener.Opener, t.rules[opener.RuleVersion].ID
	r := t.rules[lead.RuleVersion]
	in.Title = title(r, lead.Unknown, entities[lead.Opener])
	if n := t.keys[in.ID][r.ID]; n >= int64(t.opts.FloodKeys) {
		in.Title += " and " + number(float64(n-1)) + " more"
	}
	in.Severity, in.Count, in.Account = detect.LevelInformational, 0, ""
	in.Findings, in.Keys = 0, 0
	for _, n := range t.keys[in.ID] {
		in.Keys += n
	}
	in.RuleIDs, in.Tags = nil, nil
	in.First, in.Last = totals[0].First, totals[0].Last
	for _, tot := range totals {
		r := t.rules[tot.RuleVersion]
		in.Severity = max(in.Severity, severityOf(r, tot.Unknown))
		in.Count += tot.Count
		in.Findings += tot.Findings
		in.First, in.Last = min(in.First, tot.First), max(in.Last, tot.Last)
		in.RuleIDs = append(in.RuleIDs, r.ID)
		in.Tags = append(in.Tags, r.Tags...)
		if tot.Account != "" && (in.Account == "" || tot.Account < in.Account) {
			in.Account = tot.Account
		}
	}
	for _, e := range entities[opener.Opener] {
		if e.Type == EntityAccount {
			in.Account = e.Value
			break
		}
	}
	slices.Sort(in.RuleIDs)
	in.RuleIDs = slices.Compact(in.RuleIDs)
	slices.Sort(in.Tags)
	in.Tags = slices.Compact(in.Tags)
}

// severityOf is the severity of a rule's findings: of those that could not be
// judged, low at most.
func severityOf(r Rule, unknown bool) detect.Level {
	if unknown {
		return min(r.Level, detect.LevelLow)
	}
	return r.Level
}

// title names an incident by its first finding's rule and what it is about.
func title(r Rule, unknown bool, es []Entity) string {
	s := r.Title
	if unknown {
		s = "Not verified: " + s
	}
	if e, ok := mainEntity(es); ok {
		s += ": " + e.Value
	}
	return s
}
