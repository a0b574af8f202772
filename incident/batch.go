package incident

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// batch assembles one batch of changed findings within one transaction.
type batch struct {
	opts *Options
	tx   Tx
	now  time.Time

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
	changed, err := b.tx.Changed(ctx, b.opts.Batch)
	if err != nil {
		return fmt.Errorf("read changed findings: %w", err)
	}
	b.findings = len(changed)
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

// tenantBatch is the part of a batch that is one tenant's.
type tenantBatch struct {
	*batch
	tenant  string
	members []*member
	rules   map[string]Rule

	incidents map[ID]*Incident // every incident that the batch may touch, locked
	suspects  map[ID][]Link    // incidents that may come apart, with all their links
	hits      []Hit            // Ord is an index into members
}

func (t *tenantBatch) assemble(ctx context.Context, changed []Finding) error {
	if err := t.load(ctx, changed); err != nil {
		return err
	}
	if err := t.describe(ctx); err != nil {
		return err
	}
	if err := t.probe(ctx); err != nil {
		return err
	}
	if err := t.save(ctx); err != nil {
		return err
	}
	return t.settle(ctx, t.group())
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
	var suspects []ID
	for i, m := range t.members {
		moved := m.moved()
		if moved {
			if _, ok := t.suspects[m.Incident]; !ok {
				t.suspects[m.Incident] = nil
				suspects = append(suspects, m.Incident)
			}
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
	var ids []ID
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

// component is a set of findings that belong together, as far as the batch can
// see: findings named one by one, and whole incidents.
type component struct {
	incidents []ID // whole, or represented by their opener
	fresh     []*member
	// strays are findings named one by one that stand in another incident now, or
	// in one that may come apart: finding → where it stands.
	strays map[detect.FindingID]ID
}

// group computes the components that the batch touches. Its nodes are the
// changed findings, the incidents they are in or reach, and the findings of
// incidents that may come apart.
func (t *tenantBatch) group() []*component {
	type node struct {
		m        *member
		incident ID // a whole incident, or where a stray stands
		stray    detect.FindingID
		whole    bool
	}
	var nodes []node
	whole := map[ID]int32{}
	byFinding := map[detect.FindingID]int32{}
	add := func(n node) int32 {
		nodes = append(nodes, n)
		return int32(len(nodes) - 1)
	}
	wholeOf := func(id ID) int32 {
		i, ok := whole[id]
		if !ok {
			i = add(node{incident: id, whole: true})
			whole[id] = i
		}
		return i
	}
	for _, m := range t.members {
		byFinding[m.ID] = add(node{m: m, incident: m.Incident})
	}
	var suspectLinks []Link
	for _, id := range sortedIDs(t.suspects) {
		suspectLinks = append(suspectLinks, t.suspects[id]...)
	}
	for _, l := range suspectLinks {
		if _, ok := byFinding[l.Finding]; !ok {
			byFinding[l.Finding] = add(node{incident: l.Incident, stray: l.Finding})
		}
	}
	for _, h := range t.hits {
		if _, suspect := t.suspects[h.Incident]; !suspect {
			wholeOf(h.Incident)
		}
	}
	for _, m := range t.members {
		if _, suspect := t.suspects[m.Incident]; !m.isNew() && !suspect {
			wholeOf(m.Incident)
		}
	}

	f := newForest(len(nodes))
	// A closed incident's findings are linked among themselves only.
	pools := map[ID][]nodeLink{}
	pool := func(id ID) ID {
		if !id.IsZero() && t.closed(id) {
			return id
		}
		return ID{}
	}
	for i, m := range t.members {
		for _, l := range m.links {
			p := pool(m.Incident)
			pools[p] = append(pools[p], nodeLink{Link: l, node: int32(i)})
		}
		if _, suspect := t.suspects[m.Incident]; !m.isNew() && !suspect {
			f.join(int32(i), whole[m.Incident])
		}
	}
	for _, l := range suspectLinks {
		if i := byFinding[l.Finding]; nodes[i].m == nil {
			p := pool(l.Incident)
			pools[p] = append(pools[p], nodeLink{Link: l, node: i})
		}
	}
	for _, links := range pools {
		joinLinks(f, links, t.opts.window)
	}
	for _, h := range t.hits {
		if _, suspect := t.suspects[h.Incident]; suspect {
			continue // its findings are nodes of their own
		}
		f.join(h.Ord, whole[h.Incident])
	}

	byRoot := map[int32]*component{}
	var cs []*component
	for i, n := range nodes {
		c := byRoot[f.root(int32(i))]
		if c == nil {
			c = &component{strays: map[detect.FindingID]ID{}}
			byRoot[f.root(int32(i))] = c
			cs = append(cs, c)
		}
		_, suspect := t.suspects[n.incident]
		switch {
		case n.whole:
			c.incidents = append(c.incidents, n.incident)
		case n.m != nil && n.m.isNew():
			c.fresh = append(c.fresh, n.m)
		case n.m != nil && suspect:
			c.strays[n.m.ID] = n.incident
		case n.m == nil:
			c.strays[n.stray] = n.incident
		}
	}
	// An incident that came apart stays with its opener.
	for _, c := range cs {
		for id, in := range c.strays {
			if t.incidents[in].Opener == id {
				c.incidents = append(c.incidents, in)
			}
		}
		slices.SortFunc(c.incidents, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	}
	return cs
}

func sortedIDs[V any](m map[ID]V) []ID {
	ids := make([]ID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// change is what a component does to its incident.
type change struct {
	incident *Incident
	opened   bool
	added    int  // findings new to any incident
	regained bool // findings that came from another incident that came apart
	absorbed []*Incident
	lost     bool // came apart
}

// settle gives every component its incident and writes what that changes.
func (t *tenantBatch) settle(ctx context.Context, cs []*component) error {
	assign := map[detect.FindingID]ID{}
	changes := map[ID]*change{}
	at := func(in *Incident) *change {
		c := changes[in.ID]
		if c == nil {
			c = &change{incident: in}
			changes[in.ID] = c
		}
		return c
	}
	ids, err := t.choose(ctx, cs)
	if err != nil {
		return err
	}
	var moves [][2]ID
	for i, c := range cs {
		in := t.incidents[ids[i]]
		if in == nil {
			in = t.open(ids[i], c)
			t.incidents[in.ID] = in
			at(in).opened = true
		}
		ch := at(in)
		for _, m := range c.fresh {
			assign[m.ID] = in.ID
			ch.added++
		}
		for f, from := range c.strays {
			if from == in.ID {
				continue
			}
			assign[f] = in.ID
			ch.regained = true
			if !slices.Contains(c.incidents, from) {
				at(t.incidents[from]).lost = true
			}
		}
		for _, id := range c.incidents {
			if id != in.ID {
				ch.absorbed = append(ch.absorbed, t.incidents[id])
				if _, suspect := t.suspects[id]; !suspect {
					moves = append(moves, [2]ID{id, in.ID})
				}
			}
		}
	}
	for _, c := range changes {
		for _, gone := range c.absorbed {
			delete(changes, gone.ID) // there only if it came apart as well
		}
	}
	// New incidents first: findings, audit and intents refer to them.
	var born []Incident
	for _, id := range sortedIDs(changes) {
		if c := changes[id]; c.opened {
			born = append(born, *c.incident)
		}
	}
	if len(born) > 0 {
		if err := t.tx.SaveIncidents(ctx, born); err != nil {
			return fmt.Errorf("write new incidents: %w", err)
		}
	}
	if len(assign) > 0 {
		if err := t.tx.Assign(ctx, t.tenant, assign); err != nil {
			return fmt.Errorf("assign findings: %w", err)
		}
	}
	for _, m := range moves {
		if err := t.tx.Move(ctx, t.tenant, m[0], m[1]); err != nil {
			return fmt.Errorf("move findings: %w", err)
		}
	}
	return t.publish(ctx, changes)
}

// open makes the incident of a component that has none. What came away from
// another incident, with nothing new to it, stands where that one stood.
func (t *tenantBatch) open(id ID, c *component) *Incident {
	in := &Incident{Tenant: t.tenant, ID: id, Status: StatusOpen, OpenedAt: t.now}
	if len(c.fresh) > 0 {
		return in
	}
	var from *Incident
	for _, id := range c.strays {
		s := t.incidents[id]
		if from == nil || from.Status == StatusResolved && s.Status != StatusResolved {
			from = s
		}
	}
	if from != nil && from.Status != StatusMerged {
		in.Status, in.Assignee = from.Status, from.Assignee
		in.AcknowledgedAt, in.ResolvedAt = from.AcknowledgedAt, from.ResolvedAt
	}
	return in
}

// choose names the incident of each component: the one with the earliest opener,
// or a new one.
func (t *tenantBatch) choose(ctx context.Context, cs []*component) ([]ID, error) {
	type opener struct {
		first int64
		id    detect.FindingID
	}
	openers := make(map[ID]opener, len(t.incidents))
	for id, in := range t.incidents {
		openers[id] = opener{in.First, in.Opener}
	}
	for _, m := range t.members {
		if o := openers[m.Incident]; !m.isNew() && earlier(m.First, m.ID, o.first, o.id) {
			openers[m.Incident] = opener{m.First, m.ID}
		}
	}
	ids := make([]ID, len(cs))
	taken := map[ID]bool{}
	for i, c := range cs {
		for j, id := range c.incidents {
			if a, b := openers[id], openers[ids[i]]; j == 0 || earlier(a.first, a.id, b.first, b.id) {
				ids[i] = id
			}
		}
		taken[ids[i]] = true
	}
	for i, c := range cs {
		if !ids[i].IsZero() {
			continue
		}
		var by detect.FindingID
		var first int64
		have := false
		for _, m := range c.fresh {
			if !have || earlier(m.First, m.ID, first, by) {
				by, first, have = m.ID, m.First, true
			}
		}
		if !have { // a part that came away, without its opener
			for f := range c.strays {
				if !have || bytes.Compare(f[:], by[:]) < 0 {
					by, have = f, true
				}
			}
		}
		for n := uint32(0); ; n++ {
			id := newID(t.tenant, by, n)
			if taken[id] || t.incidents[id] != nil {
				continue
			}
			there, err := t.tx.Incidents(ctx, t.tenant, []ID{id})
			if err != nil {
				return nil, fmt.Errorf("look for incident: %w", err)
			}
			if len(there) == 0 {
				ids[i], taken[id] = id, true
				break
			}
		}
	}
	return ids, nil
}

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
	var leads []detect.FindingID
	for _, id := range ids {
		lead, opener := leadOf(byIncident[id])
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

// leadOf returns the totals with the earliest finding that an incident is named
// for, which is none that could not be judged if there is another, and with the
// earliest of all.
func leadOf(totals []Total) (lead, opener Total) {
	for i, tot := range totals {
		if i == 0 || earlier(tot.OpenerFirst, tot.Opener, opener.OpenerFirst, opener.Opener) {
			opener = tot
		}
		if i == 0 || lead.Unknown && !tot.Unknown ||
			lead.Unknown == tot.Unknown && earlier(tot.OpenerFirst, tot.Opener, lead.OpenerFirst, lead.Opener) {
			lead = tot
		}
	}
	return lead, opener
}

// sumUp sets what follows from the findings.
func (t *tenantBatch) sumUp(in *Incident, totals []Total, entities map[detect.FindingID][]Entity) {
	lead, opener := leadOf(totals)
	in.Opener, in.RuleID = opener.Opener, t.rules[opener.RuleVersion].ID
	in.Title = title(t.rules[lead.RuleVersion], lead.Unknown, entities[lead.Opener])
	in.Severity, in.Count, in.Account = detect.LevelInformational, 0, ""
	in.RuleIDs, in.Tags = nil, nil
	in.First, in.Last = totals[0].First, totals[0].Last
	for _, tot := range totals {
		r := t.rules[tot.RuleVersion]
		in.Severity = max(in.Severity, severityOf(r, tot.Unknown))
		in.Count += tot.Count
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
		s = "Not verified, logs are missing: " + s
	}
	if e, ok := mainEntity(es); ok {
		s += ": " + e.Value
	}
	return s
}
