package incident_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/incident/incidenttest"
)

var testRules = []incident.Rule{
	{Version: "flood1", ID: "flood", Title: "Refused from one address", Level: detect.LevelMedium, GroupBy: []string{"src_endpoint.ip"}, Tags: []string{"attack.t1110"}},
	{Version: "flood2", ID: "flood", Title: "Refused from one address", Level: detect.LevelHigh, GroupBy: []string{"src_endpoint.ip"}, Tags: []string{"attack.t1110"}},
	{Version: "who", ID: "who", Title: "Key created", Level: detect.LevelLow, GroupBy: []string{"userIdentity.arn", "sourceIPAddress"}, Tags: []string{"attack.t1098"}},
	{Version: "fresh", ID: "fresh", Title: "Access from a new country", Level: detect.LevelHigh, GroupBy: []string{"actor.user.uid"}},
	{Version: "all", ID: "all", Title: "Anything at all", Level: detect.LevelInformational},
}

func ruleOf(version string) incident.Rule {
	for _, r := range testRules {
		if r.Version == version {
			return r
		}
	}
	panic("no rule " + version)
}

// start of the tests' event time: before noon of a day, so that days change.
var start = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC).UnixNano()

func key(values ...string) []byte {
	var k []byte
	for _, v := range values {
		k = detect.AppendKey(k, []byte(v))
	}
	return k
}

// delta is one delta of a finding, as drawn.
type delta struct {
	detect.Finding
	partition int32
}

var deltas = rapid.Custom(func(t *rapid.T) delta {
	r := rapid.SampledFrom(testRules).Draw(t, "rule")
	ips := []string{"198.51.100.7", "203.0.113.9", "10.0.0.4", ""}
	arns := []string{"arn:aws:iam::111122223333:user/ann", "arn:aws:sts::111122223333:assumed-role/deploy/ci", "arn:aws:iam::111122223333:role/deploy"}
	var values []string
	for _, g := range r.GroupBy {
		pool := ips
		if strings.Contains(g, "ser") {
			pool = arns
		}
		values = append(values, rapid.SampledFrom(pool).Draw(t, g))
	}
	const step = int64(5 * time.Minute)
	first := start + rapid.Int64Range(0, 60).Draw(t, "first")*step
	d := delta{Finding: detect.Finding{
		Tenant: rapid.SampledFrom([]string{"t1", "t1", "t1", "t2"}).Draw(t, "tenant"), RuleVersion: r.Version, Key: key(values...),
		Count: rapid.Int64Range(1, 9).Draw(t, "count"), First: first,
	}}
	d.Tile = first / int64(time.Hour) * int64(time.Hour)
	d.Last = min(d.Tile+int64(time.Hour)-1, first+rapid.Int64Range(0, 6).Draw(t, "span")*step)
	if r.ID == "fresh" { // about one event, which may turn out to be an earlier one
		d.Merge, d.Last, d.Count, d.Tile = detect.MergeLeast, first, 1, rapid.Int64Range(0, 3).Draw(t, "value")
	}
	if r.ID == "all" && rapid.Bool().Draw(t, "unknown") {
		d.Verdict, d.Tile = incident.VerdictUnknown, d.Tile+1
	}
	d.ID = detect.NewFindingID(d.Tenant, d.RuleVersion, d.Key, d.Tile)
	d.partition = int32(binary.BigEndian.Uint32(d.ID[:4]) % 3)
	return d
})

// view is what the promise covers of an incident.
type view struct {
	Findings string // their ids, sorted
	Opener   string
	RuleID   string
	RuleIDs  string
	Title    string
	Severity detect.Level
	Account  string
	Tags     string
	Count    int64
	Keys     int64
	First    int64
	Last     int64
}

