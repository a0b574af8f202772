// Package incidenttest is the ledger of incidents in memory, for tests: it keeps the
// promises of the one in Postgres, and can be killed at any step.
package incidenttest

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

// ErrKilled stands for a process killed between two steps.
var ErrKilled = errors.New("killed")

// FindingKey names a finding.
type FindingKey struct {
	Tenant string
	ID     detect.FindingID
}

// IncidentKey names an incident.
type IncidentKey struct {
	Tenant string
	ID     incident.ID
}

type lkey struct {
	FindingKey
	hash [16]byte
}

// Row is a finding with the checkpoint that changed it last.
type Row struct {
	incident.Finding
	partition int32
	number    int64
}

type rkey struct {
	Tenant string
	incident.RuleSeen
}

type tkey struct {
	Tenant string
	incident.RuleTile
}

// state is a ledger's content; what is exported of it is for reading.
type state struct {
	epoch     int64
	cursors   map[int32]int64
	Findings  map[FindingKey]Row
	entities  map[FindingKey][]incident.Entity
	links     map[lkey]incident.Link
	seen      map[rkey]bool
	places    map[FindingKey]incident.Place
	floods    map[tkey]bool
	Incidents map[IncidentKey]incident.Incident
	Audit     []incident.Audit
	Intents   map[IncidentKey]map[string]incident.Intent
}

func (s *state) clone() *state {
	c := *s
	c.cursors = maps.Clone(s.cursors)
	c.Findings = maps.Clone(s.Findings)
	c.entities = maps.Clone(s.entities)
	c.links = maps.Clone(s.links)
	c.seen = maps.Clone(s.seen)
	c.places = maps.Clone(s.places)
	c.floods = maps.Clone(s.floods)
	c.Incidents = maps.Clone(s.Incidents)
	c.Audit = slices.Clone(s.Audit)
	c.Intents = make(map[IncidentKey]map[string]incident.Intent, len(s.Intents))
	for k, v := range s.Intents {
		c.Intents[k] = maps.Clone(v)
	}
	return &c
}

// Memory is a Ledger in memory that can be killed: before the nth step of a
// transaction, or after its commit, of which the caller then does not learn.
type Memory struct {
	*state
	rules   map[string]incident.Rule
	numbers map[int32]int64

	Kill int // steps until killed; negative never
}

// New returns an empty ledger that knows these rule versions.
func New(rules ...incident.Rule) *Memory {
	m := &Memory{
		state: &state{
			cursors: map[int32]int64{}, Findings: map[FindingKey]Row{}, entities: map[FindingKey][]incident.Entity{},
			links: map[lkey]incident.Link{}, seen: map[rkey]bool{}, places: map[FindingKey]incident.Place{}, floods: map[tkey]bool{}, Incidents: map[IncidentKey]incident.Incident{},
			Intents: map[IncidentKey]map[string]incident.Intent{},
		},
		rules: map[string]incident.Rule{}, numbers: map[int32]int64{}, Kill: -1,
	}
	for _, r := range rules {
		m.rules[r.Version] = r
	}
	return m
}

// Checkpoint commits deltas as correlate does.
func (m *Memory) Checkpoint(partition int32, deltas ...detect.Finding) {
	m.CheckpointAs(partition, m.numbers[partition]+1, deltas...)
}

// CheckpointAs commits deltas as the checkpoint of that number.
func (m *Memory) CheckpointAs(partition int32, number int64, deltas ...detect.Finding) {
	m.numbers[partition] = max(m.numbers[partition], number)
	for _, d := range deltas {
		k := FindingKey{d.Tenant, d.ID}
		r, ok := m.Findings[k]
		if !ok {
			r.Finding.Finding = d
		} else {
			r.Finding.Finding = merge(r.Finding.Finding, d)
		}
		r.partition, r.number = partition, number
		m.Findings[k] = r
	}
}

