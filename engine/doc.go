// Package engine runs Beam pipelines: a Cluster accepts jobs, a Job is planned, run and stopped here.
//
// # The one idea
//
// Everything a job does is a bundle: some elements or fired timers of one stage and one slot. A bundle is a transaction.
// While it runs its whole effect is collected apart; then it is committed at once: its input leaves the queue, its state
// and timers are applied (one state.Tx), its output is appended to the queues of the consuming stages, its residuals go
// back into its own queue, positions and holds move. A bundle that fails never commits: its input is still there and runs
// again. Any instant between two commits is a consistent cut of the whole job.
//
// # Reading order
//
//	api.go        what callers see: Config, JobSpec, Worker
//	cluster.go    the process: jobs come and go
//	job.go        a job's life: states, messages, cancel, drain
//	execution.go  one run of a job: its stages, queues and the scheduler that picks the next bundles
//	work.go       a bundle from start to commit
//	split.go      bundles that give work back
//	output.go     what a bundle emits, routed to the queues of its consumers
//	watermark.go  how event time moves through the stages
//	coordinator.go  checkpoints: a cut between two commits, brought into the store
//	durable.go    a job beyond its process: claimed, restored, resumed
//	group.go      the native GroupByKey
//	native.go     sources, sinks, Impulse and other stages without user code
//
// Workers run user code behind the Worker interface: over gRPC (package fnapi) or in process (package goexec).
package engine
