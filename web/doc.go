// Package web serves the HTTP side of a mini-cluster: Flink's monitoring REST API for the clients that people already
// have, Prometheus metrics and a health check.
//
// Every REST path answers with and without the prefix /v1: Flink's Java clients use it, its web UI does not. Shapes are
// those of Flink 1.20 (https://nightlies.apache.org/flink/flink-docs-release-1.20/docs/ops/rest_api/). Values are this
// cluster's own: what is not known is left at what Flink shows for "nothing yet", never invented.
//
// Flink's notions map as follows. The cluster is this process, which is also its one TaskManager. A vertex is a stage, its
// id a hash of the stage's name. Clients want job ids of 32 hex digits, so a job's id is hashed as well; paths take the
// job's own id, too.
//
// The package sees the engine through the interface Cluster.
package web
