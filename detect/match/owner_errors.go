package match

import (
	"errors"
	"fmt"

	"github.com/vedette-sec/vedette/stream"
)

// ErrFenced says that another owner has taken the source over: whoever gets it
// stops and writes no more.
var ErrFenced = errors.New("match: source taken over by another owner")

// ErrSemantics says that records belong to a generation of another [Semantics]:
// this program would judge them differently from the one that is to, so it does
// not, and whoever shares the partitions gives this one to another. Generations.Load
// returns it.
var ErrSemantics = fmt.Errorf("match: generation of another version of Vedette: %w", stream.ErrUnfit)
