package correlate

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
	"github.com/vedette-sec/vedette/detect/rule"
)

// TestRepartition: however pages are divided and put together again, each key's
// profile stands once, on the partition of its key, in the page of its number.
func TestRepartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) pageItem {
			return pageItem{
				rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant"), rapid.StringN(0, 3, 8).Draw(t, "key"), rapid.String().Draw(t, "profile"),
			}
		}), 0, 200, func(it pageItem) [2]string { return [2]string{it.tenant, it.key} }).Draw(t, "items")
		const version = "v1"
		byNumber := map[uint32][]pageItem{}
		for _, it := range items {
			n := uint32(detect.KeyHash(version, []byte(it.key)) >> (64 - pageBits))
			byNumber[n] = append(byNumber[n], it)
		}
		var pages []Page
		for n, its := range byNumber {
			pages = append(pages, Page{RuleVersion: version, Number: n, Data: appendPage(its)})
		}
		for range rapid.IntRange(1, 3).Draw(t, "moves") {
			n := rapid.IntRange(1, 9).Draw(t, "partitions")
			divided, err := Repartition(pages, n)
			if err != nil {
				t.Fatal(err)
			}
			pages = nil
			for q, ps := range divided {
				for _, p := range ps {
					its, err := decodePage(p.Data)
					if err != nil || !slices.IsSortedFunc(its, comparePageItems) {
						t.Fatalf("page %d: %v, sorted %v", p.Number, err, its)
					}
					for _, it := range its {
						if detect.KeyPartition(version, []byte(it.key), n) != q || !slices.Contains(byNumber[p.Number], it) {
							t.Fatalf("%q is in page %d of partition %d", it.key, p.Number, q)
						}
					}
				}
				pages = append(pages, ps...)
			}
		}
		total := 0
		for _, p := range pages {
			its, _ := decodePage(p.Data)
			total += len(its)
		}
		if total != len(items) {
			t.Fatalf("%d profiles, want %d", total, len(items))
		}
	})
}

// oneRule is a generation of one rule.
type oneRule struct{ set *rule.Set }

func (g oneRule) Rules(context.Context, string) (*rule.Set, error) { return g.set, nil }

// TestUpgradePages: a page of format 1 becomes one that can be divided, and is read
// as it is too.
func TestUpgradePages(t *testing.T) {
	r := &rule.Rule{Version: "v1", Correlation: &rule.Correlation{Type: rule.NewValue, Rules: []*rule.Rule{{Logsource: rule.Logsource{Product: "vedette"}}}, Learning: 1, Forget: 1 << 50}}
	g := oneRule{&rule.Set{Correlations: []*rule.Rule{r}}}
	profile := (&valueProfile{known: true, first: 7, values: []knownValue{{"FR", 7, 9}}}).append(nil)
	old := []byte{formatProfile1}
	old = binary.AppendUvarint(old, 1)
	old = detect.AppendKey(detect.AppendKey(old, []byte("default")), []byte("key"))
	old = append(old, profile...)
	number := uint32(detect.KeyHash("v1", []byte("key")) >> (64 - pageBits))

	f := newInForce()
	f.enter(detect.Source{}, "g", 0)
	c := newClocks(1)
	state := f.append(nil, c.append(nil))
	got, err := UpgradePages(t.Context(), Options{}, g, state, []Page{{RuleVersion: "v1", Number: number, Data: old}})
	if err != nil {
		t.Fatal(err)
	}
	want := appendPage([]pageItem{{"default", "key", string(profile)}})
	if len(got) != 1 || got[0].Number != number || string(got[0].Data) != string(want) {
		t.Errorf("%v, want one page %d of %x", got, number, want)
	}
	if _, err := UpgradePages(t.Context(), Options{}, g, state, []Page{{RuleVersion: "v9", Data: old}}); err == nil {
		t.Error("a page of a rule that nobody knows was taken")
	}
}

// TestEarliestState: of each source the state that has come least far, and what
// sections said there; everything follows behind it.
func TestEarliestState(t *testing.T) {
	build := func(t *rapid.T, ends []int64) []byte {
		f, c := newInForce(), newClocks(len(ends))
		for p, end := range ends {
			if end == 0 {
				continue
			}
			s := detect.Section{
				Source: detect.Source{Partition: int32(p)}, To: end, Clock: end * 10, Generation: []string{"g0", "g1"}[end%2],
				Progress: []detect.Progress{{Origin: "o", Type: "aws.lambda", Through: end * 9}}, Seen: []detect.Seen{{Type: "aws.lambda", Time: end * 8}},
				Tail: detect.Tail{End: end, CRC: uint32(end)},
			}
			f.enter(s.Source, s.Generation, c.a)
			c.take(&s)
		}
		return f.append(nil, c.append(nil))
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "sources")
		var states [][]byte
		least := make([]int64, n)
		for i := range rapid.IntRange(1, 4).Draw(t, "states") {
			ends := make([]int64, n)
			for p := range ends {
				ends[p] = rapid.Int64Range(0, 20).Draw(t, "end")
				if i == 0 || ends[p] < least[p] {
					least[p] = ends[p]
				}
			}
			states = append(states, build(t, ends))
		}
		state, err := EarliestState(n, states)
		if err != nil {
			t.Fatal(err)
		}
		got, err := SourceStates(state)
		if err != nil {
			t.Fatal(err)
		}
		want := map[int32]int64{}
		for p, end := range least {
			if end > 0 {
				want[int32(p)] = end
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d sources, want %d", len(got), len(want))
		}
		for _, s := range got {
			end := want[s.Partition]
			if s.Next != end || s.Clock != end*10 || s.Tail.End != end || s.Generation != []string{"g0", "g1"}[end%2] ||
				len(s.Progress) != 1 || s.Progress[0].Through != end*9 || len(s.Seen) != 1 || s.Seen[0].Time != end*8 {
				t.Fatalf("%+v, want it at %d", s, end)
			}
		}
		if !slices.IsSortedFunc(got, func(a, b SourceState) int { return cmp.Compare(a.Partition, b.Partition) }) {
			t.Fatalf("not sorted: %v", got)
		}
	})
}

// TestNewIncarnationKeepsTheClock: A does not go back when a source is replaced.
func TestNewIncarnationKeepsTheClock(t *testing.T) {
	e := NewEngine(Options{Sources: 1})
	e.Apply(&detect.Section{To: 10, Clock: 500, Tail: detect.Tail{End: 10, CRC: 1}}, false)
	e.Apply(&detect.Section{Source: detect.Source{Incarnation: 1}, To: 3, Clock: 20}, false)
	if e.Clock() != 500 {
		t.Errorf("A is %d, want 500", e.Clock())
	}
	again := NewEngine(Options{Sources: 1})
	if err := again.Reset(e.State()); err != nil || string(again.State()) != string(e.State()) || again.Clock() != 500 {
		t.Errorf("%v: A is %d after reset", err, again.Clock())
	}
}
