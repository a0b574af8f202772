package correlate

import "testing"

// The vectors of the reference: the key is 00 01 … 0f.
func TestSipHash(t *testing.T) {
	key := [2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	for in, want := range map[string]uint64{"": 0xabac0158050fc4dc} {
		if got := sipHash(key, in); got != want {
			t.Errorf("sipHash(%q) = %#x, want %#x", in, got, want)
		}
	}
	seen := map[uint64]bool{}
	for n := range 40 {
		b := make([]byte, n)
		for i := range n + 1 {
			if i < n {
				b[i]++
			}
			if h := sipHash(key, string(b)); i < n && seen[h] {
				t.Errorf("%x: its hash was seen before", b)
			} else {
				seen[h] = true
			}
		}
	}
}
