// Package plan turns a pipeline into stages: what the engine runs.
//
// Compile is a pure function of five steps, one file each:
//
//   - validate: every id that is named must exist; the error says who names what.
//   - expand: composites that the runner knows become other transforms (combines are lifted, splittable DoFns become
//     pair, split and process), all other composites their parts. What is left is a graph of leaves.
//   - wire: every PCollection gets the coder that its elements have between stages, one that the runner can read.
//   - fuse: leaves that may run in one bundle become one vertex, and PCollections that cross vertices become queues.
//   - assemble: vertices become stages with names, state, timers and, for user code, a ProcessBundleDescriptor.
//
// Fusion breaks where the environment changes, before and behind transforms that the runner executes, and before user
// code that needs its elements by key or in order (state, timers, time-sorted or stable input), that may be split, or
// that reads side inputs. Otherwise it does not.
//
// A Flatten does not exist when the job runs, if that can be helped. A stage that produces one of its inputs runs a copy
// of it ("unzipped"), and of what is fused behind it; what the runner produces goes straight to the queue behind the
// Flatten. Only when the elements would look different there does a stage of its own transcode them. A Redistribute is
// no more than a queue at which fusion breaks: its input's producers write to its output's consumers. So a collection may
// have several producers, and a stage may write one of its PCollections to several collections.
//
// Names: state belongs to the unique name of its transform, which the user chose. Ids of coders and PCollections that the
// plan makes are derived from the pipeline's, so that the same pipeline gives the same plan, byte by byte.
package plan
