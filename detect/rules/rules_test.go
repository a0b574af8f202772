package rules_test

import (
	"strings"
	"testing"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/detect/rules"
)

func load(t testing.TB) *rule.Set {
	t.Helper()
	set, warnings, err := rule.ParseFS(rules.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Errorf("warning: %v", w)
	}
	return set
}

// TestShippedRulesAreComplete holds every rule to what a person who is woken up
// by it needs.
func TestShippedRulesAreComplete(t *testing.T) {
	set := load(t)
	ids := map[string]string{}
	for _, r := range set.Rules {
		if prev, ok := ids[r.ID]; ok {
			t.Errorf("%s:%d: id is also that of %q", r.File, r.Line, prev)
		}
		ids[r.ID] = r.Title
		if len(r.ID) != 36 || r.Name == "" || r.Description == "" || r.Author != "Vedette" || r.License != "Apache-2.0" || r.Status == "" {
			t.Errorf("%s:%d: %q lacks id, name, description, author, licence or status", r.File, r.Line, r.Title)
		}
		if r.Logsource.Product != "vedette" {
			t.Errorf("%s:%d: product %q: shipped rules use normalised attributes", r.File, r.Line, r.Logsource.Product)
		}
		if r.Silent {
			continue
		}
		if r.Inactive != "" {
			t.Errorf("%s:%d: inactive: %s", r.File, r.Line, r.Inactive)
		}
		technique := false
		for _, tag := range r.Tags {
			technique = technique || strings.HasPrefix(tag, "attack.t")
		}
		if !technique || len(r.FalsePos) == 0 || len(r.References) == 0 {
			t.Errorf("%s:%d: %q fires, but lacks an ATT&CK technique, false positives or references", r.File, r.Line, r.Title)
		}
	}
}

// TestShippedRules pins what fires: an id that changes makes incidents,
// silences and routes of users lose their rule.
func TestShippedRules(t *testing.T) {
	want := map[string]string{
		"api_auth_failures_by_source":        "event_count high",
		"api_auth_failures_by_principal":     "event_count high",
		"api_auth_failures_by_route":         "value_count high",
		"aws_api_denied_by_principal":        "event_count medium",
		"function_duration_anomaly":          "vedette.baseline medium",
		"function_error_ratio_anomaly":       "vedette.baseline medium",
		"new_country_for_principal":          "vedette.new_value high",
		"new_network_operator_for_principal": "vedette.new_value medium",
		"new_address_range_for_principal":    "vedette.new_value low",
		"lambda_direct_invoke":               "event_count high",
		"lambda_invoke_from_function":        "event_count medium",
		"lambda_unexpected_service":          "event_count medium",
		"orphan_invocation":                  "vedette.unmatched high",
	}
	for _, r := range load(t).Correlations {
		got := string(r.Correlation.Type) + " " + r.Level.String()
		if want[r.Name] != got {
			t.Errorf("%s fires as %q, want %q", r.Name, got, want[r.Name])
		}
		delete(want, r.Name)
	}
	for n := range want {
		t.Errorf("%s is missing", n)
	}
}
