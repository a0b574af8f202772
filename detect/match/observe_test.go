package match_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// observed is an observation as a test reads it.
type observed struct {
	Rule   string
	Key    string
	Ref    uint8
	Number float64
	Label  string
}

// recorder is a Sink that keeps what it is given.
type recorder struct {
	tenant string
	got    []observed
	obs    []detect.Observation
}

func (r *recorder) Observe(ru *rule.Rule, tenant string, key []byte, o detect.Observation) {
	r.tenant = tenant
	r.got = append(r.got, observed{ru.Title, joinKey(key), o.Ref, o.Number, o.Label})
	r.obs = append(r.obs, o)
}

func joinKey(key []byte) string {
	vs, err := detect.SplitKey(key)
	if err != nil {
		return err.Error()
	}
	return strings.Join(vs, "|")
}

func packKey(vs ...string) string {
	var key []byte
	for _, v := range vs {
		key = detect.AppendKey(key, []byte(v))
	}
	return string(key)
}

func ruleSet(tb testing.TB, docs ...string) *rule.Set {
	tb.Helper()
	files := map[string][]byte{}
	for i, d := range docs {
		files[fmt.Sprintf("%03d.yml", i)] = []byte(d)
	}
	set, _, err := rule.FromSources(files)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// raw is a detection on CloudTrail's own fields, normal one on attributes.
func raw(title, selection string) string {
	return fmt.Sprintf("title: %s\nid: id-%s\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: %s, condition: s}\n", title, title, selection)
}

func normal(title, category, selection string) string {
	return fmt.Sprintf("title: %s\nid: id-%s\nlogsource: {product: vedette, category: %s}\ndetection: {s: %s, condition: s}\n", title, title, category, selection)
}

func correlation(title, section string) string {
	return fmt.Sprintf("title: %s\nid: id-%s\ncorrelation: %s\n", title, title, section)
}

// trail is a CloudTrail record with further members.
func trail(source, name, more string) []byte {
	return fmt.Appendf(nil, `{"eventTime":"2026-01-02T03:04:05Z","eventSource":%q,"eventName":%q%s}`, source, name, more)
}

func decode(tb testing.TB, record []byte) *event.Event {
	tb.Helper()
	ev := new(event.Event)
	if err := event.NewDecoder().Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: record}); err != nil {
		tb.Fatalf("%v\n%s", err, record)
	}
	return ev
}

