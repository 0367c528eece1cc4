// Package coder reads and writes the encodings that a runner must understand: the envelope of an element (timestamp,
// windows, pane), where a value ends, where a key ends, timers. Every value it does not need stays the bytes it came as.
//
// Compile turns a coder of the pipeline into a Coder, whose one ability is Skip: to find the end of a value. All values
// are in Beam's nested context, as they are on the data stream, where elements lie one after the other without
// separators. From Coders are built a WindowedValue (the elements of a PCollection), a WindowCoder and a TimerCoder.
//
// Values arrive from user processes, in pieces cut anywhere. So a reader tells apart ErrShort (the rest may follow) and
// ErrMalformed (nothing that follows could help); it never panics, never reads over the end, and never works longer than
// the bytes it was given justify. What it returns aliases its input. Parsing allocates nothing but a timer's tag.
//
// The encodings are those of the message StandardCoders in beam_runner_api.proto:
// https://github.com/apache/beam/blob/master/model/pipeline/src/main/proto/org/apache/beam/model/pipeline/v1/beam_runner_api.proto
package coder
