package app_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/vedette-sec/vedette/api"
	"github.com/vedette-sec/vedette/app"
	"github.com/vedette-sec/vedette/config"
	"github.com/vedette-sec/vedette/internal/servicetest"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// noting is a registry that notes what is registered with it.
type noting struct {
	*prometheus.Registry

	mu         sync.Mutex
	collectors []prometheus.Collector
}

func (n *noting) Register(c prometheus.Collector) error {
	n.mu.Lock()
	n.collectors = append(n.collectors, c)
	n.mu.Unlock()
	return n.Registry.Register(c)
}

func (n *noting) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := n.Register(c); err != nil {
			panic(err)
		}
	}
}

// metric is what the reference says of one.
type metric struct {
	name, kind, help string
	labels           []string
}

// description reads a prometheus.Desc, which tells what it holds only as text.
var description = regexp.MustCompile(`^Desc{fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", unit: "[^"]*", constLabels: {[^}]*}, variableLabels: {([^}]*)}}$`)

// ours are the metrics registered that are not the Go runtime's and the process's.
func (n *noting) ours(t *testing.T) []metric {
	t.Helper()
	kinds := make(map[string]string)
	families, err := n.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var ms []metric
	for _, c := range n.collectors {
		descs := make(chan *prometheus.Desc)
		go func() { defer close(descs); c.Describe(descs) }()
		for d := range descs {
			f := description.FindStringSubmatch(d.String())
			if f == nil {
				t.Fatalf("cannot be read: %s", d)
			}
			m := metric{name: f[1], help: f[2], kind: kinds[f[1]]}
			if !strings.HasPrefix(m.name, "vedette_") {
				continue
			}
			if f[3] != "" {
				m.labels = strings.Split(f[3], ",")
			}
			if kind := kindOf(t, c); kind != "" {
				m.kind = kind
			}
			ms = append(ms, m)
		}
	}
	slices.SortFunc(ms, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return ms
}

// kindOf tells what a collector of this library's is, one without a value yet too.
func kindOf(t *testing.T, c prometheus.Collector) string {
	switch c := c.(type) {
	case *prometheus.CounterVec:
		return "counter"
	case *prometheus.GaugeVec:
		return "gauge"
	case *prometheus.HistogramVec:
		return "histogram"
	case prometheus.Metric:
		var m dto.Metric
		if err := c.Write(&m); err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Counter != nil:
			return "counter"
		case m.Gauge != nil:
			return "gauge"
		case m.Histogram != nil:
			return "histogram"
		}
	}
	return ""
}

// stages are the sections of the reference, in the order a record goes.
var stages = []struct {
	title    string
	prefixes []string
}{
	{"Taking logs in", []string{"push", "file"}},
	{"The log", []string{"produced", "produce", "ticks", "group", "unread"}},
	{"Match", []string{"match"}},
	{"Correlate", []string{"correlate"}},
	{"The ledger", []string{"storage"}},
	{"Incidents", []string{"assembler", "incident", "evidence"}},
	{"Notifications", []string{"notifications"}},
	{"The process", []string{"failing", "active", "http"}},
}

// unit is what the value of a metric is in, or "" if its name does not say.
func (m metric) unit() string {
	words := strings.Split(strings.TrimPrefix(strings.TrimSuffix(m.name, "_total"), "vedette_"), "_")
	last := words[len(words)-1]
	switch {
	case strings.HasSuffix(m.name, "_timestamp_seconds"):
		return "seconds since the Unix epoch"
	case last == "live" || last == "active":
		return "1 or 0"
	case strings.HasSuffix(m.name, "_requests_in_flight"):
		return "requests"
	case last == "seconds" || last == "bytes":
		return last
	case m.kind == "histogram":
		return ""
	case words[0] == "notifications" && m.kind == "counter":
		return "notifications"
	}
	if strings.HasSuffix(last, "s") {
		return last // what is counted
	}
	return ""
}

// TestMetricsReference holds docs/metrics.md to what the service registers, and that
// to Prometheus's conventions.
func TestMetricsReference(t *testing.T) {
	registry := &noting{Registry: prometheus.NewRegistry()}
	s := start(t, func(c *config.Config) {
		c.Collect.Files = []config.FileSource{{Name: "files", Paths: []string{t.TempDir()}}}
	})
	s.App.Stop()
	a, err := app.Start(t.Context(), app.Options{Config: s.Config, Logger: discard, Version: "test", Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	s.App = a
	t.Cleanup(a.Stop)
	// Something to hold in windows: what tells of that has no type before.
	if code, b := s.Do("POST", "/v1/logs", api.ScopeIngest, servicetest.Refusals(1, "203.0.113.9", time.Now())); code != 202 {
		t.Fatalf("push: %d %s", code, b)
	}
	var ms []metric
	s.Eventually("every metric has a type", func() bool {
		ms = registry.ours(t)
		return !slices.ContainsFunc(ms, func(m metric) bool { return m.kind == "" })
	})
	for _, m := range ms {
		switch total := strings.HasSuffix(m.name, "_total"); {
		case total != (m.kind == "counter"):
			t.Errorf("%s is a %s: counters, and only they, end in _total", m.name, m.kind)
		case m.unit() == "":
			t.Errorf("%s: its name says no unit", m.name)
		case m.unit() == "seconds" && !regexp.MustCompile(`(?i)seconds`).MatchString(m.help),
			m.unit() == "bytes" && !regexp.MustCompile(`(?i)bytes`).MatchString(m.help),
			!strings.HasSuffix(m.help, "."):
			t.Errorf("%s: the help says no unit, or is no sentence: %q", m.name, m.help)
		}
	}

	var out bytes.Buffer
	out.WriteString("# Metrics\n\nWhat `/metrics` shows, in the order a record goes. This page is written from the code\n(`go test ./app -run TestMetricsReference -update`). Beside these there are the Go runtime's\n(`go_…`) and the process's (`process_…`). Counters count from the start of the process. Those of\nmatch count again what it reads again when it goes on from its saved position, about a second's\nworth; all behind it count everything once.\n")
	left := slices.Clone(ms)
	for _, stage := range stages {
		fmt.Fprintf(&out, "\n## %s\n\n| metric | type | unit | labels | what it is |\n| --- | --- | --- | --- | --- |\n", stage.title)
		left = slices.DeleteFunc(left, func(m metric) bool {
			prefix, _, _ := strings.Cut(strings.TrimPrefix(m.name, "vedette_"), "_")
			if !slices.Contains(stage.prefixes, prefix) {
				return false
			}
			var labels []string
			for _, l := range m.labels {
				labels = append(labels, "`"+l+"`")
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", m.name, m.kind, m.unit(), strings.Join(labels, ", "), m.help)
			return true
		})
	}
	if len(left) > 0 {
		t.Errorf("metrics of no stage: %v", left)
	}
	const path = "../docs/metrics.md"
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	} else if !bytes.Equal(got, out.Bytes()) {
		t.Errorf("%s is not what the service registers; run go test ./app -run TestMetricsReference -update", path)
	}
}