func TestObserve(t *testing.T) {
	eventTime := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()
	for _, tc := range []struct {
		name  string
		rules []string
		more  string
		want  []observed
	}{
		{
			"implicit",
			[]string{raw("A", "{eventName: get}")},
			`,"sourceIPAddress":"192.0.2.1","userIdentity":{"arn":"arn:x"},"recipientAccountId":"111"`,
			[]observed{{Rule: "A", Key: "arn:x|192.0.2.1|111"}},
		},
		{
			"implicit with values missing",
			[]string{raw("A", "{eventName: get}")},
			`,"recipientAccountId":null,"userIdentity":{"arn":"arn:x"}`,
			[]observed{{Rule: "A", Key: "arn:x||"}},
		},
		{
			"implicit on attributes",
			[]string{normal("A", "", "{api.operation: get}")},
			`,"sourceIPAddress":"192.0.2.1"`,
			[]observed{{Rule: "A", Key: "|192.0.2.1|"}},
		},
		{
			"group-by",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: event_count, rules: [A], group-by: [sourceIPAddress, x.y], timespan: 5m, condition: {gte: 2}}")},
			`,"sourceIPAddress":"192.0.2.1","x":[{"y":null},{"y":["\u0041b","c"]}]`,
			[]observed{{Rule: "C", Key: "192.0.2.1|Ab"}},
		},
		{
			"group-by value missing",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: event_count, rules: [A], group-by: [sourceIPAddress, x.y], timespan: 5m, condition: {gte: 2}}")},
			`,"sourceIPAddress":"192.0.2.1"`,
			nil,
		},
		{
			"no group-by",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: event_count, rules: [A], timespan: 5m, condition: {gte: 2}}")},
			``,
			[]observed{{Rule: "C", Key: ""}},
		},
		{
			"several correlations and generate",
			[]string{
				raw("A", "{eventName: get}"),
				correlation("C", "{type: event_count, rules: [A], group-by: [x], timespan: 5m, condition: {gte: 2}, generate: true}"),
				correlation("D", "{type: value_count, rules: [A], group-by: [x], timespan: 5m, condition: {gte: 2, field: y}}"),
			},
			`,"x":1,"y":true`,
			[]observed{{Rule: "A", Key: "||"}, {Rule: "C", Key: "1"}, {Rule: "D", Key: "1", Label: "true"}},
		},
		{
			"value_count without the value",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: value_count, rules: [A], group-by: [x], timespan: 5m, condition: {gte: 2, field: y}}")},
			`,"x":1,"y":null`,
			nil,
		},
		{
			"references and aliases",
			[]string{
				raw("A", "{eventName: get}"), raw("B", "{eventSource: s3}"),
				correlation("C", "{type: temporal_ordered, rules: [B, A], group-by: [who], aliases: {who: {A: a, B: b}}, timespan: 5m}"),
			},
			`,"a":"one","b":"two"`,
			[]observed{{Rule: "C", Key: "one", Ref: 1}, {Rule: "C", Key: "two", Ref: 0}},
		},
		{
			"new_value",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: vedette.new_value, rules: [A], group-by: [x], condition: {field: awsRegion}}")},
			`,"x":"k","awsRegion":"eu-west-1"`,
			[]observed{{Rule: "C", Key: "k", Label: "eu-west-1"}},
		},
		{
			"baseline of a field",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: vedette.baseline, rules: [A], group-by: [x], timespan: 5m, vedette: {measure: p95, field: y}}")},
			`,"x":"k","y":"12.5"`,
			[]observed{{Rule: "C", Key: "k", Number: 12.5}},
		},
		{
			"sum",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: value_sum, rules: [A], group-by: [x], timespan: 5m, condition: {field: y, gt: 3}}")},
			`,"x":"k","y":-12.5`,
			[]observed{{Rule: "C", Key: "k", Number: -12.5}},
		},
		{
			"percentile of no number",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: value_percentile, rules: [A], group-by: [x], timespan: 5m, condition: {field: y, gt: 3, percentile: 95}}")},
			`,"x":"k","y":"many"`,
			nil,
		},
		{
			"baseline of no number",
			[]string{raw("A", "{eventName: get}"), correlation("C", "{type: vedette.baseline, rules: [A], group-by: [x], timespan: 5m, vedette: {measure: p95, field: y}}")},
			`,"x":"k","y":"many"`,
			nil,
		},
		{
			"ratio",
			[]string{
				raw("A", "{errorCode|exists: true}"), raw("B", "{eventName: get}"),
				correlation("C", "{type: vedette.baseline, rules: [A, B], group-by: [x], timespan: 5m, vedette: {measure: ratio}}"),
			},
			`,"x":"k","errorCode":"AccessDenied"`,
			[]observed{{Rule: "C", Key: "k", Ref: 0}, {Rule: "C", Key: "k", Ref: 1}},
		},
		{
			"unmatched",
			[]string{
				raw("A", "{eventName: get}"), raw("B", "{eventSource: s3}"),
				correlation("C", "{type: vedette.unmatched, rules: [A, B], group-by: [x, y], timespan: 5m, vedette: {join: {A: [requestID], B: [ids, requestID, none]}}}"),
			},
			`,"x":"k","requestID":"r1","ids":["r2","r1","","r2",null,3]`,
			[]observed{
				{Rule: "C", Key: "r1", Ref: 0, Label: packKey("k", "")},
				{Rule: "C", Key: "r2", Ref: 1},
				{Rule: "C", Key: "r1", Ref: 1},
				{Rule: "C", Key: "3", Ref: 1},
			},
		},
		{
			"unmatched or unknown",
			[]string{
				raw("A", "{eventName: put}"), raw("B", "{eventSource: s3}"), raw("U", "{eventName: get}"),
				correlation("C", "{type: vedette.unmatched, rules: [A, U, B], group-by: [x], timespan: 5m, vedette: {unknown: [U], join: {A: [requestID], B: [requestID], U: [requestID]}}}"),
			},
			`,"x":"k","requestID":"r1"`,
			[]observed{
				{Rule: "C", Key: "r1", Ref: 2},
				{Rule: "C", Key: "r1", Ref: 1, Label: packKey("k")},
			},
		},
		{
			"category",
			[]string{
				normal("A", "api_activity", "{api.operation: get}"),
				normal("B", "http_activity", "{api.operation: get}"),
				normal("C", "authentication", "{api.operation|exists: true}"),
			},
			``,
			[]observed{{Rule: "A", Key: "||"}},
		},
		{
			"other service",
			[]string{
				"title: A\nid: a\nlogsource: {product: vedette, service: aws.lambda}\ndetection: {s: {api.operation: get}, condition: s}\n",
				"title: B\nid: b\nlogsource: {product: vedette, service: aws.cloudtrail}\ndetection: {s: {api.operation: get}, condition: s}\n",
			},
			``,
			[]observed{{Rule: "B", Key: "||"}},
		},
		{"no match", []string{raw("A", "{eventName: put}")}, ``, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := match.New(ruleSet(t, tc.rules...))
			ev := decode(t, trail("s3", "get", tc.more))
			ptr := detect.Pointer{Source: detect.Source{Incarnation: 1, Partition: 2}, Offset: 3, CRC: 4}
			stamp := eventTime + int64(time.Second)
			for round := range 3 {
				var got recorder
				m.Observe(ev, "acme", ptr, stamp, &got)
				if diff := cmp.Diff(tc.want, got.got); diff != "" {
					t.Fatalf("round %d (-want +got)\n%s", round, diff)
				}
				for _, o := range got.obs {
					if o.Pointer != ptr || o.Time != eventTime || o.Stamp != stamp || o.IDHash != event.HashID(ev.Attr(event.AttrUID)) || got.tenant != "acme" {
						t.Errorf("observation of the wrong record: %+v", o)
					}
				}
			}
		})
	}
}

