package correlate

import (
	"testing"
	"time"

	"github.com/vedette-sec/vedette/stream"
)

// Who is not traced pays nothing a batch, let alone a message.
func TestWithoutTraces(t *testing.T) {
	o, err := NewOwner(OwnerOptions{
		Open: func(int64) PartitionReader { return nil }, Ledger: unused{}, Generations: unused{},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{owner: o}
	recs := make([]stream.Record, 1)
	c := new(Commit)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		s.notes.apply(time.Time{}, 1, o.links(recs))
		_, span := s.batchSpan(ctx, c)
		endSpan(span, nil)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// unused is what is needed and never asked.
type unused struct {
	Ledger
	Generations
}
