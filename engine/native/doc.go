// Package native is the seam between the engine and the sources and sinks that the runner has itself (URNs like
// tinyrunner:kafka_read:v1): the engine calls these interfaces, package kafka and others implement them, and neither knows
// the other.
//
// A source is a root of the plan that no SDK runs. The engine asks it for elements when the queue behind it has room, and
// stores its position in the same commit that appends the elements: the position in the job's state, not one kept by the
// outside system, says where to read on. So a source never has to undo anything: what was fetched and not committed is read
// again by the source that is opened from the last position.
//
// A sink is a leaf of the plan. It is given whole blocks, bundle after bundle; when Wait returns nil a bundle is written for
// good, and its commit takes it off the queue. A crash between the two writes them again: at least once. Exactly once needs a sink that is
// Transactional: its records lie on the same side of a checkpoint's cut as the bundle that wrote them, and become visible
// when the checkpoint is durable.
package native
