package rule_test

import (
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/detect/rule"
)

// parse loads one file named rule.yml.
func parse(content string) (*rule.Set, []rule.Warning, error) {
	return rule.FromSources(map[string][]byte{"rule.yml": []byte(content)})
}

func mustParse(t *testing.T, content string) *rule.Set {
	t.Helper()
	set, warnings, err := parse(content)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Fatalf("warning: %v", w)
	}
	return set
}

// detection is a rule whose detection section begins on line 4.
func detection(section string) string {
	return "title: A rule\nid: a\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n" + indent(section)
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}

func TestDetectionMeaning(t *testing.T) {
	for _, tc := range []struct{ name, section, want string }{
		{"map", "sel: {a: x, b.c: 'y z'}\ncondition: sel", `(and ("a" equal "x") ("b.c" equal "y z"))`},
		{"list of values", "sel: {a: [x, y]}\ncondition: sel", `("a" equal "x" equal "y")`},
		{"list of maps", "sel: [{a: x}, {b: y, c: z}]\ncondition: sel", `(or ("a" equal "x") (and ("b" equal "y") ("c" equal "z")))`},
		{"keywords", "sel: [one, two words]\ncondition: sel", `("" contains "one" contains "two words")`},
		{"keyword", "sel: one\ncondition: sel", `("" contains "one")`},
		{"all keywords", "sel: {'|all': [one, two]}\ncondition: sel", `("" all contains "one" contains "two")`},
		{"keywords and maps", "sel: [one, {a: x}]\ncondition: sel", `(or ("a" equal "x") ("" contains "one"))`},
		{"null", "sel: {a: null, b: , c: ~}\ncondition: sel", `(and ("a" null "") ("b" null "") ("c" null ""))`},
		{"empty", "sel: {a: ''}\ncondition: sel", `("a" equal "")`},
		{
			"types", "sel: {a: [1, 1.50, 1e3, 0x1F, 007, True, 2026-01-02, '1']}\ncondition: sel",
			`("a" number "1" number "1.50" number "1e3" equal "0x1F" equal "007" equal "true" equal "2026-01-02" equal "1")`,
		},
		{
			"modifiers", "sel: {'a|contains': x, 'b|startswith': x, 'c|endswith': x, 'd|contains|all': [x, y]}\ncondition: sel",
			`(and ("a" contains "x") ("b" prefix "x") ("c" suffix "x") ("d" all contains "x" contains "y"))`,
		},
		{"cased", "sel: {'a|cased': X, 'b|contains|cased': X}\ncondition: sel", `(and ("a" equal-cased "X") ("b" contains-cased "X"))`},
		{"numbers as text", "sel: {'a|contains': 40}\ncondition: sel", `("a" contains "40")`},
		{"neq", "sel: {'a|neq': [x, y]}\ncondition: sel", `(not ("a" equal "x" equal "y"))`},
		{"exists", "sel: {'a|exists': true, 'b|exists': no}\ncondition: sel", `(and ("a" exists "") ("b" null ""))`},
		{
			"re", "sel: {'a|re': 'x.*', 'b|re|i': y, 'c|re|i|m|s': z}\ncondition: sel",
			`(and ("a" re-cased "x.*") ("b" re-cased "(?i)y") ("c" re-cased "(?ims)z"))`,
		},
		{
			"cidr", "sel: {'a|cidr': [10.1.2.3/8, '::1', '2001:db8::/32']}\ncondition: sel",
			`("a" cidr "10.0.0.0/8" cidr "::1/128" cidr "2001:db8::/32")`,
		},
		{
			"numeric", "sel: {'a|lt': 1, 'b|lte': 2, 'c|gt': 3, 'd|gte': -4.5}\ncondition: sel",
			`(and ("a" lt "1") ("b" lte "2") ("c" gt "3") ("d" gte "-4.5"))`,
		},
		{
			"fieldref", "sel: {'a|fieldref': b, 'c|fieldref|startswith': d, 'e|fieldref|neq': f}\ncondition: sel",
			`(and ("a" fieldref-equal "b") ("c" fieldref-prefix "d") (not ("e" fieldref-equal "f")))`,
		},
		{
			"base64", "sel: {'a|base64': foo, 'b|wide|base64': foo, 'c|utf16be|base64': foo, 'd|utf16|base64': foo}\ncondition: sel",
			`(and ("a" equal "Zm9v") ("b" equal "ZgBvAG8A") ("c" equal "AGYAbwBv") ("d" equal "//5mAG8AbwA="))`,
		},
		// The three pieces are those that the Sigma specification's own tools give.
		{
			"base64offset", "sel: {'a|base64offset|contains': foobar}\ncondition: sel",
			`("a" contains "Zm9vYmFy" contains "Zvb2Jhc" contains "mb29iYX")`,
		},
		{
			"all base64offset", "sel: {'a|base64offset|contains|all': [foobar]}\ncondition: sel",
			`("a" contains "Zm9vYmFy" contains "Zvb2Jhc" contains "mb29iYX")`,
		},
		{
			"windash", "sel: {'a|windash|contains': ' -x-y'}\ncondition: sel",
			`("a" contains " -x-y" contains " /x-y" contains " –x-y" contains " —x-y" contains " ―x-y")`,
		},
		{
			"precedence", "s1: {a: 1}\ns2: {b: 1}\ns3: {c: 1}\ncondition: s1 or s2 and not s3",
			`(or ("a" number "1") (and ("b" number "1") (not ("c" number "1"))))`,
		},
		{
			"parentheses", "s1: {a: x}\ns2: {b: x}\ns3: {c: x}\ncondition: (s1 OR s2) AND NOT (s3)",
			`(and (or ("a" equal "x") ("b" equal "x")) (not ("c" equal "x")))`,
		},
		{"1 of", "s1: {a: x}\ns2: {b: x}\nt: {c: x}\ncondition: t and 1 of s*", `(and ("c" equal "x") (or ("a" equal "x") ("b" equal "x")))`},
		{"pattern inside", "a_x_1: {a: x}\na_y_1: {b: x}\na_x_2: {c: x}\ncondition: any of a_*_1 and a_x_2", `(and (or ("a" equal "x") ("b" equal "x")) ("c" equal "x"))`},
		{"of them", "s1: {a: x}\n_s2: {b: x}\ns3: {c: x}\ncondition: all of them or _s2", `(or (and ("a" equal "x") ("c" equal "x")) ("b" equal "x"))`},
		{"list of conditions", "s1: {a: x}\ns2: {b: x}\ncondition: [s1, not s2]", `(or ("a" equal "x") (not ("b" equal "x")))`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := mustParse(t, detection(tc.section))
			if got := set.Detections[0].Detection.String(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestWildcardsAndEscapes(t *testing.T) {
	const star, one = "\xff", "\xfe"
	for _, tc := range []struct {
		value string
		kind  rule.PatternKind
		text  string
	}{
		{`plain`, rule.Equal, `plain`},
		{`*x`, rule.Suffix, `x`},
		{`x*`, rule.Prefix, `x`},
		{`*x*`, rule.Contains, `x`},
		{`*`, rule.Contains, ``},
		{`**`, rule.Contains, ``},
		{`x?`, rule.Glob, "x" + one},
		{`?`, rule.Glob, one},
		{`*x*y`, rule.Glob, star + "x" + star + "y"},
		{`a**b`, rule.Glob, "a" + star + "b"},
		{`a*?*?b`, rule.Glob, "a" + one + one + star + "b"},
		{`\*x`, rule.Equal, `*x`},
		{`x\?`, rule.Equal, `x?`},
		{`C:\Windows\x`, rule.Equal, `C:\Windows\x`},
		{`C:\\x`, rule.Equal, `C:\x`},
		{`x\`, rule.Equal, `x\`},
		{`x\\`, rule.Equal, `x\`},
		{`x\\*`, rule.Prefix, `x\`},
		{`x\\\*`, rule.Equal, `x\*`},
		{`x\\\y`, rule.Equal, `x\\y`},
		{`x\\\\y`, rule.Equal, `x\\y`},
	} {
		set := mustParse(t, detection("sel: {a: '"+tc.value+"'}\ncondition: sel"))
		p := set.Detections[0].Detection.Condition.Test.Patterns[0]
		if p.Kind != tc.kind || p.Text != tc.text {
			t.Errorf("%s: got %v %q, want %v %q", tc.value, p.Kind, p.Text, tc.kind, tc.text)
		}
	}
}

func TestRefusedDetections(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"no YAML", "title: [", "rule.yml:2: not valid YAML: while parsing a flow node: did not find expected node content"},
		{"nothing", "# only a comment\n", "rule.yml:1: want a rule, the file holds none"},
		{"list", "- a\n", "rule.yml:1: rule: want a map, not a list"},
		{"no title", "id: a\ndetection: {}\n", "rule.yml:1: rule: want a title"},
		{"no detection", "title: T\nlogsource: {product: aws}\n", `rule.yml:1: rule "T": want a detection or a correlation`},
		{"no logsource", "title: T\ndetection: {s: {a: x}, condition: s}\n", `rule "T": want a logsource`},
		{"empty logsource", "title: T\nlogsource: {definition: x}\ndetection: {s: {a: x}, condition: s}\n", "rule.yml:2: logsource: want at least one of product"},
		{"level", "title: T\nlevel: extreme\n", `rule.yml:2: level "extreme": want one of informational, low, medium, high, critical`},
		{"key twice", "title: T\nid: a\ntitle: U\n", `rule.yml:3: rule: key "title" is there twice, first on line 1`},
		{"taxonomy", "title: T\ntaxonomy: ecs\n", `rule.yml:2: taxonomy: "ecs" is not supported`},
		{"filter", "title: T\nfilter: {}\n", "rule.yml:2: filter: Sigma filters are not supported yet"},
		{"action", "title: T\naction: global\n", "rule.yml:2: action: collections of old rules"},
		{"both", "title: T\ndetection: {}\ncorrelation: {}\n", "want detection or correlation, it has both"},
		{"anchor", detection("a: &x {b: c}\ns: *x\ncondition: s"), "rule.yml:6: s: YAML aliases (*x) are not supported"},
		{"second document", detection("s: {a: x}\ncondition: s") + "---\ntitle: T\nid: b\nlogsource: {product: aws}\ndetection:\n  s: {a|foo: x}\n  condition: s\n", "rule.yml:12: a|foo: unknown modifier \"foo\"; known are contains"},

		{"no condition", detection("s: {a: x}"), "rule.yml:5: detection: want a condition"},
		{"empty condition", detection("s: {a: x}\ncondition: ''"), "condition: want an expression over s, it is empty"},
		{"null condition", detection("s: {a: x}\ncondition:"), "rule.yml:6: condition: want an expression, it is empty"},
		{"no selection", detection("condition: s"), "detection: want at least one selection"},
		{"empty selection", detection("s:\ncondition: s"), "s: want a map, a list of maps or keywords, it is empty"},
		{"empty map", detection("s: {}\ncondition: s"), "rule.yml:5: s: want at least one field, the map is empty"},
		{"empty list", detection("s: []\ncondition: s"), "rule.yml:5: s: want at least one element, the list is empty"},
		{"empty values", detection("s: {a: []}\ncondition: s"), "rule.yml:5: a: want at least one value, the list is empty"},
		{"nested map", detection("s: {a: {b: c}}\ncondition: s"), "rule.yml:5: a: want a value or a list of values, not a map"},
		{"nested list", detection("s: {a: [[b]]}\ncondition: s"), "rule.yml:5: a: want a value or a list of values, not a list"},
		{"empty field", detection("s: {'': x}\ncondition: s"), "rule.yml:5: s: want the name of a field, it is empty"},
		{"dots", detection("s: {a..b: x}\ncondition: s"), `rule.yml:5: a..b: field "a..b" has an empty part between its dots`},
		{"selection name", detection("s 1: {a: x}\ncondition: s 1"), `rule.yml:5: detection: "s 1" is no name that a condition can use`},
		{"timeframe", detection("s: {a: x}\ntimeframe: 5m\ncondition: s"), "rule.yml:6: timeframe: counting within a rule is of old rules"},
		{"pipe", detection("s: {a: x}\ncondition: s | count() by b > 5"), "write a correlation rule (type event_count, value_count or temporal)"},

		{"unknown selection", detection("s: {a: x}\ncondition: s and t"), `rule.yml:6: condition: want one of the selections s, not "t"`},
		{"dangling and", detection("s: {a: x}\ncondition: s and"), "rule.yml:6: condition: want a selection or an opening parenthesis at the end"},
		{"leading or", detection("s: {a: x}\ncondition: or s"), `want a selection or an opening parenthesis, not "or"`},
		{"two operands", detection("s: {a: x}\ncondition: s s"), `condition: want and, or or the end, not "s"`},
		{"unclosed", detection("s: {a: x}\ncondition: (s"), "want a closing parenthesis at the end"},
		{"too many closed", detection("s: {a: x}\ncondition: s)"), `want and, or or the end, not ")"`},
		{"of nothing", detection("s: {a: x}\ncondition: 1 of t*"), "1 of t*: there is no such selection among s"},
		{"2 of", detection("s: {a: x}\ncondition: 2 of s*"), `want 1 of or all of, not "2" of`},
		{"of end", detection("s: {a: x}\ncondition: 1 of"), "want them or a pattern such as selection* after 1 of"},
		{"deep", detection("s: {a: x}\ncondition: " + strings.Repeat("(", 100) + "s" + strings.Repeat(")", 100)), "condition: nested more than 64 deep"},
		{"many nots", detection("s: {a: x}\ncondition: " + strings.Repeat("not ", 100) + "s"), "condition: nested more than 64 deep"},

		{"expand", detection("s: {a|expand: '%x%'}\ncondition: s"), "modifier expand: placeholders are not supported"},
		{"time", detection("s: {a|hour: 3}\ncondition: s"), "time modifier hour is not supported"},
		{"empty modifier", detection("s: {'a|': x}\ncondition: s"), "a|: modifier 1 is empty"},
		{"two kinds", detection("s: {a|contains|re: x}\ncondition: s"), "modifiers contains and re do not go together"},
		{"flag", detection("s: {a|i: x}\ncondition: s"), "modifier i only follows re"},
		{"look-ahead", detection("s: {a|re: '(?=x)'}\ncondition: s"), "expressions are RE2, without look-around and back-references"},
		{"network", detection("s: {a|cidr: 10.0.0.0/33}\ncondition: s"), "a|cidr: want a network such as 10.0.0.0/8"},
		{"exists", detection("s: {a|exists: x}\ncondition: s"), `a|exists: want true or false, not "x"`},
		{"exists list", detection("s: {a|exists: [true, false]}\ncondition: s"), "want one of true and false, not a list"},
		{"number", detection("s: {a|gt: x}\ncondition: s"), `a|gt: want a number, not "x"`},
		{"quoted number", detection("s: {a|gt: '1'}\ncondition: s"), `a|gt: want a number, not "1"`},
		{"null with modifier", detection("s: {a|contains: null}\ncondition: s"), "a|contains: null takes no modifier"},
		{"null keyword", detection("s: [x, null]\ncondition: s"), "null takes no modifier"},
		{"fieldref number", detection("s: {a|fieldref: ''}\ncondition: s"), "want the name of a field, not an empty text"},
		{"cased re", detection("s: {a|re|cased: x}\ncondition: s"), "cased does not go together with re"},
		{"base64offset alone", detection("s: {a|base64offset: x}\ncondition: s"), "has to be followed by contains"},
		{"wide alone", detection("s: {a|wide: x}\ncondition: s"), "has to be followed by base64"},
		{"encoding late", detection("s: {a|contains|base64: x}\ncondition: s"), "modifier base64 has to stand before contains"},
		{"encoded wildcard", detection("s: {a|base64: 'x*'}\ncondition: s"), "may not hold wildcards"},
		{"too short", detection("s: {a|base64offset|contains: ''}\ncondition: s"), "too short to be found within base64"},
		{"dashes", detection("s: {a|windash: '-a -b -c -d'}\ncondition: s"), "too many dashes for windash"},
		{"keyword neq", detection("s: {'|neq': x}\ncondition: s"), "a keyword takes only all, contains, re, cased and the encodings"},

		{"category", "title: T\nlogsource: {product: vedette, category: web}\ndetection: {s: {outcome: x}, condition: s}\n", "rule.yml:2: logsource: product vedette has the categories http_activity"},
		{"service", "title: T\nlogsource: {product: vedette, service: cloudtrail}\ndetection: {s: {outcome: x}, condition: s}\n", "rule.yml:2: logsource: product vedette has the services aws.cloudtrail"},
		{"attribute", "title: T\nlogsource: {product: vedette}\ndetection:\n  s: {eventName: x}\n  condition: s\n", "rule.yml:4: eventName: the normalised event has no such attribute"},
		{"referred attribute", "title: T\nlogsource: {product: vedette}\ndetection:\n  s: {outcome|fieldref: eventName}\n  condition: s\n", "rule.yml:4: eventName: the normalised event has no such attribute"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, _, err := parse(tc.content)
			if err == nil {
				t.Fatalf("accepted: %v", set.Rules[0].Detection)
			}
			if set != nil {
				t.Error("a set with an error")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestAllRefusalsAtOnce(t *testing.T) {
	_, _, err := rule.FromSources(map[string][]byte{
		"a.yml": []byte(detection("s: {a|foo: x}\ncondition: s") + "---\n" + detection("s: {a: x}\ncondition: t")),
		"b.yml": []byte("title: ["),
	})
	for _, want := range []string{"a.yml:5:", "a.yml:13:", "b.yml:2:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error at %s, got %v", want, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	set, warnings, err := parse(detection("s: {a: x}\nunused: {a: y}\ncondition: s") +
		"---\ntitle: Other\nid: b\nlogsource: {product: gcp, service: gcp.audit}\ndetection: {s: {a: x}, condition: s}\n" +
		"---\ntitle: Old\nid: c\nstatus: unsupported\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {a: x}, condition: s}\n" +
		"---\ntitle: Many\nid: d\ncorrelation: {type: event_count, rules: [b], timespan: 5m, condition: {gte: 2}}\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"rule.yml:1: A rule: the condition does not use unused",
		"rule.yml:9: Other: inactive: log source product gcp, service gcp.audit is not decoded yet",
		"rule.yml:14: Old: inactive: its status is unsupported",
		`rule.yml:20: Many: inactive: it refers to "Other", which is inactive: log source product gcp, service gcp.audit is not decoded yet`,
	}
	if len(warnings) != len(want) {
		t.Fatalf("got %d warnings: %v", len(warnings), warnings)
	}
	for i, w := range warnings {
		if w.String() != want[i] {
			t.Errorf("got  %v\nwant %s", w, want[i])
		}
	}
	if len(set.Rules) != 4 || len(set.Detections) != 1 || len(set.Correlations) != 1 {
		t.Errorf("%d rules, %d detections, %d correlations; want 4, 1, 1", len(set.Rules), len(set.Detections), len(set.Correlations))
	}
}
