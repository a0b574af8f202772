package deploy_test

import (
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// metricTypes are the metrics that docs/metrics.md lists, a page that a test of app
// holds to what the service registers.
func metricTypes(t *testing.T) map[string]string {
	t.Helper()
	types := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(vedette_[a-z_]+)` \\| (counter|gauge|histogram) ").FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		types[m[1]] = m[2]
	}
	if len(types) < 50 {
		t.Fatalf("docs/metrics.md lists %d metrics", len(types))
	}
	return types
}

var metricName = regexp.MustCompile(`vedette_[a-z_]+[a-z]`)

// checkSeries reports names in an expression that are of no series.
func checkSeries(t *testing.T, types map[string]string, where, expr string) {
	t.Helper()
	if !metricName.MatchString(expr) {
		t.Errorf("%s: looks at no metric of ours: %s", where, expr)
	}
	for _, name := range metricName.FindAllString(expr, -1) {
		kind := types[name]
		if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, ""); base != name && types[base] == "histogram" {
			kind = "series"
		}
		if kind == "" || kind == "histogram" { // which has no series of its own name
			t.Errorf("%s: there is no series %s", where, name)
		}
	}
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
	types := metricTypes(t)
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
			checkSeries(t, types, r.Alert, r.Expr)
			for _, name := range metricName.FindAllString(r.Annotations["action"], -1) {
				if types[name] == "" {
					t.Errorf("%s: there is no metric %s", r.Alert, name)
				}
			}
		}
	}
	if len(seen) == 0 {
		t.Error("no alert was read")
	}
}
