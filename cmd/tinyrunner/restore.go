package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/jobapi"
	"github.com/tinyrunner/tinyrunner/web"
)

const (
	// restoreDir is where files of savepoints lie in the data directory until their job is submitted.
	restoreDir = "restore"
	// savepointLook is how long it may take to find out whether a savepoint can be restored.
	savepointLook = 30 * time.Second
)

// checkRestore refuses a job that names a savepoint which it cannot begin with.
func (e jobEngine) checkRestore(location, name string) error {
	if location == "" {
		return nil
	}
	if err := isThere(location); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), savepointLook)
	defer cancel()
	return e.cluster.CheckRestore(ctx, location, name)
}

// isThere refuses a directory that does not exist: to open it as a store would make it.
func isThere(location string) error {
	loc, err := objstore.Parse(location)
	if err == nil && loc.Dir != "" {
		if _, err = os.Stat(loc.Dir); errors.Is(err, fs.ErrNotExist) {
			err = errors.New("there is no savepoint: no such directory on the server's machine")
		}
	}
	if err != nil {
		return &engine.SavepointError{Location: location, Err: err}
	}
	return nil
}

// fromSavepoint completes a submission that begins with a savepoint: its name, its options, and the pipeline if it has none of
// its own. clean removes what is not needed any more once it is submitted.
func (s *server) fromSavepoint(ctx context.Context, sub *web.Submission) (clean func() error, err error) {
	clean = func() error { return nil }
	if sub.Savepoint == "" {
		return clean, nil
	}
	if err := isThere(sub.Savepoint); err != nil {
		return nil, err
	}
	name := sub.JobName
	switch {
	case sub.Pipeline == nil:
		if clean, err = s.savedPipeline(ctx, sub); err != nil {
			return nil, err
		}
		name = cmp.Or(name, sub.Name)
	case name == "" && sub.SavedName:
		if name, err = s.cluster.SavedName(ctx, sub.Savepoint); err != nil {
			return nil, err
		}
	}
	sub.Options = jobapi.WithSavepoint(sub.Options, sub.Savepoint, sub.AllowNonRestored, name)
	return clean, nil
}

// savedPipeline takes pipeline, options, name and artifacts out of the savepoint.
func (s *server) savedPipeline(ctx context.Context, sub *web.Submission) (clean func() error, err error) {
	parent := filepath.Join(s.dir, restoreDir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("restore savepoint: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "")
	if err != nil {
		return nil, fmt.Errorf("restore savepoint: %w", err)
	}
	clean = func() error { return os.RemoveAll(dir) }
	spec, err := s.cluster.SavedJob(ctx, sub.Savepoint, filepath.Join(dir, "own"))
	if err == nil {
		_, err = s.jobs.Adopt(spec.Pipeline, spec.Options, artifactFiles(spec))
	}
	if err != nil {
		return nil, errors.Join(err, clean())
	}
	sub.Name, sub.Pipeline, sub.Options = spec.Name, spec.Pipeline, spec.Options
	return clean, nil
}

// artifactFiles are where a job's artifacts lie on this machine.
func artifactFiles(spec engine.JobSpec) []string {
	var out []string
	for _, f := range spec.Files {
		if f.Role == checkpoint.RoleArtifact {
			out = append(out, f.Local)
		}
	}
	return out
}
