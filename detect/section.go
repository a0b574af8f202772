package detect

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// KeyHash is a stable hash of a rule version and a group key: the same in every
// process, for every correlation type, for ever. It is not keyed; tables that an
// attacker may want to fill with collisions hash on their own.
func KeyHash(ruleVersion string, key []byte) uint64 {
	h := uint64(len(ruleVersion))*hashMul0 ^ uint64(len(key))
	var w [8]byte
	for ; len(ruleVersion) >= 8; ruleVersion = ruleVersion[8:] {
		copy(w[:], ruleVersion)
		h = hashMix(h, binary.LittleEndian.Uint64(w[:]))
	}
	w = [8]byte{}
	copy(w[:], ruleVersion)
	h = hashMix(h, binary.LittleEndian.Uint64(w[:]))
	for ; len(key) >= 8; key = key[8:] {
		h = hashMix(h, binary.LittleEndian.Uint64(key))
	}
	w = [8]byte{}
	copy(w[:], key)
	return hashMix(hashMix(h, binary.LittleEndian.Uint64(w[:])), hashMul1)
}

const (
	hashMul0 = 0x9e3779b97f4a7c15
	hashMul1 = 0xd6e8feb86659fd93
)

func hashMix(h, w uint64) uint64 {
	hi, lo := bits.Mul64(h^w^hashMul1, hashMul0)
	return hi ^ lo ^ bits.RotateLeft64(h, 23)
}

// KeyPartition is the partition of vedette.observations, of n, on which the
// observations of a rule version and key travel.
func KeyPartition(ruleVersion string, key []byte, n int) int {
	hi, _ := bits.Mul64(KeyHash(ruleVersion, key), uint64(n))
	return int(hi)
}

// SectionBuilder groups observations by (tenant, rule version, key), in the order
// in which the groups first appear. The zero value is ready; Reset makes it ready
// again and keeps its memory.
type SectionBuilder struct {
	seed   maphash.Seed
	index  []uint32 // open addressing: 1 + index into groups, 0 empty
	hashes []uint64 // of groups
	groups []Group
	keys   []byte
	n      int
	size   int
}

// Add adds an observation. The key is copied.
func (b *SectionBuilder) Add(tenant, ruleVersion string, key []byte, o Observation) {
	g := b.group(tenant, ruleVersion, key)
	g.Obs = append(g.Obs, o)
	b.n++
	b.size += minObservation + 4 + len(o.Label)
}

// Len is the number of observations added since the last Reset.
func (b *SectionBuilder) Len() int { return b.n }

// Size estimates the encoded size of the groups in bytes.
func (b *SectionBuilder) Size() int { return b.size }

// Groups are what was added. They are valid until the next Add or Reset.
func (b *SectionBuilder) Groups() []Group { return b.groups }

// Reset forgets all groups; what Groups returned is overwritten.
func (b *SectionBuilder) Reset() {
	clear(b.index)
	b.hashes = b.hashes[:0]
	b.groups = b.groups[:0]
	b.keys = b.keys[:0]
	b.n, b.size = 0, 0
}

func (b *SectionBuilder) group(tenant, ruleVersion string, key []byte) *Group {
	if 2*(len(b.groups)+1) > len(b.index) {
		b.grow()
	}
	h := maphash.Bytes(b.seed, key) ^ maphash.String(b.seed, ruleVersion)*hashMul0 ^ maphash.String(b.seed, tenant)*hashMul1
	mask := uint64(len(b.index) - 1)
	i := h & mask
	for ; b.index[i] != 0; i = (i + 1) & mask {
		n := b.index[i] - 1
		g := &b.groups[n]
		if b.hashes[n] == h && g.RuleVersion == ruleVersion && g.Tenant == tenant && bytes.Equal(g.Key, key) {
			return g
		}
	}
	n := len(b.groups)
	b.index[i] = uint32(n + 1)
	b.hashes = append(b.hashes, h)
	var obs []Observation
	if n < cap(b.groups) {
		obs = b.groups[:n+1][n].Obs[:0] // the memory of an earlier round
	}
	at := len(b.keys)
	b.keys = append(b.keys, key...)
	b.groups = append(b.groups, Group{Tenant: tenant, RuleVersion: ruleVersion, Key: b.keys[at:len(b.keys):len(b.keys)], Obs: obs})
	b.size += minGroup - minObservation + len(key)
	return &b.groups[n]
}

func (b *SectionBuilder) grow() {
	if b.index == nil {
		b.seed = maphash.MakeSeed()
	}
	b.index = make([]uint32, max(64, 2*len(b.index)))
	mask := uint64(len(b.index) - 1)
	for n, h := range b.hashes {
		i := h & mask
		for b.index[i] != 0 {
			i = (i + 1) & mask
		}
		b.index[i] = uint32(n + 1)
	}
}
