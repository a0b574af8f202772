package detect_test

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect"
)

func drawFinding(t *rapid.T, m detect.Merge) detect.Finding {
	f := detect.Finding{
		Merge: m,
		Count: rapid.Int64Range(0, 5).Draw(t, "count"),
		Late:  rapid.Int64Range(-1, 1).Draw(t, "late"),
		Peak:  float64(rapid.IntRange(0, 2).Draw(t, "peak")),
		First: rapid.Int64Range(0, 2).Draw(t, "first"),
		Last:  rapid.Int64Range(2, 4).Draw(t, "last"),
		Detail: rapid.SampledFrom([]string{
			"", "{}", `{"n":1}`, `{"n":1,"examples":["a","b","c"]}`, `{"n":1,"examples":["c","d","e","f","g"]}`, `{"n":2,"examples":["a"]}`,
			`{"n":1,"examples":["\ufffd","b\""]}`, `{"n":1,"examples":["a"}`, `{"n":1,"examples":[]}`,
		}).Draw(t, "detail"),
		Verdict: rapid.SampledFrom([]string{"", "bypass", "unknown", "gap"}).Draw(t, "verdict"),
	}
	for range rapid.IntRange(0, 4).Draw(t, "evidence") {
		f.Evidence = append(f.Evidence, detect.Evidence{
			Pointer: detect.Pointer{Source: detect.Source{Partition: rapid.Int32Range(0, 1).Draw(t, "partition")}, Offset: rapid.Int64Range(0, 2).Draw(t, "offset")},
			Time:    rapid.Int64Range(0, 2).Draw(t, "time"),
			IDHash:  rapid.Uint64Range(0, 1).Draw(t, "id"),
		})
	}
	return f
}

func sum(limit int, fs ...detect.Finding) detect.Finding {
	s := fs[0]
	s.Evidence = append([]detect.Evidence(nil), s.Evidence...)
	for _, f := range fs[1:] {
		s.Add(f, limit)
	}
	return s
}

func TestAddIsCommutativeAndAssociative(t *testing.T) {
	for _, m := range []detect.Merge{detect.MergeAdd, detect.MergeLeast} {
		rapid.Check(t, func(t *rapid.T) {
			limit := rapid.IntRange(0, 3).Draw(t, "limit")
			a, b, c := drawFinding(t, m), drawFinding(t, m), drawFinding(t, m)
			ab, ba := sum(limit, a, b), sum(limit, b, a)
			if !reflect.DeepEqual(ab, ba) {
				t.Fatalf("a+b = %+v\nb+a = %+v", ab, ba)
			}
			if l, r := sum(limit, ab, c), sum(limit, a, sum(limit, b, c)); !reflect.DeepEqual(l, r) {
				t.Fatalf("(a+b)+c = %+v\na+(b+c) = %+v", l, r)
			}
			if limit > 0 && len(ab.Evidence) > limit {
				t.Fatalf("%d pieces of evidence, limit %d", len(ab.Evidence), limit)
			}
		})
	}
}

func TestAdd(t *testing.T) {
	ev := func(t int64, id uint64, off int64) detect.Evidence {
		return detect.Evidence{Pointer: detect.Pointer{Offset: off}, Time: t, IDHash: id}
	}
	f := detect.Finding{Count: 2, Peak: 5, First: 10, Last: 20, Detail: "five", Verdict: "unknown", Evidence: []detect.Evidence{ev(10, 1, 7), ev(20, 2, 9)}}
	f.Add(detect.Finding{Count: 3, Peak: 8, First: 15, Last: 30, Detail: "eight", Verdict: "bypass", Evidence: []detect.Evidence{ev(15, 3, 8), ev(10, 1, 4)}}, 2)
	want := detect.Finding{Count: 5, Peak: 8, First: 10, Last: 30, Detail: "eight", Verdict: "bypass", Evidence: []detect.Evidence{ev(10, 1, 4), ev(15, 3, 8)}}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("add:\n got %+v\nwant %+v", f, want)
	}
	g := detect.Finding{Merge: detect.MergeLeast, Count: 1, First: 10, Last: 10, Detail: "later", Evidence: []detect.Evidence{ev(10, 1, 1)}}
	least := detect.Finding{Merge: detect.MergeLeast, Count: 1, First: 9, Last: 9, Detail: "first", Evidence: []detect.Evidence{ev(9, 5, 2)}}
	g.Add(least, 2)
	if !reflect.DeepEqual(g, least) {
		t.Errorf("least:\n got %+v\nwant %+v", g, least)
	}
}

func TestExamples(t *testing.T) {
	f := detect.Finding{Count: 1, Detail: detect.AppendExamples(`{"reason":"x"}`, []string{"f", "b\xff", "f", "d"})}
	if want := `{"reason":"x","examples":["b` + "\uFFFD" + `","d","f"]}`; f.Detail != want {
		t.Errorf("detail %s, want %s", f.Detail, want)
	}
	f.Add(detect.Finding{Count: 2, Detail: detect.AppendExamples(`{"reason":"x"}`, []string{"e", "a", "z", "d"})}, 1)
	if want := `{"reason":"x","examples":["a","b` + "\uFFFD" + `","d","e","f"]}`; f.Detail != want || f.Count != 3 {
		t.Errorf("count %d, detail %s, want 3, %s", f.Count, f.Detail, want)
	}
	if got := detect.AppendExamples(`{"reason":"x"}`, nil); got != `{"reason":"x"}` {
		t.Errorf("detail %s without examples", got)
	}
}
