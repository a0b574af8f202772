package correlate

import "math"

// exactSum adds numbers without an error and rounds once, so that their order does not
// matter (Shewchuk, "Adaptive precision floating-point arithmetic and fast robust
// geometric predicates", 1997, as Python's math.fsum has it). The sum must stay
// finite.
type exactSum struct {
	parts []float64 // that do not overlap, the least first; they add up to the sum
}

func (s *exactSum) add(x float64) {
	kept := s.parts[:0]
	for _, y := range s.parts {
		if math.Abs(x) < math.Abs(y) {
			x, y = y, x
		}
		high := x + y
		if low := y - (high - x); low != 0 {
			kept = append(kept, low)
		}
		x = high
	}
	s.parts = append(kept, x)
}

// value is the sum, rounded to the nearest number.
func (s *exactSum) value() float64 {
	n := len(s.parts) - 1
	if n < 0 {
		return 0
	}
	high, low := s.parts[n], 0.0
	for n > 0 && low == 0 {
		n--
		x, y := high, s.parts[n]
		high = x + y
		low = y - (high - x)
	}
	// Half-way cases go the way of what is left.
	if n > 0 && (low < 0 && s.parts[n-1] < 0 || low > 0 && s.parts[n-1] > 0) {
		if y := 2 * low; y == high+y-high {
			high += y
		}
	}
	return high
}
