package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/state"
)

// Config is a cluster's configuration. DataDir and Pool are required; Validate fills the rest with defaults.
type Config struct {
	// DataDir holds each job's state, one directory a job, removed when the job ends.
	DataDir string
	// Pool bounds the memory of elements between stages, for all jobs together.
	Pool *flow.Pool
	// FS is the file system of the jobs' state, for tests that make it fail. Default: the real one.
	FS vfs.FS
	// Cache is Pebble's block cache, shared by all jobs. Default: a new one of 64 MiB.
	Cache *state.Cache
	// Slots is the number of bundles of one stage that may run at once. Default: the number of CPUs.
	Slots int
	// MaxParallelism is the number of key groups. It can never change for a job with state. Default 128, as Flink's.
	MaxParallelism int
	// MaxBundleElements, MaxBundleBytes and MaxBundleTime bound a bundle. A bundle of an unbounded splittable DoFn is checkpointed
	// when MaxBundleTime has passed. Defaults: 50,000 elements, 4 MiB, 500 ms.
	MaxBundleElements int
	MaxBundleBytes    int64
	MaxBundleTime     time.Duration
	// StreamBundleTime is how long a bundle of a stream runs, if it can: long enough for what a bundle costs, and no longer,
	// because it is input that a checkpoint has to save until it ends. Default 100 ms, which is for harnesses: a bundle costs
	// 1 to 2 ms in Python's.
	StreamBundleTime time.Duration
	// Sources and Sinks are the runner-native transforms by URN.
	Sources map[string]native.SourceFactory
	Sinks   map[string]native.SinkFactory
	// Checkpoints makes jobs outlive the process; nil: they do not.
	Checkpoints *CheckpointConfig
	// Ended is called when a job has ended, if it is set.
	Ended  func(*Job)
	Logger *slog.Logger
}

// Validate reports what is wrong with the configuration and fills in defaults.
func (c *Config) Validate() error {
	if c.DataDir == "" {
		return errors.New("engine config: DataDir is empty: name a directory for the jobs' state")
	}
	if c.Pool == nil {
		return errors.New("engine config: Pool is nil")
	}
	if c.Slots < 0 || c.MaxParallelism < 0 {
		return fmt.Errorf("engine config: Slots (%d) and MaxParallelism (%d) must not be negative", c.Slots, c.MaxParallelism)
	}
	if c.Slots == 0 {
		c.Slots = runtime.GOMAXPROCS(0)
	}
	if c.MaxParallelism == 0 {
		c.MaxParallelism = 128
	}
	if c.Slots > c.MaxParallelism {
		return fmt.Errorf("engine config: %d slots for %d key groups: use at most as many slots as key groups", c.Slots, c.MaxParallelism)
	}
	if c.MaxBundleElements == 0 {
		c.MaxBundleElements = 50_000
	}
	if c.MaxBundleBytes == 0 {
		c.MaxBundleBytes = 4 << 20
	}
	if c.MaxBundleTime == 0 {
		c.MaxBundleTime = 500 * time.Millisecond
	}
	if c.StreamBundleTime == 0 {
		c.StreamBundleTime = 100 * time.Millisecond
	}
	if c.Checkpoints != nil {
		if c.Checkpoints.Bucket == nil || c.Checkpoints.Interval < 0 {
			return errors.New("engine config: Checkpoints needs a Bucket, and its Interval must not be negative")
		}
		if c.Checkpoints.Interval == 0 {
			c.Checkpoints.Interval = defaultInterval
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// JobSpec is a job to run.
type JobSpec struct {
	// ID is unique in the cluster and fit for a file name.
	ID       string
	Name     string
	Pipeline *pipepb.Pipeline
	// Options are the pipeline options as the SDK sent them; nil: none.
	Options *structpb.Struct
	// Open starts the workers of an environment of the pipeline. It is called once per environment in use.
	Open OpenEnvironment
	// Draining starts the job as draining: restrictions are truncated from the first one on.
	Draining bool
	// Files are what the job needs besides its pipeline and options to be started again elsewhere: its artifacts.
	Files []checkpoint.JobFile
	// Savepoint is the location of a savepoint that the job begins with, unless it has checkpoints of its own; "": none.
	Savepoint string
	// AllowNonRestored drops what a checkpoint or savepoint holds and the pipeline has no place for.
	AllowNonRestored bool
}

// OpenEnvironment makes the workers of the environment with the given id. It should not wait for them to connect.
type OpenEnvironment func(ctx context.Context, id string, env *pipepb.Environment) (Workers, error)

// Workers are the SDK harnesses of one environment of one job.
type Workers interface {
	// Worker returns the worker that runs the bundles of a slot, and waits until one is there. An error means that none
	// came in time or that ctx ended.
	Worker(ctx context.Context, slot int) (Worker, error)
	Close() error
}

// Worker runs the user code of fused stages, over gRPC (package fnapi) or in process (package goexec). Goroutine safe.
type Worker interface {
	// ID names the process behind the worker: it changes when another one takes over. Cache tokens depend on it.
	ID() string
	// Run executes a bundle. All or nothing: on error the caller drops everything that the bundle produced. Errors are
	// bundle.ErrWorkerLost (wrapped), *bundle.UserError, or the context's.
	Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error)
	// Split asks a running bundle to give back work, keeping about fraction of what remains; 0: as little as possible. A nil
	// Split: nothing was split.
	Split(ctx context.Context, b *bundle.Bundle, fraction float64) (*bundle.Split, error)
	// Progress asks a running bundle how far it is. A nil Progress: unknown.
	Progress(ctx context.Context, b *bundle.Bundle) (*bundle.Progress, error)
	// Finalize tells that the effect of a bundle that asked for it is durable.
	Finalize(ctx context.Context, b *bundle.Bundle) error
}

// Message is something a job has to tell its users.
type Message struct {
	ID         string
	Importance jobpb.JobMessage_MessageImportance
	Text       string
}

// Event is a change of a job's state or a message. Exactly one of State and Message is set.
type Event struct {
	Time    time.Time
	State   jobpb.JobState_Enum
	Message *Message
}
