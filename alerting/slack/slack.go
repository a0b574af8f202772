// Package slack tells a Slack channel of incidents through an incoming webhook
// (https://api.slack.com/messaging/webhooks), as Block Kit.
//
// A webhook cannot change a message it sent: every telling is a message of its
// own, further ones say that they are updates.
package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vedette-sec/vedette/alerting"
	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/incident"
	"github.com/vedette-sec/vedette/secret"
)

// Options configure a Notifier.
type Options struct {
	URL    secret.String // the incoming webhook's, a secret
	Client *alerting.Client
}

// Notifier posts to one incoming webhook.
type Notifier struct {
	opts Options
}

// New makes a notifier, or says what is wrong with its URL.
func New(o Options) (*Notifier, error) {
	if o.Client == nil {
		return nil, errors.New("slack: Client is missing")
	}
	if err := o.Client.CheckURL(o.URL); err != nil {
		return nil, fmt.Errorf("slack: webhook: %w", err)
	}
	return &Notifier{opts: o}, nil
}

// Format prints what it is and none of its secrets, whatever the verb.
func (s *Notifier) Format(f fmt.State, _ rune) { fmt.Fprint(f, "Slack notifier") }

// Notify posts one message.
func (s *Notifier) Notify(ctx context.Context, n alerting.Notification) (time.Duration, error) {
	body, err := json.Marshal(render(n))
	if err != nil {
		return 0, &alerting.Failure{Reason: alerting.ReasonInvalid, Err: fmt.Errorf("render message: %w", err)}
	}
	return s.opts.Client.Post(ctx, s.opts.URL, nil, body)
}

// Slack's limits, in characters, and the number of items that we show of lists.
const (
	maxFallback = 3000
	maxHeader   = 150
	maxText     = 3000
	maxField    = 2000
	maxEntities = 8
	maxRules    = 6
	maxRefs     = 3
)

type message struct {
	Text   string  `json:"text"` // for notifications and screen readers
	Blocks []block `json:"blocks"`
}

type block struct {
	Type     string `json:"type"`
	Text     *text  `json:"text,omitempty"`
	Fields   []text `json:"fields,omitempty"`
	Elements []any  `json:"elements,omitempty"`
}

type text struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Emoji    *bool  `json:"emoji,omitempty"`
	Verbatim bool   `json:"verbatim,omitempty"` // no mentions or links of its own making
}

type button struct {
	Type string `json:"type"`
	Text text   `json:"text"`
	URL  string `json:"url"`
}

func plain(s string, limit int) text {
	no := false
	return text{Type: "plain_text", Text: clip(oneLine(s), limit), Emoji: &no}
}

func markdown(s string) text {
	return text{Type: "mrkdwn", Text: s, Verbatim: true}
}

func render(n alerting.Notification) message {
	in := n.Incident
	head := headline(n)
	m := message{Text: escape(clip(oneLine(head+": "+in.Title), maxFallback/6), maxFallback)}
	header := plain(head+": "+in.Title, maxHeader)
	m.Blocks = append(m.Blocks, block{Type: "header", Text: &header})

	var b strings.Builder
	if n.Explanation != "" && n.Event != alerting.EventResolve {
		b.WriteString(escape(n.Explanation, maxText/2))
	}
	if in.Status == incident.StatusMerged {
		b.WriteString("Merged into ")
		b.WriteString(link(n.MergedURL, in.MergedInto.String()))
	}
	if b.Len() > 0 {
		t := markdown(b.String())
		m.Blocks = append(m.Blocks, block{Type: "section", Text: &t})
	}
	fields := []text{
		field("Severity", in.Severity.String()),
		field("Status", string(in.Status)),
		field("Events", fmt.Sprintf("%d", in.Count)),
		field("Seen (UTC)", span(in.First, in.Last)),
	}
	if in.Account != "" {
		fields = append(fields, field("Account", in.Account))
	}
	if in.Assignee != "" {
		fields = append(fields, field("Assignee", in.Assignee))
	}
	if s := entities(n.Entities); s != "" {
		fields = append(fields, markdown("*Involved*\n"+s))
	}
	m.Blocks = append(m.Blocks, block{Type: "section", Fields: fields})
	if n.Event != alerting.EventResolve {
		if t, ok := credits(n.Rules); ok {
			m.Blocks = append(m.Blocks, block{Type: "context", Elements: []any{t}})
		}
	}
	if n.URL != "" {
		m.Blocks = append(m.Blocks, block{Type: "actions", Elements: []any{
			button{Type: "button", Text: plain("Open incident", 75), URL: n.URL},
		}})
	}
	return m
}

