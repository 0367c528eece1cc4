// Package window is the windowing half of GroupByKey for one key at a time: which elements form a pane, when the pane fires,
// what it says about itself, and what has to be held and kept meanwhile. It follows Beam's model as described by
// https://s.apache.org/beam-triggers and https://s.apache.org/beam-lateness, and the WindowingStrategy and Trigger messages of
// beam_runner_api.proto.
//
// The logic is pure. It sees one key through a Context, which the engine implements over a state transaction: a small state
// cell, a buffer of elements, a timer per time domain and a watermark hold, all under an opaque slot. It reads no clock, holds no
// elements in memory, and keeps nothing between two calls; a Grouping is immutable and may be used by many goroutines.
//
// # What is stored
//
// Windows that do not merge have one record each, in the slot that is the window's encoding: the finished bits and counters of
// the triggers, pane indices, how many elements are buffered, and the timers and the hold that are set. Elements(batch) costs one
// Get and one Set per window touched.
//
// Windows that merge have one cell per key, in the empty slot, with the records of all its windows. Each has a numbered slot of
// its own for its buffer, timers and hold. When a window grows, only its name in the cell changes. When two windows meet, the
// survivor takes over the other's buffer by listing it: no element moves.
//
// # When triggers are evaluated
//
// Triggers that elements make ready (element_count, always) are looked at after every element, so that they fire exactly when the
// pane is full. Triggers that time makes ready are looked at once at the end of a batch and when a timer fires, so that a batch of
// late elements makes one pane and not hundreds.
//
// # Rules that are not obvious
//
//   - The input watermark W has passed t when W > t. Timers are set at t+1 and due when W has reached them.
//   - A window's end is its maximum timestamp, but never later than the end of the global window; its expiry is the end plus
//     the allowed lateness, with the same bound. Thus the final watermark (coder.MaxTimestamp) ends every window.
//   - A window is closed when its root trigger finished. Its record stays until the expiry as a mark: its elements are dropped.
//     Not so when the input is bounded, or when the trigger finished by the clock: what comes later makes a last pane.
//   - An empty ON_TIME pane (FIRE_ALWAYS) is emitted only when a trigger that waits for the end of the window fires there. A
//     trigger that never asks for the end of the window, such as repeated counts, promises no on-time pane.
//   - Timers and holds may lag behind: a timer that is set earlier than needed is left alone (it fires, finds nothing to do, and
//     is set again), and so is a hold as long as such a timer will move it before the input watermark passes it. A session that
//     grows with every element therefore touches neither.
package window