func TestObserveDuration(t *testing.T) {
	set := ruleSet(t, normal("A", "", "{metadata.log_name: aws.lambda, function.phase: report}"),
		correlation("C", "{type: vedette.baseline, rules: [A], group-by: [function.request_id], timespan: 5m, vedette: {measure: p95, field: duration}}"))
	ev := new(event.Event)
	line := `{"owner":"1","logGroup":"/aws/lambda/f","logStream":"s","id":"e","timestamp":1767323045000,` +
		`"message":"{\"time\":\"2026-01-02T03:04:05Z\",\"type\":\"platform.report\",\"record\":{\"requestId\":\"r-1\",\"status\":\"success\",\"metrics\":{\"durationMs\":12.25}}}"}`
	if err := event.NewDecoder().Decode(ev, event.Record{Type: event.TypeLambda, Data: []byte(line)}); err != nil {
		t.Fatal(err)
	}
	var got recorder
	match.New(set).Observe(ev, "acme", detect.Pointer{}, ev.Time, &got)
	if diff := cmp.Diff([]observed{{Rule: "C", Key: "r-1", Number: 12.25}}, got.got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTimeAheadOfStamp(t *testing.T) {
	m := match.New(ruleSet(t, raw("A", "{eventName: get}")))
	ev := decode(t, trail("s3", "get", ""))
	for ahead, want := range map[time.Duration]time.Duration{-time.Hour: -time.Hour, time.Minute: time.Minute, time.Hour: time.Minute} {
		var got recorder
		stamp := ev.Time - int64(ahead)
		m.Observe(ev, "acme", detect.Pointer{}, stamp, &got)
		if d := time.Duration(got.obs[0].Time - stamp); d != want {
			t.Errorf("%v ahead of its stamp becomes %v, want %v", ahead, d, want)
		}
	}
}

// everyKind is a rule set with every kind of test, none of which dullRecord matches.
func everyKind(tb testing.TB) *rule.Set {
	var docs []string
	for i, s := range []string{
		"{eventName: put}", "{eventSource|endswith: .google.com}", "{x|contains: zz}", "{userAgent|startswith: curl}",
		"{userAgent: 'a?c*d'}", "{userAgent|re: 'curl/[0-9]+'}", "{userAgent|re: '^[a-z]{3}$'}", "{userAgent|re|i: '(wget|CURL)'}",
		"{sourceIPAddress|cidr: 10.0.0.0/8}", "{requestParameters.n|gt: 100}", "{requestParameters.n: 3}", "{missing|exists: true}",
		"{eventName: null}", "{userAgent|fieldref: sourceIPAddress}", "{userIdentity.arn|cased: ARN:x}", "[no such word, another]",
		"{requestParameters|contains: zz}", "{userAgent: [a, b, c, d, e, f, g, h, i, j]}", "{tags|contains|all: [one, four]}",
	} {
		docs = append(docs, raw(fmt.Sprint(i), s))
	}
	docs = append(docs, normal("n1", "", "{outcome: denied}"), normal("n2", "", "{src_endpoint.ip: 198.51.100.7}"))
	return ruleSet(tb, docs...)
}

var dullRecord = trail("s3.amazonaws.com", "get", `,"userAgent":"Mozilla\/5.0 (K\u00e9lvin)","sourceIPAddress":"192.0.2.1",`+
	`"userIdentity":{"type":"Root","arn":"arn:x"},"requestParameters":{"n":12,"deep":[{"a":"B\u0043"}]},"tags":["one","two"]`)

func TestNoMatchCostsNoAllocation(t *testing.T) {
	set := everyKind(t)
	ev := decode(t, dullRecord)
	m := match.New(set)
	hits := make([]int32, 0, 8)
	if hits = m.Match(ev, hits); len(hits) != 0 {
		t.Fatalf("%s matches", set.Detections[hits[0]].Title)
	}
	var got recorder
	if n := testing.AllocsPerRun(200, func() {
		hits = m.Match(ev, hits[:0])
		m.Observe(ev, "acme", detect.Pointer{}, ev.Time, &got)
	}); n != 0 {
		t.Errorf("%v allocations an event", n)
	}
	d := event.NewDecoder()
	if n := testing.AllocsPerRun(200, func() {
		if err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: dullRecord}); err != nil {
			t.Fatal(err)
		}
		hits = m.Match(ev, hits[:0])
	}); n != 0 {
		t.Errorf("%v allocations an event with decoding", n)
	}
}

