package event_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample is one record of a sample file and the comment above it.
type sample struct {
	name string
	data []byte
}

func samples(t testing.TB, file string) []sample {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	var name string
	for line := range bytes.Lines(b) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if comment, ok := bytes.CutPrefix(line, []byte("# ")); ok {
			name = string(comment)
			continue
		}
		all = append(all, sample{name, line})
	}
	return all
}

// describe writes all that an event says.
func describe(ev *event.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "time %s\n", time.Unix(0, ev.Time).UTC().Format(time.RFC3339Nano))
	fmt.Fprintf(&b, "class %d activity %d\n", ev.Class, ev.Activity)
	for a := range event.NumAttrs {
		if v := ev.Attr(a); v != nil {
			fmt.Fprintf(&b, "%s = %s\n", a, v)
		}
	}
	return b.String()
}

// TestGolden decodes every sample, with its type given and with its type told
// from the content, and compares attributes and OCSF with what was reviewed.
func TestGolden(t *testing.T) {
	for file, typ := range map[string]event.Type{
		"cloudtrail": event.TypeCloudTrail,
		"apigateway": event.TypeAPIGateway,
		"lambda":     event.TypeLambda,
	} {
		t.Run(file, func(t *testing.T) {
			d, ev, told := event.NewDecoder(), new(event.Event), new(event.Event)
			var got strings.Builder
			for _, s := range samples(t, file+".log") {
				if err := d.Decode(ev, event.Record{Type: typ, Data: s.data}); err != nil {
					t.Errorf("%s: %v", s.name, err)
					continue
				}
				if err := d.Decode(told, event.Record{Data: s.data}); err != nil {
					t.Errorf("%s: without type: %v", s.name, err)
				} else if diff := cmp.Diff(describe(ev), describe(told)); diff != "" {
					t.Errorf("%s: without type (-given +told):\n%s", s.name, diff)
				}
				ocsf := event.OCSF(nil, ev)
				var indented bytes.Buffer
				if err := json.Indent(&indented, ocsf, "", "  "); err != nil {
					t.Fatalf("%s: OCSF: %v\n%s", s.name, err, ocsf)
				}
				fmt.Fprintf(&got, "# %s\n%s%s\n\n", s.name, describe(ev), indented.Bytes())
			}
			golden := filepath.Join("testdata", file+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}
