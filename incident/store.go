package incident

import (
	"context"
	"errors"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// The errors of a ledger and of what people do to incidents.
var (
	// ErrFenced says that another owner has taken the tenant shard over: whoever
	// gets it must stop.
	ErrFenced = errors.New("incident: tenant shard taken over by another owner")
	// ErrNotFound says that there is no such incident.
	ErrNotFound = errors.New("incident: not found")
	// ErrMerged says that the incident was merged into another, which has to be
	// worked in its place.
	ErrMerged = errors.New("incident: merged into another")
	// ErrResolved says that the incident is resolved and has to be reopened first.
	ErrResolved = errors.New("incident: resolved")
)

// Ledger is where findings are read and incidents are kept: Postgres.
type Ledger interface {
	// AcquireAssembler takes a tenant shard over by raising its epoch.
	AcquireAssembler(ctx context.Context, shard int32) (epoch int64, err error)
	// Assemble runs f in one transaction, in which the shard's row is locked and
	// its epoch was tested first: it returns ErrFenced if it is another's. If f or
	// the commit fails nothing of f's writing remains, unless the outcome of the
	// commit is unknown: the cursors, read anew, then tell.
	Assemble(ctx context.Context, shard int32, epoch int64, f func(Tx) error) error
	// Act runs f in one transaction without an epoch, for what people do.
	Act(ctx context.Context, f func(Tx) error) error
}

// Tx is one transaction on the ledger. Lists are answered in no particular order
// unless it is said.
type Tx interface {
	// Changed returns the findings changed by checkpoints beyond the cursors, whole
	// checkpoints, about limit of them, with their current content, and moves the
	// cursors past them.
	Changed(ctx context.Context, limit int) ([]Finding, error)
	// Rules returns the rule versions that are known.
	Rules(ctx context.Context, versions []string) ([]Rule, error)

	// RulesSeen returns which rules found something on each entity and day.
	RulesSeen(ctx context.Context, tenant string, on []EntityDay) ([]RuleSeen, error)
	AddRulesSeen(ctx context.Context, tenant string, seen []RuleSeen) error

	Entities(ctx context.Context, tenant string, findings []detect.FindingID) (map[detect.FindingID][]Entity, error)
	AddEntities(ctx context.Context, tenant string, es map[detect.FindingID][]Entity) error

	// Links returns the links of findings, LinksOfIncidents those of all findings
	// of the incidents.
	Links(ctx context.Context, tenant string, findings []detect.FindingID) ([]Link, error)
	LinksOfIncidents(ctx context.Context, tenant string, incidents []ID) ([]Link, error)
	// SaveLinks writes links, over what is there.
	SaveLinks(ctx context.Context, tenant string, links []Link) error
	// Probe answers each probe with the incident of one finding that it meets, if
	// it meets any. Findings of incidents resolved before closed do not count.
	Probe(ctx context.Context, tenant string, probes []Probe, closed time.Time) ([]Hit, error)

	// Places returns where findings count towards a flood, PlacesOfIncidents where all
	// findings of the incidents do. SavePlaces writes them, over what is there.
	Places(ctx context.Context, tenant string, findings []detect.FindingID) ([]Place, error)
	PlacesOfIncidents(ctx context.Context, tenant string, incidents []ID) ([]Place, error)
	SavePlaces(ctx context.Context, tenant string, places []Place) error
	// TileKeys counts the distinct keys in tiles, each no further than most.
	TileKeys(ctx context.Context, tenant string, tiles []RuleTile, most int) (map[RuleTile]int, error)
	// TileIncidents returns the incidents of the findings in tiles, at most so many of
	// each tile; 0: all. Incidents resolved before closed do not count.
	TileIncidents(ctx context.Context, tenant string, tiles []RuleTile, most int, closed time.Time) ([]TileIncident, error)
	// Floods returns the tiles that hold a flood, among those that are of the same rule
	// as one of the given and at most within from it.
	Floods(ctx context.Context, tenant string, tiles []RuleTile, within time.Duration) ([]RuleTile, error)
	SaveFloods(ctx context.Context, tenant string, rise, fall []RuleTile) error

	// Incidents returns incidents and locks them, in the order of their ids.
	Incidents(ctx context.Context, tenant string, ids []ID) ([]Incident, error)
	// Totals sums the findings of incidents up.
	Totals(ctx context.Context, tenant string, ids []ID) ([]Total, error)
	// Keys counts the distinct keys that rules found in incidents.
	Keys(ctx context.Context, tenant string, ids []ID) ([]RuleKeys, error)
	// SaveIncidents writes incidents, new ones and changed ones.
	SaveIncidents(ctx context.Context, ins []Incident) error
	// Assign gives findings to incidents. Move gives all findings of one incident
	// to another.
	Assign(ctx context.Context, tenant string, to map[detect.FindingID]ID) error
	Move(ctx context.Context, tenant string, from, to ID) error

	AddAudit(ctx context.Context, entries []Audit) error
	// SaveIntents raises what is wanted. An intent with EventResolve is kept only
	// where the receiver was asked to be told before; with an empty Receiver it
	// means every such receiver.
	SaveIntents(ctx context.Context, intents []Intent) error
}

// EntityDay is an entity on a day of event time, counted from the Unix epoch.
type EntityDay struct {
	Type, Value string
	Day         int32
}

// RuleSeen says that a rule found something on an entity on a day.
type RuleSeen struct {
	EntityDay
	RuleID string
}

// RuleTile is a tile of a rule, by the rule's id and the tile's start in ns: where it
// is counted whether there is a flood.
type RuleTile struct {
	RuleID string
	At     int64
}

// Place is where a finding counts towards a flood, and its key's hash.
type Place struct {
	Finding detect.FindingID
	RuleTile
	Key [16]byte
}

// TileIncident is an incident that has a finding in a tile.
type TileIncident struct {
	RuleTile
	Incident ID
}

// RuleKeys is how many distinct keys of a rule an incident's findings have.
type RuleKeys struct {
	Incident ID
	RuleID   string
	Keys     int64
}

// LinkKind says how far apart findings with the same link may lie.
type LinkKind uint8

// The kinds.
const (
	LinkEntity LinkKind = iota // within Options.Join
	LinkRepeat                 // same rule and key, within Options.Repeat
	linkFlood                  // same rule, in tiles with a flood within Options.Repeat; never stored
)

// Link is one thing by which a finding is joined to others: a hash of an entity
// or of rule and key, with the finding's range as it was last assembled.
type Link struct {
	Finding     detect.FindingID
	Incident    ID // of the finding; set when read
	Hash        [16]byte
	Kind        LinkKind
	First, Last int64 // ns
}

// Probe asks for a link with this hash whose First, or Last, is in [From, To].
type Probe struct {
	Ord      int32 // names the probe in its Hit
	Hash     [16]byte
	ByLast   bool
	From, To int64 // ns
	// Spanning asks in place of that for a link with First < From and Last > To.
	Spanning bool
}

// Hit answers a Probe.
type Hit struct {
	Ord      int32
	Incident ID
}

// Total sums up the findings of one incident that are of one rule version and
// alike in whether their verdict is VerdictUnknown.
type Total struct {
	Incident    ID
	RuleVersion string
	Unknown     bool
	Findings    int64
	Count       int64
	First, Last int64            // ns
	Opener      detect.FindingID // the least by (first time, id)
	OpenerFirst int64            // its first time, ns
	Account     string           // least account among their entities, or empty
}
