package correlate

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/vedette-sec/vedette/detect"
)

// Rewinder tells match, wherever it runs, from where on sections are wanted again.
type Rewinder interface {
	AskRewind(ctx context.Context, s detect.Source, next int64) error
}

// Rewinds carries what owners ask of match to a ledger, until it has got there.
type Rewinds struct {
	to  Rewinder
	log *slog.Logger

	mu     sync.Mutex
	asked  map[detect.Source]int64
	wakeup chan struct{} // of one
}

// NewRewinds makes one; Run does the carrying.
func NewRewinds(to Rewinder, log *slog.Logger) *Rewinds {
	return &Rewinds{to: to, log: log, asked: make(map[detect.Source]int64), wakeup: make(chan struct{}, 1)}
}

// Ask notes that sections of a source are wanted from next on. It does not block.
func (r *Rewinds) Ask(s detect.Source, next int64) {
	r.mu.Lock()
	if old, ok := r.asked[s]; !ok || next < old {
		r.asked[s] = next
	}
	r.mu.Unlock()
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// Run carries until ctx is done, when it returns nil.
func (r *Rewinds) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		select {
		case <-r.wakeup:
		case <-ctx.Done():
			return nil
		}
		for {
			err := r.carry(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				backoff = minBackoff
				break
			}
			r.log.Warn("match cannot be asked for sections yet", "err", err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return nil
			}
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

func (r *Rewinds) carry(ctx context.Context) error {
	r.mu.Lock()
	asked := maps.Clone(r.asked)
	r.mu.Unlock()
	for s, next := range asked {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		err := r.to.AskRewind(cctx, s, next)
		cancel()
		if err != nil {
			return err
		}
		r.mu.Lock()
		if r.asked[s] == next {
			delete(r.asked, s)
		}
		r.mu.Unlock()
	}
	return nil
}

// VectorNext reads from the state of a checkpoint which offset of a source its
// partition lacks.
func VectorNext(state []byte, s detect.Source) (int64, error) {
	_, engine, err := decodeInForce(state)
	if err != nil {
		return 0, err
	}
	c := newClocks(1)
	if err := c.decode(engine); err != nil {
		return 0, fmt.Errorf("engine's state: %w", err)
	}
	return c.next(s), nil
}
