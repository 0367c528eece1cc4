package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// written is the file of some blocks.
func written(t testing.TB) []byte {
	t.Helper()
	pool, err := flow.NewPool(1<<20, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var scratch flow.Data
	for i, b := range []savedBlock{{}, {truncated: true}, {due: time.UnixMilli(1234)}} {
		builder := pool.NewBuilder()
		for n := range i + 1 {
			if err := builder.Append([]byte("element"[:n+3]), int64(100-n)); err != nil {
				t.Fatal(err)
			}
		}
		blocks, err := builder.Finish()
		if err != nil {
			t.Fatal(err)
		}
		b.block = blocks[0]
		if err := writeBlock(&out, b, &scratch); err != nil {
			t.Fatal(err)
		}
		b.block.Release()
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBlocksRoundTrip(t *testing.T) {
	in := bytes.NewReader(written(t))
	for i, want := range []struct {
		due       int64
		truncated bool
	}{{}, {truncated: true}, {due: 1234}} {
		b, err := readBlock(in, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if b.Len() != i+1 || b.min != int64(100-i) || b.truncated != want.truncated || string(b.Element(0)) != "ele" {
			t.Errorf("block %d is %+v", i, b)
		}
		if want.due == 0 && !b.due.IsZero() || want.due != 0 && b.due.UnixMilli() != want.due {
			t.Errorf("block %d is due at %v", i, b.due)
		}
	}
	if _, err := readBlock(in, 1<<20); !errors.Is(err, io.EOF) {
		t.Errorf("after the last block: %v", err)
	}
}

// A flipped bit anywhere is found, or does no harm; a file that ends early is never taken for whole.
func TestDamagedBlocks(t *testing.T) {
	whole := written(t)
	count := func(data []byte) (n int, err error) {
		in := bytes.NewReader(data)
		for {
			if _, err := readBlock(in, 1<<20); err != nil {
				return n, err
			}
			n++
		}
	}
	for i := range whole {
		data := bytes.Clone(whole)
		data[i] ^= 0x10
		if n, err := count(data); n == 3 || errors.Is(err, io.EOF) && !errors.Is(err, errBlocks) {
			t.Errorf("flipped byte %d: %d blocks, %v", i, n, err)
		}
		if n, err := count(whole[:i]); n == 3 || err == nil {
			t.Errorf("cut at %d: %d blocks, %v", i, n, err)
		}
	}
}

func FuzzReadBlock(f *testing.F) {
	f.Add(written(f))
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 21})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		for {
			b, err := readBlock(in, 1<<16)
			if err != nil {
				return
			}
			total := 0
			for i := range b.Len() {
				total += len(b.Element(i))
			}
			if total != len(b.Bytes) || b.Len() == 0 {
				t.Fatalf("%d elements of %d bytes, %d in all", b.Len(), total, len(b.Bytes))
			}
		}
	})
}

func FuzzExecutionMeta(f *testing.F) {
	seed, err := json.Marshal(executionMeta{Version: metaVersion, NextID: 7, Stages: []stageMeta{{Name: "a", Blocks: 3, Operator: []byte("1")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, written(f))
	f.Add([]byte(`{"version":1,"stages":[{"name":"a","blocks":-1}]}`), []byte{})
	f.Add([]byte(`{"version":1,"stages":[{"name":"a","blocks":9999999999}]}`), []byte{})
	f.Add([]byte(`{"version":1,"stages":null}`), []byte{})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, meta, blocks []byte) {
		for name, data := range map[string][]byte{metaFile: meta, inflightFile: blocks} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// No stage is known: all is read and nothing has a place.
		x := &execution{}
		if _, err := x.load(dir); err != nil {
			return
		}
		if err := json.Unmarshal(meta, new(executionMeta)); err != nil {
			t.Fatalf("read what is not JSON: %v", err)
		}
	})
}
