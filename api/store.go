package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// Errors that the stores behind this package return, wrapped or bare. Any other
// is a fault of ours and is answered as such.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed in the meantime")        // Change.IfVersion did not hold
	ErrMerged      = errors.New("merged into another incident")   // a merged incident is not changed any more
	ErrResolved    = errors.New("resolved: reopen it first")      // a resolved incident is not acknowledged
	ErrUnavailable = errors.New("the store is away for a moment") // worth trying again
)

// Status is where an incident stands.
type Status string

// The statuses. Merged incidents point to the one that they became part of.
const (
	StatusOpen         Status = "open"
	StatusAcknowledged Status = "acknowledged"
	StatusResolved     Status = "resolved"
	StatusMerged       Status = "merged"
)

// Entity is something that an incident is about, by its OCSF attribute.
type Entity struct {
	Type  string `json:"type" doc:"OCSF attribute" example:"src_endpoint.ip"`
	Value string `json:"value" example:"203.0.113.7"`
}

// Incident is an incident as lists show it.
type Incident struct {
	ID        string    `json:"id" format:"uuid"`
	RuleID    string    `json:"rule_id" doc:"The rule that opened it"`
	RuleIDs   []string  `json:"rule_ids" nullable:"false"`
	Title     string    `json:"title"`
	Severity  string    `json:"severity" enum:"informational,low,medium,high,critical"`
	Status    Status    `json:"status" enum:"open,acknowledged,resolved,merged"`
	Assignee  string    `json:"assignee" doc:"Empty if nobody"`
	Account   string    `json:"account" doc:"Cloud account, empty if unknown"`
	Entities  []Entity  `json:"entities" nullable:"false" doc:"What it is about, most frequent first; a list shows at most 20, an incident by itself at most 200"`
	Count     int64     `json:"count" doc:"Events"`
	FirstSeen time.Time `json:"first_seen" doc:"Time of the first event"`
	LastSeen  time.Time `json:"last_seen" doc:"Time of the last event"`
	OpenedAt  time.Time `json:"opened_at" doc:"When Vedette opened it"`
}

// Finding is one rule's finding, as part of an incident.
type Finding struct {
	FindingID   string          `json:"finding_id"`
	RuleID      string          `json:"rule_id"`
	RuleTitle   string          `json:"rule_title"`
	Level       string          `json:"level" enum:"informational,low,medium,high,critical"`
	Key         []string        `json:"key" nullable:"false" doc:"Values of the rule's group-by"`
	Fields      []string        `json:"fields" nullable:"false" doc:"Names of the key's values"`
	Count       int64           `json:"count" doc:"Events"`
	Late        int64           `json:"late" doc:"Events among them that came later than the rule reckons with, and counted with whatever arrived near them"`
	Peak        float64         `json:"peak" doc:"Greatest value that the rule's condition saw"`
	FirstTime   time.Time       `json:"first_time"`
	LastTime    time.Time       `json:"last_time"`
	Verdict     string          `json:"verdict" doc:"bypass, unknown or gap for rules on missing events, otherwise empty"`
	Explanation string          `json:"explanation" doc:"Why it fired"`
	Detail      json.RawMessage `json:"detail,omitempty" doc:"The numbers behind the explanation"`
	Description string          `json:"description" doc:"The rule's own"`
	FalsePos    []string        `json:"false_positives" nullable:"false" doc:"What the rule's author says it may also be"`
	Author      string          `json:"author" doc:"Of the rule"`
	License     string          `json:"license" doc:"Of the rule"`
	References  []string        `json:"references" nullable:"false"`
	Tags        []string        `json:"tags" nullable:"false" doc:"MITRE ATT&CK tags, as Sigma writes them"`
}

