package metric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// Value is the sum, whatever that is for its type, of one metric's payloads. It must not be used by two goroutines at once.
type Value interface {
	// Add merges a payload, which it does not keep. A payload that cannot be read changes nothing; the error wraps
	// coder.ErrShort or coder.ErrMalformed.
	Add(payload []byte) error
	// Append appends what was added, encoded as a payload of the same type. The same values give the same bytes.
	//
	// REQUIRES: at least one payload was added.
	Append(dst []byte) []byte
}

// New returns a value of a metric type, a URN of MonitoringInfoTypeUrns, to which nothing has been added.
func New(typ string) Value {
	switch typ {
	case "beam:metrics:sum_int64:v1":
		return &sum[int64, varint]{}
	case "beam:metrics:sum_double:v1":
		return &sum[float64, double]{}
	case "beam:metrics:distribution_int64:v1":
		return &distribution[int64, varint]{least: math.MaxInt64, greatest: math.MinInt64}
	case "beam:metrics:distribution_double:v1":
		return &distribution[float64, double]{least: math.Inf(1), greatest: math.Inf(-1)}
	case "beam:metrics:latest_int64:v1":
		return &latest[int64, varint]{ms: math.MinInt64}
	case "beam:metrics:latest_double:v1":
		return &latest[float64, double]{ms: math.MinInt64}
	case "beam:metrics:top_n_int64:v1":
		return &ranking[int64, varint]{descending: true}
	case "beam:metrics:top_n_double:v1":
		return &ranking[float64, double]{descending: true}
	case "beam:metrics:bottom_n_int64:v1":
		return &ranking[int64, varint]{}
	case "beam:metrics:bottom_n_double:v1":
		return &ranking[float64, double]{}
	case "beam:metrics:set_string:v1":
		return &stringSet{all: make(map[string]struct{})}
	case "beam:metrics:bounded_trie:v1":
		return &trie{}
	case "beam:metrics:histogram_int64:v1":
		return &histogram{}
	}
	return &newest{}
}

// sum is sum_int64 and sum_double. Integers wrap around, as they do in the SDKs.
type sum[T number, E encoding[T]] struct {
	enc E
	v   T
}

func (s *sum[T, E]) Add(payload []byte) error {
	v, n, err := s.enc.parse(payload)
	if err != nil {
		return err
	}
	if err := atEnd(payload[n:]); err != nil {
		return err
	}
	s.v += v
	return nil
}

func (s *sum[T, E]) Append(dst []byte) []byte { return s.enc.append(dst, s.v) }

// inIterable begins the distributions of Beam's TypeScript SDK, which writes, and expects, an iterable of the 4 numbers.
// Elsewhere it would be a whole payload, one without values.
const inIterable = "\x00\x00\x00\x04"

// distribution is distribution_int64 and distribution_double.
type distribution[T number, E encoding[T]] struct {
	enc             E
	prefix          string // inIterable if payloads had it
	count           int64
	sum             T
	least, greatest T // the bounds of their type while count is 0
}

func (d *distribution[T, E]) Add(payload []byte) error {
	prefix := ""
	if len(payload) > len(inIterable) && string(payload[:len(inIterable)]) == inIterable {
		prefix, payload = inIterable, payload[len(inIterable):]
	}
	count, n, err := coder.ParseVarint(payload)
	if err != nil || count == 0 { // without values, SDKs leave out the rest or fill it with anything
		return err
	}
	var v [3]T
	for i := range v {
		payload = payload[n:]
		if v[i], n, err = d.enc.parse(payload); err != nil {
			return err
		}
	}
	if err := atEnd(payload[n:]); err != nil {
		return err
	}
	d.prefix = prefix
	d.count += count
	d.sum += v[0]
	d.least, d.greatest = min(d.least, v[1]), max(d.greatest, v[2])
	return nil
}

func (d *distribution[T, E]) Append(dst []byte) []byte {
	dst = append(dst, d.prefix...)
	dst = d.enc.append(coder.AppendVarint(dst, d.count), d.sum)
	return d.enc.append(d.enc.append(dst, d.least), d.greatest)
}

// latest is latest_int64 and latest_double.
type latest[T number, E encoding[T]] struct {
	enc E
	ms  int64 // since the epoch
	v   T
}

func (l *latest[T, E]) Add(payload []byte) error {
	ms, at, err := coder.ParseVarint(payload)
	if err != nil {
		return err
	}
	v, n, err := l.enc.parse(payload[at:])
	if err != nil {
		return err
	}
	if err := atEnd(payload[at+n:]); err != nil {
		return err
	}
	if ms >= l.ms {
		l.ms, l.v = ms, v
	}
	return nil
}

func (l *latest[T, E]) Append(dst []byte) []byte {
	return l.enc.append(coder.AppendVarint(dst, l.ms), l.v)
}