// headline says what is told, in a word or two.
func headline(n alerting.Notification) string {
	switch {
	case n.Incident.Status == incident.StatusMerged:
		return "Merged"
	case n.Event == alerting.EventResolve:
		return "Resolved"
	case n.Event == alerting.EventAcknowledge:
		return "Acknowledged"
	}
	s := strings.ToUpper(n.Incident.Severity.String()[:1]) + n.Incident.Severity.String()[1:]
	if n.Incident.Severity == detect.LevelInformational {
		s = "Info"
	}
	if n.Update {
		return s + " (update)"
	}
	return s
}

func field(name, value string) text {
	return markdown("*" + name + "*\n" + escape(oneLine(value), maxField/2))
}

func span(first, last int64) string {
	const layout = "2006-01-02 15:04:05"
	a, b := time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
	if b.Sub(a) < time.Second {
		return a.Format(layout)
	}
	if a.YearDay() == b.YearDay() && a.Year() == b.Year() {
		return a.Format(layout) + " – " + b.Format("15:04:05")
	}
	return a.Format(layout) + " – " + b.Format(layout)
}

func entities(es []incident.Entity) string {
	var b strings.Builder
	for i, e := range es {
		if i == maxEntities {
			fmt.Fprintf(&b, "and %d more", len(es)-i)
			break
		}
		fmt.Fprintf(&b, "%s `%s`\n", escape(e.Type, 60), code(e.Value, 120))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// credits names the rules with their authors and references, as the Detection
// Rule License asks of every message about a match.
func credits(rules []incident.Rule) (text, bool) {
	var lines []string
	seen := map[string]bool{}
	more := 0
	for _, r := range rules {
		if seen[r.ID] {
			continue
		}
		seen[r.ID] = true
		if len(lines) == maxRules {
			more++
			continue
		}
		line := "Rule: " + escape(oneLine(r.Title), 160)
		if r.Author != "" {
			line += " · by " + escape(oneLine(r.Author), 160)
		}
		if r.License != "" {
			line += " · " + escape(oneLine(r.License), 40)
		}
		for i, ref := range r.References {
			if i == maxRefs {
				break
			}
			if len(ref) <= 250 && (strings.HasPrefix(ref, "https://") || strings.HasPrefix(ref, "http://")) {
				line += " · " + link(ref, fmt.Sprintf("reference %d", i+1))
			}
		}
		lines = append(lines, line)
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more rules", more))
	}
	for len(lines) > 1 && len([]rune(strings.Join(lines, "\n"))) > maxText {
		lines = lines[:len(lines)-1] // the naming rule comes first and stays
	}
	return markdown(strings.Join(lines, "\n")), len(lines) > 0
}

// link links a label, or is only the label where there is no address.
func link(url, label string) string {
	if url == "" || strings.ContainsAny(url, "|<> \n\t") {
		return escape(label, 100)
	}
	return "<" + escape(url, maxText/2) + "|" + escape(strings.ReplaceAll(label, "|", "¦"), 100) + ">"
}

var entityReplacer = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// escape escapes what Slack's markup gives a meaning to, and clips before so that
// no escape is cut: the result has at most five times limit characters.
func escape(s string, limit int) string {
	return clipEscaped(clip(s, limit), limit)
}

// clipEscaped escapes s, dropping from its end until the escaped text fits limit.
func clipEscaped(s string, limit int) string {
	e := entityReplacer.Replace(s)
	r := []rune(s)
	for len([]rune(e)) > limit && len(r) > 0 {
		r = r[:len(r)-max(1, (len([]rune(e))-limit)/5)]
		e = entityReplacer.Replace(string(r)) + "…"
	}
	return e
}

// code makes a value fit to stand between backticks.
func code(s string, limit int) string {
	return escape(strings.ReplaceAll(oneLine(s), "`", "'"), limit)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// clip cuts a text to a number of characters.
func clip(s string, limit int) string {
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	return string(r[:limit-1]) + "…"
}
