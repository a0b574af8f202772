package match

import "context"

// Position is how far match has come on one source, and what was in force there.
type Position struct {
	Epoch      int64
	Next       int64  // offset of the next record to read
	Known      bool   // false if no position was ever saved: the least next of correlate's vectors then
	Generation string // digest in force at Next; empty before the first control record
	State      []byte // clock, progress and seen at Next, match's own encoding
	First      string // generation in force at the very beginning, if it was added later; empty: the first of all
	Clock      int64  // append stamp that the source stands at, ns; the least int64 if it has had no record
}

// Standing is where a source stands as last saved, whoever owns it.
type Standing struct {
	Partition   int32
	Incarnation uint32 // the latest
	Epoch       int64  // of whoever has it
	Known       bool   // a position was saved
	Begun       bool   // that position is behind some record
	Clock       int64  // as in Position
	Rewind      int64  // sections from this offset on are wanted again; −1: none are
}

// Standings tells an owner of the sources that other processes own, and what
// correlate asks of its own.
type Standings interface {
	// Standings returns those of all sources that anybody ever owned, each in its
	// latest incarnation from the given one on.
	Standings(ctx context.Context, incarnation uint32) ([]Standing, error)
}

// Generation is what makes match a function: the rules and the enrichment.
type Generation struct {
	Digest  string
	Content []byte // canonical; see the runner that writes it
}

// Positions is where match keeps its place, fenced by epoch.
type Positions interface {
	AcquireSource(ctx context.Context, incarnation uint32, partition int32) (Position, error)
	// SaveSource returns ErrFenced if another owner has taken the source over. It
	// also strikes out a request to rewind that the position answers: one to its
	// Next or a later offset.
	SaveSource(ctx context.Context, incarnation uint32, partition int32, p Position) error
}
