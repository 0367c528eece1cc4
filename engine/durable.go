package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// CheckpointConfig says where the checkpoints of all jobs go, and how often.
type CheckpointConfig struct {
	Bucket objstore.Bucket
	// Prefix is the directory of all jobs in the bucket; may be "".
	Prefix string
	// Location is what people call the two: file:///DIR, s3://BUCKET/PREFIX.
	Location string
	// Interval is the time between two checkpoints. Default 10 s.
	Interval time.Duration
	// Retain is how many complete checkpoints are kept. Default 3.
	Retain int
	// Unfenced accepts a store that does not keep two processes apart.
	Unfenced bool
	// AcceptLost goes on without the records of a complete checkpoint's transaction that is lost (native.ErrLost), with a warning
	// to the job's subscribers. Without it the job fails, and its checkpoints stay.
	AcceptLost bool
	// OpenLocation opens the place of a savepoint. nil: there are no savepoints.
	OpenLocation func(ctx context.Context, location string) (bucket objstore.Bucket, prefix string, err error)
}

const defaultInterval = 10 * time.Second

// durable is what makes a job outlive its process: its checkpoints in the store, and on the local disk
//
//	DIR/run     what the job works on: state/ is its database
//	DIR/cuts/N  the cut of checkpoint N, but for what it shares with others
//	DIR/cuts/shared/state  hard links to the immutable files of the database that are in the cuts
//	DIR/own     the job's own files: pipeline and options
//
// where DIR is named after the job's identity. All but mu's fields belong to the goroutine of Cluster.run and, while an
// execution runs, to its coordinator.
type durable struct {
	cfg      CheckpointConfig
	job      *Job
	identity string
	log      *slog.Logger
	dir      string
	store    *checkpoint.Store
	own      []checkpoint.JobFile // what the job needs to be started again
	groups   int                  // key groups

	nextID   int64                // of the next checkpoint
	restored *checkpoint.Manifest // what the execution began from; nil: nothing
	settled  bool                 // a newer checkpoint than restored was complete once

	mu      sync.Mutex // guards the rest
	history checkpoints
}

// jobDir is where a durable job keeps its local files.
func jobDir(dataDir, identity string) string { return filepath.Join(dataDir, "jobs", identity) }

// openDurable claims the job, unless that was done already to find out what the job is.
func openDurable(ctx context.Context, cfg Config, j *Job) (*durable, error) {
	d := &durable{cfg: *cfg.Checkpoints, job: j, identity: j.identity, log: j.log, dir: jobDir(cfg.DataDir, j.identity), store: j.claimed,
		groups: cfg.MaxParallelism}
	if d.store != nil {
		d.own = j.spec.Files
		return d, nil
	}
	var err error
	if d.own, err = d.ownFiles(); err != nil {
		return nil, err
	}
	d.store, err = claim(ctx, d.cfg, d.identity, checkpoint.Record{JobID: j.ID(), JobName: j.Name(), Files: d.own}, d.log)
	return d, err
}

func claim(ctx context.Context, cfg CheckpointConfig, identity string, rec checkpoint.Record, log *slog.Logger) (*checkpoint.Store, error) {
	return checkpoint.Claim(ctx, checkpoint.Config{
		Bucket: cfg.Bucket, Prefix: cfg.Prefix, Job: identity, Owner: checkpoint.NewOwner(time.Now()),
		Retain: cfg.Retain, Unfenced: cfg.Unfenced, Logger: log,
	}, rec)
}

// Names of a job's own files in the store.
const (
	pipelineFile = "pipeline.pb"
	optionsFile  = "options.json"
)

