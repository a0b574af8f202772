package correlate

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestHyperLogLogError holds estimates to the error that findings state, those of
// unions too.
func TestHyperLogLogError(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{10, 300, 3000, 30_000, 300_000} {
		const runs = 40
		sum := 0.0
		for range runs {
			var all, a, b hyperLogLog
			for i := range n {
				h := r.Uint64()
				all.add(h)
				switch i % 3 { // a third is in both
				case 0:
					a.add(h)
				case 1:
					b.add(h)
				default:
					a.add(h)
					b.add(h)
				}
			}
			a.union(&b)
			if a.estimate() != all.estimate() || a.reg != all.reg {
				t.Fatalf("of %d the union is estimated as %d, the whole as %d", n, a.estimate(), all.estimate())
			}
			off := float64(all.estimate())/float64(n) - 1
			sum += off * off
		}
		if rms := math.Sqrt(sum / runs); rms > 1.4*hllError {
			t.Errorf("of %d: off by %.2f %% (root mean square), the standard error is %.2f %%", n, 100*rms, 100*hllError)
		}
	}
}
