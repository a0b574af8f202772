package match

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/stream"
)

// Incarnation is one life of a partition of vedette.logs.
type Incarnation struct {
	Number uint32
	// First is where reading begins: what lies before was matched in the life
	// before, or is not there. Sections begin at 0 all the same.
	First int64
	// What was known at the end of the life before, and goes on: the generation in
	// force and the State of a Position.
	Generation string
	State      []byte
}

// Incarnations tells which life of a source it is.
type Incarnations interface {
	// Incarnation returns the latest; the zero Incarnation if it is the first.
	Incarnation(ctx context.Context, partition int32) (Incarnation, error)
}

// incarnation asks for as long as it takes. The error is ctx's.
func (w *Owner) incarnation(ctx context.Context, partition int32) (Incarnation, error) {
	first := Incarnation{Number: w.o.Incarnation}
	if w.o.Incarnations == nil {
		return first, nil
	}
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		inc, err := w.o.Incarnations.Incarnation(cctx, partition)
		cancel()
		if ctx.Err() != nil {
			return first, ctx.Err()
		}
		if err == nil {
			if inc.Number <= first.Number {
				inc = first
			}
			return inc, nil
		}
		w.o.Logger.Warn("match cannot ask for the source's incarnation yet", "source", partition, "err", err)
		sleep(ctx, backoff)
	}
}

// until is where a source ends.
func (w *Owner) until(partition int32) int64 {
	if end, ok := w.o.Until[partition]; ok {
		return end
	}
	return math.MaxInt64
}

// bound leaves out of a batch what lies behind the source's end.
func (s *source) bound(b stream.Batch) stream.Batch {
	if b.Next <= s.until {
		return b
	}
	for n := len(b.Records); n > 0 && b.Records[n-1].Offset >= s.until; n-- {
		b.Records = b.Records[:n-1]
	}
	b.Next, b.End = s.until, s.until
	return b
}

// Applied tells how far correlate has come on a source, as committed.
type Applied interface {
	// Tails returns the last record of the source that each partition of
	// vedette.observations has applied.
	Tails(ctx context.Context, s detect.Source) ([]detect.Tail, error)
}

// maxTails is how many earlier records a position knows the log by. They are the
// closer together the later they are, so that after a truncation little is read
// twice.
const maxTails = 48

// addTail notes the last record read. Past maxTails the one is left out whose
// neighbours are closest together for its age.
func (s *state) addTail(t detect.Tail) {
	if n := len(s.tails); t.End == 0 || n > 0 && s.tails[n-1].End >= t.End {
		return
	}
	s.tails = append(s.tails, t)
	if len(s.tails) <= maxTails {
		return
	}
	drop, least := 0, 0.0
	for i := 1; i < len(s.tails)-1; i++ {
		gap := float64(s.tails[i+1].End - s.tails[i-1].End)
		age := float64(t.End - s.tails[i].End)
		if r := gap / age; drop == 0 || r < least {
			drop, least = i, r
		}
	}
	s.tails = slices.Delete(s.tails, drop, drop+1)
}

func appendTails(b []byte, tails []detect.Tail) []byte {
	b = binary.AppendUvarint(b, uint64(len(tails)))
	end := int64(0)
	for _, t := range tails {
		b = binary.AppendVarint(b, t.End-end)
		b = binary.AppendVarint(b, int64(t.CRC))
		end = t.End
	}
	return b
}

func (r *stateReader) tails() []detect.Tail {
	tails := make([]detect.Tail, r.count())
	end := int64(0)
	for i := range tails {
		end += r.varint()
		tails[i] = detect.Tail{End: end, CRC: uint32(r.varint())}
	}
	return tails
}

// Tails are the records by which the log of a position is known again, by offset;
// the last is the last record before it.
func (p Position) Tails() ([]detect.Tail, error) {
	s, err := decodeState(p.State)
	if err != nil {
		return nil, err
	}
	return s.tails, nil
}

// Stamp is the greatest append stamp before the position, ns; the least int64 if
// there was no record.
func (p Position) Stamp() (int64, error) {
	s, err := decodeState(p.State)
	if err != nil {
		return 0, err
	}
	return s.clock, nil
}

// StateAt is the State of a position of which is known what sections say of it.
func StateAt(clock int64, progress []detect.Progress, seen []detect.Seen, tails ...detect.Tail) []byte {
	s := newState()
	s.clock = clock
	for _, p := range progress {
		s.progress[progressKey{p.Origin, p.Type}] = p.Through
	}
	for _, n := range seen {
		s.seen[n.Type] = n.Time
	}
	for _, t := range tails {
		s.addTail(t)
	}
	return s.encode()
}

// Cut is the state of a position in a log that is the same up to end only.
func Cut(state []byte, end int64) ([]byte, error) {
	s, err := decodeState(state)
	if err != nil {
		return nil, err
	}
	s.tails = slices.DeleteFunc(s.tails, func(t detect.Tail) bool { return t.End > end })
	return s.encode(), nil
}

// verify reads again what the position says was read last, and what correlate has
// applied last, which may be later. It returns stream.ErrTruncated if the log is
// another one now.
func (s *source) verify(ctx context.Context) error {
	s.mu.Lock()
	p := s.saved[len(s.saved)-1]
	s.mu.Unlock()
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := s.verifyAt(ctx, p)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, stream.ErrTruncated) {
			return fmt.Errorf("%w; see what `vedette repair` says", err)
		}
		s.log.Warn("match cannot look at what it read last yet", "err", err)
		sleep(ctx, backoff)
	}
}

func (s *source) verifyAt(ctx context.Context, p Position) error {
	ctx, cancel := context.WithTimeout(ctx, 3*callTimeout)
	defer cancel()
	tails, err := p.Tails()
	if err != nil {
		return err
	}
	var check []detect.Tail
	if n := len(tails); n > 0 {
		check = append(check, tails[n-1])
	}
	if a := s.owner.o.Applied; a != nil {
		applied, err := a.Tails(ctx, s.id)
		if err != nil {
			return fmt.Errorf("ask how far correlate is: %w", err)
		}
		check = append(check, applied...)
	}
	slices.SortFunc(check, func(a, b detect.Tail) int { return int(min(max(a.End-b.End, -1), 1)) })
	for _, t := range slices.Compact(check) {
		if t.End == 0 {
			continue
		}
		if err := stream.Verify(ctx, s.owner.o.Open(s.id.Partition, t.End-1), t.End-1, t.CRC); err != nil {
			return fmt.Errorf("vedette.logs/%d is not the log that was read: %w", s.id.Partition, err)
		}
	}
	return nil
}

// tail is the last record that the worker has read.
func (w *worker) tail() detect.Tail {
	if w.last != nil {
		w.before, w.last = detect.Tail{End: w.last.Offset + 1, CRC: stream.Checksum(w.last)}, nil
	}
	return w.before
}

// again is the same after reading failed: the broker that answers now may have
// lost what another acknowledged.
func (s *source) again(ctx context.Context, last *stream.Record) error {
	if last == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := stream.Verify(ctx, s.owner.o.Open(s.id.Partition, last.Offset), last.Offset, stream.Checksum(last))
	if errors.Is(err, stream.ErrTruncated) {
		return fmt.Errorf("vedette.logs/%d is not the log that was read: %w; see what `vedette repair` says", s.id.Partition, err)
	}
	return err
}