// ownFiles writes what the job needs to be started again.
func (d *durable) ownFiles() ([]checkpoint.JobFile, error) {
	own := filepath.Join(d.dir, "own")
	if err := os.MkdirAll(own, 0o700); err != nil {
		return nil, fmt.Errorf("write pipeline: %w", err)
	}
	p, err := proto.MarshalOptions{Deterministic: true}.Marshal(d.job.spec.Pipeline)
	if err != nil {
		return nil, fmt.Errorf("encode pipeline: %w", err)
	}
	files := append([]checkpoint.JobFile(nil), d.job.spec.Files...)
	files = append(files, checkpoint.JobFile{Role: checkpoint.RolePipeline, Path: pipelineFile, Local: filepath.Join(own, pipelineFile)})
	if err := os.WriteFile(files[len(files)-1].Local, p, 0o600); err != nil {
		return nil, fmt.Errorf("write pipeline: %w", err)
	}
	if d.job.spec.Options != nil {
		o, err := protojson.Marshal(d.job.spec.Options)
		if err != nil {
			return nil, fmt.Errorf("encode options: %w", err)
		}
		files = append(files, checkpoint.JobFile{Role: checkpoint.RoleOptions, Path: optionsFile, Local: filepath.Join(own, optionsFile)})
		if err := os.WriteFile(files[len(files)-1].Local, o, 0o600); err != nil {
			return nil, fmt.Errorf("write options: %w", err)
		}
	}
	return files, nil
}

func (d *durable) runDir() string { return filepath.Join(d.dir, "run") }
func (d *durable) cutDir(id int64) string {
	return filepath.Join(d.dir, "cuts", strconv.FormatInt(id, 10))
}

// sharedDir is like a cut, with what all cuts share.
func (d *durable) sharedDir() string { return filepath.Join(d.dir, "cuts", sharedName) }

const sharedName = "shared"

func (d *durable) stateDir() string { return filepath.Join(d.runDir(), stateSubdir) }

// stateSubdir is the database within a cut and within the run directory: beside it lie the files of the snapshot.
const stateSubdir = "state"

// restorePatiently is restore, again and again while the store cannot be reached: it may come back, and what it holds is safe.
func (d *durable) restorePatiently(ctx context.Context) error {
	for try := 0; ; try++ {
		err := d.restore(ctx)
		var store *objstore.Error
		var corrupt *checkpoint.CorruptError
		if err == nil || ctx.Err() != nil || !errors.As(err, &store) || errors.As(err, &corrupt) || errors.Is(err, checkpoint.ErrNoCheckpoint) {
			return err
		}
		d.job.warn("cannot restore the job now, trying again: " + err.Error())
		if !pause(ctx, backoff(try)) {
			return ctx.Err()
		}
	}
}

