package bundletest

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// Program is a compiled stage that can code its own elements.
type Program struct {
	*bundle.Program
	// Transforms are the transform ids by the last part of their unique name.
	Transforms map[string]string

	tb   testing.TB
	pool *flow.Pool // made by the first Blocks
	in   *codec
	outs []*codec
}

// KV is a key and a value as an element of an input.
type KV struct{ K, V any }

// At gives an element a timestamp, in milliseconds, windows and a pane. Others are at 0, in the global window, with the pane
// of elements that no trigger fired.
type At struct {
	Elem    any
	Ms      int64
	Windows []typex.Window // nil: the global window
	Pane    typex.PaneInfo // zero: not fired by a trigger
}

type codec struct {
	c    *coder.Coder
	enc  exec.ElementEncoder
	dec  exec.ElementDecoder
	wenc exec.WindowEncoder
	wdec exec.WindowDecoder
}

// newCodec makes the codec of a source or sink.
func newCodec(tb testing.TB, d *fnpb.ProcessBundleDescriptor, transform string) *codec {
	tb.Helper()
	var port fnpb.RemoteGrpcPort
	if err := proto.Unmarshal(d.Transforms[transform].GetSpec().GetPayload(), &port); err != nil {
		tb.Fatalf("payload of %s: %v", transform, err)
	}
	c, err := graphx.NewCoderUnmarshaller(d.Coders).Coder(port.CoderId)
	if err != nil {
		tb.Fatalf("coder of %s: %v", transform, err)
	}
	e := coder.SkipW(c)
	k := &codec{c: e, wenc: exec.MakeWindowEncoder(c.Window), wdec: exec.MakeWindowDecoder(c.Window)}
	if !coder.IsCoGBK(e) { // its values are coded by Grouped
		k.enc, k.dec = exec.MakeElementEncoder(e), exec.MakeElementDecoder(e)
	}
	return k
}

// Grouped is an element of an input of KV<string, iterable<int64>>, as a GroupByKey makes it.
type Grouped struct {
	K string
	V []int64
	// Token, when set, says that further values wait in the runner's state under this key.
	Token string
}

func (k *codec) encode(v any) ([]byte, int64, error) {
	at, ok := v.(At)
	if !ok {
		at.Elem = v
	}
	if at.Windows == nil {
		at.Windows = window.SingleGlobalWindow
	}
	if at.Pane == (typex.PaneInfo{}) {
		at.Pane = typex.NoFiringPane()
	}
	var b bytes.Buffer
	ts := mtime.FromMilliseconds(at.Ms)
	if err := exec.EncodeWindowedValueHeader(k.wenc, at.Windows, ts, at.Pane, &b); err != nil {
		return nil, 0, err
	}
	if g, ok := at.Elem.(Grouped); ok {
		err := g.encode(&b)
		return b.Bytes(), at.Ms, err
	}
	err := k.enc.Encode(full(at.Elem), &b)
	return b.Bytes(), at.Ms, err
}

func full(v any) *exec.FullValue {
	kv, ok := v.(KV)
	if !ok {
		return &exec.FullValue{Elm: v}
	}
	f := &exec.FullValue{Elm: kv.K, Elm2: kv.V}
	if k, ok := kv.K.(KV); ok {
		f.Elm = full(k)
	}
	if v, ok := kv.V.(KV); ok {
		f.Elm2 = full(v)
	}
	return f
}

// Bytes encodes one element, windowed.
func (p *Program) Bytes(v any) []byte {
	p.tb.Helper()
	b, _, err := p.in.encode(v)
	if err != nil {
		p.tb.Fatalf("encode %v: %v", v, err)
	}
	return b
}

