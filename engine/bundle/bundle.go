package bundle

import (
	"context"
	"errors"
	"fmt"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// Program is the user code of one fused stage in the form that workers execute. It is immutable and shared by all
// bundles of the stage.
type Program struct {
	// Descriptor is the stage as the Fn API describes it. Its Id is unique in this process. Data sources and sinks carry a
	// RemoteGrpcPort with a coder id and no endpoint: a worker that needs endpoints fills them in a copy.
	Descriptor *fnpb.ProcessBundleDescriptor
	// Source is the transform id of the data source (beam:runner:source:v1).
	Source string
	// Outputs are the transform ids of the data sinks (beam:runner:sink:v1). The index is the output's number in Sink.
	Outputs []string
	// Timers are the timer families of the stage: a worker must end each of these streams.
	Timers []TimerFamily
}

// TimerFamily names a logical stream of timers.
type TimerFamily struct {
	Transform string // transform id in the descriptor
	Family    string // timer family id of that transform
}

// Bundle is one unit of work: elements and fired timers of one stage and one slot.
type Bundle struct {
	// ID is the instruction id, unique in this process.
	ID      string
	Program *Program
	// Input are the elements, in order, for Program.Source. The worker loads blocks but does not release them.
	Input []*flow.Block
	// Timers are fired timers, delivered after Input.
	Timers []FiredTimers
	State  StateServer
	Sink   Sink
	// CacheTokens allow the SDK to keep state across bundles (ProcessBundleRequest.cache_tokens).
	CacheTokens []*fnpb.ProcessBundleRequest_CacheToken
}

// Elements returns the number of elements in Input.
func (b *Bundle) Elements() int {
	n := 0
	for _, k := range b.Input {
		n += k.Len()
	}
	return n
}

// FiredTimers are encoded timers (beam:coder:timer:v1) of one family, concatenated.
type FiredTimers struct {
	TimerFamily
	Data []byte
}

// StateServer answers the state requests of one bundle from the bundle's transaction. Calls may come from any goroutine
// but one at a time per bundle; an error ends up in StateResponse.Error and the SDK fails the bundle.
type StateServer interface {
	Handle(ctx context.Context, req *fnpb.StateRequest) *fnpb.StateResponse
}

// Sink takes a bundle's output as it comes. Implementations never block (many bundles share one harness stream, so
// blocking one would dead-lock the others): over their quota they spill. Data is only valid during the call.
type Sink interface {
	// Data takes the next bytes of an output's logical stream: encoded windowed values, cut anywhere.
	Data(output int, data []byte) error
	// Timers takes the next bytes of a timer stream: encoded timers, cut anywhere.
	Timers(f TimerFamily, data []byte) error
}

// Result is what a worker says at the end of a bundle, besides what went through the Sink.
type Result struct {
	// Residuals are unprocessed remainders of splittable elements (ProcessBundleResponse.residual_roots).
	Residuals []*fnpb.DelayedBundleApplication
	// RequiresFinalization asks for Worker.Finalize once the bundle's effect is durable.
	RequiresFinalization bool
	// Metrics are the bundle's monitoring infos with full labels (short ids resolved).
	Metrics []*pipepb.MonitoringInfo
}

// Split is the answer to a split request; nil fields and a negative FirstResidual mean that nothing was split there.
type Split struct {
	Primaries []*fnpb.BundleApplication
	Residuals []*fnpb.DelayedBundleApplication
	// FirstResidual is the index in Input of the first element that the bundle gave back whole; -1: none. When it is set,
	// LastPrimary is the index of the last element the bundle will process whole; an element between the two is the one
	// that was split into Primaries and Residuals.
	LastPrimary, FirstResidual int64
}

// Progress of a running bundle.
type Progress struct {
	// Consumed counts input elements whose processing has begun; -1: the SDK did not say.
	Consumed int64
	Metrics  []*pipepb.MonitoringInfo
}

// ErrWorkerLost says that the worker went away: the bundle ran into nothing wrong and may run again on another worker.
var ErrWorkerLost = errors.New("worker lost")

// UserError is an error raised by user code, with the SDK's traceback as its message. Running the bundle again would
// raise it again.
type UserError struct {
	Worker  string
	Message string
}

func (e *UserError) Error() string {
	return fmt.Sprintf("user code failed in %s: %s", e.Worker, e.Message)
}
