package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v4"

	"github.com/vedette-sec/vedette/detect/correlate"
	"github.com/vedette-sec/vedette/detect/match"
)

// descriptions is a registerer that notes what is registered.
type descriptions map[string]bool

var fqName = regexp.MustCompile(`fqName: "([a-z_]+)"`)

func (d descriptions) Register(c prometheus.Collector) error { d.MustRegister(c); return nil }
func (d descriptions) Unregister(prometheus.Collector) bool  { return false }

func (d descriptions) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		ch := make(chan *prometheus.Desc)
		go func() { defer close(ch); c.Describe(ch) }()
		for desc := range ch {
			d[fqName.FindStringSubmatch(desc.String())[1]] = true
		}
	}
}

// metricNames are those of the packages that put their names together, and those
// written out in the source of the others.
func metricNames(t *testing.T) descriptions {
	t.Helper()
	names := make(descriptions)
	match.NewMetrics(names)
	correlate.NewMetrics(names)
	literal := regexp.MustCompile(`Name:\s+"(vedette_[a-z_]+[a-z])"`)
	for _, dir := range []string{"alerting", "app", "incident", "storage", "stream"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			src, err := os.ReadFile(path)
			for _, m := range literal.FindAllStringSubmatch(string(src), -1) {
				names[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// TestAlertsNameMetrics: a rule on a metric that is gone would be silent for ever.
func TestAlertsNameMetrics(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d, err := yaml.NewLoader(strings.NewReader(read(t, "alerts.yaml")), yaml.WithKnownFields())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(&file); err != nil {
		t.Fatal(err)
	}
	names, word := metricNames(t), regexp.MustCompile(`vedette_[a-z_]+`)
	seen := make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] {
				t.Errorf("alert %q: no name, or twice", r.Alert)
			}
			seen[r.Alert] = true
			if r.Annotations["summary"] == "" || r.Annotations["action"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s: says not what is wrong, what to do or how bad it is", r.Alert)
			}
			if !word.MatchString(r.Expr) {
				t.Errorf("%s: looks at no metric of ours: %s", r.Alert, r.Expr)
			}
			for _, name := range word.FindAllString(r.Expr+" "+r.Annotations["action"], -1) {
				if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, ""); !names[name] && !names[base] {
					t.Errorf("%s: there is no metric %s", r.Alert, name)
				}
			}
		}
	}
	if len(seen) == 0 {
		t.Error("no alert was read")
	}
}
