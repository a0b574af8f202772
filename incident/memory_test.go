package incident_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
)

// errKilled stands for a process killed between two steps.
var errKilled = errors.New("killed")

type fkey struct {
	tenant string
	id     detect.FindingID
}

type ikey struct {
	tenant string
	id     incident.ID
}

type lkey struct {
	fkey
	hash [16]byte
}

type row struct {
	incident.Finding
	partition int32
	number    int64
}

type rkey struct {
	tenant string
	incident.RuleSeen
}

type tkey struct {
	tenant string
	incident.RuleTile
}

// state is a ledger's content.
type state struct {
	epoch     int64
	cursors   map[int32]int64
	findings  map[fkey]row
	entities  map[fkey][]incident.Entity
	links     map[lkey]incident.Link
	seen      map[rkey]bool
	places    map[fkey]incident.Place
	floods    map[tkey]bool
	incidents map[ikey]incident.Incident
	audit     []incident.Audit
	intents   map[ikey]map[string]incident.Intent
}

func (s *state) clone() *state {
	c := *s
	c.cursors = maps.Clone(s.cursors)
	c.findings = maps.Clone(s.findings)
	c.entities = maps.Clone(s.entities)
	c.links = maps.Clone(s.links)
	c.seen = maps.Clone(s.seen)
	c.places = maps.Clone(s.places)
	c.floods = maps.Clone(s.floods)
	c.incidents = maps.Clone(s.incidents)
	c.audit = slices.Clone(s.audit)
	c.intents = make(map[ikey]map[string]incident.Intent, len(s.intents))
	for k, v := range s.intents {
		c.intents[k] = maps.Clone(v)
	}
	return &c
}

// memory is a Ledger in memory that can be killed: before the nth step of a
// transaction, or after its commit, of which the caller then does not learn.
type memory struct {
	*state
	rules   map[string]incident.Rule
	numbers map[int32]int64
	kill    int // steps until killed; negative never
}

func newMemory(rules ...incident.Rule) *memory {
	m := &memory{
		state: &state{
			cursors: map[int32]int64{}, findings: map[fkey]row{}, entities: map[fkey][]incident.Entity{},
			links: map[lkey]incident.Link{}, seen: map[rkey]bool{}, places: map[fkey]incident.Place{}, floods: map[tkey]bool{}, incidents: map[ikey]incident.Incident{},
			intents: map[ikey]map[string]incident.Intent{},
		},
		rules: map[string]incident.Rule{}, numbers: map[int32]int64{}, kill: -1,
	}
	for _, r := range rules {
		m.rules[r.Version] = r
	}
	return m
}

// checkpoint commits deltas as correlate does.
func (m *memory) checkpoint(partition int32, deltas ...detect.Finding) {
	m.numbers[partition]++
	for _, d := range deltas {
		k := fkey{d.Tenant, d.ID}
		r, ok := m.findings[k]
		if !ok {
			r.Finding.Finding = d
		} else {
			r.Finding.Finding = mergeDelta(r.Finding.Finding, d)
		}
		r.partition, r.number = partition, m.numbers[partition]
		m.findings[k] = r
	}
}

// mergeDelta merges as detect.Finding.Merge is documented to.
func mergeDelta(f, d detect.Finding) detect.Finding {
	if f.Merge == detect.MergeLeast {
		if d.First < f.First {
			return d
		}
		return f
	}
	f.Count += d.Count
	f.Peak = max(f.Peak, d.Peak)
	f.First, f.Last = min(f.First, d.First), max(f.Last, d.Last)
	return f
}

func (m *memory) AcquireAssembler(context.Context, int32) (int64, error) {
	m.epoch++
	return m.epoch, nil
}

func (m *memory) Assemble(ctx context.Context, _ int32, epoch int64, f func(incident.Tx) error) error {
	if epoch != m.epoch {
		return incident.ErrFenced
	}
	return m.Act(ctx, f)
}

