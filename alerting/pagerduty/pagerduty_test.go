package pagerduty_test

import (
	"encoding/json"
	"flag"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/alertingtest"
	"github.com/vedette-sec/vedette/alerting/pagerduty"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/secret"
)

var update = flag.Bool("update", false, "write the golden file")

const key = "0123456789abcdef0123456789abcdef"

func TestConformance(t *testing.T) {
	alertingtest.Test(t, alertingtest.Kit{
		New: func(t *testing.T, c *alerting.Client, url string) alerting.Notifier {
			n, err := pagerduty.New(pagerduty.Options{RoutingKey: key, URL: secret.String(url), Client: c})
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Path:    "/v2/enqueue",
		Secrets: []string{key},
		Check:   check,
	})
}

type event struct {
	RoutingKey  string `json:"routing_key"`
	EventAction string `json:"event_action"`
	DedupKey    string `json:"dedup_key"`
	ClientURL   string `json:"client_url"`
	Links       []struct{ Href, Text string }
	Payload     *struct {
		Summary, Source, Severity, Timestamp string
		CustomDetails                        struct {
			MergedInto string `json:"merged_into"`
			Rules      []struct{ Author, License string }
		} `json:"custom_details"`
	}
}

// check holds an event against PagerDuty's limits and rules.
func check(t *testing.T, _ *http.Request, body []byte, n alerting.Notification) {
	t.Helper()
	if len(body) > 512<<10 {
		t.Errorf("event of %d bytes", len(body))
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	if e.RoutingKey != key || e.DedupKey != n.Incident.ID.String() || e.EventAction != string(n.Event) {
		t.Errorf("event: %+v", e)
	}
	if e.Payload == nil {
		t.Fatal("no payload")
	}
	if l := utf8.RuneCountInString(e.Payload.Summary); l == 0 || l > 1024 {
		t.Errorf("summary of %d characters", l)
	}
	if e.Payload.Source == "" || !slices.Contains([]string{"critical", "error", "warning", "info"}, e.Payload.Severity) {
		t.Errorf("source %q, severity %q", e.Payload.Source, e.Payload.Severity)
	}
	if e.ClientURL != n.URL {
		t.Errorf("client_url %q, want %q", e.ClientURL, n.URL)
	}
	if n.Incident.Status == incident.StatusMerged {
		into := n.Incident.MergedInto.String()
		if e.Payload.CustomDetails.MergedInto != into || !strings.Contains(e.Payload.Summary, into) {
			t.Errorf("merged, but no reference: %+v", e.Payload)
		}
	}
	if len(n.Rules) == 1 && (len(e.Payload.CustomDetails.Rules) != 1 || e.Payload.CustomDetails.Rules[0].Author != n.Rules[0].Author) {
		t.Errorf("rules: %+v", e.Payload.CustomDetails.Rules)
	}
}

func TestEvent(t *testing.T) {
	var got []byte
	rec := alertingtest.Recorder(t, &got)
	p, err := pagerduty.New(pagerduty.Options{RoutingKey: key, URL: secret.String(rec.URL), Client: rec.Client})
	if err != nil {
		t.Fatal(err)
	}
	n := alertingtest.Notification()
	if _, err := p.Notify(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	alertingtest.Golden(t, filepath.Join("testdata", "trigger.json"), got, *update)
	for level, want := range map[detect.Level]string{
		detect.LevelInformational: "info", detect.LevelLow: "info", detect.LevelMedium: "warning",
		detect.LevelHigh: "error", detect.LevelCritical: "critical",
	} {
		n.Incident.Severity = level
		if _, err := p.Notify(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		var e event
		if err := json.Unmarshal(got, &e); err != nil {
			t.Fatal(err)
		}
		if e.Payload.Severity != want {
			t.Errorf("%s is %s, want %s", level, e.Payload.Severity, want)
		}
	}
}

func TestNew(t *testing.T) {
	c := alerting.NewClient(alerting.ClientOptions{})
	for name, o := range map[string]pagerduty.Options{
		"no key":    {Client: c},
		"short key": {Client: c, RoutingKey: "0123456789abcdef"},
		"no client": {RoutingKey: key},
		"plain":     {Client: c, RoutingKey: key, URL: "http://events.pagerduty.com/v2/enqueue"},
	} {
		if _, err := pagerduty.New(o); err == nil || strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pagerduty.New(pagerduty.Options{Client: c, RoutingKey: key}); err != nil {
		t.Error(err)
	}
}
