// Package demo is the pipeline that "tinyrunner demo" runs, with a Kafka of its own: requests of a web site as JSON lines come
// from one topic, 1 % of them failed, these are counted by page in windows of ten seconds, and the counts go to another
// topic. The functions are linked in; broker, generator, pipeline and figures share one process.
//
// It checks itself: at the end the generator stops, the pipeline reads what is left and drains, and the counts in the output
// topic must add up to the failures that were sent.
//
// File map: demo.go runs it; broker.go the embedded Kafka; generate.go what is sent; pipeline.go the Beam pipeline; counts.go
// reads the output topic; figures.go what is shown.
package demo