func (m *memory) Act(_ context.Context, f func(incident.Tx) error) error {
	tx := &memoryTx{state: m.clone(), m: m}
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.step(); err != nil { // before the commit
		return err
	}
	m.state = tx.state
	return tx.step() // after it
}

type memoryTx struct {
	*state
	m *memory
}

func (t *memoryTx) step() error {
	if t.m.kill == 0 {
		t.m.kill = -1
		return errKilled
	}
	if t.m.kill > 0 {
		t.m.kill--
	}
	return nil
}

func (t *memoryTx) Changed(_ context.Context, limit int) ([]incident.Finding, error) {
	if err := t.step(); err != nil {
		return nil, err
	}
	var rows []row
	for _, r := range t.findings {
		if r.number > t.cursors[r.partition] {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.number, b.number), bytes.Compare(a.ID[:], b.ID[:]))
	})
	var out []incident.Finding
	for i, r := range rows {
		if i >= limit && (r.partition != rows[i-1].partition || r.number != rows[i-1].number) {
			break
		}
		out = append(out, r.Finding)
		t.cursors[r.partition] = r.number
	}
	return out, nil
}

func (t *memoryTx) Rules(_ context.Context, versions []string) ([]incident.Rule, error) {
	var rs []incident.Rule
	for _, v := range versions {
		if r, ok := t.m.rules[v]; ok {
			rs = append(rs, r)
		}
	}
	return rs, t.step()
}

func (t *memoryTx) RulesSeen(_ context.Context, tenant string, on []incident.EntityDay) ([]incident.RuleSeen, error) {
	var out []incident.RuleSeen
	for k := range t.seen {
		if k.tenant == tenant && slices.Contains(on, k.EntityDay) {
			out = append(out, k.RuleSeen)
		}
	}
	return out, t.step()
}

func (t *memoryTx) AddRulesSeen(_ context.Context, tenant string, seen []incident.RuleSeen) error {
	for _, s := range seen {
		t.seen[rkey{tenant, s}] = true
	}
	return t.step()
}

func (t *memoryTx) Entities(_ context.Context, tenant string, ids []detect.FindingID) (map[detect.FindingID][]incident.Entity, error) {
	out := map[detect.FindingID][]incident.Entity{}
	for _, id := range ids {
		out[id] = t.entities[fkey{tenant, id}]
	}
	return out, t.step()
}

func (t *memoryTx) AddEntities(_ context.Context, tenant string, es map[detect.FindingID][]incident.Entity) error {
	for id, e := range es {
		t.entities[fkey{tenant, id}] = e
	}
	return t.step()
}

func (t *memoryTx) Links(_ context.Context, tenant string, ids []detect.FindingID) ([]incident.Link, error) {
	return t.linksWhere(func(k lkey, _ incident.Link) bool {
		return k.tenant == tenant && slices.Contains(ids, k.id)
	}), t.step()
}

func (t *memoryTx) LinksOfIncidents(_ context.Context, tenant string, ids []incident.ID) ([]incident.Link, error) {
	return t.linksWhere(func(k lkey, l incident.Link) bool {
		return k.tenant == tenant && slices.Contains(ids, l.Incident)
	}), t.step()
}

func (t *memoryTx) linksWhere(want func(lkey, incident.Link) bool) []incident.Link {
	var out []incident.Link
	for k, l := range t.links {
		l.Incident = t.findings[k.fkey].Incident
		if want(k, l) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b incident.Link) int {
		return cmp.Or(bytes.Compare(a.Finding[:], b.Finding[:]), bytes.Compare(a.Hash[:], b.Hash[:]))
	})
	return out
}

func (t *memoryTx) SaveLinks(_ context.Context, tenant string, links []incident.Link) error {
	for _, l := range links {
		t.links[lkey{fkey{tenant, l.Finding}, l.Hash}] = l
	}
	return t.step()
}

