package storage

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
)

func TestEvidenceSurvivesItsEncoding(t *testing.T) {
	piece := rapid.Custom(func(t *rapid.T) detect.Evidence {
		return detect.Evidence{
			Pointer: detect.Pointer{
				Source: detect.Source{
					Incarnation: rapid.Uint32().Draw(t, "incarnation"),
					Partition:   rapid.Int32().Draw(t, "partition"),
				},
				Offset: rapid.Int64().Draw(t, "offset"),
				CRC:    rapid.Uint32().Draw(t, "crc"),
			},
			Time:   rapid.OneOf(rapid.Int64(), rapid.Just(int64(math.MinInt64))).Draw(t, "time"),
			IDHash: rapid.Uint64().Draw(t, "id"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(piece, 0, 20).Draw(t, "evidence")
		b := appendEvidence(nil, want)
		got, err := DecodeEvidence(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		for n := 1; n < len(b); n++ {
			if _, err := DecodeEvidence(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes were enough", n, len(b))
			}
		}
		if _, err := DecodeEvidence(append(b, 0)); err == nil {
			t.Fatal("a byte too many was taken")
		}
	})
}

func FuzzDecodeEvidence(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2})
	f.Add([]byte{evidenceFormat, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add(appendEvidence(nil, []detect.Evidence{{Time: 1}, {Time: 2, IDHash: 3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeEvidence(b)
		if err != nil || len(b) == 0 {
			return
		}
		// Numbers may be written longer than they need be; what they say is kept.
		again, err := DecodeEvidence(appendEvidence(nil, got))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got, again); d != "" {
			t.Fatal(d)
		}
		if len(appendEvidence(nil, got)) > len(b) && !bytes.Equal(b, appendEvidence(nil, got)) {
			t.Fatalf("%x decodes to more than it holds", b)
		}
	})
}
