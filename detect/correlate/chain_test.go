package correlate_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

// Many failures, and then a success: the outer rule takes a correlation and a
// detection.
func TestChainAlone(t *testing.T) {
	failed := countRule(3, time.Minute)
	failed.ID, failed.Title, failed.Version, failed.Silent = "failed", "Many failures", "v-failed", true
	success := &rule.Rule{Name: "success", Logsource: logsource()}
	outer := &rule.Rule{ID: "outer", Title: "Guessed", Version: "v-outer", Correlation: &rule.Correlation{
		Type: rule.TemporalOrdered, Rules: []*rule.Rule{failed, success}, GroupBy: []string{"src_endpoint.ip"},
		Timespan: 10 * time.Minute, Op: rule.OpGTE, Value: 2,
	}}
	if failed.Depth() != 0 || outer.Depth() != 1 {
		t.Fatalf("depths %d and %d, want 0 and 1", failed.Depth(), outer.Depth())
	}
	derived := map[detect.Pointer]correlate.DerivedEvent{}
	e := correlate.NewEngine(correlate.Options{Sources: 1})
	e.Alone(func(p detect.Pointer, ev *correlate.DerivedEvent) { derived[p] = *ev })
	if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{failed, outer}}); err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	put := func(m float64, version, key string, ref uint8) {
		var b detect.SectionBuilder
		b.Add(tenant, version, keyOf(key), detect.Observation{
			Pointer: detect.Pointer{Source: source(0), Offset: next}, Time: minutes(m), Stamp: minutes(m), IDHash: uint64(next) + 1, Ref: ref,
		})
		sec := detect.Section{Source: source(0), From: next, To: next + 1, Clock: minutes(m), Groups: b.Groups()}
		next++
		if got := e.Apply(&sec, false); got != correlate.Applied {
			t.Fatal(got)
		}
	}
	for _, key := range []string{"a", "b"} {
		put(0.1, failed.Version, key, 0)
		put(0.2, failed.Version, key, 0)
	}
	put(0.3, failed.Version, "a", 0)
	put(5, outer.Version, "b", 1) // two failures only
	put(5.1, outer.Version, "a", 1)
	put(5.2, failed.Version, "a", 0)
	fs, _ := e.Flush()
	if len(fs) != 1 || fs[0].RuleVersion != outer.Version || string(fs[0].Key) != string(keyOf("a")) {
		t.Fatalf("found %+v, want one of the outer rule for a", fs)
	}
	// The panes of the failures, a second each, and the success.
	if fs[0].Count != 4 || len(fs[0].Evidence) != 4 {
		t.Errorf("%d events, %d pieces of evidence, want 4", fs[0].Count, len(fs[0].Evidence))
	}
	n := 0
	for _, ev := range fs[0].Evidence {
		if !ev.Source.Derived() {
			continue
		}
		n++
		from, ok := derived[ev.Pointer]
		if !ok {
			t.Fatalf("nothing was derived at %+v", ev.Pointer)
		}
		var rec struct {
			Type    string
			RuleID  string `json:"rule_id"`
			Key     map[string]string
			Finding string `json:"finding_id"`
		}
		if err := json.Unmarshal(from.Record, &rec); err != nil {
			t.Fatal(err)
		}
		if rec.Type != "vedette.derived" || rec.RuleID != failed.ID || rec.Key["src_endpoint.ip"] != "a" || rec.Finding != "" {
			t.Errorf("record %s", from.Record)
		}
	}
	if n != 3 {
		t.Errorf("%d derived events, want 3", n)
	}
	if len(e.FlushDerived()) != 0 {
		t.Error("there is something left for a ledger")
	}
}
