package incident

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/vedette-sec/vedette/detect"
)

// batch assembles one batch of changed findings within one transaction.
type batch struct {
	opts  *Options
	limit int // findings, about
	tx    Tx
	now   time.Time

	began time.Time
	span  trace.Span // nil until something has changed: it is asked for all the time

	findings int
	common   int
	badKeys  int
	newest   int64 // ns
	audit    []Audit
}

// member is a changed finding on its way into an incident.
type member struct {
	Finding
	rule  Rule
	links []Link // with the current range
	old   []Link // with the range last assembled; nil if new
}

func (m *member) isNew() bool { return m.Incident.IsZero() }

// moved reports whether the finding left times that it was assembled with: only
// then can links have gone.
func (m *member) moved() bool {
	for _, l := range m.old {
		if m.First > l.First || m.Last < l.Last {
			return true
		}
	}
	return false
}

func (b *batch) assemble(ctx context.Context) error {
	changed, err := b.tx.Changed(ctx, b.limit)
	if err != nil {
		return fmt.Errorf("read changed findings: %w", err)
	}
	b.findings = len(changed)
	if len(changed) > 0 {
		ctx, b.span = b.opts.Tracer.Start(ctx, "assemble", trace.WithTimestamp(b.began))
		b.step("read changed findings")
	}
	slices.SortFunc(changed, func(x, y Finding) int {
		return cmp.Or(strings.Compare(x.Tenant, y.Tenant), cmp.Compare(x.First, y.First), bytes.Compare(x.ID[:], y.ID[:]))
	})
	for _, f := range changed {
		b.newest = max(b.newest, f.Last)
	}
	for len(changed) > 0 {
		tenant := changed[0].Tenant
		n := 1
		for n < len(changed) && changed[n].Tenant == tenant {
			n++
		}
		t := tenantBatch{batch: b, tenant: tenant}
		if err := t.assemble(ctx, changed[:n]); err != nil {
			return fmt.Errorf("tenant %s: %w", tenant, err)
		}
		changed = changed[n:]
	}
	return nil
}

// step tells the trace how far it has come.
func (b *batch) step(done string) {
	if b.span != nil && b.span.IsRecording() {
		b.span.AddEvent(done)
	}
}

// told ends the span, once the transaction is over, with what became of the
// findings.
func (b *batch) told(err error) {
	if b == nil || b.span == nil {
		return
	}
	defer b.span.End()
	if !b.span.IsRecording() {
		return
	}
	b.span.SetAttributes(attribute.Int("vedette.findings", b.findings), attribute.Int("vedette.incidents.acted", len(b.audit)))
	for _, e := range b.audit {
		b.span.AddEvent("incident "+string(e.Action), trace.WithAttributes(
			attribute.String("vedette.incident.id", e.Incident.String()), attribute.String("vedette.tenant", e.Tenant)))
	}
	if err != nil {
		b.span.SetStatus(codes.Error, err.Error())
	}
}

// tenantBatch is the part of a batch that is one tenant's.
type tenantBatch struct {
	*batch
	tenant  string
	members []*member
	rules   map[string]Rule

	incidents map[ID]*Incident // every incident that the batch may touch, locked
	suspects  map[ID][]Link    // incidents that may come apart, with all their links
	hits      []Hit            // Ord is an index into members
	places    map[detect.FindingID]Place
	flooded   map[RuleTile]bool
	keys      map[ID]map[string]int64 // of the incidents published: distinct keys by rule id
}

func (t *tenantBatch) assemble(ctx context.Context, changed []Finding) error {
	for _, s := range []struct {
		done string
		do   func(context.Context) error
	}{
		{"loaded", func(ctx context.Context) error { return t.load(ctx, changed) }},
		{"described", t.describe},
		{"probed", t.probe},
		{"saved links", t.save},
		{"settled", func(ctx context.Context) error { return t.settle(ctx, t.group()) }},
	} {
		if err := s.do(ctx); err != nil {
			return err
		}
		t.step(s.done)
	}
	return nil
}