// reference groups findings the slow way: every pair is looked at.
func reference(fs []detect.Finding, join, repeat time.Duration, floodKeys int) map[string]view {
	slices.SortFunc(fs, func(a, b detect.Finding) int {
		if a.First != b.First {
			return int(a.First - b.First)
		}
		return strings.Compare(string(a.ID[:]), string(b.ID[:]))
	})
	group := make([]int, len(fs))
	for i := range group {
		group[i] = i
	}
	entities := func(f detect.Finding) []incident.Entity {
		es, err := incident.Entities(ruleOf(f.RuleVersion), f)
		if err != nil {
			panic(err)
		}
		return es
	}
	tile := func(f detect.Finding) int64 {
		if f.Merge == detect.MergeLeast {
			return f.First / int64(time.Hour) * int64(time.Hour)
		}
		return f.Tile
	}
	sameRule := func(a, b detect.Finding) bool {
		return a.Tenant == b.Tenant && ruleOf(a.RuleVersion).ID == ruleOf(b.RuleVersion).ID
	}
	flooded := func(f detect.Finding) bool {
		keys := map[string]bool{}
		for _, g := range fs {
			if sameRule(f, g) && tile(f) == tile(g) {
				keys[string(g.Key)] = true
			}
		}
		return len(keys) >= floodKeys
	}
	inFlood := map[detect.FindingID]bool{}
	for _, f := range fs {
		inFlood[f.ID] = flooded(f)
	}
	linked := func(a, b detect.Finding) bool {
		gap := time.Duration(max(a.First, b.First) - min(a.Last, b.Last))
		if a.Tenant != b.Tenant {
			return false
		}
		if ruleOf(a.RuleVersion).ID == ruleOf(b.RuleVersion).ID && string(a.Key) == string(b.Key) && gap <= repeat {
			return true
		}
		if sameRule(a, b) && inFlood[a.ID] && inFlood[b.ID] && time.Duration(max(tile(a), tile(b))-min(tile(a), tile(b))) <= repeat {
			return true
		}
		for _, e := range entities(a) {
			if e.Joins && slices.Contains(entities(b), e) && gap <= join {
				return true
			}
		}
		return false
	}
	for changed := true; changed; {
		changed = false
		for i := range fs {
			for j := range fs {
				if group[i] != group[j] && linked(fs[i], fs[j]) {
					group[i] = min(group[i], group[j])
					group[j] = group[i]
					changed = true
				}
			}
		}
	}
	out := map[string]view{}
	for i := range fs { // sorted: the first of a group is its opener
		if group[i] != i {
			continue
		}
		opener, lead := fs[i], fs[i]
		v := view{Opener: opener.ID.String(), RuleID: ruleOf(opener.RuleVersion).ID, First: opener.First, Last: opener.Last}
		var ids, ruleIDs, tags, accounts []string
		keys := map[string]map[string]bool{}
		for j := range fs {
			f := fs[j]
			if group[j] != i {
				continue
			}
			r := ruleOf(f.RuleVersion)
			level := r.Level
			if f.Verdict == incident.VerdictUnknown {
				level = min(level, detect.LevelLow)
			}
			// They are in order of time: the first of the most severe names it.
			if judged := f.Verdict != incident.VerdictUnknown; judged && (lead.Verdict == incident.VerdictUnknown || r.Level > ruleOf(lead.RuleVersion).Level) ||
				!judged && lead.Verdict == incident.VerdictUnknown && r.Level > ruleOf(lead.RuleVersion).Level {
				lead = f
			}
			if keys[r.ID] == nil {
				keys[r.ID] = map[string]bool{}
			}
			keys[r.ID][string(f.Key)] = true
			v.Severity = max(v.Severity, level)
			v.Count += f.Count
			v.Last = max(v.Last, f.Last)
			ids, ruleIDs, tags = append(ids, f.ID.String()), append(ruleIDs, r.ID), append(tags, r.Tags...)
			for _, e := range entities(f) {
				if e.Type == incident.EntityAccount {
					accounts = append(accounts, e.Value)
				}
			}
		}
		for _, l := range []*[]string{&ids, &ruleIDs, &tags, &accounts} {
			slices.Sort(*l)
			*l = slices.Compact(*l)
		}
		v.Findings, v.RuleIDs, v.Tags = strings.Join(ids, " "), strings.Join(ruleIDs, " "), strings.Join(tags, " ")
		if len(accounts) > 0 {
			v.Account = accounts[0]
		}
		v.Title = ruleOf(lead.RuleVersion).Title
		if lead.Verdict == incident.VerdictUnknown {
			v.Title = "Not verified: " + v.Title
		}
		for _, typ := range []string{incident.EntitySrcIP, incident.EntityActor} {
			k := slices.IndexFunc(entities(lead), func(e incident.Entity) bool { return e.Type == typ })
			if k >= 0 {
				v.Title += ": " + entities(lead)[k].Value
				break
			}
		}
		for id, ks := range keys {
			v.Keys += int64(len(ks))
			if id == ruleOf(lead.RuleVersion).ID && len(ks) >= floodKeys {
				v.Title += fmt.Sprintf(" and %d more", len(ks)-1)
			}
		}
		out[v.Findings] = v
	}
	return out
}

// viewOf sees a live incident with its findings' ids as the promise does.
func viewOf(in incident.Incident, ids []string) view {
	slices.Sort(ids)
	if int(in.Findings) != len(ids) {
		in.Title += fmt.Sprintf(" (of %d findings, says it)", in.Findings)
	}
	return view{
		Findings: strings.Join(ids, " "), Opener: in.Opener.String(), RuleID: in.RuleID, RuleIDs: strings.Join(in.RuleIDs, " "),
		Title: in.Title, Severity: in.Severity, Account: in.Account, Tags: strings.Join(in.Tags, " "),
		Count: in.Count, Keys: in.Keys, First: in.First, Last: in.Last,
	}
}

