package tiny

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/metricsx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"

	"github.com/tinyrunner/tinyrunner/engine"
)

// DefaultBufferPool is how many bytes of elements between stages stay in memory before they spill to a file.
const DefaultBufferPool = 32 << 20 // 32 MB

// Options of one run. The zero value is good.
type Options struct {
	// DataDir holds the job's state and spill files while it runs. Default: a new temporary directory, removed at the end.
	DataDir string
	// Slots is the number of bundles of one stage that may run at once. Default: the number of CPUs.
	Slots int
	// BufferPool bounds, in bytes, the elements in memory between stages. Default DefaultBufferPool.
	BufferPool int64
	// Name of the job. Default: Beam's --job_name.
	Name string
	// Engine changes the cluster's configuration before it is used. Optional.
	Engine func(*engine.Config)
	// Logger takes the runner's own log. Default: warnings and errors on standard error.
	Logger *slog.Logger
}

// Beam finds runners by name, in a registry that an import fills.
func init() { //nolint:gochecknoinits // the registry of Beam Go
	o := flagOptions(flag.CommandLine)
	beam.RegisterRunner("tiny", func(ctx context.Context, p *beam.Pipeline) (beam.PipelineResult, error) {
		r, err := Run(ctx, p, o())
		return r, err
	})
}

// flagOptions defines the runner's flags and returns what reads them.
func flagOptions(fs *flag.FlagSet) func() Options {
	dir := fs.String("tiny_data_dir", "", "Directory of state and spill files of --runner=tiny (default: a temporary one).")
	slots := fs.Int("tiny_slots", 0, "Bundles of one stage that --runner=tiny runs at once (default: the number of CPUs).")
	pool := fs.Int64("tiny_buffer_pool_mib", DefaultBufferPool>>20, "MiB of elements that --runner=tiny keeps in memory between stages.")
	return func() Options { return Options{DataDir: *dir, Slots: *slots, BufferPool: *pool << 20} }
}

// Result of a run that ended.
type Result struct {
	id      string
	metrics metrics.Results
}

// Metrics are the user's counters, distributions and gauges, and the sizes of PCollections, of committed bundles.
func (r *Result) Metrics() metrics.Results { return r.metrics }

// JobID is the job's id in the runner's log.
func (r *Result) JobID() string { return r.id }

// Run runs the pipeline and waits for its end. When ctx ends the job is cancelled. The result is there whenever the job
// could be started; the error of a failed job says what the user's code said.
func Run(ctx context.Context, p *beam.Pipeline, o Options) (_ *Result, err error) {
	if !beam.Initialized() {
		return nil, errors.New("run pipeline: Beam is not initialized: call beam.Init() before the pipeline is built")
	}
	if o.Name == "" {
		o.Name = jobopts.GetJobName()
	}
	c, err := NewCluster(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	job, err := c.Submit(ctx, p, o.Name)
	if err != nil {
		return nil, err
	}
	return Wait(ctx, job)
}

// Wait waits for a job's end, cancelling it when ctx ends first.
func Wait(ctx context.Context, job *engine.Job) (*Result, error) {
	state, err := job.Wait(ctx)
	if ctx.Err() != nil && err != nil {
		job.Cancel()
		<-job.Done()
		err = fmt.Errorf("job %s was cancelled: %w", job.ID(), context.Cause(ctx))
	} else if err != nil {
		err = fmt.Errorf("job %s failed:\n%w", job.ID(), err)
	} else if state == jobpb.JobState_CANCELLED {
		err = fmt.Errorf("job %s was cancelled", job.ID())
	}
	// The Go SDK takes what its metrics queries call committed from the second list.
	attempted, committed := job.Metrics()
	return &Result{id: job.ID(), metrics: *metricsx.FromMonitoringInfos(job.Pipeline(), attempted, committed)}, err
}

var _ beam.PipelineResult = (*Result)(nil)