// load reads rules, and the links of findings that were assembled before.
func (t *tenantBatch) load(ctx context.Context, changed []Finding) error {
	t.rules = map[string]Rule{}
	versions := make([]string, 0, len(changed))
	var known []detect.FindingID
	for _, f := range changed {
		versions = append(versions, f.RuleVersion)
		if !f.Incident.IsZero() {
			known = append(known, f.ID)
		}
	}
	if err := t.loadRules(ctx, versions); err != nil {
		return err
	}
	old := map[detect.FindingID][]Link{}
	if len(known) > 0 {
		links, err := t.tx.Links(ctx, t.tenant, known)
		if err != nil {
			return fmt.Errorf("read links: %w", err)
		}
		for _, l := range links {
			old[l.Finding] = append(old[l.Finding], l)
		}
	}
	for _, f := range changed {
		m := &member{Finding: f, rule: t.rules[f.RuleVersion]}
		if !m.isNew() {
			m.old = old[f.ID]
			for _, l := range m.old {
				l.First, l.Last = f.First, f.Last
				m.links = append(m.links, l)
			}
		}
		t.members = append(t.members, m)
	}
	return nil
}

// loadRules completes t.rules. A rule version that nobody recorded stands for
// itself: its findings are worth more than its words.
func (t *tenantBatch) loadRules(ctx context.Context, versions []string) error {
	slices.Sort(versions)
	versions = slices.DeleteFunc(slices.Compact(versions), func(v string) bool {
		_, ok := t.rules[v]
		return ok
	})
	if len(versions) == 0 {
		return nil
	}
	rules, err := t.tx.Rules(ctx, versions)
	if err != nil {
		return fmt.Errorf("read rule versions: %w", err)
	}
	for _, r := range rules {
		t.rules[r.Version] = r
	}
	for _, v := range versions {
		if _, ok := t.rules[v]; !ok {
			t.opts.Logger.Warn("finding of a rule version that is not recorded", "rule_version", v)
			t.rules[v] = Rule{Version: v, ID: v, Title: "Rule " + v, Level: detect.LevelMedium}
		}
	}
	return nil
}

// describe gives new findings their entities and links, and decides which of
// the entities join.
func (t *tenantBatch) describe(ctx context.Context) error {
	entities := map[detect.FindingID][]Entity{}
	var on []EntityDay
	for _, m := range t.members {
		if !m.isNew() {
			continue
		}
		es, err := Entities(m.rule, m.Finding.Finding)
		if err != nil {
			t.badKeys++
			t.opts.Logger.Warn("finding without entities", "finding", m.ID.String(), "err", err)
		}
		entities[m.ID] = es
		for _, e := range es {
			if e.Joins {
				on = append(on, entityDay(e, m.First))
			}
		}
	}
	if len(entities) == 0 {
		return nil
	}
	fresh, err := t.markCommon(ctx, entities, on)
	if err != nil {
		return err
	}
	if err := t.tx.AddRulesSeen(ctx, t.tenant, fresh); err != nil {
		return fmt.Errorf("write rules seen: %w", err)
	}
	if err := t.tx.AddEntities(ctx, t.tenant, entities); err != nil {
		return fmt.Errorf("write entities: %w", err)
	}
	for _, m := range t.members {
		if m.isNew() {
			m.links = linksOf(m.rule, m.Finding.Finding, entities[m.ID])
		}
	}
	return nil
}

// markCommon takes Joins from entities on which too many rules found something
// that day, in the order of the findings, and returns the rules newly seen.
func (t *tenantBatch) markCommon(ctx context.Context, entities map[detect.FindingID][]Entity, on []EntityDay) ([]RuleSeen, error) {
	slices.SortFunc(on, func(a, b EntityDay) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Value, b.Value), cmp.Compare(a.Day, b.Day))
	})
	on = slices.Compact(on)
	if len(on) == 0 {
		return nil, nil
	}
	known, err := t.tx.RulesSeen(ctx, t.tenant, on)
	if err != nil {
		return nil, fmt.Errorf("read rules seen: %w", err)
	}
	seen := make(map[RuleSeen]bool, len(known))
	count := make(map[EntityDay]int, len(on))
	for _, s := range known {
		seen[s] = true
		count[s.EntityDay]++
	}
	var fresh []RuleSeen
	for _, m := range t.members {
		es := entities[m.ID]
		for i := range es {
			if !es[i].Joins {
				continue
			}
			s := RuleSeen{EntityDay: entityDay(es[i], m.First), RuleID: m.rule.ID}
			if !seen[s] {
				seen[s] = true
				count[s.EntityDay]++
				fresh = append(fresh, s)
			}
			if count[s.EntityDay] > t.opts.CommonRules {
				es[i].Joins = false
				t.common++
			}
		}
	}
	return fresh, nil
}

