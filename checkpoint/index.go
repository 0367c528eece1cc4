package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// hashed is what is known about the content of a local file, as long as size and time of the file are these.
type hashed struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Nanos  int64  `json:"mtime_ns"` // of the last modification, since 1970
	SHA256 string `json:"sha256"`

	info fs.FileInfo // of the file; nil: not known
}

// fits says whether the file that info is about is still the one that was hashed.
func (h hashed) fits(info fs.FileInfo) bool {
	return h.Size == info.Size() && h.Nanos == info.ModTime().UnixNano() && (h.info == nil || os.SameFile(h.info, info))
}

// immutable says whether the file was never changed once it was whole: then it is not hashed again, and a restored copy may be
// a hard link.
func immutable(p string) bool {
	return path.Ext(p) == ".sst" || path.Ext(p) == ".blob"
}

// sidecar is the index of a cut directory: what Save knows of its files. It is not synced, so it counts only until the
// machine starts anew; after that the files are hashed.
type sidecar struct {
	Kind  Kind     `json:"kind"`
	Boot  string   `json:"boot"`
	Files []hashed `json:"files"`
}

const kindIndex Kind = "index"

// IndexPath gives the file that Save writes beside the cut directory dir. Whoever removes dir removes it too.
func IndexPath(dir string) string { return filepath.Clean(dir) + ".index" }

// bootFile changes when the machine starts (Linux; elsewhere there is none, and indexes never count).
const bootFile = "/proc/sys/kernel/random/boot_id"

func bootID() string {
	b, err := os.ReadFile(bootFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// writeIndex replaces the index of dir.
func writeIndex(dir string, files []hashed) error {
	body, err := seal(sidecar{Kind: kindIndex, Boot: bootID(), Files: files})
	if err != nil {
		return err
	}
	temp := IndexPath(dir) + ".tmp"
	if err := os.WriteFile(temp, body, 0o666); err != nil {
		return err
	}
	return os.Rename(temp, IndexPath(dir))
}

// readIndex gives the index of dir by path, and whether its times can be trusted. Without an index it is empty.
func readIndex(dir string) (files map[string]hashed, trusted bool) {
	b, err := os.ReadFile(IndexPath(dir))
	if err != nil {
		return nil, false
	}
	body, err := unseal(b)
	if err != nil {
		return nil, false
	}
	var idx sidecar
	if json.Unmarshal(body, &idx) != nil || idx.Kind != kindIndex {
		return nil, false
	}
	files = make(map[string]hashed, len(idx.Files))
	for _, h := range idx.Files {
		files[h.Path] = h
	}
	return files, idx.Boot != "" && idx.Boot == bootID()
}

// scanned is a file of a cut.
type scanned struct {
	path  string // relative, with slashes
	local string
	info  fs.FileInfo
}

// scan lists the files of a cut, ordered by path. Anything but files and directories is an error.
func scan(cut Cut) ([]scanned, error) {
	var files []scanned
	add := func(dir, p string) error {
		if err := ValidPath(p); err != nil {
			return err
		}
		f := scanned{path: p, local: filepath.Join(dir, filepath.FromSlash(p))}
		var err error
		if f.info, err = os.Lstat(f.local); err == nil && !f.info.Mode().IsRegular() {
			err = fmt.Errorf("%s is neither a file nor a directory", f.local)
		}
		files = append(files, f)
		return err
	}
	err := filepath.WalkDir(cut.Dir, func(local string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(cut.Dir, local)
		if err != nil {
			return err
		}
		return add(cut.Dir, filepath.ToSlash(rel))
	})
	for _, p := range cut.SharedFiles {
		if err == nil {
			err = add(cut.Shared, p)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read directory of cut: %w", err)
	}
	slices.SortFunc(files, func(a, b scanned) int { return strings.Compare(a.path, b.path) })
	for i := 1; i < len(files); i++ {
		if a, b := files[i-1], files[i]; a.path == b.path {
			return nil, fmt.Errorf("read directory of cut: %s is there twice: %s and %s", a.path, a.local, b.local)
		}
	}
	return files, nil
}

// copyChunk is how much is read between two looks at the context, bytes: what stays in a core's own cache, because others work
// on as much data as it holds.
const copyChunk = 32 << 10

// copyHashed copies r to w until the end and gives the hash of what it copied. step is told of each piece.
func copyHashed(ctx context.Context, w io.Writer, r io.Reader, step func(n int)) (sha string, size int64, err error) {
	h := sha256.New()
	buf := make([]byte, copyChunk)
	for {
		if err := ctx.Err(); err != nil {
			return "", size, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			h.Write(buf[:n]) // never fails
			if _, werr := w.Write(buf[:n]); werr != nil {
				return "", size, werr
			}
			size += int64(n)
			step(n)
		}
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), size, nil
		}
		if err != nil {
			return "", size, err
		}
	}
}

// hashFile gives the hash of a file whose size must be as announced.
func hashFile(ctx context.Context, local string, size int64) (string, error) {
	f, err := os.Open(local)
	if err != nil {
		return "", fmt.Errorf("hash file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	sha, n, err := copyHashed(ctx, io.Discard, f, func(int) {})
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", local, err)
	}
	if n != size {
		return "", fmt.Errorf("hash %s: it had %d bytes, now %d: a cut must not change", local, size, n)
	}
	return sha, nil
}

// upload creates an object from a file that was hashed. The name is ours alone, so if it exists it is from an earlier try.
func upload(ctx context.Context, b objstore.Bucket, name string, f scanned, sha string) error {
	r, err := os.Open(f.local)
	if err != nil {
		return fmt.Errorf("upload file: %w", err)
	}
	defer r.Close() //nolint:errcheck // it was only read
	if err := b.Create(ctx, name, objstore.Hashed{ReaderAt: r, SHA256: sha}, f.info.Size()); err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("upload %s: %w", f.path, err)
	}
	return f.unchanged(r)
}

// unchanged fails if the file, which is open as r, is not what it was.
func (f scanned) unchanged(r *os.File) error {
	info, err := r.Stat()
	if err != nil {
		return fmt.Errorf("upload %s: %w", f.path, err)
	}
	if info.Size() != f.info.Size() || !info.ModTime().Equal(f.info.ModTime()) {
		return fmt.Errorf("upload %s: the file was changed meanwhile: a cut must not change", f.path)
	}
	return nil
}
