// Package fnapi runs bundles on SDK harnesses: processes of any language that speak Beam's Fn API over gRPC.
//
// # One port
//
// A [Server] answers every service that a harness needs (control, data, state, logging, provision, artifact retrieval) on
// whatever grpc.Server it is registered on. Calls are told apart by the worker_id in their metadata; the port may be open
// long before any job, and an id that no job expects gets UNAVAILABLE and leaves no trace.
//
// # Environments and workers
//
//	Server.Open(environment) -> Environment -> one slot per harness (sdk_worker_parallelism)
//	                                           slot: a supervisor goroutine that keeps one Worker alive
//
// A supervisor registers a fresh worker id, asks the environment's launcher to start a harness for it, waits until its
// Control stream arrives, publishes the [Worker], waits until it is lost, and begins again with back-off. A worker is lost
// when its control stream ends, or its data or state stream breaks; its running bundles then return bundle.ErrWorkerLost.
//
// # A bundle's journey
//
// [Worker.Run] sends a ProcessBundleRequest and queues the bundle's input with the worker's feed. The goroutine that owns
// the data stream takes chunks from all queued bundles in turn, so that none waits for another's whole input. What the
// SDK sends back goes from the stream's reader straight to the bundle's Sink. State requests come through the state
// stream's reader into the bundle's queue and are answered by Run's own goroutine: one at a time for a bundle, in parallel
// for different ones. The bundle is complete when the response and the end of every output and timer stream have come.
//
// When Run returns, nothing touches the bundle's blocks, Sink or StateServer any more: whatever comes later for its
// instruction is dropped. A bundle that was abandoned while it ran gets the end of its input, so that the SDK finishes it.
//
// # Goroutines
//
// A supervisor belongs to its Environment and ends in Close. The goroutine of a gRPC handler writes to its stream and
// owns one more that reads it, which ends with the stream. Nothing else is started.
package fnapi
