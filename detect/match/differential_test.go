package match_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

// matched are the ids of the detections that match, sorted.
func matched(set *rule.Set, m *match.Matcher, ev *event.Event) []string {
	var ids []string
	for _, i := range m.Match(ev, nil) {
		ids = append(ids, set.Detections[i].ID)
	}
	slices.Sort(ids)
	return ids
}

func referenceMatched(rules []refRule, doc any) []string {
	var ids []string
	for _, r := range rules {
		if r.holds(doc) {
			ids = append(ids, r.id)
		}
	}
	slices.Sort(ids)
	return ids
}

func reference(tb testing.TB, set *rule.Set, like likeFunc) []refRule {
	tb.Helper()
	var rules []refRule
	for name, content := range set.Sources() {
		rs, err := refRules(content, like)
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		rules = append(rules, rs...)
	}
	return rules
}

func TestRealRulesOnRealRecords(t *testing.T) {
	needShared(t)
	set := awsRules(t, "aws", "suzaku_aws")
	rules := reference(t, set, refLike)
	if len(rules) != len(set.Detections) {
		t.Fatalf("reference has %d detections, the set %d", len(rules), len(set.Detections))
	}
	m := match.New(set)
	d := event.NewDecoder()
	var ev event.Event
	records := decoded(awsRecords(t))
	if len(records) < 500 {
		t.Fatalf("%d records decode, expected 500 and more", len(records))
	}
	want := make([][]string, len(records))
	hits := 0
	for i, r := range records {
		doc, err := decodeOrdered(r)
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		want[i] = referenceMatched(rules, doc)
		hits += len(want[i])
	}
	if hits < 200 {
		t.Fatalf("the reference finds %d matches, expected 200 and more", hits)
	}
	// Three rounds: a kind's first sight, the building of its plan, and the plan.
	for round := range 3 {
		for i, r := range records {
			if err := d.Decode(&ev, event.Record{Data: r, Type: event.TypeCloudTrail}); err != nil {
				t.Fatal(err)
			}
			if got := matched(set, m, &ev); !slices.Equal(got, want[i]) {
				t.Fatalf("round %d, record %d: matched %v, reference %v\n%s", round, i, got, want[i], r)
			}
		}
	}
}

