package correlate

import (
	"context"
	"errors"
	"fmt"

	"github.com/vedette-sec/vedette/stream"
)

// verify reads the last message that the checkpoint covers again: it has to be the
// one that was read there. stream.ErrTruncated says that it is not.
func (o *Owner) verify(ctx context.Context, cp Checkpoint) error {
	last := cp.Mark.Last
	if last.End == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := stream.Verify(ctx, o.o.Open(last.End-1), last.End-1, last.CRC)
	if errors.Is(err, stream.ErrTruncated) {
		return fmt.Errorf("the observations are not those that the checkpoint at %d was computed from: %w; see what `vedette repair` says", cp.Mark.Position, err)
	}
	return err
}

// canonical brings a state into the encoding that states have now.
func canonical(state []byte) ([]byte, error) {
	if len(state) == 0 {
		return nil, nil
	}
	f, c, err := decodeOwnerState(state, 0)
	if err != nil {
		return nil, err
	}
	return f.append(nil, c.append(nil)), nil
}
