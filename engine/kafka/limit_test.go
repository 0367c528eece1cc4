package kafka

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

func limitedConfig(b *broker, topic string, l Limits) ReadConfig {
	c := readConfig(b, KV, []string{topic})
	c.Limits = l
	return c
}

// drainLimited reads all shards to their ends and returns the number of elements and the last positions.
func drainLimited(t *testing.T, s native.Source, shards int) (int, [][]byte) {
	t.Helper()
	builder := newPool(t).NewBuilder()
	positions := make([][]byte, shards)
	for i := range shards {
		for deadline := time.Now().Add(time.Minute); ; {
			f, err := s.Fetch(t.Context(), i, builder, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			positions[i] = f.Position
			if f.Done {
				if f.Watermark != coder.MaxTimestamp {
					t.Errorf("shard %d is done with the watermark %d", i, f.Watermark)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("shard %d is not done with %d elements", i, builder.Len())
			}
		}
	}
	n := builder.Len()
	builder.Discard()
	return n, positions
}

func TestMaxRecords(t *testing.T) {
	b := newBroker(t)
	if _, err := b.admin().CreateTopic(t.Context(), 3, 1, nil, "in"); err != nil {
		t.Fatal(err)
	}
	b.produce(t, numbered("in", 3, 0, 500, 1000)...)
	for _, limit := range []int64{1, 2, 99, 499, 500} {
		s, err := OpenSource(t.Context(), sourceConfig(limitedConfig(b, "in", Limits{MaxRecords: limit}), 3))
		if err != nil {
			t.Fatal(err)
		}
		n, positions := drainLimited(t, s, 3)
		if int64(n) != limit {
			t.Errorf("read %d records of %d", n, limit)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// After a restart nothing comes again, also with another number of shards.
		s, err = OpenSource(t.Context(), sourceConfig(limitedConfig(b, "in", Limits{MaxRecords: limit}), 2, positions...))
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := drainLimited(t, s, 2); n != 0 {
			t.Errorf("read %d records more than %d after a restart", n, limit)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMaxRecordsAcrossRestart(t *testing.T) {
	b := newBroker(t)
	if _, err := b.admin().CreateTopic(t.Context(), 2, 1, nil, "in"); err != nil {
		t.Fatal(err)
	}
	b.produce(t, numbered("in", 2, 0, 100, 1000)...)
	config := limitedConfig(b, "in", Limits{MaxRecords: 60})
	var position []byte
	total := 0
	for restarts := 0; ; restarts++ {
		s, err := OpenSource(t.Context(), sourceConfig(config, 1, slices.DeleteFunc([][]byte{position}, func(p []byte) bool { return p == nil })...))
		if err != nil {
			t.Fatal(err)
		}
		builder := newPool(t).NewBuilder()
		f, err := s.Fetch(t.Context(), 0, builder, 100)
		if err != nil {
			t.Fatal(err)
		}
		total += builder.Len()
		builder.Discard()
		position = f.Position
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if f.Done {
			break
		}
		if restarts > 100 {
			t.Fatal("no end")
		}
	}
	if total != 60 {
		t.Errorf("read %d records, want 60", total)
	}
}

// endless is a source that never has anything.
type endless struct{ committed [][]byte }

func (e *endless) Fetch(ctx context.Context, _ int, _ *flow.Builder, _ int64) (native.Fetched, error) {
	<-ctx.Done()
	return native.Fetched{Position: []byte(`{"at":1}`), Watermark: 7}, nil
}

func (e *endless) Close() error { return nil }

func (e *endless) Committed(_ int, position []byte) { e.committed = append(e.committed, position) }

func TestMaxReadTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := new(endless)
		cfg := native.SourceConfig{Shards: 4}
		s, err := openLimited(t.Context(), cfg, Limits{MaxReadTime: 3000}, func(_ context.Context, cfg native.SourceConfig) (native.Source, error) {
			if cfg.Shards != 1 {
				t.Errorf("the source is opened with %d shards", cfg.Shards)
			}
			return inner, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		builder := newPool(t).NewBuilder()
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			f, err := s.Fetch(ctx, 0, builder, 1)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if f.Done {
				break
			}
			if f.Watermark != 7 {
				t.Errorf("watermark %d", f.Watermark)
			}
			s.(native.Committer).Committed(0, f.Position)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("it ended after %v", d)
		}
		s.(native.Committer).Committed(1, []byte(`{"v":1}`)) // another shard has nothing to commit
		if len(inner.committed) != 2 || string(inner.committed[0]) != `{"at":1}` {
			t.Errorf("committed %q", inner.committed)
		}
	})
}

func TestLimitedPositions(t *testing.T) {
	open := func(context.Context, native.SourceConfig) (native.Source, error) { return new(endless), nil }
	for _, test := range []struct {
		positions []string
		err       string
	}{
		{[]string{`{"v":1,"left":3,"inner":{}}`, `{"v":1}`, ``}, ""},
		{[]string{`{`}, "decode kafka position of shard 0"},
		{[]string{`{"v":2}`}, "version 2 is not 1"},
		{[]string{`{"v":1,"inner":{}}`, `{"v":1,"inner":{}}`}, "two shards have positions"},
	} {
		var positions [][]byte
		for _, p := range test.positions {
			positions = append(positions, []byte(p))
		}
		_, err := openLimited(t.Context(), native.SourceConfig{Shards: 1, Positions: positions}, Limits{MaxRecords: 5}, open)
		checkError(t, err, test.err)
	}
}
