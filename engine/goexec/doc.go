// Package goexec runs bundles of Go functions that are linked into this binary: the Worker of package fnapi without gRPC.
//
// It stands on Beam Go's own executor (core/runtime/exec). A stage's descriptor is compiled into an exec.Plan as a harness
// does it; what the harness would read from and write to its data and state streams is handed over by calls instead.
//
// # Plans
//
// A plan executes bundles one after another, so every running bundle has a plan to itself (a task) and finished ones wait
// in a short list of the stage, their DoFns set up. A task is torn down after an error, after a cancelled context, and after
// its DoFns registered finalizers: in Beam 2.77 a plan that was finalized keeps no later callbacks.
//
// # Fast stages
//
// Where a stage is a chain of plain ParDos over common types, the ends of the plan are our own (fast.go): elements are
// decoded straight from the block and encoded straight into the output buffer. All other stages, and all that need more
// than elements in and out, take the plan that exec.UnmarshalPlan makes.
//
// # Non-obvious
//
//   - exec ends a bundle without an error when its context is cancelled. Run looks at the context once more before it
//     believes a result.
//   - A timer writer's error is dropped by exec. Every error of a Sink is kept in the run and decides the bundle.
//   - An encoder writes a state value in several pieces. They are joined into one append, sent before the next state request.
package goexec