func views(m *incidenttest.Memory) map[string]view {
	members := map[incidenttest.IncidentKey][]string{}
	for k, r := range m.Findings {
		members[incidenttest.IncidentKey{Tenant: k.Tenant, ID: r.Incident}] = append(members[incidenttest.IncidentKey{Tenant: k.Tenant, ID: r.Incident}], k.ID.String())
	}
	out := map[string]view{}
	for k, ids := range members {
		v := viewOf(m.Incidents[k], ids)
		out[v.Findings] = v
	}
	return out
}

// drain steps until nothing is left, taking the shard over again after a kill.
func drain(ctx context.Context, a *incident.Assembler) error {
	for {
		n, err := a.Step(ctx)
		switch {
		case errors.Is(err, incidenttest.ErrKilled):
			if err := a.Acquire(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		case n == 0:
			return nil
		}
	}
}

// TestSetsDoNotDependOnHistory feeds deltas in any order and any batches, killed
// between any two steps, and finds the incidents that the set of findings makes.
func TestSetsDoNotDependOnHistory(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		m := incidenttest.New(testRules...)
		floodKeys := rapid.SampledFrom([]int{2, 3, 4, 50}).Draw(t, "flood")
		a, err := incident.New(incident.Options{
			Ledger: m, Batch: rapid.IntRange(1, 8).Draw(t, "batch"), FloodKeys: floodKeys,
			Receivers: []incident.Receiver{{Name: "all"}, {Name: "high", MinSeverity: detect.LevelHigh}},
			Now:       func() time.Time { return time.Unix(0, start) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		for _, batch := range rapid.SliceOfN(rapid.SliceOfN(deltas, 1, 6), 1, 12).Draw(t, "batches") {
			for _, d := range batch {
				m.Checkpoint(d.partition, d.Finding)
			}
			m.Kill = rapid.IntRange(-1, 40).Draw(t, "kill")
			if rapid.Bool().Draw(t, "assemble") {
				if err := drain(ctx, a); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.Kill = -1
		if err := drain(ctx, a); err != nil {
			t.Fatal(err)
		}
		var fs []detect.Finding
		for _, r := range m.Findings {
			fs = append(fs, r.Finding.Finding)
		}
		want := reference(fs, 30*time.Minute, 2*time.Hour, floodKeys)
		if d := cmp.Diff(want, views(m)); d != "" {
			t.Fatalf("incidents (-want +got):\n%s", d)
		}
		if err := consistent(m); err != nil {
			t.Fatal(err)
		}
	})
}

// consistent checks what must hold of incidents, audit and intents together.
func consistent(m *incidenttest.Memory) error {
	live := map[incidenttest.IncidentKey]bool{}
	for k, r := range m.Findings {
		live[incidenttest.IncidentKey{Tenant: k.Tenant, ID: r.Incident}] = true
	}
	opened, merged := map[incidenttest.IncidentKey]int{}, map[incidenttest.IncidentKey]int{}
	for _, e := range m.Audit {
		switch e.Action {
		case incident.ActionOpened:
			opened[incidenttest.IncidentKey{Tenant: e.Tenant, ID: e.Incident}]++
		case incident.ActionMerged:
			merged[incidenttest.IncidentKey{Tenant: e.Tenant, ID: e.Incident}]++
		}
	}
	for k, in := range m.Incidents {
		if live[k] == (in.Status == incident.StatusMerged) {
			return fmt.Errorf("%s is %s but live is %v", k.ID, in.Status, live[k])
		}
		if opened[k] != 1 {
			return fmt.Errorf("%s was opened %d times", k.ID, opened[k])
		}
		all, told := m.Intents[k]["all"]
		if !told {
			return fmt.Errorf("%s was never told", k.ID)
		}
		if all.Wanted != in.Version {
			return fmt.Errorf("%s: wanted %d of %d", k.ID, all.Wanted, in.Version)
		}
		want := incident.EventTrigger
		if in.Status == incident.StatusMerged {
			want = incident.EventResolve
			if merged[k] != 1 {
				return fmt.Errorf("%s was merged %d times", k.ID, merged[k])
			}
			if into, ok := m.Incidents[incidenttest.IncidentKey{Tenant: k.Tenant, ID: in.MergedInto}]; !ok || into.ID == in.ID {
				return fmt.Errorf("%s was merged into nothing", k.ID)
			}
		}
		if all.Event != want {
			return fmt.Errorf("%s is %s but its intent is to %s", k.ID, in.Status, all.Event)
		}
		high, told := m.Intents[k]["high"]
		if live[k] && in.Severity >= detect.LevelHigh && !told {
			return fmt.Errorf("%s is %s but high was never told", k.ID, in.Severity)
		}
		if told && live[k] && in.Severity >= detect.LevelHigh && high.Wanted != in.Version {
			return fmt.Errorf("%s: high wants %d of %d", k.ID, high.Wanted, in.Version)
		}
	}
	return nil
}
