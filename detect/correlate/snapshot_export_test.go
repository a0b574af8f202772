package correlate

import "encoding/binary"

// Reframe gives the frames of data the sums that they should have, as far as they
// are frames, so that a fuzzer gets behind them.
func Reframe(data []byte) []byte {
	out := append([]byte(nil), data...)
	for at, n := 0, uint32(0); at+8 <= len(out); n++ {
		length := binary.LittleEndian.Uint32(out[at:])
		end := at + 8 + int(length&^frameLast)
		if end > len(out) {
			break
		}
		binary.LittleEndian.PutUint32(out[at+4:], frameSum(n, length, out[at+8:end]))
		at = end
	}
	return out
}

// ForgetHot has a window forget which panes are hot.
func (e *Engine) ForgetHot() {
	for _, er := range e.list {
		if w, ok := er.detector.(*windowed); ok {
			for _, t := range w.tables {
				for slot := range uint32(t.keys.len()) {
					ps := t.of(slot)
					for i := range ps {
						ps[i].more &^= hotBit
					}
				}
			}
		}
	}
}
