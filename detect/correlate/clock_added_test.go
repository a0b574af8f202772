package correlate

import (
	"bytes"
	"testing"

	"github.com/vedette-sec/vedette/detect"
)

// TestClockTakesAnAddedSourceIn: A does not move before all of the first sources were
// heard; one that is added later holds it from then on, and never turns it back, also
// after a restart.
func TestClockTakesAnAddedSourceIn(t *testing.T) {
	c := newClocks(2)
	for _, step := range []struct {
		source int32
		clock  int64
		want   int64
	}{
		{0, 100, never},
		{1, 120, 100},
		{0, 130, 120},
		{2, 50, 120}, // it holds records of before it was noticed
		{0, 200, 120},
		{1, 200, 120}, // held by the one added
		{2, 110, 120},
		{2, 190, 190},
		{3, 500, 190}, // not ahead of those that are slower
	} {
		before := c.append(nil)
		c.take(&detect.Section{Source: detect.Source{Partition: step.source}, To: c.next(detect.Source{Partition: step.source}) + 1, Clock: step.clock})
		if c.a != step.want {
			t.Errorf("after source %d at %d A is %d, want %d", step.source, step.clock, c.a, step.want)
		}
		again := newClocks(2)
		if err := again.decode(before); err != nil {
			t.Fatal(err)
		}
		again.take(&detect.Section{Source: detect.Source{Partition: step.source}, To: again.next(detect.Source{Partition: step.source}) + 1, Clock: step.clock})
		if !bytes.Equal(again.append(nil), c.append(nil)) || again.a != c.a {
			t.Errorf("source %d at %d: rebuilt it comes to something else", step.source, step.clock)
		}
	}
}
