// Package incident groups findings into incidents, keeps what people do to them,
// and queues what has to be told to whom.
//
// # Grouping
//
// Which findings belong together is a function of the set of findings, whatever
// the order and the batches in which they arrive. Two findings of a tenant are
// linked if
//
//   - they are of one rule (by its id: versions of a rule are one rule) and one
//     group key, and their [first, last] ranges lie at most [Options.Repeat]
//     apart: what findings of adjoining tiles of one hour can be apart at most;
//   - they are of one rule and each is part of a flood, and their tiles begin at most
//     [Options.Repeat] apart. A flood is [Options.FloodKeys] or more distinct keys of
//     one rule in one tile (findings about one event count in that event's hour); or
//   - they share a joinable entity (a public source address, a principal or a
//     function; see [Joinable]) and their ranges lie at most [Options.Join] apart.
//
// Incidents are the connected components. A finding's range only grows, so links
// only appear and components only merge; then the incident whose opener is the
// earliest by (first time, finding id) survives, and the others point to it. The
// exception are findings about one event, the first of its kind
// ([detect.MergeLeast]): their time may move to an earlier event, so their
// incident's links are computed anew, and it may come apart.
//
// Three things beside the findings bear on grouping, each of them recorded:
//
//   - A very common entity does not join everything: a finding is not joined by an
//     entity on which more than [Options.CommonRules] distinct rules found something
//     on the day (UTC) that the finding begins. This is judged once, when the
//     finding is first assembled, from what was assembled until then. Past the
//     limit, and only there, the order of arrival matters.
//   - An incident resolved longer than [Options.Reopen] ago takes no new findings:
//     they open another one. Until then a new finding reopens it; a mere
//     amendment of a finding it already has does not.
//   - Ids of incidents are given once, from whichever finding opened them.
//
// # The assembler
//
// One owner a tenant shard, fenced by an epoch, reads the findings that
// checkpoints changed, by (layout, partition, checkpoint number), and writes
// entities, incidents, audit, intents and its cursors in one transaction. Killed
// at any instant it leaves the incidents of an undisturbed run.
package incident

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// ID identifies an incident within its tenant. It prints as a UUID.
type ID [16]byte

func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// IsZero reports whether no incident is meant.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads a UUID as String writes it, in either case.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, fmt.Errorf("incident id %.40q: want a UUID", s)
	}
	h := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(id[:], []byte(h)); err != nil {
		return ID{}, fmt.Errorf("incident id %.40q: want a UUID", s)
	}
	return id, nil
}

// Status is where an incident stands.
type Status string

// The statuses. A merged incident points to the one it was merged into and
// changes no more.
const (
	StatusOpen         Status = "open"
	StatusAcknowledged Status = "acknowledged"
	StatusResolved     Status = "resolved"
	StatusMerged       Status = "merged"
)

// Incident is a set of findings that belong together, and what became of it.
type Incident struct {
	Tenant     string
	ID         ID
	Status     Status
	MergedInto ID               // zero unless merged
	Opener     detect.FindingID // the finding with the least (first time, id)
	RuleID     string           // the opener's
	RuleIDs    []string         // of all findings, sorted
	Title      string
	Severity   detect.Level // greatest of the findings
	Account    string       // cloud account, empty if no finding names one
	Tags       []string     // MITRE ATT&CK as Sigma writes them, sorted
	Count      int64        // sum over the findings
	Findings   int64        // how many there are
	Keys       int64        // distinct pairs of rule and group key among them
	First      int64        // ns since the Unix epoch
	Last       int64        // ns since the Unix epoch
	Assignee   string
	Version    int64 // rises with every change worth telling
	OpenedAt   time.Time
	UpdatedAt  time.Time
	// AcknowledgedAt and ResolvedAt are zero unless the incident is in that state.
	AcknowledgedAt time.Time
	ResolvedAt     time.Time
}

// Entity is what a finding is about: an OCSF attribute and its value.
type Entity struct {
	Type  string // such as src_endpoint.ip, actor.user.uid, function.name
	Value string
	Joins bool // findings that share it within the join window belong together
}

// Action names what happened to an incident.
type Action string

// The actions of the audit trail.
const (
	ActionOpened       Action = "opened"
	ActionAmended      Action = "amended"  // findings added, or severity raised
	ActionMerged       Action = "merged"   // on the incident that was merged away
	ActionAbsorbed     Action = "absorbed" // on the incident that it was merged into
	ActionSplit        Action = "split"    // findings turned out to lie apart
	ActionAcknowledged Action = "acknowledged"
	ActionResolved     Action = "resolved"
	ActionReopened     Action = "reopened"
	ActionAssigned     Action = "assigned"
)

// ActorAssembler is the actor of what no person did.
const ActorAssembler = "assembler"

// Audit is one entry of an incident's trail. Entries are never changed.
type Audit struct {
	Tenant   string
	Incident ID
	Seq      int64 // rising; set when read
	At       time.Time
	Actor    string // ActorAssembler, or the name of the token used
	Action   Action
	Detail   map[string]string
}

// Event is what an intent asks to have told.
type Event string

// The events.
const (
	EventTrigger Event = "trigger" // the incident stands: open or acknowledged
	EventResolve Event = "resolve" // it is resolved, or merged into another
)

// Intent says that a receiver is to be told of an incident at this version at
// least. There is one for each incident and receiver, however often amended.
type Intent struct {
	Tenant   string
	Incident ID
	Receiver string
	Event    Event
	Wanted   int64
}

// Receiver says which incidents one of the configured receivers is told of.
type Receiver struct {
	Name        string       // as configured; unique
	MinSeverity detect.Level // incidents below it are not told
}

// Rule is what a rule version said when it was in force, as kept for ever.
type Rule struct {
	Version        string
	ID             string
	Title          string
	Level          detect.Level
	Author         string
	License        string
	Description    string
	References     []string
	Tags           []string
	FalsePositives []string
	GroupBy        []string // names of the key's values, in order
	Summary        string   // what it takes to fire, in words
}

// Finding is a finding as the ledger keeps it, with what the assembler added.
type Finding struct {
	detect.Finding
	Incident ID // zero until assembled
}

// VerdictUnknown marks findings that say that nothing could be judged: the logs
// of the other side were missing.
const VerdictUnknown = detect.VerdictUnknown
