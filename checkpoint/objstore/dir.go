package objstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ncw/directio"
)

// Dir is a Bucket in a directory, on a local file system or on NFS. Several processes may use one directory at once.
// Files and directories get the permissions that the umask leaves.
type Dir struct {
	root string // absolute

	mu   sync.Mutex      // protects made; not held during file system calls
	made map[string]bool // directories known to be on disk: that saves a sync of their parents for each object

	chunks   sync.Pool   // of *[]byte, copyChunk long and aligned
	buffered atomic.Bool // the file system cannot be written past its cache
	direct   opener      // directio.OpenFile
}

var (
	_ Bucket  = (*Dir)(nil)
	_ Sweeper = (*Dir)(nil)
)

const (
	// tempDir holds what is being written; ValidName keeps objects out of it.
	tempDir = ".tmp"
	// tempStale is how long nobody has written to a temporary file that NewDir removes. A live Create writes all the time.
	tempStale = 10 * time.Minute
	// linkTries bounds how often a Create makes its directory anew when Deletes take it away as empty.
	linkTries = 10
)

// NewDir opens the directory at the absolute path root, makes it if need be, and removes temporary files of crashed Creates.
func NewDir(ctx context.Context, root string) (*Dir, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("open directory %q: not absolute", root)
	}
	d := &Dir{root: filepath.Clean(root), made: make(map[string]bool), direct: directio.OpenFile}
	if err := d.mkdir(filepath.Join(d.root, tempDir)); err != nil {
		return nil, d.wrap("open", "", err)
	}
	if _, err := d.Sweep(ctx, tempStale); err != nil {
		return nil, err
	}
	return d, nil
}

// String gives the URL of the directory.
func (d *Dir) String() string { return d.url("") }

// Close does nothing: a Dir holds nothing open.
func (d *Dir) Close() error { return nil }

// Create writes a temporary file and links it to its name. When it returns nil, the object survives a loss of power.
func (d *Dir) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if err := d.create(ctx, name, r, size); err != nil {
		return d.wrap("create", name, err)
	}
	return nil
}

func (d *Dir) create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if err := validSize(name, size); err != nil {
		return err
	}
	target := d.path(name)
	if err := taken(target); err != nil {
		return err // spares the copy; the link decides
	}
	temp := filepath.Join(d.root, tempDir, rand.Text())
	defer os.Remove(temp) //nolint:errcheck // best effort: Sweep takes what stays
	if err := d.writeFile(ctx, temp, io.NewSectionReader(exact{r}, 0, size)); err != nil {
		return err
	}
	if err := d.link(temp, target); err != nil {
		return err
	}
	return syncDir(filepath.Dir(target))
}

// link gives the file temp the name target, in a directory that a Delete may take away at any time while it is empty.
func (d *Dir) link(temp, target string) error {
	dir := filepath.Dir(target)
	for try := 1; ; try++ {
		err := d.mkdir(dir)
		if err == nil {
			err = os.Link(temp, target)
		}
		switch {
		case errors.Is(err, fs.ErrExist):
			// NFS repeats a request whose answer was lost, and then finds the link that it has made itself.
			if sameFile(temp, target) {
				return nil
			}
			if err := taken(target); err != nil {
				return err
			}
			return ErrExists // and deleted since
		case errors.Is(err, fs.ErrNotExist) && try < linkTries:
			d.forget(dir)
			continue
		}
		return err
	}
}

// taken says why target cannot be created.
func taken(target string) error {
	info, err := os.Lstat(target)
	switch {
	case err != nil:
		return nil
	case info.IsDir():
		return &fs.PathError{Op: "link", Path: target, Err: syscall.EISDIR}
	}
	return ErrExists
}

func sameFile(a, b string) bool {
	ai, aerr := os.Lstat(a)
	bi, berr := os.Lstat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// Open opens the object's file.
func (d *Dir) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := d.open(ctx, name, off, n)
	if err != nil {
		return nil, d.wrap("open", name, err)
	}
	return r, nil
}

func (d *Dir) open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := validRange(name, off); err != nil {
		return nil, err
	}
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotExist // a directory: the name of others' parent
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if n < 0 {
		n = max(info.Size()-off, 0)
	}
	return &dirReader{part: io.NewSectionReader(f, off, n), file: f, check: ctx.Err}, nil
}

// dirReader reads a part of a file until its context ends.
type dirReader struct {
	part  *io.SectionReader
	file  *os.File
	check func() error
}

// Read reads from the part.
func (r *dirReader) Read(p []byte) (int, error) {
	if err := r.check(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.file.Name(), err)
	}
	return r.part.Read(p)
}

// Close closes the file.
func (r *dirReader) Close() error { return r.file.Close() }

// List walks the directories that can hold the prefix. One directory's names are in memory at a time, and those of its
// parents.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if _, err := d.walk(ctx, "", prefix, yield); err != nil {
			yield(Object{}, d.wrap("list", prefix, err))
		}
	}
}

