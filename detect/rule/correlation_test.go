package rule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vedette-sec/vedette/detect/rule"
)

// base are two detections, a and b, that correlations in the tests refer to.
const base = `title: Alpha
id: id-a
name: a
logsource: {product: vedette, service: aws.lambda}
detection: {s: {function.phase: start}, condition: s}
---
title: Beta
id: id-b
name: b
logsource: {product: vedette, category: http_activity}
detection: {s: {outcome: denied}, condition: s}
`

// correlate is base and a correlation, whose section begins on line 16.
func correlate(section string) string {
	return base + "---\ntitle: Gamma\nid: id-c\ncorrelation:\n" + indent(section)
}

func TestCorrelations(t *testing.T) {
	const day = 24 * time.Hour
	for _, tc := range []struct {
		name, section, summary string
		want                   rule.Correlation
	}{
		{
			"event_count",
			"type: event_count\nrules: [a]\ngroup-by: [src_endpoint.ip]\ntimespan: 5m\ncondition: {gte: 60}",
			"60 or more events within 5m per src_endpoint.ip",
			rule.Correlation{Type: rule.EventCount, GroupBy: []string{"src_endpoint.ip"}, Timespan: 5 * time.Minute, Op: rule.OpGTE, Value: 60},
		},
		{
			"of late events",
			"type: event_count\nrules: [a]\ntimespan: 5m\ncondition: {gte: 60}\nvedette: {lateness: 6h}",
			"60 or more events within 5m",
			rule.Correlation{Type: rule.EventCount, Timespan: 5 * time.Minute, Op: rule.OpGTE, Value: 60, Lateness: 6 * time.Hour},
		},
		{
			"one rule, no key",
			"type: event_count\nrules: id-a\ntimespan: 36h\ncondition: {lt: 1.5}\ngenerate: true",
			"fewer than 1.5 events within 36h",
			rule.Correlation{Type: rule.EventCount, Timespan: 36 * time.Hour, Op: rule.OpLT, Value: 1.5, Generate: true},
		},
		{
			"value_count",
			"type: value_count\nrules: [Alpha, b]\ngroup-by: outcome\ntimespan: 1w\ncondition: {field: src_endpoint.ip, gt: 3}",
			"more than 3 distinct values of src_endpoint.ip within 7d per outcome",
			rule.Correlation{Type: rule.ValueCount, GroupBy: []string{"outcome"}, Timespan: 7 * day, Op: rule.OpGT, Value: 3, Field: "src_endpoint.ip"},
		},
		{
			"value_sum",
			"type: value_sum\nrules: [a]\ngroup-by: [outcome]\ntimespan: 1h\ncondition: {field: duration, gt: 1000000}\nvedette: {signed: true}",
			"the sum of duration within 1h above 1000000 per outcome",
			rule.Correlation{Type: rule.ValueSum, GroupBy: []string{"outcome"}, Timespan: time.Hour, Op: rule.OpGT, Value: 1e6, Field: "duration", Signed: true},
		},
		{
			"value_avg",
			"type: value_avg\nrules: [a]\ntimespan: 5m\ncondition: {field: duration, lte: 2.5}",
			"the average of duration within 5m 2.5 or below",
			rule.Correlation{Type: rule.ValueAvg, Timespan: 5 * time.Minute, Op: rule.OpLTE, Value: 2.5, Field: "duration"},
		},
		{
			"value_percentile",
			"type: value_percentile\nrules: [a]\ntimespan: 5m\ncondition: {field: duration, percentile: 99.9, gte: 3000}",
			"the percentile 99.9 of duration within 5m 3000 or above",
			rule.Correlation{Type: rule.ValuePercentile, Timespan: 5 * time.Minute, Op: rule.OpGTE, Value: 3000, Field: "duration", Percentile: 99.9},
		},
		{
			"temporal with aliases",
			"type: temporal\nrules: [a, b]\ngroup-by: [request]\ntimespan: 90s\n" +
				"aliases: {request: {a: function.request_id, id-b: gateway.integration_request_id}}",
			`"Alpha" and "Beta", all within 90s per request`,
			rule.Correlation{
				Type: rule.Temporal, GroupBy: []string{"request"}, Timespan: 90 * time.Second, Op: rule.OpGTE, Value: 2,
				Aliases: map[string]map[string]string{"request": {"a": "function.request_id", "id-b": "gateway.integration_request_id"}},
			},
		},
		{
			"temporal_ordered",
			"type: temporal_ordered\nrules: [b, a]\ngroup-by: [outcome]\ntimespan: 1M\ncondition: {gte: 2}",
			`"Beta", then "Alpha", in this order within 30d per outcome`,
			rule.Correlation{Type: rule.TemporalOrdered, GroupBy: []string{"outcome"}, Timespan: 30 * day, Op: rule.OpGTE, Value: 2},
		},
		{
			"new_value with defaults",
			"type: vedette.new_value\nrules: [b]\ngroup-by: [actor.user.uid]\ncondition: {field: src_endpoint.location.country}",
			"a value of src_endpoint.location.country not seen in 90d, once 7d of history are known per actor.user.uid",
			rule.Correlation{
				Type: rule.NewValue, GroupBy: []string{"actor.user.uid"}, Field: "src_endpoint.location.country",
				Learning: 7 * day, Forget: 90 * day,
			},
		},
		{
			"new_value",
			"type: vedette.new_value\nrules: [b]\ngroup-by: [outcome]\ncondition: {field: layer}\nvedette: {learning: 12h, forget: 2d, lateness: 3h}",
			"a value of layer not seen in 2d, once 12h of history are known per outcome",
			rule.Correlation{Type: rule.NewValue, GroupBy: []string{"outcome"}, Field: "layer", Learning: 12 * time.Hour, Forget: 2 * day, Lateness: 3 * time.Hour},
		},
		{
			"baseline p95",
			"type: vedette.baseline\nrules: [a]\ngroup-by: [function.name]\ntimespan: 5m\nvedette: {measure: p95, field: duration, floor: 250}",
			"the 95th percentile of duration over 5m, of 20 or more events, above each of 4 × the learned median, that median plus 6 deviations, and 250 per function.name",
			rule.Correlation{
				Type: rule.Baseline, GroupBy: []string{"function.name"}, Timespan: 5 * time.Minute, Field: "duration", Measure: "p95",
				Learning: 3 * day, MinVolume: 20, MinBuckets: 48, Factor: 4, Deviations: 6, Floor: 250,
			},
		},
		{
			"baseline ratio",
			"type: vedette.baseline\nrules: [a, b]\ntimespan: 1h\nvedette: {measure: ratio, learning: 1d, min_volume: 5, min_buckets: 3, factor: 1.5, deviations: 0, floor: 0.2, forget: 30d}",
			`the ratio of "Alpha" to "Beta" over 1h, of 5 or more events, above each of 1.5 × the learned median, that median plus 0 deviations, and 0.2`,
			rule.Correlation{
				Type: rule.Baseline, Timespan: time.Hour, Measure: "ratio",
				Learning: day, Forget: 30 * day, MinVolume: 5, MinBuckets: 3, Factor: 1.5, Floor: 0.2,
			},
		},
		{
			"unmatched",
			"type: vedette.unmatched\nrules: [a, b]\ngroup-by: [function.name]\ntimespan: 15m\n" +
				"vedette: {before: 2m, hold: 3h, join: {a: [function.request_id], Beta: [gateway.integration_request_id, gateway.authorizer_request_id]}}",
			`"Alpha" without "Beta" from 2m before to 15m after it per function.name`,
			rule.Correlation{
				Type: rule.Unmatched, GroupBy: []string{"function.name"}, Timespan: 15 * time.Minute, Before: 2 * time.Minute, Hold: 3 * time.Hour,
				Join: map[string][]string{"a": {"function.request_id"}, "Beta": {"gateway.integration_request_id", "gateway.authorizer_request_id"}},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := mustParse(t, correlate(tc.section))
			r := set.Rules[2]
			if diff := cmp.Diff(tc.want, *r.Correlation, cmpopts.IgnoreFields(rule.Correlation{}, "Rules")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := r.Summary(); got != tc.summary {
				t.Errorf("summary\ngot  %s\nwant %s", got, tc.summary)
			}
		})
	}
}

func TestUnknownSide(t *testing.T) {
	third := "---\ntitle: Third\nid: id-d\nname: d\nlogsource: {product: vedette, service: aws.lambda}\ndetection: {s: {function.phase: report}, condition: s}\n"
	section := "type: vedette.unmatched\nrules: [a, d, b]\ngroup-by: [function.name]\ntimespan: 15m\n" +
		"vedette: {join: {a: [trace.uid], b: [trace.uid], d: [function.request_id]}"
	r := mustParse(t, correlate(section+", unknown: [id-d]}")+third).Rules[2]
	if diff := cmp.Diff([]string{"id-d"}, r.Correlation.Unknown); diff != "" {
		t.Errorf("unknown (-want +got)\n%s", diff)
	}
	if got, want := r.Summary(), `"Alpha" without "Beta" from 1m before to 15m after it per function.name`; got != want {
		t.Errorf("summary\ngot  %s\nwant %s", got, want)
	}
	if ps := r.Correlation.Partners(); len(ps) != 1 || ps[0].Title != "Beta" {
		t.Errorf("partners %+v", ps)
	}
	if without := mustParse(t, correlate(section+"}")+third).Rules[2]; without.Version == r.Version {
		t.Error("the version does not tell what is unknown")
	}
}

func TestFieldsOfReferredRules(t *testing.T) {
	set := mustParse(t, correlate("type: temporal\nrules: [a, id-b]\ngroup-by: [request, outcome]\ntimespan: 1m\n"+
		"aliases: {request: {Alpha: function.request_id, b: trace.uid}}"))
	c := set.Rules[2].Correlation
	if c.Rules[0].ID != "id-a" || c.Rules[1].ID != "id-b" {
		t.Fatalf("resolved to %s and %s", c.Rules[0].ID, c.Rules[1].ID)
	}
	for ref, want := range []string{"function.request_id", "trace.uid"} {
		if f, ok := c.FieldOf(ref, "request"); !ok || f != want {
			t.Errorf("request of rule %d is %q, want %q", ref, f, want)
		}
		if f, ok := c.FieldOf(ref, "outcome"); !ok || f != "outcome" {
			t.Errorf("outcome of rule %d is %q", ref, f)
		}
	}
}

func TestRefusedCorrelations(t *testing.T) {
	const good = "type: event_count\nrules: [a]\ntimespan: 5m\ncondition: {gte: 2}"
	for _, tc := range []struct{ name, section, want string }{
		{"no type", "rules: [a]\ntimespan: 5m", "rule.yml:16: correlation: want a type"},
		{"unknown type", "type: count\nrules: [a]", `rule.yml:16: type: want one of event_count, value_count`},
		{"later type", "type: value_median\nrules: [a]", "rule.yml:16: type: value_median is not supported yet"},
		{"no rules", "type: event_count\ntimespan: 5m", "correlation: want rules"},
		{"unknown rule", strings.Replace(good, "[a]", "[a, z]", 1), `rule.yml:17: rules: no loaded rule has the id, name or title "z"`},
		{"same rule", strings.Replace(good, "[a]", "[a, a]", 1), `rule.yml:17: rules: "a" is there twice`},
		{"same rule by other name", strings.Replace(good, "[a]", "[a, Alpha]", 1), `rules: "Alpha" is there twice, under different names`},
		{"chain", strings.Replace(good, "[a]", "[Gamma]", 1), "rule.yml:17: rules: \"Gamma\" is a correlation; correlations of correlations are not supported yet"},
		{"unknown key", good + "\nfoo: 1", `rule.yml:20: correlation: unknown key "foo"`},
		{"no timespan", "type: event_count\nrules: [a]\ncondition: {gte: 2}", "correlation: want a timespan such as 10m"},
		{"timespan", strings.Replace(good, "5m", "5", 1), `rule.yml:18: timespan: want a whole number and one of s, m, h, d, w, M, such as 90m, not "5"`},
		{"timespan 0", strings.Replace(good, "5m", "0m", 1), `not "0m"`},
		{"timespan unit", strings.Replace(good, "5m", "5y", 1), `not "5y"`},
		{"timespan long", strings.Replace(good, "5m", "4000000000M", 1), "longer than the 1825 days that are supported"},
		{"no condition", "type: event_count\nrules: [a]\ntimespan: 5m", "correlation: want a condition such as gte: 10"},
		{"range", strings.Replace(good, "gte: 2", "gte: 2, lt: 5", 1), "rule.yml:19: condition: ranges (gte and lt) are not supported"},
		{"operator", strings.Replace(good, "gte", "ge", 1), "condition: want one of gt, gte, lt, lte, eq, neq and field"},
		{"no number", strings.Replace(good, "gte: 2", "gte: many", 1), `condition: gte: want a number of at least 0, not "many"`},
		{"always", strings.Replace(good, "gte: 2", "gte: 0", 1), "condition: gte: 0 holds without any event"},
		{"field", strings.Replace(good, "gte: 2", "gte: 2, field: outcome", 1), "to count the values of outcome use value_count"},
		{"no field", strings.Replace(good, "event_count", "value_count", 1), "value_count wants a field"},
		{"two fields", "type: value_count\nrules: [a]\ntimespan: 5m\ncondition: {gte: 2, field: [outcome, layer]}", "condition: field: want one field, 2 are not supported"},
		{"expression", "type: temporal\nrules: [a, b]\ntimespan: 5m\ncondition: a and not b", "rule.yml:19: condition: expressions over rules are not supported"},
		{"temporal of one", "type: temporal\nrules: [a]\ntimespan: 5m", "temporal wants at least two rules"},
		{"some of temporal", "type: temporal\nrules: [a, b]\ntimespan: 5m\ncondition: {gte: 1}", "fires when all of its 2 rules have matched"},
		{"group-by", good + "\ngroup-by: [outcome, outcome]", `rule.yml:20: group-by: field "outcome" is there twice`},
		{"group-by modifier", good + "\ngroup-by: ['outcome|contains']", "want the plain name of a field"},
		{"group-by attribute", good + "\ngroup-by: [sourceIPAddress]", `sourceIPAddress: the normalised event, which "Alpha" reads, has no such attribute`},
		{"alias of a stranger", good + "\naliases: {x: {z: outcome}}", `aliases: x: "z" is none of the correlation's rules`},
		{"alias twice", good + "\naliases: {x: {a: outcome, Alpha: layer}}", `aliases: x: "Alpha" and "a" are the same rule`},
		{"alias lacking", strings.Replace(good, "[a]", "[a, b]", 1) + "\naliases: {x: {a: outcome}}\ngroup-by: [x]", `aliases: x: want the field it stands for in "Beta"`},
		{"sum without a field", "type: value_sum\nrules: [a]\ntimespan: 5m\ncondition: {gt: 3}", "value_sum wants a field"},
		{"no percentile", "type: value_percentile\nrules: [a]\ntimespan: 5m\ncondition: {field: duration, gt: 3}", "wants a percentile"},
		{"percentile of none", "type: value_percentile\nrules: [a]\ntimespan: 5m\ncondition: {field: duration, gt: 3, percentile: 0}", "more than 0 and at most 100"},
		{"percentile elsewhere", "type: value_avg\nrules: [a]\ntimespan: 5m\ncondition: {field: duration, gt: 3, percentile: 5}", "percentile belongs to value_percentile"},
		{"signed average", "type: value_avg\nrules: [a]\ntimespan: 5m\ncondition: {field: duration, gt: 3}\nvedette: {signed: true}", "unknown key \"signed\""},
		{"lateness", good + "\nvedette: {lateness: 8d}", "lateness: at most 7d are supported"},
		{"ours", good + "\nvedette: {learning: 7d}", `unknown key "learning"; known here are lateness`},
		{"new_value without field", "type: vedette.new_value\nrules: [a]\ngroup-by: [outcome]\ncondition: {gte: 1}", "vedette.new_value wants a field and nothing else"},
		{"new_value without key", "type: vedette.new_value\nrules: [a]\ncondition: {field: outcome}", "vedette.new_value wants a group-by"},
		{"new_value with timespan", "type: vedette.new_value\nrules: [a]\ngroup-by: [layer]\ntimespan: 5m\ncondition: {field: outcome}", "vedette.new_value has no timespan"},
		{"new_value forgetful", "type: vedette.new_value\nrules: [a]\ngroup-by: [layer]\ncondition: {field: outcome}\nvedette: {learning: 7d, forget: 1d}", "forget is shorter than learning"},
		{"new_value parameter", "type: vedette.new_value\nrules: [a]\ngroup-by: [layer]\ncondition: {field: outcome}\nvedette: {hold: 1d}", `rule.yml:20: vedette: unknown key "hold"; known here are learning, forget`},
		{"baseline without measure", "type: vedette.baseline\nrules: [a]\ntimespan: 5m", `vedette: want a measure, p95 or ratio, not ""`},
		{"baseline measure", "type: vedette.baseline\nrules: [a]\ntimespan: 5m\nvedette: {measure: mean}", `want a measure, p95 or ratio, not "mean"`},
		{"p95 without field", "type: vedette.baseline\nrules: [a]\ntimespan: 5m\nvedette: {measure: p95}", "measure p95 wants a field"},
		{"ratio of one", "type: vedette.baseline\nrules: [a]\ntimespan: 5m\nvedette: {measure: ratio}", "wants two rules, numerator and denominator, not 1"},
		{"baseline volume", "type: vedette.baseline\nrules: [a, b]\ntimespan: 5m\nvedette: {measure: ratio, min_volume: 0.5}", "min_volume: want a whole number"},
		{"baseline forgetful", "type: vedette.baseline\nrules: [a, b]\ntimespan: 5m\nvedette: {measure: ratio, forget: 1d}", "forget is shorter than learning"},
		{"baseline nothing", "type: vedette.baseline\nrules: [a, b]\ntimespan: 5m\nvedette: {measure: ratio, min_buckets: 0}", "min_volume and min_buckets have to be at least 1"},
		{"unmatched without join", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {before: 1m}", "vedette: want join"},
		{"unmatched half joined", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {join: {a: [trace.uid]}}", `join: want the fields of "Beta" whose values join`},
		{"unmatched and unknown stranger", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {join: {a: [trace.uid], b: [trace.uid]}, unknown: [x]}", `unknown: "x" is none of the correlation's rules`},
		{"unmatched and unknown first", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {join: {a: [trace.uid], b: [trace.uid]}, unknown: [Alpha]}", `unknown: "Alpha" is the first of the rules`},
		{"unmatched without right side", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {join: {a: [trace.uid], b: [trace.uid]}, unknown: [b]}", "want at least one rule that is not named there"},
		{"unmatched of one", "type: vedette.unmatched\nrules: [a]\ntimespan: 5m\nvedette: {join: {a: [trace.uid]}}", "vedette.unmatched wants at least two rules"},
		{"unmatched attribute", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\nvedette: {join: {a: [trace.uid], b: [requestID]}}", `requestID: the normalised event, which "Beta" reads, has no such attribute`},
		{"unmatched condition", "type: vedette.unmatched\nrules: [a, b]\ntimespan: 5m\ncondition: {gte: 1}\nvedette: {join: {a: [trace.uid], b: [trace.uid]}}", "vedette.unmatched has none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := parse(correlate(tc.section))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestStandaloneAndSilent(t *testing.T) {
	set := mustParse(t, base)
	if len(set.Correlations) != 2 {
		t.Fatalf("%d correlations, want the two implicit ones", len(set.Correlations))
	}
	a := set.Rules[0]
	want := rule.Correlation{
		Type: rule.EventCount, GroupBy: []string{"actor.user.uid", "src_endpoint.ip", "function.name"},
		Timespan: time.Hour, Op: rule.OpGTE, Value: 1, Implicit: true,
	}
	if diff := cmp.Diff(want, *a.Correlation, cmpopts.IgnoreFields(rule.Correlation{}, "Rules")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(a.Correlation.Rules) != 1 || a.Correlation.Rules[0] != a {
		t.Error("the implicit correlation does not refer to its own rule")
	}
	if got := a.Summary(); got != "any matching event" {
		t.Errorf("summary %q", got)
	}
	raw := mustParse(t, detection("s: {a: x}\ncondition: s")).Rules[0]
	if diff := cmp.Diff([]string{"userIdentity.arn", "sourceIPAddress", "recipientAccountId"}, raw.Correlation.GroupBy); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	const c = "type: event_count\nrules: [a]\ntimespan: 5m\ncondition: {gte: 2}"
	set = mustParse(t, correlate(c))
	if !set.Rules[0].Silent || set.Rules[0].Correlation != nil || set.Rules[1].Silent || len(set.Correlations) != 2 {
		t.Error("a rule that a correlation refers to has to be silent, and only that")
	}
	set = mustParse(t, correlate(c+"\ngenerate: true"))
	if set.Rules[0].Silent || set.Rules[0].Correlation == nil || len(set.Correlations) != 3 {
		t.Error("with generate the rule referred to stands alone too")
	}
}

func TestReferenceByTitleMeansTheSameFile(t *testing.T) {
	other := "title: Alpha\nid: other\nlogsource: {product: vedette}\ndetection: {s: {outcome: denied}, condition: s}\n"
	count := "title: Gamma\nid: id-c\ncorrelation: {type: event_count, rules: [Alpha], timespan: 5m, condition: {gte: 2}}\n"
	set, _, err := rule.FromSources(map[string][]byte{"a.yml": []byte(other), "b.yml": []byte(base + "---\n" + count)})
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Rules[3].Correlation.Rules[0].ID; got != "id-a" {
		t.Errorf("refers to %s, want the rule in the same file", got)
	}
	_, _, err = rule.FromSources(map[string][]byte{"a.yml": []byte(other), "b.yml": []byte(base), "c.yml": []byte(count)})
	if want := `c.yml:3: rules: "Alpha" may be a.yml:1 or b.yml:1; refer to it by id`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