// restore fills the run directory from the newest checkpoint that can be read, or from the savepoint that the job is to begin
// with, or leaves it empty.
func (d *durable) restore(ctx context.Context) error {
	d.restored, d.settled = nil, false
	if err := os.RemoveAll(d.runDir()); err != nil {
		return fmt.Errorf("clear %s: %w", d.runDir(), err)
	}
	candidates, err := d.store.Newest()
	switch {
	case errors.Is(err, checkpoint.ErrNoCheckpoint) && len(candidates) == 0:
		return d.begin(ctx)
	case err != nil:
		return fmt.Errorf("restore: %w", errors.Join(err, candidates[0].Err))
	}
	for _, c := range candidates {
		if c.Manifest != nil {
			d.nextID = max(d.nextID, c.Manifest.ID)
		}
	}
	d.nextID += 2 // a checkpoint that was not completed may have had the next number
	var errs []error
	for i, c := range candidates {
		err := c.Err
		if err == nil {
			err = d.restoreOne(ctx, c.Manifest)
		}
		if err == nil {
			d.restored, d.settled = c.Manifest, i > 0
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var corrupt *checkpoint.CorruptError
		if !errors.As(err, &corrupt) {
			return fmt.Errorf("restore: %w", err)
		}
		errs = append(errs, err)
		d.job.warn("a checkpoint cannot be restored; going back to the one before it, whose output may come again: " + err.Error())
	}
	return fmt.Errorf("restore: no checkpoint can be read: %w", errors.Join(errs...))
}

// begin starts without a checkpoint: anew, or from a savepoint.
func (d *durable) begin(ctx context.Context) error {
	d.nextID = max(d.nextID, 1)
	d.store.StartOver()
	if d.job.spec.Savepoint == "" {
		return nil
	}
	bucket, prefix, err := d.openLocation(ctx, d.job.spec.Savepoint)
	if err != nil {
		return err
	}
	began := time.Now()
	sp, err := checkpoint.OpenSavepoint(ctx, checkpoint.SavepointConfig{Bucket: bucket, Prefix: prefix, Owner: checkpoint.NewOwner(time.Now())})
	if err != nil {
		return fmt.Errorf("restore savepoint %s: %w", d.job.spec.Savepoint, err)
	}
	if err := fits(sp.Manifest, d.groups); err != nil {
		return fmt.Errorf("restore savepoint %s: %w", d.job.spec.Savepoint, err)
	}
	if err := sp.Restore(ctx, d.runDir(), nil); err != nil {
		return fmt.Errorf("restore savepoint %s: %w", d.job.spec.Savepoint, err)
	}
	m := sp.Manifest
	d.nextID = max(d.nextID, m.ID+1)
	d.log.Info("restored savepoint", "savepoint", d.job.spec.Savepoint, "bytes", m.Bytes)
	d.restoredFrom(m, began, d.job.spec.Savepoint)
	return nil
}

// fits refuses state with another number of key groups: nothing in it would be found.
func fits(m *checkpoint.Manifest, groups int) error {
	if m.MaxParallelism != groups {
		return fmt.Errorf("it has %d key groups, this process uses %d: set the maximum parallelism to %[1]d", m.MaxParallelism, groups)
	}
	return nil
}

func (d *durable) openLocation(ctx context.Context, location string) (objstore.Bucket, string, error) {
	if d.cfg.OpenLocation == nil {
		return nil, "", errors.New("savepoints are not configured in this process")
	}
	bucket, prefix, err := d.cfg.OpenLocation(ctx, location)
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", location, err)
	}
	return bucket, prefix, nil
}

// cutOf is what the store and a savepoint are told of a cut.
func (d *durable) cutOf(cut *cutting, trigger checkpoint.Trigger, meta json.RawMessage) checkpoint.Cut {
	return checkpoint.Cut{
		Dir: cut.dir, Shared: d.sharedDir(), SharedFiles: cut.shared, ID: cut.id, Trigger: trigger, Slots: cut.slots,
		MaxParallelism: d.groups, Participants: cut.tokens, Meta: meta,
	}
}

// savepoint copies a complete checkpoint to a place of its own.
func (d *durable) savepoint(ctx context.Context, cut *cutting, m *checkpoint.Manifest, r *checkpointRequest) error {
	bucket, prefix, err := d.openLocation(ctx, r.location)
	if err != nil {
		return err
	}
	rec := checkpoint.Record{JobID: d.job.ID(), JobName: d.job.Name(), Files: d.own}
	_, _, err = checkpoint.WriteSavepoint(ctx, checkpoint.SavepointConfig{Bucket: bucket, Prefix: prefix, Owner: checkpoint.NewOwner(time.Now())},
		rec, d.cutOf(cut, checkpoint.ForSave, m.Meta), nil)
	if err != nil {
		return err
	}
	d.update(func(i *CheckpointInfo) { i.Savepoint = r.location })
	return nil
}

// sweep removes what older owners have left in the store.
func (d *durable) sweep(ctx context.Context) {
	if err := d.store.Sweep(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("clear up what an older process left in the checkpoint store", "error", err)
	}
}

// tidy removes what is not needed once the checkpoint of a cut is complete. Errors do the job no harm.
func (d *durable) tidy(ctx context.Context, cut *cutting) {
	keep := strconv.FormatInt(cut.id, 10)
	err := removeBut(filepath.Join(d.dir, "cuts"), func(name string) bool {
		return name == keep || name == sharedName || strings.HasPrefix(name, keep+".")
	})
	err = errors.Join(err, removeBut(filepath.Join(d.sharedDir(), stateSubdir), func(name string) bool {
		_, ok := slices.BinarySearch(cut.shared, path.Join(stateSubdir, name))
		return ok
	}))
	if err = errors.Join(err, d.store.Retire(ctx)); err != nil && ctx.Err() == nil {
		d.log.Warn("remove old checkpoints", "error", err)
	}
}

