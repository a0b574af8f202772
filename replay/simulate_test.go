package replay_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/enrich"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/detect/rules"
	"github.com/vedette-sec/vedette/replay"
	"github.com/vedette-sec/vedette/simulate"
)

var seeds = flag.Int("seeds", 1, "how many simulated weeks to replay")

// shipped are the rules and the enrichment that the demo runs with.
func shipped(t testing.TB) replay.Options {
	t.Helper()
	set, _, err := rule.ParseFS(rules.FS)
	if err != nil {
		t.Fatal(err)
	}
	e := enricher(t, simulate.Inventory())
	if blind := e.Blind(); len(blind) > 0 {
		t.Fatalf("enrichment is blind for %v", blind)
	}
	return replay.Options{Rules: set, Enricher: e}
}

// enricher knows the simulated addresses and the functions that the inventory lists.
func enricher(t testing.TB, inventory enrich.Inventory) *enrich.Enricher {
	t.Helper()
	db := filepath.Join(t.TempDir(), "simulated.mmdb")
	if err := simulate.WriteMMDB(db); err != nil {
		t.Fatal(err)
	}
	e, err := enrich.New(enrich.Options{Databases: []string{db}, Inventory: inventory})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// expected are the findings of an episode, by rule and key.
func expected(l simulate.Label) []string {
	entity := func(kind string) string {
		for _, e := range l.Entities {
			if e.Type == kind {
				return e.Value
			}
		}
		return "no " + kind
	}
	user, ip, fn := entity("actor.user.uid"), entity("src_endpoint.ip"), entity("function.name")
	switch l.Episode {
	case simulate.CredentialStuffing:
		return []string{"Many Refused API Requests From One Source Address: " + ip}
	case simulate.SlowRequests:
		return []string{
			"Function Error Ratio Far Above What Is Usual: 111122223333 · " + fn,
			"Function Execution Time Far Above What Is Usual: 111122223333 · " + fn,
		}
	case simulate.NewCountry:
		return []string{
			"Access From A Country New To The Principal: " + user,
			"Access From An Address Range New To The Principal: " + user,
			"Access Through A Network Operator New To The Principal: " + user,
		}
	case simulate.GatewayBypass:
		return []string{
			"Function Invocation Without A Gateway Request (bypass): " + fn,
			"Lambda Function Invoked Directly, Past The Gateway: " + user + " · " + ip + " · " + fn,
		}
	}
	return []string{"unknown episode " + l.Episode}
}

// named is a finding by rule and key.
func named(f replay.Finding) string {
	title := f.RuleTitle
	if f.Verdict != "" {
		title += " (" + f.Verdict + ")"
	}
	return title + ": " + f.Key.String()
}

// TestSimulatedWeek is the promise of the shipped rules: in eight days of an API's
// logs they find the four attacks, and nothing else.
func TestSimulatedWeek(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates and replays eight days; left out with -short")
	}
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			start := time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC).Add(time.Duration(seed) * 7 * time.Hour)
			sim, err := simulate.Run(t.Context(), simulate.Options{Seed: seed + 1, Start: start, Duration: 8 * 24 * time.Hour, Out: dir})
			if err != nil {
				t.Fatal(err)
			}
			o := shipped(t)
			o.Paths = []string{filepath.Join(dir, "logs")}
			began := time.Now()
			res, err := replay.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s in %v", res.Summary(), time.Since(began).Round(time.Millisecond))
			if res.Read != int64(sim.Records) || res.Decoded != res.Read || res.Skipped != nil {
				t.Errorf("read %d and decoded %d of %d records; rules skipped: %v", res.Read, res.Decoded, sim.Records, res.Skipped)
			}
			var want, got []string
			for _, l := range sim.Labels.Episodes {
				want = append(want, expected(l)...)
			}
			for _, f := range res.Findings {
				got = append(got, named(f))
				checkRecords(t, f, sim.Labels)
			}
			slices.Sort(want)
			slices.Sort(got)
			got = slices.Compact(got) // an episode may lie across two tiles
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
			if seed == 0 {
				testCollected(t, dir, sim.Labels.End, res)
			}
		})
	}
}

