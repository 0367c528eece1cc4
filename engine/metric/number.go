package metric

import (
	"cmp"
	"encoding/binary"
	"math"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

type number interface{ int64 | float64 }

// encoding is how numbers are written in payloads. Its types are empty: they choose functions at compile time.
type encoding[T number] interface {
	// parse reads a number and returns it with its length.
	parse(b []byte) (v T, n int, err error)
	append(dst []byte, v T) []byte
	// compare is a total order: NaN comes before all other numbers.
	compare(a, b T) int
}

var (
	_ encoding[int64]   = varint{}
	_ encoding[float64] = double{}
)

// varint is beam:coder:varint:v1.
type varint struct{}

func (varint) parse(b []byte) (int64, int, error) { return coder.ParseVarint(b) }
func (varint) append(dst []byte, v int64) []byte  { return coder.AppendVarint(dst, v) }
func (varint) compare(a, b int64) int             { return cmp.Compare(a, b) }

// double is beam:coder:double:v1.
type double struct{}

func (double) parse(b []byte) (float64, int, error) {
	if len(b) < 8 {
		return 0, 0, coder.ErrShort
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), 8, nil
}

func (double) append(dst []byte, v float64) []byte {
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(v))
}

func (double) compare(a, b float64) int { return cmp.Compare(a, b) }
