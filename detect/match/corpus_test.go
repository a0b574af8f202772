package match_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/detect/match"
	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
)

var corpus = flag.String("corpus", "", "`directory` to write the benchmark's records, rules and matches to, for another engine to be measured on the same")

// TestCorpus writes what another engine needs to be compared with
// BenchmarkDecodeMatch: records.jsonl, and for each set of rules a directory of them
// and NAME.matches with a line for each rule that matches, "id count".
func TestCorpus(t *testing.T) {
	if *corpus == "" {
		t.Skip("needs -corpus DIR")
	}
	needShared(t)
	records := decoded(awsRecords(t))
	var lines bytes.Buffer
	for _, r := range records {
		// As they stand, but each on one line.
		lines.Write(bytes.ReplaceAll(r, []byte("\n"), []byte(" ")))
		lines.WriteByte('\n')
	}
	write(t, filepath.Join(*corpus, "records.jsonl"), lines.Bytes())
	all := awsRules(t, "aws", "suzaku_aws")
	for name, set := range map[string]*rule.Set{"25": awsRules(t, "aws"), "404": all, "790": varied(t, all, 790)} {
		n := 0
		for _, content := range set.Sources() {
			write(t, filepath.Join(*corpus, name, fmt.Sprintf("%d.yml", n)), content)
			n++
		}
		m, d, ev := match.New(set), event.NewDecoder(), new(event.Event)
		counts := make(map[string]int)
		for _, r := range records {
			if err := d.Decode(ev, event.Record{Type: event.TypeCloudTrail, Data: r}); err != nil {
				t.Fatal(err)
			}
			for _, i := range m.Match(ev, nil) {
				counts[set.Detections[i].ID]++
			}
		}
		var out strings.Builder
		for _, id := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&out, "%s %d\n", id, counts[id])
		}
		write(t, filepath.Join(*corpus, name+".matches"), []byte(out.String()))
	}
}

func write(tb testing.TB, name string, content []byte) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		tb.Fatal(err)
	}
}

// varied adds rules to a set until it has n detections: its own again, each with an
// id of its own and one condition more, which no record meets.
func varied(tb testing.TB, set *rule.Set, n int) *rule.Set {
	tb.Helper()
	sources, have := set.Sources(), len(set.Detections)
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		dec := yaml.NewDecoder(bytes.NewReader(sources[name]))
		for have < n {
			var doc map[string]any
			if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				tb.Fatalf("%s: %v", name, err)
			}
			detection, _ := doc["detection"].(map[string]any)
			condition, ok := detection["condition"].(string)
			if !ok {
				continue
			}
			detection["varied"] = map[string]any{"userAgent|contains": fmt.Sprintf("varied-%d", have)}
			detection["condition"] = "(" + condition + ") and not varied"
			doc["id"] = fmt.Sprintf("00000000-0000-4000-8000-%012d", have)
			delete(doc, "name")
			text, err := yaml.Marshal(doc)
			if err != nil {
				tb.Fatal(err)
			}
			sources[fmt.Sprintf("varied/%03d.yml", have)] = text
			have++
		}
	}
	out, _, err := rule.FromSources(sources)
	if err != nil {
		tb.Fatal(err)
	}
	if len(out.Detections) != n {
		tb.Fatalf("varied to %d rules, want %d", len(out.Detections), n)
	}
	return out
}
