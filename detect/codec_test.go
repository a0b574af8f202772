package detect_test

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
)

func drawObservation(t *rapid.T, src detect.Source, from, to int64) detect.Observation {
	times := rapid.OneOf(
		rapid.Int64(),
		rapid.Map(rapid.Int64Range(1_700_000_000_000, 1_800_000_000_000), func(ms int64) int64 { return ms * 1e6 }),
	)
	return detect.Observation{
		Pointer: detect.Pointer{
			Source: src,
			Offset: rapid.Int64Range(from, to-1).Draw(t, "offset"),
			CRC:    rapid.Uint32().Draw(t, "crc"),
		},
		Time:   times.Draw(t, "time"),
		Stamp:  times.Draw(t, "stamp"),
		IDHash: rapid.Uint64().Draw(t, "id"),
		Ref:    rapid.SampledFrom([]uint8{0, 0, 1, 255}).Draw(t, "ref"),
		Number: rapid.OneOf(rapid.Just(0.0), rapid.Just(math.Copysign(0, -1)), rapid.Just(200.0), rapid.Float64()).Draw(t, "number"),
		Label:  rapid.SampledFrom([]string{"", "DE", "FR", "\x00é", strings.Repeat("x", 200)}).Draw(t, "label"),
	}
}

func drawSection(t *rapid.T) detect.Section {
	s := detect.Section{
		Source: detect.Source{
			Incarnation: rapid.Uint32().Draw(t, "incarnation"),
			Partition:   rapid.Int32Range(0, math.MaxInt32).Draw(t, "partition"),
		},
		From:       rapid.Int64Range(0, 1<<61).Draw(t, "from"),
		Generation: rapid.SampledFrom([]string{"", "g1", "3f2a"}).Draw(t, "generation"),
		Clock:      rapid.Int64().Draw(t, "clock"),
	}
	s.To = s.From + rapid.Int64Range(0, 1<<20).Draw(t, "span")
	if rapid.Bool().Draw(t, "tail") {
		s.Tail = detect.Tail{End: rapid.Int64Range(0, s.To).Draw(t, "end"), CRC: rapid.Uint32().Draw(t, "crc")}
	}
	names := rapid.SampledFrom([]string{"", "a", "file:/var/log", "aws.cloudtrail"})
	for range rapid.IntRange(0, 3).Draw(t, "progress") {
		s.Progress = append(s.Progress, detect.Progress{Origin: names.Draw(t, "origin"), Type: names.Draw(t, "type"), Through: rapid.Int64().Draw(t, "through")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "seen") {
		s.Seen = append(s.Seen, detect.Seen{Type: names.Draw(t, "type"), Time: rapid.Int64().Draw(t, "time")})
	}
	if s.From == s.To {
		return s
	}
	for range rapid.IntRange(0, 4).Draw(t, "groups") {
		g := detect.Group{
			Tenant:      names.Draw(t, "tenant"),
			RuleVersion: names.Draw(t, "rule"),
			Key:         rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "key"),
		}
		for range rapid.IntRange(1, 5).Draw(t, "observations") {
			g.Obs = append(g.Obs, drawObservation(t, s.Source, s.From, s.To))
		}
		s.Groups = append(s.Groups, g)
	}
	return s
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secs := rapid.SliceOfN(rapid.Custom(drawSection), 0, 4).Draw(t, "sections")
		got, err := detect.DecodeBatch(detect.AppendBatch(nil, secs))
		if err != nil {
			t.Fatal(err)
		}
		bits := cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) })
		if d := cmp.Diff(secs, got, bits, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestDecodeBatchOfFormat1(t *testing.T) {
	got, err := detect.DecodeBatch([]byte{1, 12, 1, 2, 3, 2, 0, 1, 1, 'g', 0, 0, 0, 0})
	want := []detect.Section{{Source: detect.Source{Incarnation: 1, Partition: 2}, From: 3, To: 5, Generation: "g"}}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}

func batch(n int) detect.Section {
	s := detect.Section{Source: detect.Source{Incarnation: 1, Partition: 2}, From: 100, To: 100 + int64(n), Generation: "g", Clock: 1_790_000_000_000 * 1e6}
	g := detect.Group{Tenant: "default", RuleVersion: "5b1f0c9a7d3e4f60", Key: []byte("\x0c198.51.100.7")}
	for i := range n {
		g.Obs = append(g.Obs, detect.Observation{
			Pointer: detect.Pointer{Source: s.Source, Offset: s.From + int64(i), CRC: 0xdeadbeef},
			Stamp:   s.Clock - int64(n-i)*1e6, Time: s.Clock - int64(n-i)*1e6 - 40_000*1e6, IDHash: uint64(i+1) * 0x9e3779b97f4a7c15,
		})
	}
	s.Groups = []detect.Group{g}
	return s
}

func TestObservationIsSmall(t *testing.T) {
	const n = 1000
	if got := len(detect.AppendBatch(nil, []detect.Section{batch(n)})); got > 20*n+100 {
		t.Errorf("%d observations of one key take %d bytes, want at most 20 each", n, got)
	}
}

func TestDecodeBatchRefuses(t *testing.T) {
	good := detect.AppendBatch(nil, []detect.Section{batch(3)})
	if _, err := detect.DecodeBatch(good); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(good); n++ {
		if _, err := detect.DecodeBatch(good[:n]); err == nil {
			t.Errorf("cut after %d of %d bytes: no error", n, len(good))
		}
	}
	outside := batch(3)
	outside.Groups[0].Obs[2].Offset = outside.To
	ahead := batch(3)
	ahead.Tail.End = ahead.To + 1
	for name, b := range map[string][]byte{
		"unknown format":  append([]byte{9}, good[1:]...),
		"trailing bytes":  append(slices.Clone(good), 1),
		"long varint":     {1, 0x80, 0x00},
		"empty body":      {1, 0},
		"huge length":     {1, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"tail ahead":      detect.AppendBatch(nil, []detect.Section{ahead}),
		"outside section": detect.AppendBatch(nil, []detect.Section{outside}),
	} {
		if _, err := detect.DecodeBatch(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add([]byte{})
	f.Add(detect.AppendBatch(nil, []detect.Section{batch(3)}))
	f.Add(detect.AppendBatch(nil, []detect.Section{{To: 5, Progress: []detect.Progress{{Origin: "a", Type: "b", Through: 7}}}, {Seen: []detect.Seen{{Type: "x", Time: 1}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		secs, err := detect.DecodeBatch(b)
		runtime.ReadMemStats(&after)
		// The slack is what other goroutines of the fuzzer allocate meanwhile.
		if got := after.TotalAlloc - before.TotalAlloc; got > 64*uint64(len(b))+1<<20 {
			t.Fatalf("%d bytes made it allocate %d", len(b), got)
		}
		if err != nil {
			return
		}
		once := detect.AppendBatch(nil, secs)
		again, err := detect.DecodeBatch(once)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		if twice := detect.AppendBatch(nil, again); !slices.Equal(once, twice) {
			t.Fatalf("encodings differ:\n%x\n%x", once, twice)
		}
	})
}

func TestSectionBuilder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b detect.SectionBuilder
		type id struct{ tenant, rule, key string }
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			b.Reset()
			var order []id
			want := map[id][]detect.Observation{}
			n := rapid.IntRange(0, 200).Draw(t, "n")
			for i := range n {
				k := id{
					rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant"),
					rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "rule"),
					rapid.StringN(0, 2, 3).Draw(t, "key"),
				}
				o := detect.Observation{IDHash: uint64(i)}
				if want[k] == nil {
					order = append(order, k)
				}
				want[k] = append(want[k], o)
				b.Add(k.tenant, k.rule, []byte(k.key), o)
			}
			if b.Len() != n || len(b.Groups()) != len(order) {
				t.Fatalf("%d observations in %d groups, want %d in %d", b.Len(), len(b.Groups()), n, len(order))
			}
			for i, g := range b.Groups() {
				k := id{g.Tenant, g.RuleVersion, string(g.Key)}
				if k != order[i] || !reflect.DeepEqual(g.Obs, want[k]) {
					t.Fatalf("group %d is %v with %d observations, want %v with %d", i, k, len(g.Obs), order[i], len(want[order[i]]))
				}
			}
		}
	})
}

func TestKeyPartition(t *testing.T) {
	// Observations on the log depend on these: they must never change.
	for _, c := range []struct {
		rule, key string
		want      uint64
	}{
		{"", "", 0x9c569367619c3297},
		{"5b1f0c9a7d3e4f60", "\x0c198.51.100.7", 0x7d131cdf55611c3b},
		{"r", "0123456789abcdef", 0x1d594fcebc11f980},
	} {
		if got := detect.KeyHash(c.rule, []byte(c.key)); got != c.want {
			t.Errorf("KeyHash(%q, %q) = %#x, want %#x", c.rule, c.key, got, c.want)
		}
	}
	const n, keys = 8, 8000
	var count [n]int
	for i := range keys {
		p := detect.KeyPartition("rule", detect.AppendKey(nil, []byte{byte(i), byte(i >> 8)}), n)
		if p < 0 || p >= n {
			t.Fatalf("partition %d of %d", p, n)
		}
		count[p]++
	}
	for p, c := range count {
		if c < keys/n/2 || c > keys/n*2 {
			t.Errorf("partition %d has %d of %d keys", p, c, keys)
		}
	}
}

// spread is n observations of as many keys, each with a number and a label.
func spread(n int) detect.Section {
	s := batch(n)
	all := s.Groups[0]
	s.Groups = nil
	for i, o := range all.Obs {
		o.Number, o.Label = float64(i%500), [...]string{"DE", "FR", "US"}[i%3]
		s.Groups = append(s.Groups, detect.Group{
			Tenant: all.Tenant, RuleVersion: all.RuleVersion, Key: fmt.Appendf(nil, "\x0c198.51.%03d.%d", i/256, i%256), Obs: []detect.Observation{o},
		})
	}
	return s
}

// BenchmarkCodec measures one observation written and read: B/observation is what
// it takes beside its key, which is written once for all of a batch.
func BenchmarkCodec(b *testing.B) {
	const n = 1000
	for _, shape := range []struct {
		name string
		sec  detect.Section
	}{{"one-key", batch(n)}, {"key-each", spread(n)}} {
		keys := 0
		for _, g := range shape.sec.Groups {
			keys += len(g.Key) + 1
		}
		secs := []detect.Section{shape.sec}
		enc := detect.AppendBatch(nil, secs)
		b.Run("encode/"+shape.name, func(b *testing.B) {
			dst := bytes.Clone(enc)
			benchCPU(b, n, func() { dst = detect.AppendBatch(dst[:0], secs) })
			b.ReportMetric(float64(len(dst)-keys)/n, "B/observation")
		})
		b.Run("decode/"+shape.name, func(b *testing.B) {
			benchCPU(b, n, func() {
				if _, err := detect.DecodeBatch(enc); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// benchCPU reports what the process computes on one core for each of the n
// observations of a pass: what the collector costs is part of it, what others on the
// machine do is not.
func benchCPU(b *testing.B, n int, pass func()) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	b.ReportAllocs()
	start := cpuTime(b)
	for b.Loop() {
		pass()
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N*n), "cpu-ns/observation")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkSectionBuilder(b *testing.B) {
	var sb detect.SectionBuilder
	keys := make([][]byte, 1000)
	for i := range keys {
		keys[i] = detect.AppendKey(nil, []byte{'1', '9', '8', byte(i), byte(i >> 8)})
	}
	benchCPU(b, 4000, func() {
		sb.Reset()
		for i := range 4000 {
			sb.Add("default", "5b1f0c9a7d3e4f60", keys[i%len(keys)], detect.Observation{IDHash: uint64(i)})
		}
	})
}
