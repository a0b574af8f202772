package replay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/replay"
)

const shared = "../../shared/data"

// TestRealRecords replays real CloudTrail records under community rules and
// compares, rule by rule and event by event, with the slow evaluator.
func TestRealRecords(t *testing.T) {
	if _, err := os.Stat(shared); err != nil {
		t.Skip("needs real rules and records in ../shared/data beside the checkout: not there")
	}
	dirs := []string{filepath.Join(shared, "sigma", "aws"), filepath.Join(shared, "sigma", "suzaku_aws")}
	all, err := filepath.Glob(filepath.Join(shared, "cloudtrail", "*.jsonl.gz"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no records: %v", err)
	}
	records := slices.DeleteFunc(slices.Clone(all), func(f string) bool { return strings.Contains(f, ".labels.") })
	events := slowRecords(t, records)
	want := slow(t, slowRules(t, dirs...), events)
	if len(want) < 50 {
		t.Fatalf("the slow evaluator found only %d rules", len(want))
	}

	set, warnings, err := rule.Load(dirs)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	res, err := replay.Run(t.Context(), replay.Options{Rules: set, Paths: all})
	if err != nil {
		t.Fatal(err)
	}
	// The labels beside the records are JSON lines, but no log.
	if res.Decoded != int64(len(events)) || res.Read-res.Decoded != res.DeadLettered[string(event.ReasonType)] {
		t.Errorf("%s; want %d decoded", res.Summary(), len(events))
	}
	got := map[string]map[string]string{}
	counts := map[string]int64{}
	for _, f := range res.Findings {
		if got[f.RuleID] == nil {
			got[f.RuleID] = map[string]string{}
		}
		counts[f.RuleID] += f.Count
		for _, r := range f.Records {
			got[f.RuleID][r.EventID] = fmt.Sprintf("%s:%d", filepath.Base(r.File), r.Line)
		}
	}
	places := map[string]map[string]string{}
	for id, hits := range want {
		places[id] = map[string]string{}
		for _, e := range hits {
			places[id][e.id] = e.place()
		}
		if counts[id] != int64(len(hits)) {
			t.Errorf("rule %s: count %d, want %d", id, counts[id], len(hits))
		}
	}
	if d := cmp.Diff(places, got); d != "" {
		t.Errorf("events of rules (-slow +replay):\n%s", d)
	}
	t.Logf("%s; %d rules fired", res.Summary(), len(got))
}

// TestEveryCloudTrailRecord reads what there is of records of other makers: each
// is decoded or dead-lettered, none lost.
func TestEveryCloudTrailRecord(t *testing.T) {
	if _, err := os.Stat(shared); err != nil {
		t.Skip("needs real records in ../shared/data beside the checkout: not there")
	}
	for _, f := range []string{"panther/AWS.CloudTrail.jsonl", "splunk/data_sources.jsonl"} {
		b, err := os.ReadFile(filepath.Join(shared, f))
		if err != nil {
			t.Fatal(err)
		}
		// The logs stand in a field of test cases.
		var logs bytes.Buffer
		n := int64(0)
		for line := range bytes.Lines(b) {
			var c struct {
				Log json.RawMessage `json:"log"`
			}
			if err := json.Unmarshal(line, &c); err != nil {
				t.Fatal(err)
			}
			if len(c.Log) > 0 && c.Log[0] == '{' {
				n++
				logs.Write(c.Log)
				logs.WriteByte('\n')
			}
		}
		res, err := replay.Run(t.Context(), replay.Options{Rules: testRules(t), Paths: []string{replay.Stdin}, Stdin: &logs})
		if err != nil {
			t.Fatal(err)
		}
		dead := int64(0)
		for _, d := range res.DeadLettered {
			dead += d
		}
		if res.Read != n || res.Decoded+dead != n || res.Decoded == 0 {
			t.Errorf("%s: %s; want %d read", f, res.Summary(), n)
		}
		t.Logf("%s: %s", f, res.Summary())
	}
}

const rulesYAML = `
title: Denied
id: 11111111-1111-4111-8111-111111111111
name: denied
status: test
author: A. Uthor
logsource: {product: aws, service: cloudtrail}
detection:
    s:
        errorCode: AccessDenied
    condition: s
level: low
---
title: Many Denied
id: 22222222-2222-4222-8222-222222222222
status: test
logsource: {product: aws, service: cloudtrail}
correlation:
    type: event_count
    rules: [denied]
    group-by: [sourceIPAddress]
    timespan: 5m
    generate: true
    condition: {gte: 10}
level: high
`

func testRules(t testing.TB) *rule.Set {
	t.Helper()
	set, warnings, err := rule.FromSources(map[string][]byte{"rules.yml": []byte(rulesYAML)})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return set
}

// denied is a record of a call that was denied.
func denied(id, ip string, second int) string {
	return fmt.Sprintf(`{"eventVersion":"1.11","userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/u"},"eventTime":%q,"eventSource":"s3.amazonaws.com","eventName":"ListBuckets","sourceIPAddress":%q,"errorCode":"AccessDenied","eventID":%q}`,
		time.Date(2026, 3, 2, 9, 0, second, 0, time.UTC).Format(time.RFC3339), ip, id)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if strings.HasSuffix(path, ".gz") {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		io.WriteString(w, content)
		w.Close()
		content = b.String()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, o replay.Options) replay.Result {
	t.Helper()
	if o.Rules == nil {
		o.Rules = testRules(t)
	}
	res, err := replay.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestShapesAndOrder gives the same records in several files and shapes, named in
// any order, and expects the same findings; only the places differ.
func TestShapesAndOrder(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(7, 7))
	var recs []string
	for i := range 200 {
		recs = append(recs, denied(fmt.Sprint("e", i), fmt.Sprintf("192.0.2.%d", rng.IntN(3)), i*20))
	}
	// Three files overlap in time; two of them tell some events twice.
	var parts [3][]string
	for i, r := range recs {
		p := rng.IntN(3)
		parts[p] = append(parts[p], r)
		if i%17 == 0 {
			parts[(p+1)%3] = append(parts[(p+1)%3], r)
		}
	}
	write(t, filepath.Join(dir, "split", "a.json"), strings.Join(parts[0], "\n"))
	write(t, filepath.Join(dir, "split", "b", "b.json.gz"), `{"Records":[`+strings.Join(parts[1], ",")+"]}")
	write(t, filepath.Join(dir, "split", "c.json"), "["+strings.Join(parts[2], ",\n")+"]")
	write(t, filepath.Join(dir, "whole.json"), strings.Join(recs, "\n"))

	strip := func(r replay.Result) []replay.Finding {
		for i := range r.Findings {
			f := &r.Findings[i]
			for j := range f.Records {
				f.Records[j].File, f.Records[j].Line = "", 0
			}
		}
		return r.Findings
	}
	want := strip(run(t, replay.Options{Paths: []string{filepath.Join(dir, "whole.json")}}))
	if len(want) < 6 {
		t.Fatalf("only %d findings", len(want))
	}
	a, b, c := filepath.Join(dir, "split", "a.json"), filepath.Join(dir, "split", "b"), filepath.Join(dir, "split", "c.json")
	first := run(t, replay.Options{Paths: []string{a, b, c}})
	again := run(t, replay.Options{Paths: []string{c, filepath.Join(dir, "split"), a}})
	if d := cmp.Diff(first, again); d != "" {
		t.Errorf("the order of paths matters (-first +again):\n%s", d)
	}
	if d := cmp.Diff(want, strip(first)); d != "" {
		t.Errorf("the division into files matters (-whole +parts):\n%s", d)
	}
	std := run(t, replay.Options{Paths: []string{replay.Stdin}, Stdin: iotest.HalfReader(strings.NewReader(strings.Join(recs, "\n")))})
	if d := cmp.Diff(want, strip(std)); d != "" {
		t.Errorf("standard input differs (-file +stdin):\n%s", d)
	}
}

func TestPlacesAndCounts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x.json")
	var lines []string
	for i := range 12 {
		lines = append(lines, denied(fmt.Sprint("e", i), "192.0.2.1", i))
	}
	// A blank line is no record; what is broken is one, and numbered.
	content := "\n" + lines[0] + "\n\n{\"broken\":\n" + strings.Join(lines[1:], "\n") + "\nno log\n{\"no\":\"log\"}\n"
	write(t, file, content)
	var seen replay.Progress
	res := run(t, replay.Options{Paths: []string{file}, Progress: func(p replay.Progress) { seen = p }})
	if res.Read != 15 || res.Decoded != 12 || res.DeadLettered["unsplittable"] != 1 || res.DeadLettered["type"] != 2 || res.Files != 1 {
		t.Errorf("%s", res.Summary())
	}
	if got, want := res.Summary(), "15 records read from 1 files, 12 decoded, 3 dead-lettered (2 of no known log type, 1 that cannot be split off), 2 findings"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if want := (replay.Progress{Bytes: int64(len(content)), Total: int64(len(content)), Records: 15}); seen != want {
		t.Errorf("progress %+v, want %+v", seen, want)
	}
	for _, f := range res.Findings {
		if f.Count != 12 || len(f.Records) != 12 {
			t.Fatalf("%s: count %d, %d records", f.RuleTitle, f.Count, len(f.Records))
		}
		for i, r := range f.Records {
			line := int64(i + 2)
			if i == 0 {
				line = 1
			}
			if want := (replay.Record{File: file, Line: line, EventID: fmt.Sprint("e", i)}); r != want {
				t.Errorf("%s: record %d is %+v, want %+v", f.RuleTitle, i, r, want)
			}
		}
	}

	var out bytes.Buffer
	if err := replay.WriteJSON(&out, res.Findings); err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range bytes.Lines(out.Bytes()) {
		found++
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		for _, k := range []string{"finding_id", "rule_id", "rule_title", "level", "key", "count", "first_time", "last_time", "records"} {
			if _, ok := m[k]; !ok {
				t.Errorf("no %q in %s", k, line)
			}
		}
		if m["rule_id"] == "22222222-2222-4222-8222-222222222222" {
			if d := cmp.Diff(map[string]any{"sourceIPAddress": "192.0.2.1"}, m["key"]); d != "" {
				t.Errorf("key (-want +got):\n%s", d)
			}
			if m["level"] != "high" || m["count"] != 12.0 || m["first_time"] != "2026-03-02T09:00:00Z" || m["last_time"] != "2026-03-02T09:00:11Z" {
				t.Errorf("finding %s", line)
			}
		} else if m["author"] != "A. Uthor" {
			t.Errorf("author %v", m["author"])
		}
	}
	if found != 2 {
		t.Errorf("%d lines", found)
	}
}

// TestNoRecordIsForgotten runs over far more time than the engine keeps: each
// finding still knows all of its records.
func TestNoRecordIsForgotten(t *testing.T) {
	var b strings.Builder
	n := 60_000
	if testing.Short() {
		n = 15_000
	}
	for i := range n {
		b.WriteString(denied(fmt.Sprint("e", i), fmt.Sprintf("192.0.2.%d", i%200), i*30) + "\n")
	}
	res := run(t, replay.Options{Paths: []string{replay.Stdin}, Stdin: strings.NewReader(b.String())})
	got := 0
	for _, f := range res.Findings {
		if int64(len(f.Records)) != f.Count {
			t.Fatalf("%d records, count %d", len(f.Records), f.Count)
		}
		got += len(f.Records)
	}
	if got != n {
		t.Errorf("%d records in findings, want %d", got, n)
	}
}

func TestTableShowsNoControlCharacters(t *testing.T) {
	var out bytes.Buffer
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	err := replay.WriteTable(&out, []replay.Finding{{
		Level: "high", RuleTitle: "Orphan", Verdict: "bypass", Count: 3, First: at, Last: at.Add(time.Hour),
		Key:     replay.Key{{Name: "a", Value: "\x1b[2Jx\ty\n"}, {Name: "b"}, {Name: "c", Value: strings.Repeat("ü", 100)}},
		Records: []replay.Record{{File: "f\x1b.json", Line: 7}, {File: "g"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := "LEVEL  RULE             KEY" + strings.Repeat(" ", 71) + "COUNT  FIRST                 LAST                  RECORD\n" +
		"high   Orphan (bypass)  ·[2Jx·y· · " + strings.Repeat("ü", 60) + "…  3      2026-03-02T09:00:00Z  2026-03-02T10:00:00Z  f·.json:7 and 1 more\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := replay.Run(t.Context(), replay.Options{Rules: testRules(t), Paths: []string{dir}}); err == nil || !strings.Contains(err.Error(), "no log files") {
		t.Errorf("empty directory: %v", err)
	}
	if _, err := replay.Run(t.Context(), replay.Options{Rules: testRules(t), Paths: []string{filepath.Join(dir, "x")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
	down := errors.New("disk is gone")
	res, err := replay.Run(t.Context(), replay.Options{
		Rules: testRules(t), Paths: []string{replay.Stdin},
		Stdin: io.MultiReader(strings.NewReader(denied("e", "192.0.2.1", 1)+"\n"), iotest.ErrReader(down)),
	})
	if !errors.Is(err, down) || res.Read != 1 {
		t.Errorf("failing input: %v, %s", err, res.Summary())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = replay.Run(ctx, replay.Options{Rules: testRules(t), Paths: []string{replay.Stdin}, Stdin: strings.NewReader(strings.Repeat("x\n", 5000))})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
