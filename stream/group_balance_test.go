package stream

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/segmentio/kafka-go"
	"pgregory.net/rapid"
)

// TestAssign: whatever members claim, each partition has one who is as fit for it as
// any, shares differ by one at most if all are fit for all, and nothing moves that
// need not.
func TestAssign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 20).Draw(t, "partitions")
		var partitions []int
		for p := range n {
			partitions = append(partitions, p)
		}
		claims := make(map[string]claim)
		for i := range rapid.IntRange(1, 6).Draw(t, "members") {
			claims[fmt.Sprint("m", i)] = claim{
				generation: rapid.Int32Range(0, 3).Draw(t, "generation"),
				partitions: rapid.SliceOfDistinct(rapid.Int32Range(0, 24), rapid.ID).Draw(t, "claimed"),
			}
		}
		unfit := rapid.Bool().Draw(t, "some are unfit")
		said := func(id string, p int) int32 {
			i := slices.IndexFunc(claims[id].unfit, func(u misfit) bool { return int(u.partition) == p })
			if i < 0 {
				return -1
			}
			return claims[id].unfit[i].generation
		}
		for _, id := range slices.Sorted(maps.Keys(claims)) {
			if c := claims[id]; unfit {
				for _, p := range rapid.SliceOfDistinct(rapid.Int32Range(0, 24), rapid.ID).Draw(t, "unfit for") {
					c.unfit = append(c.unfit, misfit{p, rapid.Int32Range(0, 3).Draw(t, "since")})
				}
				claims[id] = c
			}
		}
		got := assign(claims, slices.Clone(partitions))
		var all []int
		for id := range claims {
			if share := len(got[id]); !unfit && (share < n/len(claims) || share > (n+len(claims)-1)/len(claims)) {
				t.Errorf("%s gets %d of %d partitions among %d", id, share, n, len(claims))
			}
			for _, p := range got[id] {
				for other := range claims {
					if said(other, p) < said(id, p) {
						t.Errorf("%d goes to %s, which was unfit in generation %d, %s in %d", p, id, said(id, p), other, said(other, p))
					}
				}
			}
			all = append(all, got[id]...)
		}
		if slices.Sort(all); !slices.Equal(all, partitions) {
			t.Fatalf("assigned %v, want each of %v once", all, partitions)
		}
		// Asked again with what came of it, everything stays.
		for id := range claims {
			c := claim{generation: 4, unfit: claims[id].unfit}
			for _, p := range got[id] {
				c.partitions = append(c.partitions, int32(p))
			}
			claims[id] = c
		}
		for id, ps := range assign(claims, slices.Clone(partitions)) {
			if !slices.Equal(ps, got[id]) {
				t.Errorf("%s has %v, gets %v", id, got[id], ps)
			}
		}
	})
}

func TestAssignMovesLittle(t *testing.T) {
	for name, tc := range map[string]struct {
		claims map[string]claim
		want   map[string][]int
	}{
		"one joins": {
			map[string]claim{"a": {generation: 3, partitions: []int32{0, 1, 2}}, "b": {generation: 3, partitions: []int32{3, 4, 5}}, "c": {}},
			map[string][]int{"a": {0, 1}, "b": {3, 4}, "c": {2, 5}},
		},
		"one leaves": {
			map[string]claim{"a": {generation: 3, partitions: []int32{0, 1}}, "c": {generation: 3, partitions: []int32{2, 5}}},
			map[string][]int{"a": {0, 1, 3}, "c": {2, 4, 5}},
		},
		"a straggler claims what was given away": {
			map[string]claim{"a": {generation: 2, partitions: []int32{0, 1, 2, 3, 4, 5}}, "b": {generation: 3, partitions: []int32{3, 4, 5}}},
			map[string][]int{"a": {0, 1, 2}, "b": {3, 4, 5}},
		},
		"one is unfit": {
			map[string]claim{"a": {generation: 3, partitions: []int32{0, 1, 2}, unfit: []misfit{{0, 3}, {1, 3}}}, "b": {generation: 3, partitions: []int32{3, 4, 5}}},
			map[string][]int{"a": {2, 4, 5}, "b": {0, 1, 3}},
		},
		"all are unfit": {
			map[string]claim{
				"a": {generation: 5, partitions: []int32{0, 1, 2}, unfit: []misfit{{0, 5}}},
				"b": {generation: 5, partitions: []int32{3, 4, 5}, unfit: []misfit{{0, 4}}},
			},
			map[string][]int{"a": {1, 2, 5}, "b": {0, 3, 4}},
		},
		"more members than partitions": {
			map[string]claim{"a": {}, "b": {generation: 1, partitions: []int32{0, 1, 2, 3, 4, 5}}, "c": {}, "d": {}, "e": {}, "f": {}, "g": {}},
			map[string][]int{"b": {0}, "a": {1}, "c": {2}, "d": {3}, "e": {4}, "f": {5}, "g": {}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := assign(tc.claims, []int{0, 1, 2, 3, 4, 5})
			for id, want := range tc.want {
				if !slices.Equal(got[id], want) {
					t.Errorf("%s gets %v, want %v", id, got[id], want)
				}
			}
		})
	}
}

func TestAssignByTopic(t *testing.T) {
	data := claim{generation: 2, partitions: []int32{0}}.encode()
	shared := 0
	got := sticky{shared: func(n int) { shared = n }}.AssignGroups(
		[]kafka.GroupMember{
			{ID: "a", Topics: []string{"x"}, UserData: data}, {ID: "b", Topics: []string{"x"}}, {ID: "c", Topics: []string{"y"}, UserData: []byte("?")},
		},
		[]kafka.Partition{{Topic: "x", ID: 1}, {Topic: "x", ID: 0}, {Topic: "y", ID: 0}},
	)
	if want := (kafka.GroupMemberAssignments{"a": {"x": {0}}, "b": {"x": {1}}, "c": {"y": {0}}}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("assigned %v, want %v", got, want)
	}
	if shared != 3 {
		t.Errorf("told of %d partitions, want 3", shared)
	}
}

func TestClaimSurvivesTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := claim{generation: rapid.Int32().Draw(t, "generation"), partitions: rapid.SliceOf(rapid.Int32Range(0, 1<<20)).Draw(t, "partitions")}
		before := len(c.encode()) - 1 // which is what a version that knew of no unfitness wrote
		for range rapid.IntRange(0, 5).Draw(t, "unfit") {
			c.unfit = append(c.unfit, misfit{rapid.Int32Range(0, 1<<20).Draw(t, "unfit for"), rapid.Int32().Draw(t, "since")})
		}
		got := decodeClaim(c.encode())
		if got.generation != c.generation || !slices.Equal(got.partitions, c.partitions) || !slices.Equal(got.unfit, c.unfit) {
			t.Errorf("decoded %v, want %v", got, c)
		}
		got = decodeClaim(c.encode()[:before])
		if got.generation != c.generation || !slices.Equal(got.partitions, c.partitions) || got.unfit != nil {
			t.Errorf("decoded %v of one of the version before, want %v", got, c)
		}
		decodeClaim(rapid.SliceOf(rapid.Byte()).Draw(t, "noise")) // must not panic
	})
}
