// Package latency holds histograms of how long records took: of the last one to two minutes, with a relative error of at most
// 1/32 (at least 31 us), in memory that is bounded whatever is recorded.
//
// A histogram is of log-linear buckets: 16 for each doubling, from 1/16 ms to 24 days. Only those with values take memory, 8
// bytes each, which are some tens. It has two generations of a minute: the older one is dropped when the younger one is full.
// So what it tells is neither smoothed nor weighted, and one that nothing is recorded in is empty again after two minutes.
// What is added up since the beginning, number and sum, is kept apart.
package latency