// Blocks encodes elements into blocks of per elements each, which live as long as the test. One goroutine.
func (p *Program) Blocks(per int, elems ...any) []*flow.Block {
	p.tb.Helper()
	pool := p.blocks()
	var out []*flow.Block
	for len(elems) > 0 {
		n := min(per, len(elems))
		b := pool.NewBuilder()
		for _, v := range elems[:n] {
			e, ts, err := p.in.encode(v)
			if err != nil {
				p.tb.Fatalf("encode %v: %v", v, err)
			}
			if err := b.Append(e, ts); err != nil {
				p.tb.Fatal(err)
			}
		}
		blocks, err := b.Finish()
		if err != nil {
			p.tb.Fatal(err)
		}
		out = append(out, blocks...)
		elems = elems[n:]
	}
	p.tb.Cleanup(func() {
		for _, k := range out {
			k.Release()
		}
	})
	return out
}

// blocks returns the program's pool.
func (p *Program) blocks() *flow.Pool {
	p.tb.Helper()
	if p.pool != nil {
		return p.pool
	}
	pool, err := flow.NewPool(64<<20, p.tb.TempDir())
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() {
		if err := pool.Close(); err != nil {
			p.tb.Errorf("close pool: %v", err)
		}
	})
	p.pool = pool
	return pool
}

// Output decodes what the sink took of output i: one string per element, "value" or "key:value", with "@ms" behind it
// when the timestamp is not 0.
func (p *Program) Output(s *Sink, i int) []string {
	p.tb.Helper()
	out := []string{}
	r := bytes.NewReader(s.Bytes(i))
	for r.Len() > 0 {
		e, err := p.outs[i].decode(r)
		if err != nil {
			p.tb.Fatalf("decode output %d: %v", i, err)
		}
		out = append(out, e)
	}
	return out
}

// Input decodes one element of the input coding, a residual for example.
func (p *Program) Input(b []byte) string {
	p.tb.Helper()
	e, err := p.in.decode(bytes.NewReader(b))
	if err != nil {
		p.tb.Fatalf("decode input: %v", err)
	}
	return e
}

func (k *codec) decode(r io.Reader) (string, error) {
	_, ts, _, err := exec.DecodeWindowedValueHeader(k.wdec, r)
	if err != nil {
		return "", err
	}
	v, err := k.dec.Decode(r)
	if err != nil {
		return "", err
	}
	s := format(v)
	if ms := ts.Milliseconds(); ms != 0 {
		s += fmt.Sprintf("@%d", ms)
	}
	return s, nil
}

func format(v any) string {
	switch v := v.(type) {
	case *exec.FullValue:
		if v.Elm2 == nil {
			return format(v.Elm)
		}
		return format(v.Elm) + ":" + format(v.Elm2)
	case []byte:
		return string(v)
	default:
		return strings.TrimSpace(fmt.Sprint(v))
	}
}

func (g Grouped) encode(b *bytes.Buffer) error {
	if err := coder.EncodeStringUTF8(g.K, b); err != nil {
		return err
	}
	n := int32(len(g.V))
	if g.Token != "" {
		n = -1
	}
	if err := coder.EncodeInt32(n, b); err != nil {
		return err
	}
	if g.Token != "" && len(g.V) > 0 {
		if err := coder.EncodeVarInt(int64(len(g.V)), b); err != nil {
			return err
		}
	}
	for _, v := range g.V {
		if err := coder.EncodeVarInt(v, b); err != nil {
			return err
		}
	}
	if g.Token == "" {
		return nil
	}
	if err := coder.EncodeVarInt(-1, b); err != nil {
		return err
	}
	return coder.EncodeBytes([]byte(g.Token), b)
}

// Timer encodes a timer of the global window as the runner fires it.
func (p *Program) Timer(key, tag string, fire time.Time) []byte {
	p.tb.Helper()
	var b bytes.Buffer
	ms := mtime.FromTime(fire)
	steps := []error{
		coder.EncodeStringUTF8(key, &b),
		coder.EncodeStringUTF8(tag, &b),
		p.in.wenc.Encode([]typex.Window{window.GlobalWindow{}}, &b),
		coder.EncodeBool(false, &b),
		coder.EncodeEventTime(ms, &b),
		coder.EncodeEventTime(ms, &b),
		coder.EncodePane(typex.NoFiringPane(), &b),
	}
	for _, err := range steps {
		if err != nil {
			p.tb.Fatalf("encode timer: %v", err)
		}
	}
	return b.Bytes()
}
