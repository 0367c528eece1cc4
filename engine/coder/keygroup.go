package coder

import "math/bits"

// KeyGroup returns the key group, in [0, maxParallelism), of a key in nested encoding. It agrees with Flink's
// KeyGroupRangeAssignment for keys as Beam's Flink runner makes them (ByteBuffer of the encoded key), so that keyed state
// can move between the two. REQUIRES: maxParallelism > 0.
func KeyGroup(key []byte, maxParallelism int) int {
	return int(murmur(bufferHash(key))) % maxParallelism
}

// bufferHash is java.nio.ByteBuffer.hashCode: from the last byte, signed, to the first.
func bufferHash(b []byte) uint32 {
	h := uint32(1)
	for i := len(b) - 1; i >= 0; i-- {
		h = 31*h + uint32(int8(b[i]))
	}
	return h
}

// murmur is Flink's MathUtils.murmurHash: MurmurHash3 of one 32-bit word, made non-negative.
func murmur(h uint32) uint32 {
	h = bits.RotateLeft32(h*0xcc9e2d51, 15) * 0x1b873593
	h = bits.RotateLeft32(h, 13)*5 + 0xe6546b64
	h ^= 4 // the length in bytes
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	h ^= h >> 16
	switch v := int32(h); {
	case v >= 0:
		return h
	case h == 1<<31: // has no positive counterpart
		return 0
	default:
		return uint32(-v)
	}
}
