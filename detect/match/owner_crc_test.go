package match

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
)

// TestTails: a position knows the log by few records, the latest among them, and the
// distance to the next earlier one stays in proportion to its age.
func TestTails(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState()
		end := int64(0)
		var first detect.Tail
		for i := range rapid.IntRange(1, 2000).Draw(t, "saves") {
			end += rapid.Int64Range(0, 500).Draw(t, "records")
			tail := detect.Tail{End: end, CRC: uint32(i)}
			if n := len(s.tails); end > 0 && (n == 0 || s.tails[n-1].End < end) {
				first = tail
			}
			s.addTail(tail)
		}
		n := len(s.tails)
		if n == 0 {
			return
		}
		if n > maxTails || s.tails[n-1] != first {
			t.Fatalf("%d tails, the last %v, want %v", n, s.tails[n-1], first)
		}
		for i := 1; i < n; i++ {
			gap, age := s.tails[i].End-s.tails[i-1].End, end-s.tails[i].End
			if gap <= 0 || i < n-1 && n == maxTails && gap > age+1500 {
				t.Fatalf("tail %d of %d is %d before the next, which is %d old", i-1, n, gap, age)
			}
		}
		got, err := decodeState(s.encode())
		if err != nil || len(got.tails) != n || got.tails[0] != s.tails[0] || got.tails[n-1] != s.tails[n-1] {
			t.Fatalf("%v: %v after encoding, want %v", err, got, s.tails)
		}
	})
}

// TestStateOfFormat1: a position saved before tails were kept is still read.
func TestStateOfFormat1(t *testing.T) {
	s, err := decodeState([]byte{stateFormat1, 10, 1, 1, 'o', 1, 't', 4, 0})
	if err != nil || s.clock != 5 || s.progress[progressKey{"o", "t"}] != 2 || len(s.tails) != 0 {
		t.Errorf("%+v %v", s, err)
	}
}
