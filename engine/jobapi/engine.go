package jobapi

import (
	"context"
	"iter"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// Engine runs jobs and remembers them. Its methods are called from any goroutine.
type Engine interface {
	// Check says whether the pipeline could run, without running it. The error names the transform at fault.
	Check(p *pipepb.Pipeline) error
	// Submit starts a job. The engine keeps spec.Pipeline and must not change it.
	Submit(spec Spec) (Job, error)
	// Job finds a job by its id.
	Job(id string) (Job, bool)
	// Jobs returns all jobs that are running or remembered, oldest first.
	Jobs() []Job
}

// Spec is a job as a client asked for it.
type Spec struct {
	ID       string // unique among the jobs of this process, fit for a file name
	Name     string // as given by the user; not unique
	Pipeline *pipepb.Pipeline
	// Raw are the pipeline options as sent: SDK harnesses are given them unchanged. May be nil.
	Raw     *structpb.Struct
	Options Options
	// Artifacts are the staged files that the pipeline's environments depend on.
	Artifacts *Artifacts
}

// Job is a submitted job. Its methods are called from any goroutine.
type Job interface {
	ID() string
	Name() string
	Pipeline() *pipepb.Pipeline
	Options() *structpb.Struct
	State() jobpb.JobState_Enum
	// Events yields every event since the beginning, then live ones, and ends after the terminal state. It yields an
	// error only when ctx ends first.
	Events(ctx context.Context) iter.Seq2[Event, error]
	// Done is closed when the job has ended and needs its files no more.
	Done() <-chan struct{}
	// Metrics returns the user's and the system's metrics so far.
	Metrics() (attempted, committed []*pipepb.MonitoringInfo)
	// Cancel asks the job to stop at once. It does not wait.
	Cancel()
	// Drain asks the job to finish what it has read and to stop. It does not wait.
	Drain() error
}

// Event is a change of state, or a message for the user.
type Event struct {
	Time    time.Time
	State   jobpb.JobState_Enum // JobState_UNSPECIFIED for a message
	Message *Message            // nil for a change of state
}

// Message is one line (or traceback) for the user.
type Message struct {
	ID         string
	Importance jobpb.JobMessage_MessageImportance
	Text       string
}