// merge merges as detect.Finding.Merge is documented to.
func merge(f, d detect.Finding) detect.Finding {
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

// Pending is how many findings changed and were not assembled since.
func (m *Memory) Pending() int {
	n := 0
	for _, r := range m.Findings {
		if r.number > m.cursors[r.partition] {
			n++
		}
	}
	return n
}

// AcquireAssembler implements [incident.Ledger], as Assemble and Act do.
func (m *Memory) AcquireAssembler(context.Context, int32) (int64, error) {
	m.epoch++
	return m.epoch, nil
}

// Assemble implements [incident.Ledger].
func (m *Memory) Assemble(ctx context.Context, _ int32, epoch int64, f func(incident.Tx) error) error {
	if epoch != m.epoch {
		return incident.ErrFenced
	}
	return m.Act(ctx, f)
}

// Act implements [incident.Ledger].
func (m *Memory) Act(_ context.Context, f func(incident.Tx) error) error {
	tx := &tx{state: m.clone(), m: m}
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.step(); err != nil { // before the commit
		return err
	}
	m.state = tx.state
	return tx.step() // after it
}

type tx struct {
	*state
	m *Memory
}

func (t *tx) step() error {
	if t.m.Kill == 0 {
		t.m.Kill = -1
		return ErrKilled
	}
	if t.m.Kill > 0 {
		t.m.Kill--
	}
	return nil
}

func (t *tx) Changed(_ context.Context, limit int) ([]incident.Finding, error) {
	if err := t.step(); err != nil {
		return nil, err
	}
	var rows []Row
	for _, r := range t.state.Findings {
		if r.number > t.cursors[r.partition] {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
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

func (t *tx) Rules(_ context.Context, versions []string) ([]incident.Rule, error) {
	var rs []incident.Rule
	for _, v := range versions {
		if r, ok := t.m.rules[v]; ok {
			rs = append(rs, r)
		}
	}
	return rs, t.step()
}

func (t *tx) RulesSeen(_ context.Context, tenant string, on []incident.EntityDay) ([]incident.RuleSeen, error) {
	var out []incident.RuleSeen
	for k := range t.seen {
		if k.Tenant == tenant && slices.Contains(on, k.EntityDay) {
			out = append(out, k.RuleSeen)
		}
	}
	return out, t.step()
}

func (t *tx) AddRulesSeen(_ context.Context, tenant string, seen []incident.RuleSeen) error {
	for _, s := range seen {
		t.seen[rkey{tenant, s}] = true
	}
	return t.step()
}

func (t *tx) Entities(_ context.Context, tenant string, ids []detect.FindingID) (map[detect.FindingID][]incident.Entity, error) {
	out := map[detect.FindingID][]incident.Entity{}
	for _, id := range ids {
		out[id] = t.entities[FindingKey{tenant, id}]
	}
	return out, t.step()
}

func (t *tx) AddEntities(_ context.Context, tenant string, es map[detect.FindingID][]incident.Entity) error {
	for id, e := range es {
		t.entities[FindingKey{tenant, id}] = e
	}
	return t.step()
}

func (t *tx) Links(_ context.Context, tenant string, ids []detect.FindingID) ([]incident.Link, error) {
	return t.linksWhere(func(k lkey, _ incident.Link) bool {
		return k.Tenant == tenant && slices.Contains(ids, k.ID)
	}), t.step()
}

func (t *tx) LinksOfIncidents(_ context.Context, tenant string, ids []incident.ID) ([]incident.Link, error) {
	return t.linksWhere(func(k lkey, l incident.Link) bool {
		return k.Tenant == tenant && slices.Contains(ids, l.Incident)
	}), t.step()
}

func (t *tx) linksWhere(want func(lkey, incident.Link) bool) []incident.Link {
	var out []incident.Link
	for k, l := range t.links {
		l.Incident = t.state.Findings[k.FindingKey].Incident
		if want(k, l) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b incident.Link) int {
		return cmp.Or(bytes.Compare(a.Finding[:], b.Finding[:]), bytes.Compare(a.Hash[:], b.Hash[:]))
	})
	return out
}

func (t *tx) SaveLinks(_ context.Context, tenant string, links []incident.Link) error {
	for _, l := range links {
		t.links[lkey{FindingKey{tenant, l.Finding}, l.Hash}] = l
	}
	return t.step()
}

func (t *tx) Probe(_ context.Context, tenant string, probes []incident.Probe, closed time.Time) ([]incident.Hit, error) {
	var hits []incident.Hit
	for _, p := range probes {
		for k, l := range t.links { // one of them, whichever
			at := l.First
			if p.ByLast {
				at = l.Last
			}
			in := t.state.Findings[k.FindingKey].Incident
			meets := at >= p.From && at <= p.To
			if p.Spanning {
				meets = l.First < p.From && l.Last > p.To
			}
			if k.Tenant != tenant || l.Hash != p.Hash || in.IsZero() || !meets {
				continue
			}
			if inc := t.state.Incidents[IncidentKey{tenant, in}]; inc.Status == incident.StatusResolved && inc.ResolvedAt.Before(closed) {
				continue
			}
			hits = append(hits, incident.Hit{Ord: p.Ord, Incident: in})
			break
		}
	}
	return hits, t.step()
}

func (t *tx) Incidents(_ context.Context, tenant string, ids []incident.ID) ([]incident.Incident, error) {
	var out []incident.Incident
	for _, id := range ids {
		if in, ok := t.state.Incidents[IncidentKey{tenant, id}]; ok {
			out = append(out, in)
		}
	}
	return out, t.step()
}

func (t *tx) Totals(_ context.Context, tenant string, ids []incident.ID) ([]incident.Total, error) {
	type tkey struct {
		in      incident.ID
		version string
		unknown bool
	}
	sums := map[tkey]incident.Total{}
	for k, r := range t.state.Findings {
		if k.Tenant != tenant || !slices.Contains(ids, r.Incident) {
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

func (t *tx) SaveIncidents(_ context.Context, ins []incident.Incident) error {
	for _, in := range ins {
		t.state.Incidents[IncidentKey{in.Tenant, in.ID}] = in
	}
	return t.step()
}

func (t *tx) Assign(_ context.Context, tenant string, to map[detect.FindingID]incident.ID) error {
	for f, in := range to {
		r := t.state.Findings[FindingKey{tenant, f}]
		r.Incident = in
		t.state.Findings[FindingKey{tenant, f}] = r
	}
	return t.step()
}

func (t *tx) Move(_ context.Context, tenant string, from, to incident.ID) error {
	for k, r := range t.state.Findings {
		if k.Tenant == tenant && r.Incident == from {
			r.Incident = to
			t.state.Findings[k] = r
		}
	}
	return t.step()
}

func (t *tx) AddAudit(_ context.Context, es []incident.Audit) error {
	t.state.Audit = append(t.state.Audit, es...)
	return t.step()
}

func (t *tx) SaveIntents(_ context.Context, is []incident.Intent) error {
	for _, i := range is {
		k := IncidentKey{i.Tenant, i.Incident}
		if t.state.Intents[k] == nil {
			t.state.Intents[k] = map[string]incident.Intent{}
		}
		if i.Event == incident.EventTrigger {
			t.state.Intents[k][i.Receiver] = i
			continue
		}
		for name := range t.state.Intents[k] {
			if i.Receiver == "" || i.Receiver == name {
				r := i
				r.Receiver = name
				t.state.Intents[k][name] = r
			}
		}
	}
	return t.step()
}