func entityDay(e Entity, ns int64) EntityDay {
	const day = int64(24 * time.Hour)
	d := ns / day
	if ns%day < 0 {
		d--
	}
	return EntityDay{Type: e.Type, Value: e.Value, Day: int32(d)}
}

// probe finds the incidents that the members reach, and those that may come
// apart, and locks all of them.
func (t *tenantBatch) probe(ctx context.Context) error {
	t.incidents = map[ID]*Incident{}
	var own []ID
	for _, m := range t.members {
		if !m.isNew() {
			own = append(own, m.Incident)
		}
	}
	if err := t.lock(ctx, own); err != nil {
		return err
	}
	var probes []Probe
	t.suspects = map[ID][]Link{}
	for i, m := range t.members {
		moved := m.moved()
		if moved {
			t.suspects[m.Incident] = nil
		}
		if !m.isNew() && t.closed(m.Incident) {
			continue
		}
		for j, l := range m.links {
			if m.isNew() || moved {
				probes = appendProbes(probes, int32(i), l, t.opts.window(l.Kind))
			} else {
				probes = appendGrowth(probes, int32(i), m.old[j], l, t.opts.window(l.Kind))
			}
		}
	}
	if len(probes) > 0 {
		var err error
		if t.hits, err = t.tx.Probe(ctx, t.tenant, probes, t.now.Add(-t.opts.Reopen)); err != nil {
			return fmt.Errorf("probe for linked findings: %w", err)
		}
	}
	if err := t.flood(ctx); err != nil {
		return err
	}
	suspects := sortedIDs(t.suspects)
	ids := slices.Clone(suspects)
	for _, h := range t.hits {
		ids = append(ids, h.Incident)
	}
	if err := t.lock(ctx, ids); err != nil {
		return err
	}
	if len(suspects) > 0 {
		links, err := t.tx.LinksOfIncidents(ctx, t.tenant, suspects)
		if err != nil {
			return fmt.Errorf("read links of incidents that may come apart: %w", err)
		}
		for _, l := range links {
			t.suspects[l.Incident] = append(t.suspects[l.Incident], l)
		}
		if err := t.loadPlaces(ctx, suspects); err != nil {
			return err
		}
	}
	return nil
}

// lock reads and locks incidents into t.incidents.
func (t *tenantBatch) lock(ctx context.Context, ids []ID) error {
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	ids = slices.DeleteFunc(slices.Compact(ids), func(id ID) bool { return t.incidents[id] != nil })
	if len(ids) == 0 {
		return nil
	}
	ins, err := t.tx.Incidents(ctx, t.tenant, ids)
	if err != nil {
		return fmt.Errorf("lock incidents: %w", err)
	}
	for i := range ins {
		t.incidents[ins[i].ID] = &ins[i]
	}
	for _, id := range ids {
		if t.incidents[id] == nil {
			return fmt.Errorf("incident %s has findings but no row", id)
		}
	}
	return nil
}

// save writes the links with their new ranges.
func (t *tenantBatch) save(ctx context.Context) error {
	var links []Link
	for _, m := range t.members {
		for j, l := range m.links {
			if m.isNew() || l.First != m.old[j].First || l.Last != m.old[j].Last {
				links = append(links, l)
			}
		}
	}
	if len(links) == 0 {
		return nil
	}
	if err := t.tx.SaveLinks(ctx, t.tenant, links); err != nil {
		return fmt.Errorf("write links: %w", err)
	}
	return nil
}

// closed reports whether an incident takes no new findings any more.
func (t *tenantBatch) closed(id ID) bool {
	in := t.incidents[id]
	return in.Status == StatusResolved && t.now.Sub(in.ResolvedAt) > t.opts.Reopen
}