// A kind seen once has no plan of its own: that must not allocate either.
func TestNewKindsCostNoAllocation(t *testing.T) {
	m := match.New(everyKind(t))
	ev := decode(t, dullRecord)
	hits := m.Match(ev, make([]int32, 0, 8))
	var records [][]byte
	for i := range 300 {
		records = append(records, trail("s3.amazonaws.com", fmt.Sprintf("name%d", i), ""))
	}
	d := event.NewDecoder()
	next := 0
	if n := testing.AllocsPerRun(len(records)-1, func() {
		if err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: records[next]}); err != nil {
			t.Fatal(err)
		}
		hits = m.Match(ev, hits[:0])
		next++
	}); n != 0 {
		t.Errorf("%v allocations an event", n)
	}
}

func TestClonesWorkAtOnce(t *testing.T) {
	set := ruleSet(t, raw("A", "{eventName: get, x|re: 'a+b'}"), raw("B", "{y|contains: z}"))
	m := match.New(set)
	var wg sync.WaitGroup
	for g := range 4 {
		m := m
		if g > 0 {
			m = m.Clone()
		}
		wg.Go(func() {
			d := event.NewDecoder()
			var ev event.Event
			for i := range 200 {
				record := trail("s3", []string{"get", "put"}[i%2], `,"x":"caab","y":"xyz"`)
				if err := d.Decode(&ev, event.Record{Data: record}); err != nil {
					t.Error(err)
					return
				}
				want := [][]int32{{0, 1}, {1}}[i%2]
				if got := m.Match(&ev, nil); !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
