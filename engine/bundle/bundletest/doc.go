// Package bundletest is the suite that every worker must pass, whether it runs Go functions in this process (goexec) or
// hands bundles to an SDK harness (fnapi), with the fixtures it is made of: programs compiled from Beam Go pipelines,
// blocks of elements, a sink and a state server in memory.
//
// The DoFns under test talk to the suite through memory (they block, they record finalizers), so the harness must run in
// the test's own process. Call beam.Init in TestMain before anything else.
//
// Directory goharness runs the suite against fnapi with Beam's own Go harness. It is a module of its own, because that
// harness brings cloud libraries along which the runner must not depend on: (cd goharness && go test .)
package bundletest
