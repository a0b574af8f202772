package match

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

// reasonPanic is the dead-letter reason of a record on which our own code failed.
const reasonPanic = "panic"

// judge is match, and outlives a record on which the code of a decoder, a rule or
// the enrichment panics: one crafted record must not keep all others from being
// judged. The record is a dead letter. What it had been counted for before the
// failure stays, so that any other owner of the source comes to the same.
func (w *worker) judge(ctx context.Context, m *stream.LogMessage, stamp int64) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		// What the failure left half done is not used again.
		w.decoder, w.ev, w.program, w.matcher = event.NewDecoder(), event.Event{}, nil, nil
		what := fmt.Sprint(p)
		w.s.owner.panicked(w.s, m.Offset, what)
		w.bury(m, m.Offset, reasonPanic, fmt.Errorf("the record makes our code fail: %s", what))
	}()
	return w.match(ctx, m, stamp)
}

// maxPanics is how many different panics are logged.
const maxPanics = 16

// panicked logs a panic with its stack, each the first time only: a flood of such
// records must not become a flood of stacks.
func (w *Owner) panicked(s *source, offset int64, what string) {
	w.mu.Lock()
	known := w.panics[what] || len(w.panics) >= maxPanics
	if !known {
		w.panics[what] = true
	}
	w.mu.Unlock()
	if !known {
		s.log.Error("a record makes our code fail: it is a dead letter, as those that do so after it will be", "offset", offset, "panic", what, "stack", string(debug.Stack()))
	}
}
