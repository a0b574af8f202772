package stream

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"github.com/segmentio/kafka-go"
)

// claim is what a member held when it joined, and since which generation it knows.
type claim struct {
	generation int32
	partitions []int32
	unfit      []misfit
}

// misfit is a partition that a member could not work on, and the generation in which
// it last said so.
type misfit struct {
	partition  int32
	generation int32
}

const claimFormat = 1

func (c claim) encode() []byte {
	b := []byte{claimFormat}
	b = binary.AppendVarint(b, int64(c.generation))
	b = binary.AppendUvarint(b, uint64(len(c.partitions)))
	for _, p := range c.partitions {
		b = binary.AppendUvarint(b, uint64(uint32(p)))
	}
	b = binary.AppendUvarint(b, uint64(len(c.unfit))) // versions before end here
	for _, u := range c.unfit {
		b = binary.AppendUvarint(b, uint64(uint32(u.partition)))
		b = binary.AppendVarint(b, int64(u.generation))
	}
	return b
}

// decodeClaim reads what encode wrote. What it does not understand claims
// nothing: then partitions move more than they had to.
func decodeClaim(b []byte) claim {
	if len(b) == 0 || b[0] != claimFormat {
		return claim{}
	}
	b = b[1:]
	gen, n := binary.Varint(b)
	if n <= 0 {
		return claim{}
	}
	b = b[n:]
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return claim{}
	}
	b = b[n:]
	c := claim{generation: int32(gen)}
	for range count {
		p, n := binary.Uvarint(b)
		if n <= 0 {
			return claim{}
		}
		b = b[n:]
		c.partitions = append(c.partitions, int32(uint32(p)))
	}
	count, n = binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return c
	}
	b = b[n:]
	for range count {
		p, n := binary.Uvarint(b)
		if n <= 0 {
			return claim{}
		}
		gen, m := binary.Varint(b[n:])
		if m <= 0 {
			return claim{}
		}
		b = b[n+m:]
		c.unfit = append(c.unfit, misfit{int32(uint32(p)), int32(gen)})
	}
	return c
}

// sticky assigns each member its share of the partitions, one more or less, and
// leaves as many as it can with whoever holds them: taking one over costs a
// rebuild of its state.
type sticky struct {
	claims func() claim
	shared func(partitions int) // told by the one who assigns
}

// ProtocolName implements [kafka.GroupBalancer].
func (sticky) ProtocolName() string { return "vedette-sticky" }

// UserData implements [kafka.GroupBalancer].
func (s sticky) UserData() ([]byte, error) { return s.claims().encode(), nil }

// AssignGroups implements [kafka.GroupBalancer].
func (s sticky) AssignGroups(members []kafka.GroupMember, partitions []kafka.Partition) kafka.GroupMemberAssignments {
	byTopic := make(map[string][]int)
	for _, p := range partitions {
		byTopic[p.Topic] = append(byTopic[p.Topic], p.ID)
	}
	s.shared(len(partitions)) // of one topic
	out := make(kafka.GroupMemberAssignments)
	for _, m := range members {
		out[m.ID] = make(map[string][]int)
	}
	for topic, ps := range byTopic {
		claims := make(map[string]claim)
		for _, m := range members {
			if slices.Contains(m.Topics, topic) {
				claims[m.ID] = decodeClaim(m.UserData)
			}
		}
		for id, ps := range assign(claims, ps) {
			out[id][topic] = ps
		}
	}
	return out
}

// assign is a function of the claims and the partitions.
func assign(claims map[string]claim, partitions []int) map[string][]int {
	if len(claims) == 0 {
		return nil
	}
	slices.Sort(partitions)
	ids := slices.Sorted(maps.Keys(claims))
	holder, held := holders(claims, ids, partitions)
	// Those that hold most are the ones that get one more, where that is needed.
	slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(held[b], held[a]) })
	out := make(map[string][]int)
	least := func(of []string) string {
		return slices.MinFunc(of, func(a, b string) int { return cmp.Compare(len(out[a]), len(out[b])) })
	}
	// First what not everybody is fit for, however much that is for the others.
	var open []int
	for _, p := range partitions {
		fit := fittest(claims, ids, p)
		switch id, ok := holder[p]; {
		case len(fit) == len(ids):
			open = append(open, p)
		case ok && slices.Contains(fit, id):
			out[id] = append(out[id], p)
		default:
			id = least(fit)
			out[id] = append(out[id], p)
		}
	}
	quota := make(map[string]int)
	for _, id := range ids {
		quota[id] = len(out[id])
	}
	for range open {
		quota[slices.MinFunc(ids, func(a, b string) int { return cmp.Compare(quota[a], quota[b]) })]++
	}
	var free []int
	for _, p := range open {
		if id, ok := holder[p]; ok && len(out[id]) < quota[id] {
			out[id] = append(out[id], p)
		} else {
			free = append(free, p)
		}
	}
	for _, id := range ids {
		n := min(quota[id]-len(out[id]), len(free))
		out[id] = append(out[id], free[:n]...)
		free = free[n:]
		slices.Sort(out[id])
	}
	return out
}

// holders gives who holds each partition, and how many each of ids holds. Of two that
// claim the same the one that has heard of the group later is right.
func holders(claims map[string]claim, ids []string, partitions []int) (holder map[int]string, held map[string]int) {
	holder, held = make(map[int]string), make(map[string]int)
	for _, id := range ids {
		for _, p := range claims[id].partitions {
			if _, ok := slices.BinarySearch(partitions, int(p)); !ok {
				continue
			}
			old, ok := holder[int(p)]
			if !ok || claims[id].generation > claims[old].generation {
				holder[int(p)] = id
			}
		}
	}
	for _, id := range holder {
		held[id]++
	}
	return holder, held
}

// fittest gives those who have not said that they are unfit for a partition, or if
// all have, who said so longest ago.
func fittest(claims map[string]claim, ids []string, partition int) []string {
	var fit []string
	least := int64(math.MaxInt64)
	for _, id := range ids {
		said := int64(-1)
		for _, u := range claims[id].unfit {
			if int(u.partition) == partition {
				said = max(said, int64(u.generation))
			}
		}
		if said < least {
			least, fit = said, fit[:0]
		}
		if said == least {
			fit = append(fit, id)
		}
	}
	return fit
}
