package coder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

var (
	// ErrShort says that the bytes end within a value: the rest may still come.
	ErrShort = errors.New("encoded value is cut short")
	// ErrMalformed says that the bytes cannot begin a value, whatever follows them.
	ErrMalformed = errors.New("malformed encoding")
)

// The bounds of event time, in milliseconds since the epoch (BeamConstants in beam_runner_api.proto).
const (
	MinTimestamp int64 = math.MinInt64 / 1000
	MaxTimestamp int64 = math.MaxInt64 / 1000
	// EndOfGlobalWindow is the last timestamp of the global window, a day before the end of time so that timers set for
	// the end of the window can fire.
	EndOfGlobalWindow int64 = MaxTimestamp - 24*60*60*1000
)

// maxLength bounds the length of one byte string, as 32-bit lengths in the SDKs do.
const maxLength = math.MaxInt32

// timestampSize is the length of an encoded timestamp.
const timestampSize = 8

// ParseVarint reads a beam:coder:varint:v1 and returns it with its length. Negative numbers take ten bytes.
func ParseVarint(b []byte) (v int64, n int, err error) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]), 1, nil
	}
	u, n := binary.Uvarint(b)
	switch {
	case n > 0:
		return int64(u), n, nil
	case n == 0:
		return 0, 0, ErrShort
	}
	return 0, 0, fmt.Errorf("varint over 64 bits: %w", ErrMalformed)
}

// AppendVarint appends v as beam:coder:varint:v1.
func AppendVarint(dst []byte, v int64) []byte { return binary.AppendUvarint(dst, uint64(v)) }

// ParseTimestamp reads an event time, ms. It takes 8 bytes: big-endian, shifted so that the bytes sort as the times do.
func ParseTimestamp(b []byte) (ms int64, err error) {
	if len(b) < timestampSize {
		return 0, ErrShort
	}
	return timestamp(b), nil
}

// timestamp reads a timestamp. REQUIRES: len(b) >= timestampSize.
func timestamp(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

// AppendTimestamp appends an event time, ms.
func AppendTimestamp(dst []byte, ms int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ms)^1<<63)
}

// ParseBytes reads a byte string behind its varint length: beam:coder:bytes:v1 and beam:coder:string_utf8:v1 in the nested
// context, and beam:coder:length_prefix:v1. n is the length of both.
func ParseBytes(b []byte) (v []byte, n int, err error) {
	size, at, err := ParseVarint(b)
	if err != nil {
		return nil, 0, err
	}
	if size < 0 || size > maxLength {
		return nil, 0, fmt.Errorf("length %d of a byte string: %w", size, ErrMalformed)
	}
	if size > int64(len(b)-at) {
		return nil, 0, ErrShort
	}
	n = at + int(size)
	return b[at:n:n], n, nil
}

// AppendBytes appends v behind its length.
func AppendBytes(dst, v []byte) []byte { return append(AppendVarint(dst, int64(len(v))), v...) }

// countSize is the length of the count before an iterable.
const countSize = 4

// chunked is the count of an iterable that comes in chunks.
const chunked = -1

// parseCount reads the count before an iterable.
func parseCount(b []byte) (int, error) {
	if len(b) < countSize {
		return 0, ErrShort
	}
	n := int32(binary.BigEndian.Uint32(b))
	if n < chunked {
		return 0, fmt.Errorf("count %d of an iterable: %w", n, ErrMalformed)
	}
	return int(n), nil
}

// AppendCount begins a beam:coder:iterable:v1 of n encoded values, which follow. REQUIRES: 0 <= n <= MaxInt32.
func AppendCount(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// AppendChunks begins an iterable whose length is not known yet: chunks follow (AppendChunk and that many values), then
// AppendEnd or, in a state-backed iterable, AppendToken.
func AppendChunks(dst []byte) []byte { return append(dst, 0xff, 0xff, 0xff, 0xff) }

// AppendChunk begins a chunk of n > 0 values.
func AppendChunk(dst []byte, n int) []byte { return AppendVarint(dst, int64(n)) }

// AppendEnd ends an iterable begun by AppendChunks.
func AppendEnd(dst []byte) []byte { return append(dst, 0) }

// AppendToken ends a beam:coder:state_backed_iterable:v1 begun by AppendChunks: the SDK fetches the remaining values from
// the state API with token (StateKey.Runner).
func AppendToken(dst, token []byte) []byte { return AppendBytes(AppendVarint(dst, -1), token) }

// AppendGroup appends a KV<key, iterable<value>>, the element that a GroupByKey makes: key is encoded, values are n
// encoded values, concatenated.
func AppendGroup(dst, key []byte, n int, values []byte) []byte {
	return append(AppendCount(append(dst, key...), n), values...)
}