// ranking is top_n (descending) and bottom_n. Payloads do not say what n is: it is the length of the longest one.
type ranking[T number, E encoding[T]] struct {
	enc        E
	descending bool
	values     []T // the best first
}

func (r *ranking[T, E]) Add(payload []byte) error {
	var values []T
	err := eachOf(payload, func(b []byte) (int, error) {
		v, n, err := r.enc.parse(b)
		values = append(values, v)
		return n, err
	})
	if err != nil {
		return err
	}
	n := max(len(r.values), len(values))
	values = append(values, r.values...)
	slices.SortFunc(values, r.enc.compare)
	if r.descending {
		slices.Reverse(values)
	}
	r.values = slices.Clip(values[:n])
	return nil
}

func (r *ranking[T, E]) Append(dst []byte) []byte {
	dst = coder.AppendCount(dst, len(r.values))
	for _, v := range r.values {
		dst = r.enc.append(dst, v)
	}
	return dst
}

// maxStrings bounds a string set, in bytes of its strings. Strings beyond it are dropped, as in the SDKs.
const maxStrings = 1_000_000

type stringSet struct {
	all  map[string]struct{}
	size int // bytes
}

func (s *stringSet) Add(payload []byte) error {
	var add [][]byte
	err := eachOf(payload, func(b []byte) (int, error) {
		v, n, err := coder.ParseBytes(b)
		add = append(add, v)
		return n, err
	})
	if err != nil {
		return err
	}
	for _, v := range add {
		if _, known := s.all[string(v)]; !known && s.size+len(v) <= maxStrings {
			s.all[string(v)] = struct{}{}
			s.size += len(v)
		}
	}
	return nil
}

func (s *stringSet) Append(dst []byte) []byte {
	dst = coder.AppendCount(dst, len(s.all))
	for _, v := range slices.Sorted(maps.Keys(s.all)) {
		dst = coder.AppendBytes(dst, []byte(v))
	}
	return dst
}

// histogram is histogram_int64: the message HistogramValue.
type histogram struct {
	v *pipepb.HistogramValue // nil: nothing was added
}

func (h *histogram) Add(payload []byte) error {
	in := new(pipepb.HistogramValue)
	if err := unmarshal(payload, in); err != nil {
		return err
	}
	if h.v == nil {
		h.v = in
		return nil
	}
	if !proto.Equal(h.v.GetBucketOptions(), in.GetBucketOptions()) {
		return fmt.Errorf("histogram with the buckets {%v} does not add up with one of {%v}: %w",
			in.GetBucketOptions(), h.v.GetBucketOptions(), coder.ErrMalformed)
	}
	// Count comprises values outside of all buckets: it is more than their sum.
	h.v.Count = proto.Int64(h.v.GetCount() + in.GetCount())
	if missing := len(in.GetBucketCounts()) - len(h.v.GetBucketCounts()); missing > 0 { // a bucket left out is empty
		h.v.BucketCounts = append(h.v.BucketCounts, make([]int64, missing)...)
	}
	for i, n := range in.GetBucketCounts() {
		h.v.BucketCounts[i] += n
	}
	return nil
}

func (h *histogram) Append(dst []byte) []byte { return appendMessage(dst, h.v) }

// newest keeps the last payload, whatever it says.
type newest struct{ payload []byte }

func (v *newest) Add(payload []byte) error {
	v.payload = append(v.payload[:0], payload...)
	return nil
}

func (v *newest) Append(dst []byte) []byte { return append(dst, v.payload...) }

func unmarshal(payload []byte, m proto.Message) error {
	if err := proto.Unmarshal(payload, m); err != nil {
		return errors.Join(coder.ErrMalformed, err)
	}
	return nil
}

// appendMessage encodes what unmarshal read: it cannot fail.
func appendMessage(dst []byte, m proto.Message) []byte {
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, m)
	if err != nil {
		panic("not reached: " + err.Error())
	}
	return out
}

// eachOf calls value with the bytes from each element of a beam:coder:iterable:v1 on; value returns the element's length,
// which is not 0.
func eachOf(b []byte, value func(b []byte) (int, error)) error {
	if len(b) < 4 {
		return coder.ErrShort
	}
	n := int64(int32(binary.BigEndian.Uint32(b)))
	chunked := n == -1 // of a length not known beforehand
	for b = b[4:]; ; {
		if chunked {
			count, used, err := coder.ParseVarint(b)
			if err != nil {
				return err
			}
			n, b = count, b[used:]
		}
		if n < 0 {
			return fmt.Errorf("iterable of %d values: %w", n, coder.ErrMalformed)
		}
		for range n {
			used, err := value(b)
			if err != nil {
				return err
			}
			b = b[used:]
		}
		if !chunked || n == 0 {
			return atEnd(b)
		}
	}
}

// atEnd refuses bytes behind a payload.
func atEnd(rest []byte) error {
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes behind the payload: %w", len(rest), coder.ErrMalformed)
	}
	return nil
}