// TestSimulatedHours are too short to learn anything: what needs no history is
// found, and nothing else.
func TestSimulatedHours(t *testing.T) {
	n := uint64(4)
	if testing.Short() {
		n = 1
	}
	for seed := range n {
		dir := t.TempDir()
		sim, err := simulate.Run(t.Context(), simulate.Options{
			Seed: 100 + seed, Start: time.Date(2026, 11, 10, 3, 0, 0, 0, time.UTC), Duration: 9 * time.Hour, Out: dir,
		})
		if err != nil {
			t.Fatal(err)
		}
		o := shipped(t)
		o.Paths = []string{filepath.Join(dir, "logs")}
		res := run(t, o)
		var want, got []string
		for _, l := range sim.Labels.Episodes {
			if l.NeedsHours == 0 {
				want = append(want, expected(l)...)
			}
		}
		for _, f := range res.Findings {
			got = append(got, named(f))
		}
		slices.Sort(want)
		slices.Sort(got)
		got = slices.Compact(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("seed %d: findings (-want +got):\n%s", sim.Labels.Seed, d)
		}
	}
}

// TestSimulatedHoursWithoutInventory: without it nobody is said to have gone past
// the gateway by a log that lacks something. One finding a day says so, and all
// other rules find what they find with it.
func TestSimulatedHoursWithoutInventory(t *testing.T) {
	dir := t.TempDir()
	_, err := simulate.Run(t.Context(), simulate.Options{
		Seed: 7, Start: time.Date(2026, 11, 10, 18, 0, 0, 0, time.UTC), Duration: 9 * time.Hour, Out: dir, // over midnight
	})
	if err != nil {
		t.Fatal(err)
	}
	const orphan = "Function Invocation Without A Gateway Request"
	o := shipped(t)
	o.Paths = []string{filepath.Join(dir, "logs")}
	with := map[string]bool{}
	for _, f := range run(t, o).Findings {
		if f.Verdict == detect.VerdictUnknown {
			t.Errorf("with the inventory %s: %s", named(f), f.Detail)
		}
		with[named(f)] = true
	}
	o.Enricher = enricher(t, enrich.Inventory{})
	days := map[string]int{}
	got := map[string]bool{}
	for _, f := range run(t, o).Findings {
		if f.RuleTitle != orphan {
			got[named(f)] = true
			continue
		}
		const why = `"verdict":"unknown","reason":"no inventory","examples":["nightly-report","order-worker","payments"]`
		if named(f) != orphan+" (unknown): " || f.Count != int64(len(f.Records)) || !strings.Contains(f.Detail, why) && f.First.Day() == 11 {
			t.Errorf("%s: count %d, %d records, %s", named(f), f.Count, len(f.Records), f.Detail)
		}
		if f.First.Day() != f.Last.Day() {
			t.Errorf("a finding of %v to %v", f.First, f.Last)
		}
		days[f.First.Format(time.DateOnly)]++
	}
	if d := cmp.Diff(map[string]int{"2026-11-10": 1, "2026-11-11": 1}, days); d != "" {
		t.Errorf("findings on visibility a day (-want +got):\n%s", d)
	}
	for n := range with {
		if !got[n] && !strings.HasPrefix(n, orphan) {
			t.Errorf("not found without the inventory: %s", n)
		}
	}
	for n := range got {
		// Who may invoke functions is what the inventory says.
		if !with[n] && !strings.HasPrefix(n, "Lambda Function Invoked Directly, Past The Gateway: ") {
			t.Errorf("found without the inventory only: %s", n)
		}
	}
}

// checkRecords holds a finding's records against the episode's times.
func checkRecords(t *testing.T, f replay.Finding, labels simulate.Labels) {
	t.Helper()
	if len(f.Records) == 0 {
		t.Errorf("%s: no records", f.RuleTitle)
	}
	// A baseline's finding points at the events that stood out, not at all it counts.
	if !strings.HasPrefix(f.RuleTitle, "Function E") && int64(len(f.Records)) != f.Count {
		t.Errorf("%s: %d records, count %d", f.RuleTitle, len(f.Records), f.Count)
	}
	for _, r := range f.Records {
		if r.EventID == "" || r.Line < 1 || r.File == "" {
			t.Errorf("%s: record %+v", f.RuleTitle, r)
		}
	}
	for _, l := range labels.Episodes {
		if !f.Last.Before(l.Start.Add(-time.Second)) && !f.First.After(l.End.Add(time.Second)) {
			return
		}
	}
	t.Errorf("%s: %v to %v is in no episode", f.RuleTitle, f.First, f.Last)
}
