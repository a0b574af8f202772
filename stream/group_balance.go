package stream

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/segmentio/kafka-go"
)

// claim is what a member held when it joined, and since which generation it knows.
type claim struct {
	generation int32
	partitions []int32
}

const claimFormat = 1

func (c claim) encode() []byte {
	b := []byte{claimFormat}
	b = binary.AppendVarint(b, int64(c.generation))
	b = binary.AppendUvarint(b, uint64(len(c.partitions)))
	for _, p := range c.partitions {
		b = binary.AppendUvarint(b, uint64(uint32(p)))
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
	// Of two that claim the same the one that has heard of the group later is right.
	holder := make(map[int]string)
	ids := slices.Sorted(maps.Keys(claims))
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
	held := make(map[string]int)
	for _, id := range holder {
		held[id]++
	}
	// Those that hold most are the ones that get one more, where that is needed.
	slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(held[b], held[a]) })
	quota := make(map[string]int)
	for i, id := range ids {
		quota[id] = len(partitions) / len(ids)
		if i < len(partitions)%len(ids) {
			quota[id]++
		}
	}
	out := make(map[string][]int)
	var free []int
	for _, p := range partitions {
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
