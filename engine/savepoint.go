package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// SavepointError says why a job cannot begin with a savepoint. Nothing was changed.
type SavepointError struct {
	Location string
	Err      error
}

func (e *SavepointError) Error() string {
	return fmt.Sprintf("restore savepoint %s: %v", e.Location, e.Err)
}
func (e *SavepointError) Unwrap() error { return e.Err }

// CheckRestore says whether a job of that name could begin with the savepoint: it is there and can be read, it has as many key
// groups as this process, and no other job of the name is in the way. What of its state the pipeline has no place for shows
// when the job begins (NotRestoredError). The error is a SavepointError.
func (c *Cluster) CheckRestore(ctx context.Context, location, name string) error {
	err := c.withSavepoint(ctx, location, func(*checkpoint.Savepoint) error { return nil })
	if err == nil {
		err = c.nameIsFree(ctx, name)
	}
	if err != nil {
		return &SavepointError{location, err}
	}
	return nil
}

// nameIsFree refuses a name whose job runs, or would go on from checkpoints of its own.
func (c *Cluster) nameIsFree(ctx context.Context, name string) error {
	identity := checkpoint.Identity(name)
	if c.Runs(identity) {
		return fmt.Errorf("a job named %q is running: stop it first, or give the restored one another name (--job-name)", name)
	}
	jobs, err := c.Resumable(ctx)
	if err != nil {
		return err
	}
	for _, e := range jobs {
		if e.Job == identity && e.Newest != nil {
			return fmt.Errorf("a job named %q has checkpoints of its own, up to %d of %s, from which it goes on when this server is started: "+
				"have them forgotten (tinyrunner forget), or give the restored one another name (--job-name)", name, e.Newest.ID, e.Newest.Created.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// SavedName is the name of the job that a savepoint was made of. The error is a SavepointError.
func (c *Cluster) SavedName(ctx context.Context, location string) (name string, err error) {
	err = c.withSavepoint(ctx, location, func(sp *checkpoint.Savepoint) error {
		name = sp.Manifest.JobName
		return nil
	})
	if err != nil {
		return "", &SavepointError{location, err}
	}
	return name, nil
}

// SavedJob reads the job that a savepoint was made of. Its files are put into dir, which is made. The error is a SavepointError.
func (c *Cluster) SavedJob(ctx context.Context, location, dir string) (spec JobSpec, err error) {
	err = c.withSavepoint(ctx, location, func(sp *checkpoint.Savepoint) error {
		rec, err := sp.FetchJob(ctx, dir)
		if err == nil {
			spec, err = specOf(rec)
		}
		return err
	})
	if err != nil {
		return JobSpec{}, &SavepointError{location, err}
	}
	return spec, nil
}

// withSavepoint opens a savepoint for as long as use runs.
func (c *Cluster) withSavepoint(ctx context.Context, location string, use func(*checkpoint.Savepoint) error) (err error) {
	cfg := c.cfg.Checkpoints
	if cfg == nil || cfg.OpenLocation == nil {
		return errors.New("this server makes no checkpoints, which a job that begins with a savepoint needs: start it with --checkpoints")
	}
	bucket, prefix, err := cfg.OpenLocation(ctx, location)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, objstore.Close(bucket)) }()
	sp, err := checkpoint.OpenSavepoint(ctx, checkpoint.SavepointConfig{Bucket: bucket, Prefix: prefix, Owner: checkpoint.NewOwner(time.Now())})
	if errors.Is(err, checkpoint.ErrNoCheckpoint) {
		return errors.New("there is no savepoint")
	}
	if err == nil {
		err = fits(sp.Manifest, c.cfg.MaxParallelism)
	}
	if err != nil {
		return err
	}
	return use(sp)
}
