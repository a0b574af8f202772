package slack_test

import (
	"encoding/json"
	"flag"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/alerting/alertingtest"
	"github.com/vedette-sec/vedette/alerting/slack"
	"github.com/vedette-sec/vedette/secret"
)

var update = flag.Bool("update", false, "write the golden file")

const path = "/services/T000/B000/XXXXsecretXXXX"

func TestConformance(t *testing.T) {
	alertingtest.Test(t, alertingtest.Kit{
		New: func(t *testing.T, c *alerting.Client, url string) alerting.Notifier {
			n, err := slack.New(slack.Options{URL: secret.String(url), Client: c})
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Path:    path,
		Secrets: []string{path, "XXXXsecretXXXX"},
		Check:   check,
	})
}

// text is any text object with where it stands.
type text struct{ Type, Text string }

type block struct {
	Type     string
	Text     *text
	Fields   []text
	Elements []json.RawMessage
}

// check holds a message against Slack's limits and rules.
func check(t *testing.T, _ *http.Request, body []byte, n alerting.Notification) {
	t.Helper()
	var m struct {
		Text   string
		Blocks []block
	}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Blocks) == 0 || len(m.Blocks) > 50 {
		t.Errorf("%d blocks", len(m.Blocks))
	}
	length := utf8.RuneCountInString
	if l := length(m.Text); l == 0 || l > 4000 {
		t.Errorf("fallback text of %d characters", l)
	}
	markdown := []string{m.Text}
	for _, b := range m.Blocks {
		switch b.Type {
		case "header":
			if b.Text == nil || b.Text.Type != "plain_text" || length(b.Text.Text) > 150 || b.Text.Text == "" {
				t.Errorf("header: %+v", b.Text)
			}
		case "section":
			if b.Text != nil {
				if l := length(b.Text.Text); l == 0 || l > 3000 {
					t.Errorf("section of %d characters", l)
				}
				markdown = append(markdown, b.Text.Text)
			}
			if b.Text == nil && len(b.Fields) == 0 || len(b.Fields) > 10 {
				t.Errorf("section with %d fields", len(b.Fields))
			}
			for _, f := range b.Fields {
				if l := length(f.Text); l == 0 || l > 2000 {
					t.Errorf("field of %d characters", l)
				}
				markdown = append(markdown, f.Text)
			}
		case "context":
			if len(b.Elements) == 0 || len(b.Elements) > 10 {
				t.Errorf("context with %d elements", len(b.Elements))
			}
			for _, e := range b.Elements {
				var x text
				if err := json.Unmarshal(e, &x); err != nil {
					t.Fatal(err)
				}
				if l := length(x.Text); l == 0 || l > 3000 {
					t.Errorf("context text of %d characters", l)
				}
				markdown = append(markdown, x.Text)
			}
		case "actions":
			if !strings.Contains(string(body), n.URL) {
				t.Error("no link to the incident")
			}
		default:
			t.Errorf("block of type %q", b.Type)
		}
	}
	for _, s := range markdown {
		if strings.Contains(s, "<!") || strings.Contains(s, "<@") || strings.Contains(s, "<https://evil") || strings.Contains(s, "<javascript") {
			t.Errorf("markup of the attacker's: %.200s", s)
		}
		rest := s
		for {
			i := strings.IndexByte(rest, '&')
			if i < 0 {
				break
			}
			rest = rest[i:]
			if !strings.HasPrefix(rest, "&amp;") && !strings.HasPrefix(rest, "&lt;") && !strings.HasPrefix(rest, "&gt;") {
				t.Errorf("a bare or cut &: %.20s", rest)
			}
			rest = rest[1:]
		}
	}
	if n.Event != alerting.EventResolve && len(n.Rules) == 1 {
		for _, want := range append([]string{n.Rules[0].Author, n.Rules[0].License}, n.Rules[0].References...) {
			if !strings.Contains(strings.Join(markdown, "\n"), want) {
				t.Errorf("%q is not in the message", want)
			}
		}
	}
}

func TestMessage(t *testing.T) {
	var got []byte
	kit := alertingtest.Recorder(t, &got)
	n, err := slack.New(slack.Options{URL: secret.String(kit.URL + path), Client: kit.Client})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Notify(t.Context(), alertingtest.Notification()); err != nil {
		t.Fatal(err)
	}
	alertingtest.Golden(t, filepath.Join("testdata", "trigger.json"), got, *update)
}

func TestNew(t *testing.T) {
	c := alerting.NewClient(alerting.ClientOptions{})
	for _, url := range []string{"", "hooks.slack.com/x", "http://hooks.slack.com/services/x", "ftp://hooks.slack.com/x", "https://u:p@hooks.slack.com/", "https://hooks.slack.com/#x", "https:///x", "http://169.254.169.254/"} {
		_, err := slack.New(slack.Options{URL: secret.String(url), Client: c})
		if err == nil {
			t.Errorf("%q: no error", url)
		} else if len(url) > 20 && strings.Contains(err.Error(), url) {
			t.Errorf("the error shows the URL: %v", err)
		}
	}
	if _, err := slack.New(slack.Options{URL: "https://hooks.slack.com/services/x"}); err == nil {
		t.Error("no client: no error")
	}
	if _, err := slack.New(slack.Options{URL: "https://hooks.slack.com/services/x", Client: c}); err != nil {
		t.Error(err)
	}
}
