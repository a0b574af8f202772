package storage

import "testing"

// Who is not traced pays nothing.
func TestWithoutTraces(t *testing.T) {
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_, s := span(ctx, "commit")
		end(s, nil)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
