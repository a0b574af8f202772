// Package detect holds what the two stages of detection share: the observation
// that match hands to correlate, the section and batch it travels in, and the
// finding that correlate commits.
//
//	vedette.logs ─► detect/match (stateless) ─► vedette.observations ─► detect/correlate (stateful) ─► findings
package detect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Level is a rule's level in Sigma's words, in rising order.
type Level uint8

// The Sigma levels.
const (
	LevelInformational Level = iota
	LevelLow
	LevelMedium
	LevelHigh
	LevelCritical
)

var levelNames = [...]string{"informational", "low", "medium", "high", "critical"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level(%d)", uint8(l))
}

// ParseLevel reads a Sigma level; an empty one is medium.
func ParseLevel(s string) (Level, error) {
	if s == "" {
		return LevelMedium, nil
	}
	for i, n := range levelNames {
		if strings.EqualFold(n, s) {
			return Level(i), nil
		}
	}
	return 0, fmt.Errorf("level %q: want one of %s", s, strings.Join(levelNames[:], ", "))
}

// DefaultTenant owns what comes without a tenant.
const DefaultTenant = "default"

// Source is one partition of vedette.logs in one incarnation: a topic that was
// replaced or truncated gets the next incarnation from an operator.
type Source struct {
	Incarnation uint32
	Partition   int32
}

// derived marks the incarnations of derived sources, which no log can have.
const derived = 1 << 31

// DerivedSource is the source whose records are what the rules of one level of
// chains derive on a partition of vedette.observations in a layout: it has no topic
// of its own, correlate's checkpoints hold it.
func DerivedSource(layout int64, level int, partition int32) Source {
	return Source{Incarnation: derived | uint32(layout&0x7fffff)<<8 | uint32(level&0xff), Partition: partition}
}

// Derived tells whether s is a source of DerivedSource.
func (s Source) Derived() bool { return s.Incarnation&derived != 0 }

// Level is the level of a derived source.
func (s Source) Level() int { return int(s.Incarnation & 0xff) }

// DerivedType stands in [Progress] and [Seen] for a log type: the events that the
// rule of that version derives.
func DerivedType(ruleVersion string) string { return "derived/" + ruleVersion }

// Pointer says where the record of an observation stands, and what its bytes
// sum to (CRC-32C), so that a pointer that no longer holds is noticed.
type Pointer struct {
	Source Source
	Offset int64
	CRC    uint32
}

// Observation is what one record contributes to one rule under one group key.
type Observation struct {
	Pointer
	Time   int64   // event time, ns since the Unix epoch, capped at Stamp + 1 min
	Stamp  int64   // append stamp of the record on vedette.logs, ns
	IDHash uint64  // hash of the event's id, the dedupe identity within rule and key
	Ref    uint8   // which of the correlation's referenced rules matched, by index
	Number float64 // what is summed, averaged or ranked; 0 if the rule counts
	Label  string  // what is counted distinctly or learned; for unmatched the roll-up key
}

// Group is the observations of one rule (by version) under one key of one tenant.
type Group struct {
	Tenant      string
	RuleVersion string
	Key         []byte // encoded by AppendKey, in the order of the rule's group-by
	Obs         []Observation
}

// Progress is a collector's promise: of this origin and log type everything up
// to Through (ns) has been appended.
type Progress struct {
	Origin  string
	Type    string
	Through int64
}

// Seen is the greatest event time (ns) of a log type read so far on a source.
type Seen struct {
	Type string
	Time int64
}

// Tail is the last record before a position, by which a log is known again: if the
// record that stands there now sums to something else, the topic was replaced.
type Tail struct {
	End int64  // its offset + 1; 0: there was no record
	CRC uint32 // CRC-32C of the whole record, see stream.Checksum
}

// Section holds ALL observations of the records [From, To) of one source that
// belong to one partition of vedette.observations. It may be empty. From is the
// writer's last To there.
type Section struct {
	Source     Source
	From, To   int64
	Generation string     // digest of the generation in force at To
	Clock      int64      // A(s): greatest append stamp of the source up to To, ns
	Progress   []Progress // latest of each origin, as read on this source up to To
	Seen       []Seen     // latest of each log type, as read on this source up to To
	Groups     []Group
	Tail       Tail // the last record read before To
}

// FindingID identifies a finding: a hash of tenant, rule version, key and tile.
type FindingID [16]byte

func (id FindingID) String() string { return hex.EncodeToString(id[:]) }

// ParseFindingID reads what String writes.
func ParseFindingID(s string) (FindingID, error) {
	var id FindingID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("finding id %q: want %d hexadecimal digits", s, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// NewFindingID is hash(tenant, rule version, key, tile): tile is the tile's
// start in ns, or what the correlation type puts in its place.
func NewFindingID(tenant, ruleVersion string, key []byte, tile int64) FindingID {
	h := sha256.New()
	var n [8]byte
	for _, s := range [][]byte{[]byte(tenant), []byte(ruleVersion), key} {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write(s)
	}
	binary.BigEndian.PutUint64(n[:], uint64(tile))
	h.Write(n[:])
	var id FindingID
	copy(id[:], h.Sum(nil))
	return id
}

// Evidence points at one event of a finding.
type Evidence struct {
	Pointer
	Time   int64  // event time, ns
	IDHash uint64 // ties in time are broken by it
}

// Merge is how deltas of one finding come together.
type Merge uint8

const (
	// MergeAdd adds counts, takes the greatest peak, the least first and the greatest last.
	MergeAdd Merge = iota
	// MergeLeast keeps the delta with the least (first time, evidence) whole: for
	// findings that are about one event, the first of its kind.
	MergeLeast
)

// Finding is what fired for one rule, key and tile. Correlate emits deltas of
// this shape; merged together (see Finding.Add) they are the finding.
type Finding struct {
	ID          FindingID
	Tenant      string
	RuleVersion string
	Key         []byte // the group key, as in Group
	Tile        int64  // start of the tile, ns
	Merge       Merge
	Count       int64   // events in hot panes
	Late        int64   // of them, those that came later than the rule's lateness
	Peak        float64 // greatest value the rule's condition saw
	First, Last int64   // event times, ns
	Detail      string  // JSON object that explains the peak in numbers; goes with it
	Verdict     string  // unmatched: bypass, unknown or gap; otherwise empty
	Evidence    []Evidence
}

// AppendKey appends the encoding of one group-by value: its length as a uvarint,
// then its bytes. A key is the concatenation over the rule's group-by fields.
func AppendKey(dst, value []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

// SplitKey undoes AppendKey.
func SplitKey(key []byte) ([]string, error) {
	var vs []string
	for len(key) > 0 {
		n, w := binary.Uvarint(key)
		if w <= 0 || n > uint64(len(key)-w) {
			return nil, fmt.Errorf("group key: truncated after %d values", len(vs))
		}
		vs = append(vs, string(key[w:w+int(n)]))
		key = key[w+int(n):]
	}
	return vs, nil
}
