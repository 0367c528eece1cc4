// Command tinyrunner runs Apache Beam pipelines in one process.
//
// The commands:
//
//	serve    a mini-cluster that accepts jobs over Beam's Job API
//	run      one job: a program that submits to a server of its own, or a pipeline from a file
//	demo     a pipeline from Kafka to Kafka, with a Kafka of its own
//	plan     prints how a pipeline would be executed
//	jobs, job, cancel, stop, savepoint, checkpoint, restore, rescale, logs, top
//	         talk to a running server over REST
//	version  prints versions
//
// Started with flags and no command it serves, so that it can stand in for Beam's Prism binary.
//
// Who may call it: security.go (callers of the ports) and certificates.go (TLS). The rule is in the comment of type security.
//
// Files: main.go (exit codes, signals), command.go (the commands), settings.go (every flag), server.go (what is wired to
// what, start and stop), durability.go (checkpoints, resume, suspend), restore.go
// (savepoints), adapter.go and webadapter.go (the engine as packages
// jobapi and web see it), submit.go (run a pipeline file), client*.go (the commands that talk to a server).
package main
