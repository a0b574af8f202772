package correlate

import (
	"context"

	"github.com/vedette-sec/vedette/detect"
)

// Page is a packed page of learned profiles of one rule. Its bytes are the
// engine's own; a store only keeps them.
type Page struct {
	RuleVersion string
	Number      uint32 // by key hash
	Data        []byte
}

// Mark is a place from which an owner can rebuild its windows: the position on
// the partition of vedette.observations and the engine's vector and clocks there.
type Mark struct {
	Position int64  // next offset to read
	Clock    int64  // A at the mark, ns
	State    []byte // vector and clocks, the engine's own encoding
	// Last is the last message before Position. Only that of a checkpoint is kept,
	// not that of older marks.
	Last detect.Tail
}

// Checkpoint is what an owner found in force when it took a partition over.
type Checkpoint struct {
	Epoch  int64
	Number int64  // of the last checkpoint written
	Mark   Mark   // the position, vector and clocks it was computed from
	Marks  []Mark // older marks, oldest first, to rebuild windows from
	Pages  []Page // all profiles of the partition
}

// Commit is what one checkpoint writes, all of it or nothing.
type Commit struct {
	Partition int32
	Epoch     int64
	Mark      Mark
	SaveMark  bool  // keep Mark as one to rebuild from
	DropMarks int64 // marks below this position are no longer needed
	Findings  []detect.Finding
	Pages     []Page    // those that changed; one without data is deleted
	Derived   []Derived // at most one of each level
}

// Derived is what the rules of one level of chains came to since the checkpoint
// before, for the rules above them: correlations that refer to correlations. It is
// written with the checkpoint and relayed to vedette.observations as sections of
// [detect.DerivedSource]. Its events get the offsets that follow those of the
// checkpoint before, and the clock takes one more, so that it moves without events.
type Derived struct {
	Level int // of the rules that it comes from; 0: they refer to detections only
	// Generation names the generations that sources are in here, by digest, separated
	// by commas: whoever reads the events needs their rules. It is that of the section.
	Generation string
	// Clock is A as these rules know it, ns: all that they derive with a stamp up to it
	// is in this checkpoint or before it.
	Clock int64
	// Progress says, under the type [detect.DerivedType] of each of these rules, up to
	// which event time all its events are there.
	Progress []detect.Progress
	Events   []DerivedEvent
}

// DerivedEvent is an event of a chain, as an observation of the rule above. For
// windows it is a hot pane: IDHash is of rule, key and pane, Time the pane's start.
// Stamp is at least the Clock of the checkpoint before and at least Time, so it may
// be ahead of the Clock that it comes with.
type DerivedEvent struct {
	Tenant      string
	RuleVersion string // of the rule above
	Key         []byte // in the order of that rule's group-by
	Time, Stamp int64  // ns
	IDHash      uint64
	Ref         uint8
	Number      float64
	Label       string
	Record      []byte // JSON object that says what it is, for evidence
}

// Ledger is where correlate's effects live: Postgres, or memory for replay.
type Ledger interface {
	// Acquire takes the partition over: it raises the epoch and reads what is in
	// force in the same statement, so that an earlier owner can commit no more.
	Acquire(ctx context.Context, partition int32) (Checkpoint, error)
	// Commit writes a checkpoint if the epoch is still the owner's. It returns
	// ErrFenced if it is not. If the outcome of COMMIT is unknown it finds out.
	Commit(ctx context.Context, c Commit) error
}
