package deploy_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDashboardNamesMetrics: a panel on a metric, or a label, that is gone would be
// empty for ever, and one that overlaps another would hide it.
func TestDashboardNamesMetrics(t *testing.T) {
	type place struct{ X, Y, W, H int }
	var d struct {
		UID, Title string
		Panels     []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  place
			FieldConfig              struct{ Defaults struct{ Unit string } }
			Targets                  []struct{ RefID, Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	types, labels := metricTypes(t), metricLabels(t)
	grouped := regexp.MustCompile(`(?:by|without) \(([^)]*)\)`)
	matched := regexp.MustCompile(`([a-z_]+)(?:=|!)`)
	legend := regexp.MustCompile(`{{([a-z_]+)}}`)
	variable := regexp.MustCompile(`\$(\w+)`)
	variables := []string{"__rate_interval"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "query" {
			checkSeries(t, types, "variable "+v.Name, string(v.Query))
		}
	}
	ids, cells := make(map[int]bool), make(map[[2]int]string)
	shown := make(map[string]bool)
	for _, p := range d.Panels {
		where := "panel " + p.Title
		if ids[p.ID] || p.Title == "" {
			t.Errorf("%s: no title, or the id %d is taken", where, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies over %q, or outside", where, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%s: no unit, or nothing shown", where)
		}
		for _, target := range p.Targets {
			if e := target.Expr; !strings.Contains(e, "up{") {
				checkSeries(t, types, where, e)
			}
			known := map[string]bool{"job": true, "le": true}
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
				shown[name], shown[base] = true, true
				for _, l := range append(labels[name], labels[base]...) {
					known[l] = true
				}
				if counter := types[name] == "counter"; counter && p.Type != "stat" && !regexp.MustCompile(`(rate|increase)\(`+name).MatchString(target.Expr) {
					t.Errorf("%s: shows the counter %s and not its rate", where, name)
				}
			}
			var used []string
			for _, g := range grouped.FindAllStringSubmatch(target.Expr, -1) {
				used = append(used, strings.Split(strings.ReplaceAll(g[1], " ", ""), ",")...)
			}
			for _, m := range append(matched.FindAllStringSubmatch(target.Expr, -1), legend.FindAllStringSubmatch(target.LegendFormat, -1)...) {
				used = append(used, m[1])
			}
			for _, l := range used {
				if !known[l] {
					t.Errorf("%s: %s has no label %q", where, target.Expr, l)
				}
			}
			for _, v := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if !slices.Contains(variables, v[1]) {
					t.Errorf("%s: there is no variable $%s", where, v[1])
				}
			}
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("%s: parentheses of %s", where, target.Expr)
			}
		}
	}
	// What alerts look at, an operator wants to see.
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if strings.Contains(read(t, "alerts.yaml"), name) && types[name] != "histogram" && !shown[name] &&
			name != "vedette_correlate_rebuild_mismatches_total" { // which happens once, if ever
			t.Errorf("%s is alerted on, and no panel shows it", name)
		}
	}
}

// metricLabels are the labels that docs/metrics.md lists, by metric.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	labels := make(map[string][]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(vedette_[a-z_]+)` \\| [a-z]+ \\| [^|]* \\| ([^|]*) \\|").FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		labels[m[1]] = regexp.MustCompile(`[a-z_]+`).FindAllString(m[2], -1)
	}
	return labels
}
