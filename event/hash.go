package event

import (
	"encoding/binary"
	"math/bits"
)

// HashID is a 64-bit hash of an event's id. It has no seed: it is the same in
// every process and every release, for it is written down with observations. It
// is fast and mixes well, but collisions can be made; ids are the providers'.
func HashID(uid []byte) uint64 {
	const (
		k0 = 0xa0761d6478bd642f
		k1 = 0xe7037ed1a0b428db
		k2 = 0x8ebc6af09c88c6e3
		k3 = 0x589965cc75374cc3
	)
	n := len(uid)
	h := uint64(n)*k3 ^ k0
	for len(uid) > 16 {
		h = mix(binary.LittleEndian.Uint64(uid)^k1, binary.LittleEndian.Uint64(uid[8:])^h)
		uid = uid[16:]
	}
	var a, b uint64
	switch r := len(uid); {
	case r >= 8:
		a, b = binary.LittleEndian.Uint64(uid), binary.LittleEndian.Uint64(uid[r-8:])
	case r >= 4:
		a, b = uint64(binary.LittleEndian.Uint32(uid)), uint64(binary.LittleEndian.Uint32(uid[r-4:]))
	case r > 0:
		a = uint64(uid[0])<<16 | uint64(uid[r/2])<<8 | uint64(uid[r-1])
	}
	return mix(mix(a^k2, b^h)^k1, h^k3)
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
