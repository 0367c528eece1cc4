// Package objstore keeps named, immutable objects in a directory or in S3.
//
// # What a Bucket promises
//
// An object appears whole or not at all, under a name that nothing else has: Create fails with ErrExists when the name is
// taken, and of several concurrent Creates of one name exactly one succeeds, in one process or in many. That is the fence
// that checkpoints stand on. Objects never change; they are deleted or they stay. What was created is seen by every later
// Open and List.
//
// A Create that fails with another error than ErrExists, or is cancelled, may have happened: the object is there whole, or
// it is not, and with S3 it may still appear a moment later, when the request was on its way. Create settles lost answers
// itself where it can: when it is repeated and meets its own object, it succeeds.
//
// # Stores
//
// Dir writes to a temporary file, syncs it and links it to its name, which never replaces. Large files go past the page cache. It needs a file system with hard
// links, local or NFS, and names of which none is another's directory.
//
// S3 sends "If-None-Match: *". Stores exist that ignore it and overwrite silently: Probe finds them, and is to be called
// before a store is trusted. Bodies are read from the caller's ReaderAt while they are sent, so an upload holds no buffers
// of its own, whatever its size; at most S3Config.Parallel bodies are under way at once.
//
// What a crash leaves behind (temporary files, multipart uploads) is not listed; Sweep removes it.
//
// # Files
//
//	bucket.go    Bucket, names, errors
//	location.go  file:///DIR and s3://BUCKET/PREFIX
//	dir.go       Dir
//	dirwrite.go  Dir: writing a file, past the page cache where that can be done
//	s3.go        S3: configuration, List, Sweep
//	s3write.go   S3: Create, Delete
//	s3read.go    S3: Open, with resumption of broken transfers
//	s3http.go    time-out of a transfer that stands still
//	s3errors.go  which error means what, and what to do about it
//	probe.go     Probe
//	faulty.go    Faulty, for tests
package objstore
