package correlate

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// bomb is a rule's state whose code fails once there was a certain key: after it has
// taken it, at the next settling, or when it next flushes a finding.
type bomb struct {
	detector
	key   []byte
	at    string // "apply", "advance" or "flush"
	armed bool
}

func (b *bomb) explode(at string) {
	if b.armed && b.at == at {
		b.armed = false
		panic("no such pane")
	}
}

func (b *bomb) apply(g *detect.Group, next int64) {
	b.detector.apply(g, next)
	b.armed = b.armed || bytes.Equal(g.Key, b.key)
	b.explode("apply")
}

func (b *bomb) advance() {
	b.detector.advance()
	b.explode("advance")
}

func (b *bomb) flush(fs []detect.Finding, ps []Page) ([]detect.Finding, []Page) {
	n := len(fs)
	if fs, ps = b.detector.flush(fs, ps); len(fs) > n {
		b.explode("flush")
	}
	return fs, ps
}

func countRule(id string, n float64) *rule.Rule {
	r := &rule.Rule{ID: id, Title: id, Version: "v-" + id, Logsource: rule.Logsource{Product: "vedette", Service: "aws.lambda"}}
	r.Correlation = &rule.Correlation{
		Type: rule.EventCount, Rules: []*rule.Rule{r}, GroupBy: []string{"k"}, Timespan: time.Minute, Op: rule.OpGTE, Value: n, Implicit: true,
	}
	return r
}

// TestFaultStopsOneRule: a rule whose code panics, wherever it does, loses what it
// held in windows and goes on; other rules find what they would have, the loss is
// told, and a rebuild comes to the same.
func TestFaultStopsOneRule(t *testing.T) {
	for _, c := range []struct {
		at, lost string
		counted  int64 // of the rule's five events of a, which fires with the third
	}{
		{"apply", "2–2", 3}, // the two before it are dropped
		{"advance", "2–2", 3},
		{"flush", "3–3", 2}, // what is dropped is the finding with the first three
	} {
		t.Run(c.at, func(t *testing.T) { testFault(t, c.at, c.lost, c.counted) })
	}
}

func testFault(t *testing.T, at, records string, counted int64) {
	weak, strong, lost := countRule("weak", 3), countRule("strong", 3), rule.VisibilityLost()
	key := func(s string) []byte { return detect.AppendKey(nil, []byte(s)) }
	src := detect.Source{Incarnation: 1}
	began := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC).UnixNano()
	section := func(from int64, k string) *detect.Section {
		var b detect.SectionBuilder
		stamp := began + from*int64(time.Second)
		for _, r := range []*rule.Rule{weak, strong} {
			b.Add("t", r.Version, key(k), detect.Observation{
				Pointer: detect.Pointer{Source: src, Offset: from}, Time: stamp, Stamp: stamp, IDHash: uint64(from + 1),
			})
		}
		return &detect.Section{Source: src, From: from, To: from + 1, Clock: stamp, Groups: b.Groups()}
	}
	engine := func() *Engine {
		e := NewEngine(Options{EvidenceLimit: 5})
		if err := e.AddRules(&rule.Set{Correlations: []*rule.Rule{weak, strong, lost}}); err != nil {
			t.Fatal(err)
		}
		er := e.byVer[weak.Version]
		er.detector = &bomb{detector: er.detector, key: key("poison"), at: at}
		return e
	}
	// a fires with its third event; the poison lies between the second and the third.
	stream := []string{"a", "a", "poison", "a", "a", "a"}
	run := func(e *Engine, rebuilt int) map[string]int64 {
		counts := map[string]int64{}
		for i, k := range stream {
			if r := e.Apply(section(int64(i), k), i < rebuilt); r != Applied {
				t.Fatalf("section %d: %s", i, r)
			}
			if i < rebuilt {
				continue
			}
			fs, _ := e.Flush()
			for _, f := range fs {
				vs, err := detect.SplitKey(f.Key)
				if err != nil {
					t.Fatal(err)
				}
				counts[fmt.Sprint(f.RuleVersion, " ", vs[0])] += f.Count
			}
		}
		return counts
	}
	e := engine()
	got := run(e, 0)
	told := ""
	for k := range got {
		if strings.HasPrefix(k, lost.Version) {
			told = k
		}
	}
	if !strings.Contains(told, `"weak"`) || !strings.Contains(told, "records "+records) {
		t.Errorf("the loss was told as %q", told)
	}
	want := map[string]int64{"v-strong a": 5, "v-weak a": counted, told: 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
	if n := e.Stats().Panics; n != 1 {
		t.Errorf("%d panics counted, want 1", n)
	}
	fs := e.Faults()
	if len(fs) != 1 || fs[0].Rule != weak || fs[0].Panic != "no such pane" || !strings.Contains(fs[0].Stack, "bomb") {
		t.Errorf("faults %+v", fs)
	}
	if len(e.Faults()) != 0 {
		t.Error("a fault is told twice")
	}

	// Whoever takes over behind the poison finds the rest, and tells what it lost itself.
	rest := run(engine(), 3)
	want = map[string]int64{"v-strong a": 5, "v-weak a": counted}
	if at == "flush" {
		want[told] = 1
	}
	if d := cmp.Diff(want, rest); d != "" {
		t.Errorf("after a rebuild (-want +got):\n%s", d)
	}
}
