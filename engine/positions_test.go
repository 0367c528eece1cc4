package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// lameSource has shards that bring nothing but for the first.
type lameSource struct{ native.Source }

func (s lameSource) Fetch(ctx context.Context, shard int, out *flow.Builder, limit int64) (native.Fetched, error) {
	if shard > 0 {
		<-ctx.Done()
		return native.Fetched{}, context.Canceled
	}
	return s.Source.Fetch(ctx, shard, out, limit)
}

// A checkpoint that comes when only some shards of a new number of slots have a position knows how far the others were.
func TestPositionsOfShardsThatHaveNotBegun(t *testing.T) {
	w := newWorld(t, counted(200, 4, 4), 1)
	defer w.close()
	spec := specOf(twoWays(t), goOnly())
	p := startProcess(t, w, slowLife()) // one slot: its shard reads all partitions
	job := begin(t, p, spec)
	makeCheckpoint(t, job, "")
	p.crash(t)

	l := slowLife()
	l.Slots = 4
	p = startProcess(t, w, l, func(cfg *engine.Config) {
		open := cfg.Sources[testLogURN]
		cfg.Sources = map[string]native.SourceFactory{testLogURN: func(ctx context.Context, c native.SourceConfig) (native.Source, error) {
			s, err := open(ctx, c)
			return lameSource{s}, err
		}}
	})
	job, err := p.run(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first shard", func() bool {
		for _, s := range job.Overview().Stages {
			if s.ElementsOut > 3 {
				return true
			}
		}
		return false
	})
	makeCheckpoint(t, job, "")
	time.Sleep(5 * time.Millisecond)
	p.crash(t)

	finishIn(t, w, calmLife(), spec)
	checkTwoWays(t, w.broker, w.log)
}
