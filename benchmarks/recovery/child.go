package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
	"github.com/tinyrunner/tinyrunner/benchmarks/recovery/newest"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/engine/tiny"
)

// updates is a source: the first keys updates are of each key once, later ones of random keys. It stops at limit until that
// is raised.
type updates struct {
	keys   int64
	value  int
	shards int64
	limit  *atomic.Int64
	next   []int64 // by shard: number of its next update
}

func openUpdates(keys int64, value int, limit *atomic.Int64) native.SourceFactory {
	return func(_ context.Context, cfg native.SourceConfig) (native.Source, error) {
		u := &updates{keys: keys, value: value, shards: int64(cfg.Shards), limit: limit, next: make([]int64, cfg.Shards)}
		for i := range u.next {
			u.next[i] = int64(i)
			if i < len(cfg.Positions) {
				u.next[i] = int64(binary.BigEndian.Uint64(cfg.Positions[i]))
			}
		}
		return u, nil
	}
}

func (u *updates) Fetch(ctx context.Context, shard int, out *flow.Builder, limit int64) (native.Fetched, error) {
	for u.next[shard] >= u.limit.Load() {
		select {
		case <-ctx.Done():
			return u.fetched(shard), nil
		case <-time.After(time.Millisecond):
		}
	}
	now := time.Now().UnixMilli()
	key, value := make([]byte, 16), make([]byte, u.value+7)
	var elem []byte
	for out.Size() < min(limit, 1<<20) && u.next[shard] < u.limit.Load() {
		n := u.next[shard]
		u.next[shard] += u.shards
		which := uint64(n)
		if n >= u.keys {
			which = mix(uint64(n)) % uint64(u.keys)
		}
		binary.BigEndian.PutUint64(key, mix(which))
		binary.BigEndian.PutUint64(key[8:], which)
		random := uint64(n) << 20
		for at := 0; at < u.value; at += 8 {
			random++
			binary.LittleEndian.PutUint64(value[at:], mix(random))
		}
		elem = coder.AppendHeader(elem[:0], now, 1, nil, coder.NoFiring())
		elem = coder.AppendBytes(elem, key)
		elem = coder.AppendBytes(elem, value[:u.value])
		if err := out.Append(elem, now); err != nil {
			return native.Fetched{}, err
		}
	}
	return u.fetched(shard), nil
}

// mix is the finalizer of splitmix64, a bijection.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (u *updates) fetched(shard int) native.Fetched {
	return native.Fetched{
		Position: binary.BigEndian.AppendUint64(nil, uint64(u.next[shard])), Watermark: time.Now().UnixMilli(), Backlog: -1,
	}
}

func (u *updates) Close() error { return nil }

// counter is a sink.
type counter struct{ n *atomic.Int64 }

func (c counter) Send(_ context.Context, blocks []*flow.Block) (native.Sent, error) {
	for _, b := range blocks {
		c.n.Add(int64(b.Len()))
	}
	return c, nil
}

func (c counter) Wait(context.Context) error { return nil }

func (c counter) Close() error { return nil }

// child is the process under test.
type child struct {
	o     *options
	limit atomic.Int64 // updates the source may make
	done  atomic.Int64 // that came to the sink
	job   *engine.Job

	stopProfile func() error
}

