package webhook

import (
	"time"

	"github.com/vedette-sec/vedette/alerting"
)

// Version is the version of Body.
const Version = 1

// Body is what is posted. Times are RFC 3339, in UTC.
type Body struct {
	Version     int       `json:"version"`
	Event       string    `json:"event"`  // trigger, acknowledge or resolve
	Update      bool      `json:"update"` // the endpoint was told of the incident before
	SentAt      time.Time `json:"sent_at"`
	Explanation string    `json:"explanation"` // why it fired, for people
	URL         string    `json:"url,omitempty"`
	Incident    Incident  `json:"incident"`
}

// Incident is the incident as it stood when the message was sent.
type Incident struct {
	Tenant     string    `json:"tenant"`
	ID         string    `json:"id"`
	Version    int64     `json:"version"` // a message with a lower one than another's is older
	Status     string    `json:"status"`  // open, acknowledged, resolved or merged
	MergedInto string    `json:"merged_into,omitempty"`
	Title      string    `json:"title"`
	Severity   string    `json:"severity"` // informational, low, medium, high or critical
	RuleID     string    `json:"rule_id"`
	Account    string    `json:"account,omitempty"`
	Assignee   string    `json:"assignee,omitempty"`
	Tags       []string  `json:"tags"`
	Count      int64     `json:"count"`
	FirstSeen  time.Time `json:"first_seen"`
	LastSeen   time.Time `json:"last_seen"`
	OpenedAt   time.Time `json:"opened_at"`
	Entities   []Entity  `json:"entities"`
	Rules      []Rule    `json:"rules"`
}

// Entity is one thing that the incident involves, by OCSF attribute.
type Entity struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Rule names a rule that fired, with its author and references, as the Detection
// Rule License asks of every message about a match.
type Rule struct {
	ID         string   `json:"id"`
	Title      string   `json:"title"`
	Level      string   `json:"level"`
	Author     string   `json:"author,omitempty"`
	License    string   `json:"license,omitempty"`
	References []string `json:"references"`
}

func render(n alerting.Notification) Body {
	in := n.Incident
	b := Body{
		Version: Version, Event: string(n.Event), Update: n.Update, SentAt: n.At.UTC(), Explanation: n.Explanation, URL: n.URL,
		Incident: Incident{
			Tenant: in.Tenant, ID: in.ID.String(), Version: in.Version, Status: string(in.Status), Title: in.Title,
			Severity: in.Severity.String(), RuleID: in.RuleID, Account: in.Account, Assignee: in.Assignee,
			Tags: append([]string{}, in.Tags...), Count: in.Count,
			FirstSeen: time.Unix(0, in.First).UTC(), LastSeen: time.Unix(0, in.Last).UTC(), OpenedAt: in.OpenedAt.UTC(),
			Entities: []Entity{}, Rules: []Rule{},
		},
	}
	if !in.MergedInto.IsZero() {
		b.Incident.MergedInto = in.MergedInto.String()
	}
	for _, e := range n.Entities {
		b.Incident.Entities = append(b.Incident.Entities, Entity{Type: e.Type, Value: e.Value})
	}
	for _, r := range n.Rules {
		b.Incident.Rules = append(b.Incident.Rules, Rule{
			ID: r.ID, Title: r.Title, Level: r.Level.String(), Author: r.Author, License: r.License,
			References: append([]string{}, r.References...),
		})
	}
	return b
}
