// Package pagerduty opens, acknowledges and resolves PagerDuty alerts through
// the Events API v2 (https://developer.pagerduty.com/docs/events-api-v2-overview).
// The deduplication key is the incident's id, so that a repeated event changes
// nothing, and an incident merged away is resolved with a reference to the one
// that goes on.
package pagerduty

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

// DefaultURL is the Events API in the US service region; the EU's is
// https://events.eu.pagerduty.com/v2/enqueue.
const DefaultURL = "https://events.pagerduty.com/v2/enqueue"

// Options configure a Notifier.
type Options struct {
	RoutingKey secret.String // of an Events API v2 integration
	URL        secret.String // DefaultURL if empty
	Client     *alerting.Client
}

// Notifier sends events to one integration.
type Notifier struct {
	opts Options
}

// New makes a notifier, or says what is wrong with its options.
func New(o Options) (*Notifier, error) {
	if o.URL == "" {
		o.URL = DefaultURL
	}
	switch {
	case o.Client == nil:
		return nil, errors.New("pagerduty: Client is missing")
	case len(o.RoutingKey) != 32:
		return nil, errors.New("pagerduty: routing key: want the 32 characters of an Events API v2 integration key")
	}
	if err := o.Client.CheckURL(o.URL); err != nil {
		return nil, fmt.Errorf("pagerduty: %w", err)
	}
	return &Notifier{opts: o}, nil
}

// Format prints what it is and none of its secrets, whatever the verb.
func (p *Notifier) Format(f fmt.State, _ rune) { fmt.Fprint(f, "PagerDuty notifier") }

// Notify sends one event.
func (p *Notifier) Notify(ctx context.Context, n alerting.Notification) (time.Duration, error) {
	e := render(n)
	e.RoutingKey = p.opts.RoutingKey.Reveal()
	body, err := json.Marshal(e)
	if err != nil {
		return 0, &alerting.Failure{Reason: alerting.ReasonInvalid, Err: fmt.Errorf("render event: %w", err)}
	}
	return p.opts.Client.Post(ctx, p.opts.URL, nil, body, p.opts.RoutingKey)
}

// PagerDuty's limits in characters, and ours on lists.
const (
	maxSummary  = 1024
	maxDetail   = 4000
	maxText     = 300
	maxEntities = 50
	maxRules    = 20
	maxRefs     = 5
	maxTags     = 50
)

type event struct {
	RoutingKey string   `json:"routing_key"`
	Action     string   `json:"event_action"`
	DedupKey   string   `json:"dedup_key"`
	Client     string   `json:"client,omitempty"`
	ClientURL  string   `json:"client_url,omitempty"`
	Links      []link   `json:"links,omitempty"`
	Payload    *payload `json:"payload,omitempty"`
}

type link struct {
	Href string `json:"href"`
	Text string `json:"text"`
}

type payload struct {
	Summary   string  `json:"summary"`
	Source    string  `json:"source"`
	Severity  string  `json:"severity"`
	Timestamp string  `json:"timestamp"`
	Component string  `json:"component,omitempty"`
	Group     string  `json:"group,omitempty"`
	Class     string  `json:"class,omitempty"`
	Details   details `json:"custom_details"`
}

type details struct {
	Incident    string              `json:"incident"`
	Status      string              `json:"status"`
	MergedInto  string              `json:"merged_into,omitempty"`
	Explanation string              `json:"explanation,omitempty"`
	Events      int64               `json:"events"`
	FirstSeen   string              `json:"first_seen"`
	LastSeen    string              `json:"last_seen"`
	Entities    map[string][]string `json:"entities,omitempty"`
	Tags        []string            `json:"tags,omitempty"`
	Rules       []credit            `json:"rules,omitempty"`
}

// credit names a rule with its author and references, as the Detection Rule
// License asks of every message about a match.
type credit struct {
	ID         string   `json:"id"`
	Title      string   `json:"title"`
	Author     string   `json:"author,omitempty"`
	License    string   `json:"license,omitempty"`
	References []string `json:"references,omitempty"`
}

func render(n alerting.Notification) event {
	in := n.Incident
	e := event{Action: string(n.Event), DedupKey: n.Key()}
	if n.URL != "" {
		e.Client, e.ClientURL = "Vedette", n.URL
		e.Links = append(e.Links, link{Href: n.URL, Text: "Incident"})
	}
	if n.MergedURL != "" {
		e.Links = append(e.Links, link{Href: n.MergedURL, Text: "Merged into"})
	}
	source := in.Account
	for _, es := range n.Entities {
		if es.Type == incident.EntitySrcIP || source == "" {
			source = es.Value
		}
	}
	if source == "" {
		source = in.Tenant
	}
	d := details{
		Incident: in.ID.String(), Status: string(in.Status), Explanation: clip(n.Explanation, maxDetail),
		Events: in.Count, FirstSeen: stamp(in.First), LastSeen: stamp(in.Last), Tags: clips(in.Tags, maxTags),
	}
	summary := in.Title
	if !in.MergedInto.IsZero() {
		d.MergedInto = in.MergedInto.String()
		summary = "Merged into " + d.MergedInto + ": " + summary
	}
	for i, es := range n.Entities {
		if i == maxEntities {
			break
		}
		if d.Entities == nil {
			d.Entities = map[string][]string{}
		}
		d.Entities[es.Type] = append(d.Entities[es.Type], clip(es.Value, maxText))
	}
	seen := map[string]bool{}
	for _, r := range n.Rules {
		if len(d.Rules) == maxRules {
			break
		}
		if !seen[r.ID] {
			seen[r.ID] = true
			d.Rules = append(d.Rules, credit{ID: r.ID, Title: clip(r.Title, maxText), Author: clip(r.Author, maxText), License: clip(r.License, maxText), References: clips(r.References, maxRefs)})
		}
	}
	e.Payload = &payload{
		Summary: clip(strings.Join(strings.Fields(summary), " "), maxSummary), Source: clip(source, maxSummary),
		Severity: severity(in.Severity), Timestamp: stamp(in.Last), Group: clip(in.Account, maxText), Class: in.RuleID, Details: d,
	}
	return e
}

// severity maps a level to one of PagerDuty's four.
func severity(l detect.Level) string {
	switch l {
	case detect.LevelCritical:
		return "critical"
	case detect.LevelHigh:
		return "error"
	case detect.LevelMedium:
		return "warning"
	}
	return "info"
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000Z") }

func clip(s string, limit int) string {
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

// clips cuts a list and its texts.
func clips(ss []string, limit int) []string {
	out := make([]string, min(len(ss), limit))
	for i := range out {
		out[i] = clip(ss[i], maxText)
	}
	return out
}