// removeBut removes what is in dir, but for what is to stay.
func removeBut(dir string, stays func(name string) bool) error {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		if !stays(n.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, n.Name())))
		}
	}
	return err
}

// transactions is the identity under which sinks write: that of the job and of the place of its checkpoints, because jobs
// of one name in two places are two.
func (d *durable) transactions() string {
	sum := sha256.Sum256([]byte(d.cfg.Location))
	return d.identity + "-" + hex.EncodeToString(sum[:4])
}

func (d *durable) started(i CheckpointInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history.begin(i)
}

func (d *durable) update(f func(i *CheckpointInfo)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history.update(f)
}

func (d *durable) newest() CheckpointInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.history.list[len(d.history.list)-1]
}

func (d *durable) stats() CheckpointStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.history.stats()
	s.Enabled, s.Interval = true, d.cfg.Interval
	return s
}

// restoreOne fills the run directory from a checkpoint. What this machine still has of it is not downloaded.
func (d *durable) restoreOne(ctx context.Context, m *checkpoint.Manifest) error {
	if err := os.RemoveAll(d.runDir()); err != nil {
		return fmt.Errorf("clear %s: %w", d.runDir(), err)
	}
	if err := fits(m, d.groups); err != nil {
		return fmt.Errorf("checkpoint %d: %w", m.ID, err)
	}
	began, told := time.Now(), time.Now()
	d.log.Info("restoring checkpoint", "checkpoint", m.ID, "bytes", m.Bytes, "files", len(m.Files))
	err := d.store.Restore(ctx, m, d.runDir(), checkpoint.Local{Dir: d.cutDir(m.ID), Shared: d.sharedDir()}, func(done, total int64) {
		if time.Since(told) > time.Second {
			told = time.Now()
			d.log.Info("restoring checkpoint", "checkpoint", m.ID, "done_bytes", done, "total_bytes", total)
		}
	})
	if err != nil {
		return err
	}
	d.log.Info("restored checkpoint", "checkpoint", m.ID, "bytes", m.Bytes, "duration", time.Since(began).Round(time.Millisecond))
	d.restoredFrom(m, began, "")
	return nil
}

// restoredFrom notes what the job goes on from. savepoint is its location, if it is one.
func (d *durable) restoredFrom(m *checkpoint.Manifest, began time.Time, savepoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history.restored(CheckpointInfo{
		ID: m.ID, Trigger: m.Trigger, Status: CheckpointCompleted, Started: m.Created, Ended: m.Created, Size: m.Bytes, Savepoint: savepoint,
		Restored: time.Now(), RestoreTook: time.Since(began),
	})
}

// token is what a sink had prepared for the checkpoint that was restored.
func (d *durable) token(sink string) []byte {
	if d.restored == nil {
		return nil
	}
	for _, p := range d.restored.Participants {
		if p.Name == sink {
			return p.Token
		}
	}
	return nil
}

// endGrace is how long a process that ends goes on telling the store of a job's end.
const endGrace = 3 * time.Second

// end forgets the job: it is over, and nothing of it will be resumed. It tries for a minute, or for endGrace once closing ends.
func (d *durable) end(closing context.Context, how string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer context.AfterFunc(closing, func() { time.AfterFunc(endGrace, cancel) })()
	for try := 0; ; try++ {
		err := d.store.End(ctx, how)
		var fenced *checkpoint.FencedError
		if err == nil {
			return
		}
		if errors.As(err, &fenced) || !pause(ctx, backoff(try)) {
			d.log.Warn("a job that has ended may be resumed: the store was not told", "error", err)
			return
		}
	}
}
