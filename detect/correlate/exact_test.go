package correlate

import (
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestExactSum compares with arithmetic that has room for every bit.
func TestExactSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOf(rapid.OneOf(
			rapid.Float64Range(-maxNumber, maxNumber), rapid.Float64Range(-1, 1), rapid.Float64Range(-1e-300, 1e-300),
			rapid.SampledFrom([]float64{1, 1e16, -1e16, 1e100, -1e100, 0.1, 1.0 / (1 << 53), -1.0 / (1 << 54)}),
		)).Draw(t, "numbers")
		want := new(big.Float).SetPrec(4000)
		var s exactSum
		for _, v := range numbers {
			want.Add(want, big.NewFloat(v))
			s.add(v)
		}
		rounded, _ := want.Float64()
		if got := s.value(); got != rounded {
			t.Fatalf("sum of %v: %v, want %v", numbers, got, rounded)
		}
		var back exactSum
		slices.Reverse(numbers)
		for _, v := range numbers {
			back.add(v)
		}
		if back.value() != rounded {
			t.Fatalf("backwards: %v, want %v", back.value(), rounded)
		}
	})
}
