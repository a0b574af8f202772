package incident

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/vedette-sec/vedette/detect"
)

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
		if l, ok := t.floodLink(m.ID); ok {
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
			if l.Kind == LinkRepeat { // each finding has one
				if l, ok := t.floodLink(l.Finding); ok {
					pools[p] = append(pools[p], nodeLink{Link: l, node: i})
				}
			}
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