func (t *memoryTx) Probe(_ context.Context, tenant string, probes []incident.Probe, closed time.Time) ([]incident.Hit, error) {
	var hits []incident.Hit
	for _, p := range probes {
		for k, l := range t.links { // one of them, whichever
			at := l.First
			if p.ByLast {
				at = l.Last
			}
			in := t.findings[k.fkey].Incident
			meets := at >= p.From && at <= p.To
			if p.Spanning {
				meets = l.First < p.From && l.Last > p.To
			}
			if k.tenant != tenant || l.Hash != p.Hash || in.IsZero() || !meets {
				continue
			}
			if inc := t.incidents[ikey{tenant, in}]; inc.Status == incident.StatusResolved && inc.ResolvedAt.Before(closed) {
				continue
			}
			hits = append(hits, incident.Hit{Ord: p.Ord, Incident: in})
			break
		}
	}
	return hits, t.step()
}

func (t *memoryTx) Incidents(_ context.Context, tenant string, ids []incident.ID) ([]incident.Incident, error) {
	var out []incident.Incident
	for _, id := range ids {
		if in, ok := t.incidents[ikey{tenant, id}]; ok {
			out = append(out, in)
		}
	}
	return out, t.step()
}

func (t *memoryTx) Totals(_ context.Context, tenant string, ids []incident.ID) ([]incident.Total, error) {
	type tkey struct {
		in      incident.ID
		version string
		unknown bool
	}
	sums := map[tkey]incident.Total{}
	for k, r := range t.findings {
		if k.tenant != tenant || !slices.Contains(ids, r.Incident) {
			continue
		}
		tk := tkey{r.Incident, r.RuleVersion, r.Verdict == incident.VerdictUnknown}
		s, ok := sums[tk]
		if !ok {
			s = incident.Total{Incident: tk.in, RuleVersion: tk.version, Unknown: tk.unknown, First: r.First, Last: r.Last, Opener: r.ID, OpenerFirst: r.First}
		}
		s.Findings++
		s.Count += r.Count
		s.First, s.Last = min(s.First, r.First), max(s.Last, r.Last)
		if r.First < s.OpenerFirst || r.First == s.OpenerFirst && bytes.Compare(r.ID[:], s.Opener[:]) < 0 {
			s.Opener, s.OpenerFirst = r.ID, r.First
		}
		for _, e := range t.entities[k] {
			if e.Type == incident.EntityAccount && (s.Account == "" || e.Value < s.Account) {
				s.Account = e.Value
			}
		}
		sums[tk] = s
	}
	return slices.Collect(maps.Values(sums)), t.step()
}

func (t *memoryTx) SaveIncidents(_ context.Context, ins []incident.Incident) error {
	for _, in := range ins {
		t.incidents[ikey{in.Tenant, in.ID}] = in
	}
	return t.step()
}

func (t *memoryTx) Assign(_ context.Context, tenant string, to map[detect.FindingID]incident.ID) error {
	for f, in := range to {
		r := t.findings[fkey{tenant, f}]
		r.Incident = in
		t.findings[fkey{tenant, f}] = r
	}
	return t.step()
}

func (t *memoryTx) Move(_ context.Context, tenant string, from, to incident.ID) error {
	for k, r := range t.findings {
		if k.tenant == tenant && r.Incident == from {
			r.Incident = to
			t.findings[k] = r
		}
	}
	return t.step()
}

func (t *memoryTx) AddAudit(_ context.Context, es []incident.Audit) error {
	t.audit = append(t.audit, es...)
	return t.step()
}

func (t *memoryTx) SaveIntents(_ context.Context, is []incident.Intent) error {
	for _, i := range is {
		k := ikey{i.Tenant, i.Incident}
		if t.intents[k] == nil {
			t.intents[k] = map[string]incident.Intent{}
		}
		if i.Event == incident.EventTrigger {
			t.intents[k][i.Receiver] = i
			continue
		}
		for name := range t.intents[k] {
			if i.Receiver == "" || i.Receiver == name {
				r := i
				r.Receiver = name
				t.intents[k][name] = r
			}
		}
	}
	return t.step()
}
