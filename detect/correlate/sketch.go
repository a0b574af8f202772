package correlate

import (
	"math"
	"math/bits"
)

const hllBits = 10

// hllError is the standard error of an estimate, 1.04/√m of m registers.
const hllError = 0.0325

// hyperLogLog estimates how many distinct hashes were added (Flajolet, Fusy, Gandouet
// and Meunier, "HyperLogLog: the analysis of a near-optimal cardinality estimation
// algorithm", 2007; few are counted linearly, as there). It is a function of the set.
type hyperLogLog struct {
	reg   [1 << hllBits]uint8
	sum   float64 // of 2^−reg
	zeros int
	init  bool
}

func (h *hyperLogLog) add(hash uint64) {
	i := hash >> (64 - hllBits)
	h.raise(int(i), uint8(bits.LeadingZeros64(hash<<hllBits|1<<(hllBits-1))+1))
}

// union adds all that was added to o.
func (h *hyperLogLog) union(o *hyperLogLog) {
	if !o.init {
		return
	}
	for i, rank := range o.reg {
		h.raise(i, rank)
	}
}

func (h *hyperLogLog) raise(i int, rank uint8) {
	if !h.init {
		h.init, h.sum, h.zeros = true, 1<<hllBits, 1<<hllBits
	}
	if old := h.reg[i]; rank > old {
		if old == 0 {
			h.zeros--
		}
		h.sum += math.Ldexp(1, -int(rank)) - math.Ldexp(1, -int(old))
		h.reg[i] = rank
	}
}

func (h *hyperLogLog) estimate() uint32 {
	if !h.init {
		return 0
	}
	const m = float64(1 << hllBits)
	if e := 0.7213 / (1 + 1.079/m) * m * m / h.sum; e > 2.5*m || h.zeros == 0 {
		return uint32(min(e, math.MaxUint32/2))
	}
	return uint32(math.Round(m * math.Log(m/float64(h.zeros))))
}

// logHistogram counts non-negative numbers in buckets that grow by 1/16 of an
// octave: a quantile is read to about 2 %.
type logHistogram struct {
	count map[int32]uint32
	n     int
}

const perOctave = 16

func (h *logHistogram) add(v float64) {
	if h.count == nil {
		h.count = map[int32]uint32{}
	}
	h.count[bucketOf(v)]++
	h.n++
}

func (h *logHistogram) bytes() int64 { return mapBytes[int32, uint32](len(h.count)) }

func bucketOf(v float64) int32 {
	if !(v > 1e-9) { // also NaN
		return math.MinInt32
	}
	return int32(math.Floor(math.Log2(min(v, 1e300)) * perOctave))
}

// quantile gives the middle of the bucket that holds the rank'th number from 1.
func (h *logHistogram) quantile(rank int) float64 {
	lo, hi := int32(math.MaxInt32), int32(math.MinInt32)
	for b := range h.count {
		if b != math.MinInt32 {
			lo, hi = min(lo, b), max(hi, b)
		}
	}
	seen := int(h.count[math.MinInt32])
	if seen >= rank {
		return 0
	}
	for b := lo; b <= hi; b++ {
		if seen += int(h.count[b]); seen >= rank {
			return math.Exp2((float64(b) + 0.5) / perOctave)
		}
	}
	return 0
}
