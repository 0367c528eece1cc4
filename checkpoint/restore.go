package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// Local is where the local disk has a Cut, whose files a Restore may use in place of downloading them, as far as the index that
// Save has written beside Dir says that they are the same. The zero value is none.
type Local struct {
	Dir    string
	Shared string // "": all files are in Dir
}

// find gives the name of a file, and what the file system says of it.
func (l Local) find(p string) (name string, info fs.FileInfo, err error) {
	name = filepath.Join(l.Dir, filepath.FromSlash(p))
	info, err = os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) && l.Shared != "" {
		name = filepath.Join(l.Shared, filepath.FromSlash(p))
		info, err = os.Lstat(name)
	}
	return name, info, err
}

// Restore makes the directory dir with the files of the checkpoint m, which Newest gave. dir must not exist, or be empty; it
// appears whole or not at all. Every file's size and hash is verified; what is missing or differs gives a
// CorruptError, and the caller goes on with the next older checkpoint. Files that local has are linked (*.sst, *.blob) or copied.
// progress, if not nil, is told of bytes that are there, by one goroutine at a time.
func (s *Store) Restore(ctx context.Context, m *Manifest, dir string, local Local, progress func(done, total int64)) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.check(); err != nil {
		return fmt.Errorf("restore checkpoint %d: %w", m.ID, err)
	}
	r := s.restorer(dir, m.ID)
	r.local, r.progress = local, progress
	index, err := r.run(ctx, m.Files)
	if err != nil {
		return fmt.Errorf("restore checkpoint %d: %w", m.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var line []int64
	for _, c := range s.candidates() {
		if c.err == nil && c.seq <= m.Seq {
			line = append(line, c.seq)
		}
	}
	s.line = line // newer ones are given up
	s.last, s.settled, s.index = m, true, index
	return nil
}

// FetchJob makes the directory dir with the job's own files and gives the record that a Claim elsewhere, or a savepoint,
// needs. dir must not exist, or be empty.
func (s *Store) FetchJob(ctx context.Context, dir string) (Record, error) {
	rec := Record{JobID: s.claim.JobID, JobName: s.claim.JobName}
	files, err := s.restorer(dir, 0).fetchJob(ctx, s.claim.JobFiles)
	if err != nil {
		return Record{}, fmt.Errorf("fetch files of job %s: %w", s.cfg.Job, err)
	}
	rec.Files = files
	return rec, nil
}

func (s *Store) restorer(dir string, id int64) *restorer {
	return &restorer{bucket: s.cfg.Bucket, root: s.log.dir, parallel: s.cfg.Parallel, dir: filepath.Clean(dir), id: id}
}

// restorer brings files from the store to a directory.
type restorer struct {
	bucket   objstore.Bucket
	root     string // of the job or of the savepoint
	parallel int
	dir      string
	id       int64 // of the checkpoint, for errors
	local    Local // files that may be used
	progress func(done, total int64)

	mu    sync.Mutex // protects done and index; held during progress
	done  int64
	total int64
	index map[string]hashed // immutable files
}

// partSuffix is what a directory is called while it is not complete.
const partSuffix = ".part"

// run makes the directory and gives what is known about its immutable files.
func (r *restorer) run(ctx context.Context, files []File) (map[string]hashed, error) {
	if err := os.Remove(r.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make directory anew: it must not exist, or be empty: %w", err)
	}
	part := r.dir + partSuffix
	if err := os.RemoveAll(part); err != nil {
		return nil, fmt.Errorf("remove remains: %w", err)
	}
	err := r.fill(ctx, part, files)
	if err == nil {
		err = os.Rename(part, r.dir)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(part))
	}
	return r.index, nil
}

func (r *restorer) fill(ctx context.Context, part string, files []File) error {
	if err := os.MkdirAll(part, 0o777); err != nil {
		return err
	}
	r.index = make(map[string]hashed)
	for _, f := range files {
		r.total += f.Size
	}
	missing, err := r.fillLocally(ctx, part, files)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.parallel)
	for _, n := range runs(missing) {
		g.Go(func() error { return r.download(gctx, n, part) })
	}
	return g.Wait()
}

// fillLocally takes from the local disk what is there, and gives the rest.
func (r *restorer) fillLocally(ctx context.Context, part string, files []File) (missing []File, err error) {
	known, trusted := readIndex(r.local.Dir)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.parallel)
	for _, f := range files {
		to := within(part, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		h, ok := known[f.Path]
		if !ok || h.SHA256 != f.SHA256 || h.Size != f.Size {
			r.miss(&missing, f)
			continue
		}
		g.Go(func() error {
			if !r.reuse(gctx, f, h, trusted, to) {
				r.miss(&missing, f)
				return nil
			}
			return r.note(f, to)
		})
	}
	err = g.Wait()
	return missing, err
}

