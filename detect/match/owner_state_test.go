package match

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestStateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState()
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			time := rapid.Int64().Draw(t, "time")
			name := rapid.SampledFrom([]string{"", "a", "b", "aws.cloudtrail"}).Draw(t, "name")
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				s.tick(time)
			case 1:
				s.see(name, time)
			case 2:
				s.progressed(name, "t", time, s.clock)
			}
		}
		b := s.encode()
		got, err := decodeState(b)
		if err != nil {
			t.Fatal(err)
		}
		if again := got.encode(); !bytes.Equal(again, b) {
			t.Fatalf("encodes to %x and then to %x", b, again)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	s := newState()
	s.tick(5)
	s.see("t", 3)
	s.progressed("o", "t", 4, 5)
	f.Add(s.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		if _, err := decodeState(s.encode()); err != nil {
			t.Fatalf("accepted %x, but not what it encodes to: %v", b, err)
		}
	})
}
