package correlate_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/rule"
)

var start = time.Date(2026, 3, 2, 9, 47, 0, 0, time.UTC).UnixNano()

func logsource() rule.Logsource { return rule.Logsource{Product: "vedette", Service: "aws.apigateway"} }

// newRule makes a rule of a correlation that refers to n rules on access logs.
func newRule(c rule.Correlation, n int) *rule.Rule {
	for i := range n {
		c.Rules = append(c.Rules, &rule.Rule{Name: fmt.Sprint("r", i), Logsource: logsource()})
	}
	c.GroupBy = []string{"src_endpoint.ip"}
	return &rule.Rule{ID: "id", Title: string(c.Type), Version: "v-" + string(c.Type), Logsource: logsource(), Correlation: &c}
}

type model func(*rule.Rule, []simEvent, map[[2]int64]detect.Pointer, int) map[detect.FindingID]detect.Finding

// kind is a correlation type under test.
type kind struct {
	name   string
	rule   *rule.Rule
	events func(*rand.Rand, int) []simEvent
	delay  time.Duration // in which events must arrive to count as the model says
	model  model
	// displace draws how late a delivery is, if not evenly up to delay.
	displace func(*rand.Rand) time.Duration
	once     bool // each event is delivered once
	peaks    bool // they may differ
}

func kinds() []kind {
	burst := func(refs, labels, ids int) func(*rand.Rand, int) []simEvent {
		return func(r *rand.Rand, n int) []simEvent {
			var evs []simEvent
			at := start
			for i := range n {
				step := pick(r, int64(0), 1, 1, 2, 5, 9, 14, 20, 50, 400, 1500)
				at += step * int64(time.Second)
				ev := simEvent{
					time: at, id: uint64(i + 1), key: pick(r, "a", "a", "b"),
					ref: uint8(in(r, 0, refs-1)), label: letter(r, labels),
				}
				evs = append(evs, ev)
				if ids > 1 && in(r, 0, 5) == 0 { // it matched another rule too
					ev.ref = uint8((int(ev.ref) + 1) % refs)
					evs = append(evs, ev)
				}
			}
			return evs
		}
	}
	late := 15 * time.Minute
	onTime := 3*time.Minute - time.Second
	count := func(op rule.Op, n float64) *rule.Rule {
		return newRule(rule.Correlation{Type: rule.EventCount, Timespan: time.Minute, Op: op, Value: n}, 1)
	}
	return []kind{
		{"event_count_gte", count(rule.OpGTE, 5), burst(1, 1, 1), late, modelWindowed, nil, false, false},
		{"event_count_one", count(rule.OpGTE, 1), burst(1, 1, 1), late, modelWindowed, nil, false, false},
		{"event_count_gt", newRule(rule.Correlation{Type: rule.EventCount, Timespan: 10 * time.Minute, Op: rule.OpGT, Value: 6}, 1), burst(1, 1, 1), late, modelWindowed, nil, false, false},
		{"event_count_lt", count(rule.OpLT, 3), burst(1, 1, 1), onTime, modelWindowed, nil, false, false},
		{"event_count_eq", count(rule.OpEQ, 4), burst(1, 1, 1), onTime, modelWindowed, nil, false, false},
		{"value_count_gte", newRule(rule.Correlation{Type: rule.ValueCount, Timespan: time.Minute, Op: rule.OpGTE, Value: 4, Field: "f"}, 1), burst(1, 6, 1), late, modelWindowed, nil, false, false},
		{"value_count_lte", newRule(rule.Correlation{Type: rule.ValueCount, Timespan: time.Minute, Op: rule.OpLTE, Value: 2, Field: "f"}, 1), burst(1, 6, 1), onTime, modelWindowed, nil, false, false},
		{"value_sum_gte", sums(rule.ValueSum, rule.OpGTE, 30), amounts(burst), late, modelWindowed, nil, false, false},
		{"value_sum_lt", sums(rule.ValueSum, rule.OpLT, 4), amounts(burst), onTime, modelWindowed, nil, false, false},
		{"value_sum_signed", signed(sums(rule.ValueSum, rule.OpGT, 25)), amounts(burst), onTime, modelWindowed, nil, false, false},
		{"value_avg", sums(rule.ValueAvg, rule.OpGTE, 6), amounts(burst), onTime, modelWindowed, nil, false, false},
		{"value_avg_lt", sums(rule.ValueAvg, rule.OpLT, 1), amounts(burst), onTime, modelWindowed, nil, false, false},
		{"value_percentile", sums(rule.ValuePercentile, rule.OpGT, 7), amounts(burst), onTime, modelWindowed, nil, false, false},
		{"temporal", newRule(rule.Correlation{Type: rule.Temporal, Timespan: time.Minute, Op: rule.OpGTE, Value: 3}, 3), burst(3, 1, 2), late, modelWindowed, nil, false, false},
		{"temporal_ordered", newRule(rule.Correlation{Type: rule.TemporalOrdered, Timespan: time.Minute, Op: rule.OpGTE, Value: 3}, 3), burst(3, 1, 2), late, modelWindowed, nil, false, false},
		{"new_value", newRule(rule.Correlation{Type: rule.NewValue, Field: "country", Learning: 4 * time.Hour, Forget: 30 * time.Hour}, 1), visits, onTime, modelNewValue, nil, false, false},
		{"baseline_p95", newRule(rule.Correlation{
			Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "p95", Field: "duration",
			Learning: 30 * time.Minute, MinVolume: 3, MinBuckets: 4, Factor: 2, Deviations: 3, Floor: 50,
		}, 1), durations(false), onTime, modelBaseline, nil, false, false},
		{"baseline_ratio", newRule(rule.Correlation{
			Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "ratio",
			Learning: 30 * time.Minute, MinVolume: 3, MinBuckets: 4, Factor: 2, Deviations: 3, Floor: 0.1,
		}, 2), durations(true), onTime, modelBaseline, nil, false, false},
		{"new_value_forgets", newRule(rule.Correlation{Type: rule.NewValue, Field: "country", Learning: 4 * time.Hour, Forget: 8 * time.Hour}, 1), visits, onTime, modelNewValue, nil, false, false},
		{"baseline_forgets", newRule(rule.Correlation{
			Type: rule.Baseline, Timespan: 5 * time.Minute, Measure: "p95", Field: "duration", Forget: 5 * time.Hour,
			Learning: 30 * time.Minute, MinVolume: 3, MinBuckets: 4, Factor: 2, Deviations: 3, Floor: 50,
		}, 1), absences(durations(false)), onTime, modelBaseline, nil, false, false},
		{"unmatched", newRule(rule.Correlation{
			Type: rule.Unmatched, Timespan: 2 * time.Minute, Before: time.Minute, Hold: 2 * time.Hour,
		}, 2), joins(1), onTime, modelUnmatched, nil, false, false},
		{"unmatched_unknown", newRule(rule.Correlation{
			Type: rule.Unmatched, Timespan: 2 * time.Minute, Before: time.Minute, Hold: 2 * time.Hour, Unknown: []string{"r2", "r3"},
		}, 4), joins(3), onTime, modelUnmatched, nil, false, false},
	}
}

