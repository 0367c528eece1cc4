package tiny

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/state"
)

// cacheSize of Pebble's blocks and memtables, as package engine's default.
const cacheSize = 64 << 20 // 64 MB

// Cluster is a cluster of this process with all that belongs to it. Make it with NewCluster.
type Cluster struct {
	*engine.Cluster
	// Pool bounds the elements of all jobs of the cluster.
	Pool *flow.Pool

	log   *slog.Logger
	clean []func() error // in reverse order
}

// NewCluster makes a cluster. The caller must Close it.
func NewCluster(o Options) (c *Cluster, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if o.BufferPool == 0 {
		o.BufferPool = DefaultBufferPool
	}
	made := &Cluster{log: o.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, made.Close())
		}
	}()
	dir, err := made.dataDir(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	made.Pool, err = flow.NewPool(o.BufferPool, dir)
	if err != nil {
		return nil, fmt.Errorf("create buffer pool: %w", err)
	}
	made.clean = append(made.clean, made.Pool.Close)
	cache := state.NewCache(cacheSize)
	made.clean = append(made.clean, func() error { cache.Close(); return nil })
	cfg := engine.Config{
		DataDir: dir,
		Pool:    made.Pool,
		Cache:   cache,
		Slots:   o.Slots,
		Sources: map[string]native.SourceFactory{kafka.ReadURN: kafka.OpenSource},
		Sinks:   map[string]native.SinkFactory{kafka.WriteURN: kafka.OpenSink},
		Logger:  o.Logger,
		// A bundle of functions that are linked in costs little, and what runs is in each checkpoint.
		StreamBundleTime: 20 * time.Millisecond,
	}
	if o.Engine != nil {
		o.Engine(&cfg)
	}
	made.Cluster, err = engine.New(cfg)
	if err != nil {
		return nil, err
	}
	made.clean = append(made.clean, made.Cluster.Close)
	return made, nil
}

// dataDir makes dir, or a temporary directory for as long as the cluster lives.
func (c *Cluster) dataDir(dir string) (string, error) {
	if dir != "" {
		return dir, os.MkdirAll(dir, 0o700)
	}
	dir, err := os.MkdirTemp("", "tinyrunner-")
	if err == nil {
		c.clean = append(c.clean, func() error { return os.RemoveAll(dir) })
	}
	return dir, err
}

// Submit starts a pipeline whose DoFns are linked into this program. An error means that it cannot run at all.
func (c *Cluster) Submit(ctx context.Context, p *beam.Pipeline, name string) (*engine.Job, error) {
	pb, err := Marshal(ctx, p)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	options, err := pipelineOptions(name)
	if err != nil {
		return nil, err
	}
	job, err := c.Cluster.Submit(engine.JobSpec{ID: id, Name: name, Pipeline: pb, Options: options, Open: Open(c.log)})
	if err != nil {
		return nil, fmt.Errorf("submit pipeline: %w", err)
	}
	return job, nil
}

// pipelineOptions are the program's flags, which DoFns read as beam.PipelineOptions, in the form that Beam Go sends them.
func pipelineOptions(name string) (*structpb.Struct, error) {
	beam.PipelineOptions.LoadOptionsFromFlags(nil)
	flags := map[string]any{}
	for k, v := range beam.PipelineOptions.Export().Options {
		flags[k] = v
	}
	s, err := structpb.NewStruct(map[string]any{
		"beam:option:app_name:v1":   name,
		"beam:option:go_options:v1": map[string]any{"options": flags},
	})
	if err != nil {
		return nil, fmt.Errorf("pipeline options: %w", err)
	}
	return s, nil
}

// Close cancels all jobs, waits for them, and removes what NewCluster made.
func (c *Cluster) Close() error {
	var errs []error
	for i := len(c.clean) - 1; i >= 0; i-- {
		errs = append(errs, c.clean[i]())
	}
	c.clean = nil
	return errors.Join(errs...)
}

// newID returns a job id that is fit for a file name.
func newID() (string, error) {
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make job id: %w", err)
	}
	return "tiny-" + hex.EncodeToString(b[:]), nil
}
