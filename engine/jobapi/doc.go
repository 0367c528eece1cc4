// Package jobapi serves Beam's Job API and artifact staging: protos in, engine calls out.
//
// A client prepares a pipeline, stages the artifacts of its environments, and runs it:
//
//	Prepare                          the pipeline is checked; unsupported ones are refused here, naming the transform
//	ReverseArtifactRetrievalService  this server asks the client for each artifact and writes it to a file
//	Run                              the engine gets the pipeline, its dependencies pointing at those files
//	GetMessageStream, GetStateStream every event of the job from its beginning, ending after the terminal state
//
// A preparation and the job made of it have different ids, and the streams know only jobs. Beam Python first subscribes
// with the preparation's id and a deadline (job_server_timeout, 300 s), which would cut off every longer job; told
// NOT_FOUND, it subscribes again after Run, without a deadline.
//
// The service owns what clients sent: preparations (bounded, oldest forgotten first), the staged files (removed when
// the job ends, or when staging breaks off) and the history of finished jobs (bounded). The engine owns the jobs
// themselves; it is seen through the interface Engine, so this package knows nothing of how bundles run.
//
// Protocol: beam_job_api.proto and beam_artifact_api.proto, package org.apache.beam.model.job_management.v1.
package jobapi