// Generated rules and events draw on few names and values, so that they meet.
var (
	drawField = rapid.SampledFrom([]string{
		"eventSource", "eventName", "errorCode", "userIdentity", "userIdentity.type", "userAgent",
		"requestParameters", "requestParameters.a", "requestParameters.a.b", "requestParameters.list", "x", "x.y", "ä",
	})
	drawText = rapid.SampledFrom([]string{
		"", "a", "A", "ab", "aB", "abc", "foo.example", "Foo", "bar", "k", "K", "s", "ſ", "ς", "σ", "Σ", "straße", "STRASSE",
		"a*b", "a?b", "*", "?", `\`, `a\b`, `a\`, "a\nb", "\"q\"", "1", "1.0", "10", "-1", "1e1", "true", "null", "10.0.0.1", "::ffff:10.0.0.1", "é€𝄞",
	})
	drawNumber = rapid.SampledFrom([]string{"0", "1", "1.0", "-1", "10", "1e1", "9.5", "1234567890123"})
	// What YAML makes of these says how they were written.
	drawRuleNumber = rapid.SampledFrom([]string{"0", "1", "-1", "10", "9.5", "1234567890123"})
	drawPattern    = rapid.OneOf(drawText, rapid.SampledFrom([]string{
		"a*", "*b", "*a*", "a?", "?", "??", "*?", "a*b*c", "*a?c", `\*`, `\?`, `a\*b`, `\\`, `\\*`, `a\\*`, `\\\*`, `\\\\`, "*K*", "é?𝄞", "*.example", "**",
	}))
)

func drawRecordValue(t *rapid.T, depth int) any {
	switch n := rapid.IntRange(0, 9).Draw(t, "kind"); {
	case n < 4 || depth > 2 && n > 6:
		return drawText.Draw(t, "text")
	case n == 4:
		return json.Number(drawNumber.Draw(t, "number"))
	case n == 5:
		return rapid.Bool().Draw(t, "bool")
	case n == 6:
		return nil
	case n == 7:
		return rapid.Map(rapid.SliceOfN(rapid.Just(0), 0, 3), func(s []int) []any {
			out := []any{}
			for range s {
				out = append(out, drawRecordValue(t, depth+1))
			}
			return out
		}).Draw(t, "list")
	}
	o := object{}
	for _, k := range []string{"a", "b", "list", "type"} {
		if rapid.Bool().Draw(t, k) {
			o = append(o, member{k, drawRecordValue(t, depth+1)})
		}
	}
	return o
}

// encode writes a record with white space and escapes wherever they may be.
func encode(t *rapid.T, v any) string {
	pad := func() string { return rapid.SampledFrom([]string{"", "", "", " ", "\n\t"}).Draw(t, "space") }
	var write func(v any) string
	text := func(s string) string {
		var b strings.Builder
		for _, r := range s {
			switch {
			case r == '"' || r == '\\' || r < 0x20 || r < 0x10000 && rapid.IntRange(0, 5).Draw(t, "escape") == 0:
				fmt.Fprintf(&b, `\u%04x`, r)
			default:
				b.WriteRune(r)
			}
		}
		return `"` + b.String() + `"`
	}
	write = func(v any) string {
		switch v := v.(type) {
		case string:
			return text(v)
		case object:
			var ms []string
			for _, m := range v {
				ms = append(ms, pad()+text(m.key)+pad()+":"+pad()+write(m.value)+pad())
			}
			return "{" + strings.Join(ms, ",") + "}"
		case []any:
			var es []string
			for _, el := range v {
				es = append(es, pad()+write(el)+pad())
			}
			return "[" + strings.Join(es, ",") + "]"
		case nil:
			return "null"
		}
		return fmt.Sprint(v)
	}
	return write(v)
}

func drawRecord(t *rapid.T) string {
	names := rapid.SampledFrom([]string{"a", "A", "abc", "foo.example", "k", "K", "1", "true"})
	o := object{
		{"eventTime", "2026-01-02T03:04:05Z"},
		{"eventSource", names.Draw(t, "source")},
		{"eventName", names.Draw(t, "name")},
	}
	for _, k := range []string{"errorCode", "userIdentity", "userAgent", "requestParameters", "x", "ä"} {
		if rapid.Bool().Draw(t, k) {
			o = append(o, member{k, drawRecordValue(t, 0)})
		}
	}
	return encode(t, o)
}

func drawValue(t *rapid.T, how string) any {
	switch how {
	case "exists":
		return rapid.Bool().Draw(t, "bool")
	case "lt", "lte", "gt", "gte":
		return json.Number(drawRuleNumber.Draw(t, "number"))
	case "re", "re|i", "re|i|s", "re|m":
		return rapid.SampledFrom([]string{"a", "^a$", "a.b", "(foo|bar)", "k+", "[ab]+c?$", "x*", "^$", "(a|b|)c", "s{1,2}", "É"}).Draw(t, "re")
	case "cidr":
		return rapid.SampledFrom([]string{"10.0.0.0/8", "10.0.0.1/32", "::/0", "0.0.0.0/0"}).Draw(t, "cidr")
	case "fieldref", "fieldref|startswith", "fieldref|cased":
		return drawField.Draw(t, "other field")
	}
	switch n := rapid.IntRange(0, 9).Draw(t, "kind"); {
	case n == 0 && how == "":
		return nil
	case n == 1:
		return rapid.Bool().Draw(t, "bool")
	case n == 2:
		return json.Number(drawRuleNumber.Draw(t, "number"))
	}
	return drawPattern.Draw(t, "pattern")
}

func drawSelection(t *rapid.T) any {
	switch rapid.IntRange(0, 5).Draw(t, "selection") {
	case 0:
		return rapid.SliceOfN(drawPattern, 1, 3).Draw(t, "keywords")
	case 1:
		return []any{drawMap(t), drawMap(t)}
	}
	return drawMap(t)
}

func drawMap(t *rapid.T) map[string]any {
	m := map[string]any{}
	for range rapid.IntRange(1, 3).Draw(t, "fields") {
		how := rapid.SampledFrom([]string{
			"", "", "", "contains", "startswith", "endswith", "cased", "contains|cased", "exists", "re", "re|i", "re|i|s", "re|m",
			"cidr", "lt", "lte", "gt", "gte", "fieldref", "fieldref|startswith", "fieldref|cased",
		}).Draw(t, "how")
		key := drawField.Draw(t, "field")
		if how != "" {
			key += "|" + how
		}
		var value any
		if how == "exists" || rapid.Bool().Draw(t, "single") {
			value = drawValue(t, how)
		} else {
			var list []any
			for range rapid.IntRange(1, 12).Draw(t, "values") {
				list = append(list, drawValue(t, how))
			}
			value = list
			if rapid.IntRange(0, 3).Draw(t, "all") == 0 {
				key += "|all"
			}
		}
		if how != "exists" && rapid.IntRange(0, 5).Draw(t, "neq") == 0 {
			key += "|neq"
		}
		m[key] = value
	}
	return m
}

func drawRule(t *rapid.T, id int) string {
	detection := map[string]any{"sel1": drawSelection(t), "sel2": drawSelection(t), "other": drawSelection(t), "_hidden": drawSelection(t)}
	detection["condition"] = rapid.SampledFrom([]string{
		"sel1", "not sel1", "sel1 and sel2", "sel1 or sel2 and not other", "(sel1 or sel2) and not (other or _hidden)",
		"1 of sel*", "all of sel*", "1 of them", "all of them", "not 1 of sel* or other", "sel1 and not all of them", "not not sel1 and sel1",
	}).Draw(t, "condition")
	doc, err := json.Marshal(map[string]any{
		"title": fmt.Sprintf("rule %d", id), "id": fmt.Sprintf("id-%d", id),
		"logsource": map[string]string{"product": "aws", "service": "cloudtrail"}, "detection": detection,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

func checkGenerated(t *rapid.T) {
	files := map[string][]byte{}
	for i := range rapid.IntRange(1, 4).Draw(t, "rules") {
		files[fmt.Sprintf("%d.yml", i)] = []byte(drawRule(t, i))
	}
	set, _, err := rule.FromSources(files)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	var rules []refRule
	for name, content := range files {
		rs, err := refRules(content, refLike)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rules = append(rules, rs...)
	}
	m := match.New(set)
	d := event.NewDecoder()
	var ev event.Event
	var records []string
	for range rapid.IntRange(1, 6).Draw(t, "records") {
		records = append(records, drawRecord(t))
	}
	for range 3 {
		for _, r := range records {
			if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: []byte(r)}); err != nil {
				t.Fatalf("%v\n%s", err, r)
			}
			doc, err := decodeOrdered([]byte(r))
			if err != nil {
				t.Fatalf("%v\n%s", err, r)
			}
			got, want := matched(set, m, &ev), referenceMatched(rules, doc)
			if !slices.Equal(got, want) {
				t.Fatalf("matched %v, reference %v\nrecord %s\nrules %s", got, want, r, files)
			}
		}
	}
}

func TestGeneratedRulesAndRecords(t *testing.T) { rapid.Check(t, checkGenerated) }

func FuzzGeneratedRulesAndRecords(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkGenerated)) }

// attributes are an event's normalised attributes, as a record of their own.
func attributes(ev *event.Event) map[string]any {
	m := map[string]any{}
	for a := event.Attr(0); a < event.NumAttrs; a++ {
		if v := ev.Attr(a); v != nil {
			m[a.String()] = string(v)
		}
	}
	return m
}

func TestGeneratedRulesOnAttributes(t *testing.T) {
	var records [][]byte
	for _, more := range []string{
		"", `,"sourceIPAddress":"10.0.0.1"`, `,"sourceIPAddress":"a.amazonaws.com","errorCode":"AccessDenied"`,
		`,"userAgent":"K\u212a","errorCode":"ThrottlingException"`, `,"userIdentity":{"type":"Root","arn":"arn:x"}`,
	} {
		records = append(records, trail("s3.amazonaws.com", "get", more), trail("signin.amazonaws.com", "ConsoleLogin", more), trail("a", "A", more))
	}
	names := rapid.SampledFrom([]string{
		"api.operation", "api.service.name", "outcome", "layer", "class_uid", "http_response.code", "src_endpoint.ip", "src_endpoint.domain",
		"http_request.user_agent", "actor.user.type", "actor.user.uid", "duration", "metadata.log_name",
	})
	values := rapid.OneOf(drawPattern, rapid.SampledFrom([]string{
		"get", "GET", "s3*", "denied", "throttled", "control", "identity", "6003", "403", "10.*", "kk", "root", "arn:?", "aws.cloudtrail",
	}))
	rapid.Check(t, func(t *rapid.T) {
		test := func(label string) map[string]any {
			key := names.Draw(t, label)
			switch how := rapid.SampledFrom([]string{"", "contains", "exists", "gte", "cidr", "fieldref", "neq"}).Draw(t, "how"); how {
			case "":
				return map[string]any{key: rapid.SliceOfN(values, 1, 10).Draw(t, "values")}
			case "contains", "neq":
				return map[string]any{key + "|" + how: values.Draw(t, "value")}
			case "fieldref":
				return map[string]any{key + "|fieldref": names.Draw(t, "other")}
			case "gte":
				return map[string]any{key + "|gte": rapid.SampledFrom([]int{0, 400, 403, 404, 7000}).Draw(t, "number")}
			case "cidr":
				return map[string]any{key + "|cidr": "10.0.0.0/8"}
			}
			return map[string]any{key + "|exists": rapid.Bool().Draw(t, "exists")}
		}
		doc, err := json.Marshal(map[string]any{
			"title": "T", "id": "id", "logsource": map[string]string{"product": "vedette"},
			"detection": map[string]any{"a": test("a"), "b": test("b"), "condition": rapid.SampledFrom([]string{"a and b", "a or b", "a and not b", "not a"}).Draw(t, "condition")},
		})
		if err != nil {
			t.Fatal(err)
		}
		set, _, err := rule.FromSources(map[string][]byte{"a.yml": doc})
		if err != nil {
			t.Fatal(err)
		}
		rules, err := refRules(doc, refLike)
		if err != nil {
			t.Fatal(err)
		}
		m := match.New(set)
		d := event.NewDecoder()
		var ev event.Event
		for range 3 {
			for _, r := range records {
				if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
					t.Fatal(err)
				}
				if got, want := matched(set, m, &ev), referenceMatched(rules, attributes(&ev)); !slices.Equal(got, want) {
					t.Fatalf("matched %v, reference %v\n%s\n%v\n%s", got, want, r, attributes(&ev), doc)
				}
			}
		}
	})
}
