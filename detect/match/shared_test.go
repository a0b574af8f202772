package match_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

const shared = "../../../shared/data"

// needShared skips a test where the real rules and records are not at hand.
func needShared(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat(shared); err != nil {
		tb.Skip("needs real rules and records in ../shared/data beside the checkout: not there")
	}
}

func awsRules(tb testing.TB, dirs ...string) *rule.Set {
	tb.Helper()
	var paths []string
	for _, d := range dirs {
		paths = append(paths, filepath.Join(shared, "sigma", d))
	}
	set, warnings, err := rule.Load(paths)
	if err != nil {
		tb.Fatal(err)
	}
	if len(warnings) > 0 {
		tb.Fatalf("rules loaded with warnings: %v", warnings)
	}
	return set
}

// awsRecords are all CloudTrail records there are, each as its own document.
func awsRecords(tb testing.TB) [][]byte {
	tb.Helper()
	var records [][]byte
	for _, pattern := range []string{"cloudtrail/*.jsonl.gz", "panther/AWS.CloudTrail.jsonl", "panther/scenarios/*cloudtrail.jsonl", "splunk/data_sources.jsonl"} {
		files, err := filepath.Glob(filepath.Join(shared, pattern))
		if err != nil || len(files) == 0 {
			tb.Fatalf("%s: no files (%v)", pattern, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, ".labels.jsonl.gz") {
				continue
			}
			for _, line := range readLines(tb, f) {
				records = append(records, unwrap(tb, line))
			}
		}
	}
	return records
}

func readLines(tb testing.TB, name string) [][]byte {
	tb.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	if strings.HasSuffix(name, ".gz") {
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			tb.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(zr); err != nil {
			tb.Fatal(err)
		}
		data = b.Bytes()
	}
	var lines [][]byte
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		if line := bytes.TrimSpace(sc.Bytes()); len(line) > 0 {
			lines = append(lines, bytes.Clone(line))
		}
	}
	return lines
}

// unwrap takes a record out of the collection's own line, as it stands there.
func unwrap(tb testing.TB, line []byte) []byte {
	tb.Helper()
	var w struct {
		Log json.RawMessage `json:"log"`
	}
	if err := json.Unmarshal(line, &w); err == nil && len(w.Log) > 0 && w.Log[0] == '{' {
		return w.Log
	}
	return line
}

// decoded keeps the records that decode as CloudTrail.
func decoded(records [][]byte) [][]byte {
	d := event.NewDecoder()
	var ev event.Event
	var out [][]byte
	for _, r := range records {
		if d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: r}) == nil {
			out = append(out, r)
		}
	}
	return out
}