func sums(t rule.CorrelationType, op rule.Op, n float64) *rule.Rule {
	c := rule.Correlation{Type: t, Timespan: time.Minute, Op: op, Value: n, Field: "f"}
	if t == rule.ValuePercentile {
		c.Percentile = 70
	}
	return newRule(c, 1)
}

func signed(r *rule.Rule) *rule.Rule {
	r.Correlation.Signed = true
	return r
}

// amounts gives events numbers that no binary fraction is equal to, some negative.
func amounts(burst func(refs, labels, ids int) func(*rand.Rand, int) []simEvent) func(*rand.Rand, int) []simEvent {
	return func(r *rand.Rand, n int) []simEvent {
		evs := burst(1, 1, 1)(r, n)
		for i := range evs {
			evs[i].number = float64(in(r, -40, 120)) / pick(r, 10, 10, 3, 7e-9)
		}
		return evs
	}
}

func visits(r *rand.Rand, n int) []simEvent {
	var evs []simEvent
	at := start
	for i := range n {
		step := pick(r, int64(0), 1, 20, 60, 60, 170, 600, 3600, 3600, 20_000, 100_000, 250_000)
		at += step * int64(time.Second)
		evs = append(evs, simEvent{
			time: at, id: uint64(i + 1), key: pick(r, "a", "a", "b"),
			label: letter(r, 5),
		})
	}
	return evs
}

func durations(ratio bool) func(*rand.Rand, int) []simEvent {
	return func(r *rand.Rand, n int) []simEvent {
		var evs []simEvent
		id := uint64(0)
		for b := range n / 2 {
			bad := in(r, 0, 5) == 0
			for i := range in(r, 0, 6) {
				id++
				ev := simEvent{
					time: start + int64(b)*int64(5*time.Minute) + int64(i)*int64(17*time.Second), id: id, key: "a",
					number: float64(in(r, 40, 60)),
				}
				if bad {
					ev.number *= 4
				}
				if ratio {
					ev.number = 0
					ev.ref = 1
					if bad || in(r, 0, 7) == 0 {
						failed := ev
						failed.ref = 0
						evs = append(evs, failed)
					}
				}
				evs = append(evs, ev)
			}
		}
		return evs
	}
}