// walk yields the objects below dir ("" or with a slash at its end), and says whether to go on.
func (d *Dir) walk(ctx context.Context, dir, prefix string, yield func(Object, error) bool) (bool, error) {
	entries, err := os.ReadDir(d.path(dir))
	if err != nil && (dir == "" || !errors.Is(err, fs.ErrNotExist)) {
		return false, err // one that a Delete took away meanwhile had nothing in it
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		n := dir + e.Name()
		if ValidName(n) != nil {
			continue
		}
		if e.IsDir() {
			n += "/" // so that it sorts as the names below it do
		}
		if strings.HasPrefix(n, prefix) || strings.HasSuffix(n, "/") && strings.HasPrefix(prefix, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if strings.HasSuffix(n, "/") {
			if more, err := d.walk(ctx, n, prefix, yield); !more || err != nil {
				return false, err
			}
			continue
		}
		info, err := os.Lstat(d.path(n))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular():
			continue
		case err != nil:
			return false, err
		}
		if !yield(Object{Name: n, Size: info.Size(), Modified: info.ModTime()}, nil) {
			return false, nil
		}
	}
	return true, nil
}

// Delete removes the files, and the directories that this leaves empty. It does not wait for the disk: a loss of power may bring back
// what was deleted last.
func (d *Dir) Delete(ctx context.Context, names ...string) error {
	var errs []error
	dirs := make(map[string]bool)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			errs = append(errs, d.wrap("delete", name, err))
			break
		}
		if err := d.remove(name); err != nil {
			errs = append(errs, d.wrap("delete", name, err))
			continue
		}
		dirs[filepath.Dir(d.path(name))] = true
	}
	for dir := range dirs {
		d.prune(dir)
	}
	return errors.Join(errs...)
}

func (d *Dir) remove(name string) error {
	if err := ValidName(name); err != nil {
		return err
	}
	path := d.path(name)
	info, err := os.Lstat(path)
	if err != nil || info.IsDir() {
		return ignore(err, fs.ErrNotExist, syscall.ENOTDIR)
	}
	return ignore(os.Remove(path), fs.ErrNotExist)
}

// prune removes dir and its parents as far as they are empty.
func (d *Dir) prune(dir string) {
	for dir != d.root && syscall.Rmdir(dir) == nil { // not os.Remove, which would remove a file of that name
		d.mu.Lock()
		delete(d.made, dir)
		d.mu.Unlock()
		dir = filepath.Dir(dir)
	}
}

func ignore(err error, targets ...error) error {
	for _, t := range targets {
		if errors.Is(err, t) {
			return nil
		}
	}
	return err
}

// Sweep removes temporary files that nobody has written to for age.
func (d *Dir) Sweep(ctx context.Context, age time.Duration) (int, error) {
	entries, err := os.ReadDir(filepath.Join(d.root, tempDir))
	if err != nil {
		return 0, d.wrap("sweep", "", err)
	}
	n, limit := 0, time.Now().Add(-age)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return n, d.wrap("sweep", "", err)
		}
		info, err := e.Info()
		if err != nil || info.ModTime().After(limit) {
			continue // gone, or in use
		}
		err = os.Remove(filepath.Join(d.root, tempDir, e.Name()))
		if err == nil {
			n++
		} else if !errors.Is(err, fs.ErrNotExist) {
			return n, d.wrap("sweep", "", err)
		}
	}
	return n, nil
}

func (d *Dir) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

func (d *Dir) url(name string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(d.path(name))}).String()
}

// wrap names the object, gives our sentinels for the system's, and the remedy where there is one.
func (d *Dir) wrap(op, name string, err error) error {
	e := &Error{Op: op, URL: d.url(name), Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist) && op == "open" && name != "":
		e.Err = ErrNotExist
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR):
		if name == "" {
			e.Hint = "name a directory"
			break
		}
		if op == "open" {
			e.Err = ErrNotExist
		}
		e.Hint = "an object's name must not be the directory of another"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Hint = "free or add space, or keep fewer checkpoints"
	case errors.Is(err, syscall.EPERM) && errors.As(err, new(*os.LinkError)), errors.Is(err, errors.ErrUnsupported):
		e.Hint = "the file system must have hard links: use another one, or S3"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "this user must own the directory or have write permission in it"
	case errors.Is(err, syscall.EROFS):
		e.Hint = "mount it writable or use another directory"
	}
	return e
}

// mkdir makes dir and its parents, each on disk when it returns.
func (d *Dir) mkdir(dir string) error {
	d.mu.Lock()
	made := d.made[dir]
	d.mu.Unlock()
	if made {
		return nil
	}
	if len(dir) <= len(d.root) { // what is below may be there without being on disk: another process is making it
		if _, err := os.Stat(dir); err == nil {
			return nil
		}
	}
	parent := filepath.Dir(dir)
	if err := d.mkdir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	d.mu.Lock()
	d.made[dir] = true
	d.mu.Unlock()
	return nil
}

// forget drops what is known of dir and its parents: somebody takes them away.
func (d *Dir) forget(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; len(dir) > len(d.root); dir = filepath.Dir(dir) {
		delete(d.made, dir)
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