func (o *options) runChild(ctx context.Context) (err error) {
	debug.SetGCPercent(100)
	debug.SetMemoryLimit((o.memory - 60) << 20)
	beam.Init()
	c := &child{o: o}
	loc, err := objstore.Parse(o.checkpoints)
	if err != nil {
		return err
	}
	bucket, err := loc.Open(ctx, objstore.S3Config{Endpoint: o.endpoint})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cluster, err := tiny.NewCluster(tiny.Options{
		DataDir: filepath.Join(o.dir, "data"), Slots: o.slots, Name: "recovery",
		Logger: log,
		Engine: func(cfg *engine.Config) {
			cfg.Sources = map[string]native.SourceFactory{newest.SourceURN: openUpdates(o.keys, o.value, &c.limit)}
			cfg.Sinks = map[string]native.SinkFactory{newest.SinkURN: func(context.Context, native.SinkConfig) (native.Sink, error) { return counter{&c.done}, nil }}
			if o.harness != "" {
				cfg.StreamBundleTime = 0 // the default is for harnesses
			}
			cfg.Checkpoints = &engine.CheckpointConfig{Bucket: bucket, Location: o.checkpoints, Interval: 24 * time.Hour}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	if o.child == "resume" {
		c.limit.Store(1 << 62)
	}
	if c.job, err = c.submit(ctx, cluster, log); err != nil {
		return err
	}
	return c.measure(ctx)
}

// measure does what the parent has asked for, and lets the job run on until the parent ends it.
func (c *child) measure(ctx context.Context) (err error) {
	if c.o.child == "resume" {
		return c.resume(ctx)
	}
	if c.o.profile != "" {
		if c.stopProfile, err = measure.Profile(c.o.profile); err != nil {
			return err
		}
	}
	if c.o.child == "fill" {
		if err := c.fill(ctx); err != nil {
			return err
		}
	}
	if c.o.child == "load" || c.o.harness == "" {
		if err := c.load(ctx); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// say reports to the parent.
func (c *child) say(word string, v any) error {
	if _, err := fmt.Fprint(os.Stdout, word, " "); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

// reach waits until so many updates have come out.
func (c *child) reach(ctx context.Context, n int64) error {
	for c.done.Load() < n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.job.Done():
			return fmt.Errorf("the job ended: %w", c.job.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// resumed is what a process says that has gone on from a checkpoint.
type resumed struct {
	RSSMax float64 `json:"rss_mb_max"`
}

func (c *child) resume(ctx context.Context) error {
	if err := c.reach(ctx, 1); err != nil {
		return err
	}
	if err := c.say("output", nil); err != nil {
		return err
	}
	if _, err := c.job.Checkpoint(ctx, ""); err != nil {
		return err
	}
	u, err := measure.Self()
	if err != nil {
		return err
	}
	if err := c.say("checkpointed", resumed{measure.MB(u.PeakRSS)}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// filled is what the first process has measured.
type filled struct {
	Bytes     int64   `json:"state_bytes"`
	Uploaded1 float64 `json:"uploaded_after_1_percent"` // share of the state
}

// loaded is what was measured of a job at full speed.
type loaded struct {
	PlainPerS      float64   `json:"updates_per_s"`                  // mean of the rounds
	CheckpointPerS float64   `json:"updates_per_s_with_checkpoints"` // the same
	Ratio          float64   `json:"throughput_ratio"`               // of the means
	Ratios         []float64 `json:"throughput_ratios"`              // of the rounds
	PauseP50       float64   `json:"pause_ms_p50"`
	PauseP99       float64   `json:"pause_ms_p99"`
	Checkpoints    int       `json:"checkpoints"`
	UploadedMB     float64   `json:"uploaded_mb_p50"` // by a checkpoint under load; 1 MB = 1,000,000 bytes
	SizeMB         float64   `json:"size_mb_max"`     // of the state under load
	RSSMax         float64   `json:"rss_mb_max"`      // 1 MB = 1 MiB
}

func (c *child) fill(ctx context.Context) error {
	var r filled
	c.limit.Store(c.o.keys)
	if err := c.reach(ctx, c.o.keys); err != nil {
		return err
	}
	full, err := c.settle(ctx)
	if err != nil {
		return err
	}
	r.Bytes = full.Size
	c.limit.Add(c.o.keys / 100)
	if err := c.reach(ctx, c.limit.Load()); err != nil {
		return err
	}
	little, err := c.job.Checkpoint(ctx, "")
	if err != nil {
		return err
	}
	r.Uploaded1 = float64(int64(1e4*float64(little.Uploaded)/float64(little.Size))) / 1e4
	return c.say("filled", r)
}

// load lets the job run as fast as it can.
func (c *child) load(ctx context.Context) error {
	c.limit.Store(1 << 62)
	if err := c.reach(ctx, 1); err != nil { // a job that starts takes no checkpoints
		return err
	}
	var r loaded
	if err := c.compare(ctx, &r); err != nil {
		return err
	}
	u, err := measure.Self()
	if err != nil {
		return err
	}
	r.RSSMax = measure.MB(u.PeakRSS)
	if c.stopProfile != nil {
		if err := c.stopProfile(); err != nil {
			return err
		}
	}
	return c.say("loaded", r)
}

// warmUp is how long random updates are made before the first turn: what they cost grows until as much garbage is collected as is made.
const warmUp = 75 * time.Second

// compare lets turns without and with checkpoints alternate. The machine and the state change slowly besides, so each turn with
// checkpoints is compared to the mean of those before and after it. Garbage is collected in waves, which fall into turns of either kind:
// a single turn says little, and only turns that are longer than a wave, or many, say more.
func (c *child) compare(ctx context.Context, r *loaded) error {
	if _, _, err := c.turn(ctx, warmUp, true); err != nil {
		return err
	}
	before, _, err := c.turn(ctx, c.o.phase, false)
	if err != nil {
		return err
	}
	var plain, with float64
	var taken []engine.CheckpointInfo
	for range c.o.rounds {
		perSecond, p, err := c.turn(ctx, c.o.phase, true)
		if err != nil {
			return err
		}
		after, _, err := c.turn(ctx, c.o.phase, false)
		if err != nil {
			return err
		}
		r.Ratios = append(r.Ratios, thousandths(2*perSecond/(before+after)))
		plain, with = plain+(before+after)/2, with+perSecond
		taken, before = append(taken, p...), after
	}
	r.Ratio = thousandths(with / plain)
	r.PlainPerS, r.CheckpointPerS = measure.Round(plain/float64(c.o.rounds)), measure.Round(with/float64(c.o.rounds))
	r.underLoad(taken)
	return nil
}

func thousandths(v float64) float64 { return float64(int64(1000*v)) / 1000 }

// underLoad sums up the checkpoints that were made while the job ran at full speed.
func (f *loaded) underLoad(taken []engine.CheckpointInfo) {
	n := len(taken)
	if f.Checkpoints = n; n == 0 {
		return
	}
	slices.SortFunc(taken, func(a, b engine.CheckpointInfo) int { return cmp.Compare(a.Pause, b.Pause) })
	f.PauseP50, f.PauseP99 = milliseconds(taken[n/2].Pause), milliseconds(taken[n*99/100].Pause)
	slices.SortFunc(taken, func(a, b engine.CheckpointInfo) int { return cmp.Compare(a.Uploaded, b.Uploaded) })
	f.UploadedMB = measure.Round(float64(taken[n/2].Uploaded) / 1e6)
	for _, i := range taken {
		f.SizeMB = max(f.SizeMB, measure.Round(float64(i.Size)/1e6))
	}
}

// settle makes checkpoints until one uploads next to nothing: the tables of the fill have been merged. What is left is the
// database's list of tables, which is uploaded whole each time.
func (c *child) settle(ctx context.Context) (engine.CheckpointInfo, error) {
	for {
		info, err := c.job.Checkpoint(ctx, "")
		if err != nil || info.Uploaded < info.Size/200 {
			return info, err
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return info, ctx.Err()
		}
	}
}

func milliseconds(d time.Duration) float64 { return measure.Round(float64(d.Microseconds()) / 1000) }

// turn lets the job run for a while, with or without a checkpoint each second, and returns its updates per second and the
// checkpoints. One before the clock starts uploads what the turn without has changed.
func (c *child) turn(ctx context.Context, length time.Duration, checkpoints bool) (perSecond float64, taken []engine.CheckpointInfo, err error) {
	if checkpoints {
		if _, err := c.job.Checkpoint(ctx, ""); err != nil {
			return 0, nil, err
		}
	}
	before, began := c.done.Load(), time.Now()
	for time.Since(began) < length {
		next := time.Now().Add(time.Second)
		if checkpoints {
			info, err := c.job.Checkpoint(ctx, "")
			if err != nil {
				return 0, nil, err
			}
			taken = append(taken, info)
		}
		select {
		case <-time.After(time.Until(next)):
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
	}
	return float64(c.done.Load()-before) / time.Since(began).Seconds(), taken, nil
}