// absences divides events among keys in turn and puts hours between them.
func absences(events func(*rand.Rand, int) []simEvent) func(*rand.Rand, int) []simEvent {
	return func(r *rand.Rand, n int) []simEvent {
		evs := events(r, n)
		gap, key, last := int64(0), "a", int64(0)
		for i := range evs {
			if b := div(evs[i].time, int64(5*time.Minute)); b != last {
				last = b
				if in(r, 0, 24) == 0 {
					key = letter(r, 3)
					gap += pick(r, int64(0), 20, 55, 65, 130, 200) * int64(5*time.Minute)
				}
			}
			evs[i].key = key
			evs[i].time += gap
		}
		return evs
	}
}

// joins draws events of the refs 0 to last, of which 1 is the right side.
func joins(last int) func(*rand.Rand, int) []simEvent {
	return func(r *rand.Rand, n int) []simEvent {
		var evs []simEvent
		at := start
		if last > 1 {
			at += int64(13*time.Hour + 40*time.Minute) // before midnight
		}
		for i := range n {
			at += pick(r, int64(0), 1, 20, 59, 60, 61, 120, 121, 600) * int64(time.Second)
			ev := simEvent{
				time: at, id: uint64(i + 1), key: letter(r, 3),
				ref: uint8(in(r, 0, last)),
			}
			switch ev.ref {
			case 0:
				ev.label = string(keyOf(letter(r, 2)))
			case 2, 3:
				ev.label = string(keyOf(letter(r, 12)))
			}
			evs = append(evs, ev)
		}
		// The last record read is of the right side, so that it is not stale.
		if len(evs) > 0 {
			evs = append(evs, simEvent{time: at + int64(time.Minute), id: 1 << 40, key: "z", ref: 1})
		}
		return evs
	}
}

// check runs a kind through partitions, deliveries, sections and crashes, and
// returns how findings and profiles differ from the model and the undisturbed run.
func check(t fataler, k kind, seed uint64, events int, f fault) (found int, diff string) {
	r := rand.New(rand.NewPCG(seed, 1))
	evs := k.events(r, events)
	sources := in(r, 1, 3)
	progress := r.IntN(2) == 0
	partitions := pick(r, 1, 3, 8)
	limit := pick(r, 1, 3, 1000)
	records := deliveries(r, evs, sources, k, progress)
	markLate(evs, records, latenessOf(k.rule))
	want := k.model(k.rule, evs, pointers(records), limit)

	calm, rough := newLedger(), newLedger()
	for p := range partitions {
		s := &sim{
			rules: []*rule.Rule{k.rule}, sources: records, limit: limit, partition: p, n: partitions,
			opts: correlate.Options{Sources: sources, EvidenceLimit: limit, Skew: 1},
		}
		a := s.run(t, r, s.log(r, 0), false, sound)
		b := s.run(t, r, s.log(r, time.Minute), true, f)
		calm.merge(slices.Collect(maps.Values(a.findings)), limit)
		rough.merge(slices.Collect(maps.Values(b.findings)), limit)
		if d := cmp.Diff(a.pages, b.pages); d != "" {
			return len(want), fmt.Sprintf("profiles of partition %d differ from the undisturbed run's (-undisturbed +got):\n%s", p, d)
		}
	}
	if k.peaks {
		for _, fs := range []map[detect.FindingID]detect.Finding{want, calm.findings, rough.findings} {
			for id, f := range fs {
				f.Peak, f.Detail = 0, ""
				fs[id] = f
			}
		}
	}
	if d := cmp.Diff(want, calm.findings, cmpopts.EquateEmpty()); d != "" {
		return len(want), "undisturbed (-model +got):\n" + d
	}
	if d := cmp.Diff(want, rough.findings, cmpopts.EquateEmpty()); d != "" {
		return len(want), "with crashes (-model +got):\n" + d
	}
	return len(want), ""
}

// The property: whatever the deliveries, the division into sections, the number of
// partitions and the crashes, what is committed in the end is what the model says
// of the events.
func TestFindingsAreAFunctionOfTheEvents(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			checkKind(t, k, 60)
		})
	}
}

// The same property has to notice an engine, or an owner, that is broken.
func TestPropertyNoticesFaults(t *testing.T) {
	const seeds = 150
	notices := func(f fault, kinds ...kind) bool {
		for seed := range uint64(seeds) {
			for _, k := range kinds {
				if _, diff := check(t, k, seed, 40, f); diff != "" {
					return true
				}
			}
		}
		return false
	}
	byName := map[string]kind{}
	for _, k := range kinds() {
		byName[k.name] = k
	}
	windows, learned := byName["event_count_gte"], []kind{byName["new_value"], byName["baseline_p95"]}
	for f := sound + 1; f < numFaults; f++ {
		t.Run(f.String(), func(t *testing.T) {
			ks := []kind{windows}
			if f == withoutProfiles || f == flushNothing || f == snapshotBeyond {
				ks = learned
			}
			if !notices(f, ks...) {
				t.Errorf("not noticed in %d runs", seeds)
			}
			if f == liveRebuild && !notices(f, learned...) {
				t.Errorf("not noticed by profiles in %d runs", seeds)
			}
		})
	}
}
