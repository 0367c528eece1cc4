// Package web serves the HTTP side of a mini-cluster: Flink's monitoring REST API for the clients that people already
// have, Prometheus metrics and health checks.
//
// Every REST path answers with and without the prefix /v1: Flink's Java clients use it, its web UI does not. Shapes are
// those of Flink 1.20 (https://nightlies.apache.org/flink/flink-docs-release-1.20/docs/ops/rest_api/). Values are this
// cluster's own: what is not known is left at what Flink shows for "nothing yet", never invented. The calls are a table
// (routes.go), of which the OpenAPI document is made, too.
//
// Flink's notions map as follows. The cluster is this process, which is also its one TaskManager. A vertex is a stage, its
// id a hash of the stage's name; a subtask is a slot of it, an attempt the number of restarts. Clients want job ids of 32
// hex digits, so a job's id is hashed as well; paths take the job's own id, too. All stages of a job run in the same number
// of slots: resource requirements ask for the greatest of their upper bounds. The JVM's heap is Go's, managed memory is that
// of the state, network memory the buffer pool. Rates are averages over about half a minute (meter.go). Latencies are among the
// metrics of a running job, by Flink's names with ids of vertices: of one record a bundle, of the last one to two minutes, with
// an error of 3 %, for at most 500 subtasks a job (latency.go).
//
// Answers that only read are made once a second for all who ask for the same, but nobody is shown what was before something that
// he has done (shared.go).
//
// A jar that is uploaded and run must hold a Beam pipeline, as Beam's uber-jar clients make it: nothing else runs without a
// JVM (uberjar.go).
//
// Who can reach the port can do everything, unless Config has a Token, ClientCerts or ReadOnly. What changes something is refused if a
// browser sends it for another site (security.go). Nothing in a request is ever a path of this machine, but for the
// directories of savepoints, which are their point.
//
// The web UI is one page at /, in package ui. Its own calls lie under /ui and are no part of the REST API, nor of its document:
// /ui/about is asked once; /ui/live/... are streams of lines of JSON, one path a page (liveRoutes in liveviews.go). Each line has
// a field t that says what it is; a line comes again when it has changed, the time every two seconds. ?once ends after the
// first. All pages that show the same share one view, which is computed only while one is open (live.go). What goes on without
// a page is a history of 15 minutes, of bounded size (history.go). What the UI changes it changes by REST.
//
// The package sees the engine through the interfaces Cluster and Job.
package web
