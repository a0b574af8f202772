package rule_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

func TestMetadata(t *testing.T) {
	set := mustParse(t, `
# a comment
title: A rule
id: 5d2b0a0e-5f3a-4e0c-9f7e-0d9a4f2d1c11
name: a_rule
related: [{id: x, type: similar}]
status: test
description: |
  Two
  lines
license: DRL-1.1
references: [https://example.com/a, https://example.com/b]
author: One, Two
date: 2026-01-02
tags: [attack.t1078, attack.initial-access]
falsepositives:
  - Tests
level: High
fields: [x]
custom: {anything: goes}
logsource: {product: aws, service: cloudtrail, definition: Data events}
detection: {s: {a: x}, condition: s}
`)
	r := *set.Rules[0]
	if r.Version == "" || r.Detection == nil || r.Correlation == nil {
		t.Fatalf("incomplete: %+v", r)
	}
	if set.ByVersion(r.Version) != set.Rules[0] || set.ByVersion("x") != nil {
		t.Error("ByVersion does not find the rule, or finds another")
	}
	r.Version, r.Detection, r.Correlation = "", nil, nil
	want := rule.Rule{
		ID: "5d2b0a0e-5f3a-4e0c-9f7e-0d9a4f2d1c11", Name: "a_rule", Title: "A rule", Status: "test",
		Description: "Two\nlines\n", Author: "One, Two", License: "DRL-1.1",
		References: []string{"https://example.com/a", "https://example.com/b"},
		Tags:       []string{"attack.t1078", "attack.initial-access"}, FalsePos: []string{"Tests"},
		Level: detect.LevelHigh, Logsource: rule.Logsource{Product: "aws", Service: "cloudtrail"},
		File: "rule.yml", Line: 3,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestVersionIsTheMeaning(t *testing.T) {
	version := func(content, id string) string {
		t.Helper()
		for _, r := range mustParse(t, content).Rules {
			if r.ID == id {
				return r.Version
			}
		}
		t.Fatalf("no rule %s", id)
		return ""
	}
	d := detection("s: {a: x}\ncondition: s")
	for name, same := range map[string]string{
		"layout":      "id: a\ntitle: A rule\nlogsource:\n  product: aws\n  service: cloudtrail\ndetection:\n  s:\n    a:\n      - x\n  condition: (s)\n",
		"title":       strings.Replace(d, "A rule", "Another", 1),
		"description": d + "description: text\nlevel: high\nauthor: me\n",
	} {
		if version(d, "a") != version(same, "a") {
			t.Errorf("%s changes the version", name)
		}
	}
	for name, other := range map[string]string{
		"id":        strings.Replace(d, "id: a", "id: b", 1),
		"value":     strings.Replace(d, "a: x", "a: y", 1),
		"modifier":  strings.Replace(d, "a: x", "a|contains: x", 1),
		"condition": strings.Replace(d, "condition: s", "condition: not s", 1),
	} {
		id := "a"
		if name == "id" {
			id = "b"
		}
		if version(d, "a") == version(other, id) {
			t.Errorf("%s does not change the version", name)
		}
	}
	c := correlate("type: event_count\nrules: [a]\ngroup-by: [outcome]\ntimespan: 5m\ncondition: {gte: 2}")
	if version(c, "id-c") != version(strings.Replace(c, "[a]", "[Alpha]", 1), "id-c") {
		t.Error("the name by which a rule is referred to changes the version")
	}
	for name, other := range map[string]string{
		"timespan":      strings.Replace(c, "5m", "6m", 1),
		"threshold":     strings.Replace(c, "gte: 2", "gte: 3", 1),
		"operator":      strings.Replace(c, "gte: 2", "gt: 2", 1),
		"group-by":      strings.Replace(c, "[outcome]", "[layer]", 1),
		"rules":         strings.Replace(c, "[a]", "[a, b]", 1),
		"rule referred": strings.Replace(c, "function.phase: start", "function.phase: report", 1),
	} {
		if version(c, "id-c") == version(other, "id-c") {
			t.Errorf("%s does not change the version", name)
		}
	}
}

func TestIDFromTitle(t *testing.T) {
	d := "title: Untracked\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {a: x}, condition: s}\n"
	a, b := mustParse(t, d).Rules[0], mustParse(t, strings.Replace(d, "a: x", "a: y", 1)).Rules[0]
	if a.ID == "" || a.ID != b.ID || a.Version == b.Version {
		t.Errorf("ids %q and %q, versions %q and %q", a.ID, b.ID, a.Version, b.Version)
	}
}

func TestSameIDTwice(t *testing.T) {
	_, _, err := rule.FromSources(map[string][]byte{"a.yml": []byte(detection("s: {a: x}\ncondition: s")), "b.yml": []byte(detection("s: {a: y}\ncondition: s"))})
	if want := `b.yml:1: id a is already that of "A rule" in a.yml:1; a copy needs an id of its own`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, id int) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		content := fmt.Sprintf("title: Rule %d\nid: id-%d\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {a: x}, condition: s}\n", id, id)
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("rules/b.yaml", 2)
	write("rules/a.yml", 1)
	write("rules/deep/down/c.yml", 3)
	write("rules/.hidden.yml", 4)
	write("rules/README.md", 5)
	write("single.rule", 6)
	// A mounted ConfigMap: the files are links into a hidden directory.
	write("mounted/..2026/d.yml", 7)
	if err := os.Symlink(filepath.Join("..2026", "d.yml"), filepath.Join(dir, "mounted", "d.yml")); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(dir, "rules")
	set, warnings, err := rule.Load([]string{rules, rules + "/", filepath.Join(dir, "single.rule"), filepath.Join(dir, "mounted")})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	var ids []string
	for _, r := range set.Rules {
		ids = append(ids, r.ID)
	}
	if diff := cmp.Diff([]string{"id-7", "id-1", "id-2", "id-3", "id-6"}, ids); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	again, _, err := rule.FromSources(set.Sources())
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != set.Digest || len(again.Rules) != len(set.Rules) || again.Rules[0].Version != set.Rules[0].Version {
		t.Error("the sources do not make the same set again")
	}
	sources := set.Sources()
	for name := range sources {
		sources[name] = append([]byte("# changed\n"), sources[name]...)
		break
	}
	if changed, _, err := rule.FromSources(sources); err != nil || changed.Digest == set.Digest {
		t.Errorf("another content, the same digest (%v)", err)
	}

	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".", filepath.Join(dir, "mounted", "circle")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"empty":   "holds no file named *.yml or *.yaml",
		"nowhere": "no such file or directory",
		"mounted": "directories deep",
	} {
		if _, _, err := rule.Load([]string{filepath.Join(dir, path)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
}

func TestParseFS(t *testing.T) {
	set, _, err := rule.ParseFS(fstest.MapFS{
		"a/one.yml": {Data: []byte(detection("s: {a: x}\ncondition: s"))},
		"a/two.txt": {Data: []byte("no rule")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Rules) != 1 || set.Rules[0].File != "a/one.yml" {
		t.Errorf("got %d rules", len(set.Rules))
	}
}

const shared = "../../../shared/data/sigma"

func TestCommunityRules(t *testing.T) {
	if _, err := os.Stat(shared); err != nil {
		t.Skip("needs the community's rules in ../shared/data beside the checkout: not there")
	}
	load := func(dirs ...string) (*rule.Set, []rule.Warning, error) {
		var paths []string
		for _, d := range dirs {
			paths = append(paths, filepath.Join(shared, d))
		}
		return rule.Load(paths)
	}
	for _, tc := range []struct {
		dirs                            []string
		rules, detections, correlations int
		inactive                        int
	}{
		{[]string{"aws"}, 25, 25, 25, 0},
		{[]string{"suzaku_aws"}, 384, 381, 379, 0},
		{[]string{"aws", "suzaku_aws"}, 409, 406, 404, 0},
		{[]string{"azure", "gcp", "web", "suzaku_azure"}, 100, 0, 0, 100},
	} {
		set, warnings, err := load(tc.dirs...)
		if err != nil {
			t.Errorf("%v: %v", tc.dirs, err)
			continue
		}
		got := []int{len(set.Rules), len(set.Detections), len(set.Correlations), len(warnings)}
		if diff := cmp.Diff([]int{tc.rules, tc.detections, tc.correlations, tc.inactive}, got); diff != "" {
			t.Errorf("%v: rules, detections, correlations, warnings (-want +got)\n%s", tc.dirs, diff)
		}
		for _, r := range set.Rules {
			if r.Author == "" {
				t.Errorf("%s:%d: no author, whom the licence wants named", r.File, r.Line)
			}
		}
	}
	for dir, want := range map[string]string{
		"unsupported":         "write a correlation rule",
		"filters":             "Sigma filters are not supported yet",
		"placeholder_hunting": "placeholders are not supported",
		"correlation":         "value_percentile wants a percentile",
	} {
		_, _, err := load(dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", dir, err, want)
		}
		if dir == "unsupported" && strings.Count(err.Error(), want) != 3 {
			t.Errorf("want all three of %s refused, got %v", dir, err)
		}
	}
}
