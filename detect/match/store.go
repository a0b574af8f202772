package match

import "context"

// Position is how far match has come on one source, and what was in force there.
type Position struct {
	Epoch      int64
	Next       int64  // offset of the next record to read
	Known      bool   // false if no position was ever saved: the least next of correlate's vectors then
	Generation string // digest in force at Next; empty before the first control record
	State      []byte // clock, progress and seen at Next, match's own encoding
}

// Generation is what makes match a function: the rules and the enrichment.
type Generation struct {
	Digest  string
	Content []byte // canonical; see the runner that writes it
}

// Positions is where match keeps its place, fenced by epoch.
type Positions interface {
	AcquireSource(ctx context.Context, incarnation uint32, partition int32) (Position, error)
	// SaveSource returns ErrFenced if another owner has taken the source over.
	SaveSource(ctx context.Context, incarnation uint32, partition int32, p Position) error
}