// Evidence is one record of a finding, copied while the log still held it.
type Evidence struct {
	FindingID string          `json:"finding_id"`
	LogType   string          `json:"log_type"`
	EventID   string          `json:"event_id"`
	Time      time.Time       `json:"time"`
	State     string          `json:"state" enum:"copied,mismatch,expired" doc:"mismatch: the log held another record in its place; expired: it held it no more"`
	Source    string          `json:"source" doc:"Where it stood on vedette.logs: incarnation/partition/offset"`
	Size      int64           `json:"size" doc:"Bytes of the record"`
	Truncated bool            `json:"truncated" doc:"The record is longer than what raw holds"`
	Raw       string          `json:"raw" doc:"The record as it was logged"`
	Event     json.RawMessage `json:"event,omitempty" doc:"The record in OCSF's terms, if it can be decoded"`
}

// AuditEntry is something that was done to an incident.
type AuditEntry struct {
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor" doc:"The token's name, or the part of Vedette"`
	Action string          `json:"action" example:"acknowledged"`
	Detail json.RawMessage `json:"detail,omitempty"`
}

// IncidentDetail is an incident with all that is known about it.
type IncidentDetail struct {
	Incident
	Version        int64        `json:"version" doc:"Rises with every change worth telling, which an assignment is not; the ETag"`
	UpdatedAt      time.Time    `json:"updated_at"`
	AcknowledgedAt *time.Time   `json:"acknowledged_at,omitempty"`
	ResolvedAt     *time.Time   `json:"resolved_at,omitempty"`
	MergedInto     string       `json:"merged_into,omitempty" doc:"The incident that this one became part of, whose findings they now are"`
	Tags           []string     `json:"tags" nullable:"false"`
	Explanation    string       `json:"explanation" doc:"Why it was opened"`
	FindingsTotal  int64        `json:"findings_total"`
	Keys           int64        `json:"keys" doc:"Distinct pairs of rule and group key among all its findings; 0 if they were not counted"`
	Findings       []Finding    `json:"findings" nullable:"false" doc:"The first 200"`
	Evidence       []Evidence   `json:"evidence" nullable:"false" doc:"The first 50 records"`
	Audit          []AuditEntry `json:"audit" nullable:"false" doc:"What happened to it, oldest first"`
}

// Query selects incidents. Zero fields select everything but merged incidents.
type Query struct {
	Statuses    []Status
	MinSeverity detect.Level
	Rule        string // id of any of the incident's rules
	Entity      string // value of one of its entities, or type:value
	Since       time.Time
	Until       time.Time // an event in [Since, Until)
	OpenedSince time.Time
	OpenedUntil time.Time // opened in [OpenedSince, OpenedUntil)
	After       Cursor    // only what comes after this place
	Limit       int
}

// Cursor is a place in a list: the incident it comes right after.
type Cursor struct {
	OpenedAt time.Time // to the microsecond
	ID       string    // a UUID
}

// IsZero reports whether c is the beginning.
func (c Cursor) IsZero() bool { return c.ID == "" }

// Incidents is where incidents are read.
type Incidents interface {
	// ListIncidents returns the incidents that q selects, newest first by
	// (opened_at, id), at most q.Limit.
	ListIncidents(ctx context.Context, tenant string, q Query) ([]Incident, error)
	// CountIncidents counts the tenant's incidents by status.
	CountIncidents(ctx context.Context, tenant string) (map[Status]int64, error)
	// FindIncident returns ErrNotFound if there is none of this id, a UUID.
	// The incident's explanation and OCSF events are left to the caller.
	FindIncident(ctx context.Context, tenant, id string) (IncidentDetail, error)
}

// Change is what somebody wants an incident to become.
type Change struct {
	Status    Status  // open, acknowledged or resolved; empty: as it is
	Assignee  *string // nil: as it is; empty: nobody
	IfVersion int64   // only if this is still its version; 0: the last writer wins
}

// Actions is where incidents are changed.
type Actions interface {
	// ChangeIncident makes the change and writes the audit entries, all or nothing.
	// It returns ErrNotFound, ErrConflict, ErrMerged or ErrResolved. A change that changes
	// nothing is no error and leaves no trace.
	ChangeIncident(ctx context.Context, tenant, id, actor string, c Change) error
}

// Push takes the body of POST /v1/logs. The caller has been authenticated: the
// handler trusts tenant and origin.
type Push interface {
	ServePush(w http.ResponseWriter, r *http.Request, tenant, origin string)
}
