package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// SavepointConfig says where a savepoint is, or will be.
type SavepointConfig struct {
	Bucket objstore.Bucket
	// Prefix is the savepoint's own directory in the bucket: "" or a name without slash at its end.
	Prefix string
	// Owner is who writes it. Each savepoint needs a new one.
	Owner Owner
	// Parallel bounds the files that are read, uploaded or downloaded at once. Default 4.
	Parallel int
	// Clock gives the times that are written down. Default time.Now.
	Clock func() time.Time
}

func (c SavepointConfig) withDefaults() (SavepointConfig, error) {
	if c.Parallel == 0 {
		c.Parallel = defaultParallel
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	switch {
	case c.Bucket == nil:
		return c, errors.New("savepoint config: no bucket")
	case c.Parallel < 1:
		return c, fmt.Errorf("savepoint config: %d parallel transfers, at least 1 is needed", c.Parallel)
	}
	if err := validRoot(root(c.Prefix)); err != nil {
		return c, fmt.Errorf("savepoint config: prefix %q: %w", c.Prefix, err)
	}
	return c, nil
}

// WriteSavepoint copies a cut and the job's own files to a directory of its own, which belongs to nobody and is never
// garbage. There must be nothing in it. The manifest comes last: without it there is no savepoint. After an error nothing is
// left if the store can be reached; what is left, DisposeSavepoint removes. progress is as in Store.Save.
func WriteSavepoint(ctx context.Context, cfg SavepointConfig, rec Record, cut Cut, progress func(done, total int64)) (*Manifest, Stats, error) {
	start := time.Now()
	m, stats, err := writeSavepoint(ctx, cfg, rec, cut, progress)
	stats.Total = time.Since(start)
	if err != nil {
		return nil, stats, fmt.Errorf("write savepoint to %s: %w", cfg.Prefix, err)
	}
	return m, stats, nil
}

func writeSavepoint(ctx context.Context, cfg SavepointConfig, rec Record, cut Cut, progress func(done, total int64)) (*Manifest, Stats, error) {
	cfg, err := cfg.withDefaults()
	if err == nil {
		err = cfg.Owner.validate()
	}
	if err != nil {
		return nil, Stats{}, err
	}
	for o, err := range cfg.Bucket.List(ctx, root(cfg.Prefix)) {
		if err != nil {
			return nil, Stats{}, err
		}
		return nil, Stats{}, fmt.Errorf("there is %s already: use a new directory, or dispose of the savepoint in it", o.Name)
	}
	state, err := scan(cut)
	if err != nil {
		return nil, Stats{}, err
	}
	own, err := statJob(rec.Files)
	if err != nil {
		return nil, Stats{}, err
	}
	w := savepointWriter{cfg: cfg, made: make(map[string]bool), t: newTransfer(slices.Concat(state, own), progress)}
	m := &Manifest{
		Kind: KindSavepoint, Job: Identity(rec.JobName), JobID: rec.JobID, JobName: rec.JobName, ID: cut.ID, Owner: cfg.Owner,
		Created: cfg.Clock().UTC().Round(0), Trigger: cut.Trigger, MaxParallelism: cut.MaxParallelism, Slots: cut.Slots,
		Participants: cut.Participants, Meta: cut.Meta,
	}
	if err := w.write(ctx, m, state, own, rec); err != nil {
		var unknown *UncertainError
		if !errors.As(err, &unknown) {
			err = errors.Join(err, w.clean(ctx))
		}
		return nil, w.t.stats, err
	}
	return m, w.t.stats, nil
}

// savepointWriter writes one savepoint.
type savepointWriter struct {
	cfg  SavepointConfig
	t    *transfer       // its lock protects made too
	made map[string]bool // objects that we have created, or tried to
}

func (w *savepointWriter) write(ctx context.Context, m *Manifest, state, own []scanned, rec Record) error {
	m.Files, m.JobFiles = make([]File, len(state)), make([]File, len(own))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.cfg.Parallel)
	var small []int
	for i, f := range state {
		if f.info.Size() < smallFile {
			small = append(small, i)
		}
		g.Go(func() (err error) {
			m.Files[i], err = w.hash(gctx, f, RoleState)
			if err == nil && f.info.Size() >= smallFile {
				err = w.store(gctx, f, &m.Files[i])
			}
			return err
		})
	}
	for i, f := range own {
		g.Go(func() (err error) {
			m.JobFiles[i], err = w.hash(gctx, f, rec.Files[i].Role)
			if err == nil {
				err = w.store(gctx, f, &m.JobFiles[i])
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	err := eachPack(ctx, w.cfg.Parallel, small, m.Files, func(ctx context.Context, members []int, buf []byte) error {
		return w.storePack(ctx, members, state, m.Files, buf)
	})
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		m.Bytes += f.Size
	}
	m.Uploaded = w.t.stats.Uploaded
	begin := time.Now()
	defer func() { w.t.stats.Publish = time.Since(begin) }()
	return w.publish(ctx, m)
}

// hash gives a file that has no place yet.
func (w *savepointWriter) hash(ctx context.Context, f scanned, role string) (File, error) {
	begin := time.Now()
	sha, err := hashFile(ctx, f.local, f.info.Size())
	if err != nil {
		return File{}, err
	}
	w.t.hashed(f.info.Size(), time.Since(begin))
	return File{Path: f.path, Role: role, Size: f.info.Size(), SHA256: sha}, nil
}

// name gives the object of a content, which is now ours to remove.
func (w *savepointWriter) name(sha string) string {
	object := savepointFile(sha, w.cfg.Owner)
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.made[object] = true
	return object
}

// store uploads a file as an object of its own.
func (w *savepointWriter) store(ctx context.Context, f scanned, file *File) error {
	begin := time.Now()
	file.Object = w.name(file.SHA256)
	if err := upload(ctx, w.cfg.Bucket, root(w.cfg.Prefix)+file.Object, f, file.SHA256); err != nil {
		return err
	}
	w.t.done(file.Size, true, time.Since(begin))
	return nil
}

// storePack uploads files as one object. A file alone is an object of its own.
func (w *savepointWriter) storePack(ctx context.Context, members []int, found []scanned, files []File, buf []byte) error {
	if i := members[0]; len(members) == 1 {
		return w.store(ctx, found[i], &files[i])
	}
	begin := time.Now()
	pack, sha, err := readPack(buf, members, found, files)
	if err != nil {
		return err
	}
	name := w.name(sha)
	if err := uploadPack(ctx, w.cfg.Bucket, root(w.cfg.Prefix)+name, pack, sha); err != nil {
		return err
	}
	for _, i := range members {
		files[i].Object = name
	}
	w.t.done(int64(len(pack)), true, time.Since(begin))
	return nil
}

// publish creates the manifest. When the answer is lost, it looks.
func (w *savepointWriter) publish(ctx context.Context, m *Manifest) error {
	body, err := m.encode()
	if err != nil {
		return err
	}
	name := root(w.cfg.Prefix) + savepointName
	err = w.cfg.Bucket.Create(ctx, name, bytes.NewReader(body), int64(len(body)))
	if err == nil {
		return nil
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	got, rerr := readObject(look, w.cfg.Bucket, name)
	switch {
	case rerr == nil && bytes.Equal(got, body):
		return nil
	case rerr == nil || errors.Is(err, objstore.ErrExists):
		return fmt.Errorf("publish: %w", errors.Join(err, rerr))
	}
	// It may still come. Its files stay, so that it would be whole.
	return &UncertainError{Checkpoint: m.ID, Err: errors.Join(err, rerr)}
}

// clean removes what we have uploaded for nothing.
func (w *savepointWriter) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	var names []string
	for _, n := range slices.Sorted(maps.Keys(w.made)) {
		names = append(names, root(w.cfg.Prefix)+n)
	}
	if len(names) == 0 {
		return nil
	}
	return w.cfg.Bucket.Delete(ctx, names...)
}

// Savepoint is a savepoint that can be restored.
type Savepoint struct {
	Manifest *Manifest
	cfg      SavepointConfig
}

// OpenSavepoint reads a savepoint's manifest. It fails with ErrNoCheckpoint if there is none, CorruptError or NewerError.
func OpenSavepoint(ctx context.Context, cfg SavepointConfig) (*Savepoint, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	name := root(cfg.Prefix) + savepointName
	body, err := readObject(ctx, cfg.Bucket, name)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, fmt.Errorf("open savepoint %s: %w: %w", cfg.Prefix, ErrNoCheckpoint, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open savepoint: %w", err)
	}
	m, err := DecodeManifest(body)
	switch {
	case errors.As(err, new(*NewerError)):
		return nil, fmt.Errorf("open savepoint %s: %w", name, err)
	case err == nil && m.Kind != KindSavepoint:
		err = fmt.Errorf("it is a %s", m.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("open savepoint: %w", &CorruptError{Object: name, Err: err})
	}
	return &Savepoint{Manifest: m, cfg: cfg}, nil
}

func (p *Savepoint) restorer(dir string) *restorer {
	return &restorer{bucket: p.cfg.Bucket, root: root(p.cfg.Prefix), parallel: p.cfg.Parallel, dir: filepath.Clean(dir), id: p.Manifest.ID}
}

// Restore makes the directory dir with the state, as Store.Restore does.
func (p *Savepoint) Restore(ctx context.Context, dir string, progress func(done, total int64)) error {
	r := p.restorer(dir)
	r.progress = progress
	if _, err := r.run(ctx, p.Manifest.Files); err != nil {
		return fmt.Errorf("restore savepoint %s: %w", p.cfg.Prefix, err)
	}
	return nil
}

// FetchJob makes the directory dir with the job's own files, as Store.FetchJob does.
func (p *Savepoint) FetchJob(ctx context.Context, dir string) (Record, error) {
	files, err := p.restorer(dir).fetchJob(ctx, p.Manifest.JobFiles)
	if err != nil {
		return Record{}, fmt.Errorf("fetch files of savepoint %s: %w", p.cfg.Prefix, err)
	}
	return Record{JobID: p.Manifest.JobID, JobName: p.Manifest.JobName, Files: files}, nil
}

// DisposeSavepoint deletes a savepoint: the manifest first, so that there is none that lacks files. It deletes what a
// savepoint consists of and nothing else, whole or not, and may be repeated. Where there is nothing of a savepoint, it
// fails with ErrNoCheckpoint.
func DisposeSavepoint(ctx context.Context, cfg SavepointConfig) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	dir := root(cfg.Prefix)
	var names []string
	there := false
	for o, err := range cfg.Bucket.List(ctx, dir) {
		if err != nil {
			return fmt.Errorf("list files of savepoint: %w", err)
		}
		name := o.Name[len(dir):]
		there = there || name == savepointName
		if _, ok := parseSavepointFile(name); ok {
			names = append(names, o.Name)
		}
	}
	if !there && len(names) == 0 {
		return fmt.Errorf("there is no savepoint: %w", ErrNoCheckpoint)
	}
	if err := cfg.Bucket.Delete(ctx, dir+savepointName); err != nil {
		return fmt.Errorf("delete manifest of savepoint: %w", err)
	}
	if len(names) > 0 {
		if err := cfg.Bucket.Delete(ctx, names...); err != nil {
			return fmt.Errorf("delete files of savepoint: %w", err)
		}
	}
	return nil
}