// miss adds a file to those that must be downloaded.
func (r *restorer) miss(missing *[]File, f File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*missing = append(*missing, f)
}

// within gives the place of a file in a directory, which it does not leave: ValidPath.
func within(dir string, f File) string { return filepath.Join(dir, filepath.FromSlash(f.Path)) }

// note keeps what the next Save can use.
func (r *restorer) note(f File, local string) error {
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if immutable(f.Path) {
		r.index[f.Path] = hashed{Path: f.Path, Size: f.Size, Nanos: info.ModTime().UnixNano(), SHA256: f.SHA256, info: info}
	}
	return nil
}

// reuse takes a file from the local directory, if it is the same. What is not linked is hashed on the way.
func (r *restorer) reuse(ctx context.Context, f File, h hashed, trusted bool, to string) bool {
	from, info, err := r.local.find(f.Path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != f.Size {
		return false
	}
	if immutable(f.Path) {
		same := trusted && h.fits(info)
		if !same {
			sha, err := hashFile(ctx, from, f.Size)
			same = err == nil && sha == f.SHA256
		}
		if !same {
			return false
		}
		if os.Link(from, to) == nil {
			r.step(f.Size)
			return true
		}
	}
	src, err := os.Open(from)
	if err != nil {
		return false
	}
	defer src.Close() //nolint:errcheck // it was only read
	return r.receive(ctx, f, src, to) == nil
}

// download brings files from the store.
func (r *restorer) download(ctx context.Context, n run, part string) error {
	size := n.end() - n.from
	if n.end() == n.size {
		size++ // one more than there should be
	}
	src, err := r.bucket.Open(ctx, r.root+n.object, n.from, size)
	if errors.Is(err, objstore.ErrNotExist) {
		return r.corrupt(n.files[0], err)
	}
	if err != nil {
		return fmt.Errorf("download %s: %w", n.files[0].Path, err)
	}
	return errors.Join(r.receiveAll(ctx, n, src, part), src.Close())
}

// receiveAll writes the files of a run, and looks whether the object ends where it should.
func (r *restorer) receiveAll(ctx context.Context, n run, src io.Reader, part string) error {
	at := n.from
	for _, f := range n.files {
		if _, err := io.CopyN(io.Discard, src, f.Offset-at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("download %s: %w", f.Path, err)
		}
		at = f.Offset + f.Size
		to := within(part, f)
		if err := r.receive(ctx, f, io.LimitReader(src, f.Size), to); err != nil {
			return err
		}
		if err := r.note(f, to); err != nil {
			return err
		}
	}
	last := n.files[len(n.files)-1]
	switch more, err := io.CopyN(io.Discard, src, 1); {
	case more > 0:
		return r.corrupt(last, fmt.Errorf("the object has more than %d bytes", n.size))
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("download %s: %w", last.Path, err)
	}
	return nil
}

// receive writes a file and verifies it. After an error nothing is left of it.
func (r *restorer) receive(ctx context.Context, f File, src io.Reader, to string) error {
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	told := int64(0)
	sha, n, err := copyHashed(ctx, w, src, func(n int) {
		told += int64(n)
		r.step(int64(n))
	})
	if err != nil {
		err = fmt.Errorf("download %s: %w", f.Path, err)
	}
	err = errors.Join(err, w.Close())
	switch {
	case err != nil:
	case n != f.Size:
		err = r.corrupt(f, fmt.Errorf("it has %d bytes, should have %d", n, f.Size))
	case sha != f.SHA256:
		err = r.corrupt(f, fmt.Errorf("its hash is %s, should be %s", sha, f.SHA256))
	}
	if err != nil {
		r.step(-told)
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

func (r *restorer) corrupt(f File, err error) error {
	return &CorruptError{Checkpoint: r.id, File: f.Path, Object: r.root + f.Object, Err: err}
}

func (r *restorer) step(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	if r.progress != nil {
		r.progress(r.done, r.total)
	}
}

// fetchJob is run for a job's own files.
func (r *restorer) fetchJob(ctx context.Context, files []File) ([]JobFile, error) {
	if _, err := r.run(ctx, files); err != nil {
		return nil, err
	}
	out := make([]JobFile, 0, len(files))
	for _, f := range files {
		out = append(out, JobFile{Role: f.Role, Path: f.Path, Local: filepath.Join(r.dir, filepath.FromSlash(f.Path))})
	}
	return out, nil
}
