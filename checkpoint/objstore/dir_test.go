package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tempRoot is a directory in memory where there is one: syncing the disk a thousand times is not what is tested.
func tempRoot(t testing.TB) string {
	if dir, err := os.MkdirTemp("/dev/shm", "objstore"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

func openDir(t testing.TB, root string) *Dir {
	d, err := NewDir(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDirConforms(t *testing.T) {
	conform(t, func(t *testing.T) Bucket {
		d := openDir(t, filepath.Join(tempRoot(t), "made", "by", "it"))
		t.Cleanup(func() {
			if left, _ := os.ReadDir(filepath.Join(d.root, tempDir)); len(left) > 0 {
				t.Errorf("temporary files are left: %v", left)
			}
		})
		return d
	})
}

// Objects are as long as they should be, in memory and on a disk, where large ones are written past the page cache in whole blocks,
// and where that cannot be done.
func TestDirSizes(t *testing.T) {
	for _, tt := range []struct {
		name, root string
		direct     error
	}{
		{"memory", tempRoot(t), nil}, {"disk", t.TempDir(), nil},
		{"cache only", t.TempDir(), syscall.EINVAL}, {"cache only, said otherwise", t.TempDir(), syscall.EOPNOTSUPP},
	} {
		d := openDir(t, tt.root)
		if tt.direct != nil {
			d.direct = func(path string, flag int, perm os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(path, flag, perm)
				return f, errors.Join(&os.PathError{Op: "open", Path: path, Err: tt.direct}, err, f.Close())
			}
		}
		for _, size := range []int64{0, 1, directSize - 1, directSize, directSize + 1, copyChunk, copyChunk + 1, 2*copyChunk - 1} {
			name := fmt.Sprint(size)
			if err := d.Create(t.Context(), name, pattern(byte(size)), size); err != nil {
				t.Fatal(err)
			}
			want := make([]byte, size)
			_, _ = pattern(byte(size)).ReadAt(want, 0)
			if got, err := os.ReadFile(filepath.Join(tt.root, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s: %d bytes, %v", tt.name, name, len(got), err)
			}
		}
		if tt.direct != nil && !d.buffered.Load() {
			t.Errorf("%s: it goes on trying", tt.name)
		}
	}
}

// Two processes with one directory: what one deletes and prunes, the other must not miss.
func TestDirShared(t *testing.T) {
	root := tempRoot(t)
	a, b := openDir(t, root), openDir(t, root)
	for range 200 {
		done := make(chan error)
		go func() { done <- b.Delete(t.Context(), "job/d/old") }()
		put(t, a, "job/d/new", "x")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := create(t.Context(), b, "job/d/new", nil); !errors.Is(err, ErrExists) {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), "job/d/new"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "job")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("an empty directory is left: %v", err)
		}
		put(t, b, "job/d/old", "x")
	}
}

// Directories that are left need not be made, and synced, again for the next object.
func TestDirRemembersItsParents(t *testing.T) {
	root := tempRoot(t)
	d := openDir(t, root)
	put(t, d, "job/files/a/1", "x")
	put(t, d, "job/files/b/2", "x")
	if err := d.Delete(t.Context(), "job/files/a/1"); err != nil {
		t.Fatal(err)
	}
	for name, known := range map[string]bool{"job": true, "job/files": true, "job/files/a": false, "job/files/b": true} {
		if d.made[filepath.Join(root, name)] != known {
			t.Errorf("%s: known is %t", name, !known)
		}
	}
	put(t, d, "job/files/a/3", "x")
	if err := os.RemoveAll(filepath.Join(root, "job")); err != nil { // as another process may, when all of it is empty
		t.Fatal(err)
	}
	put(t, d, "job/files/c/4", "x")
}

func TestDirSweep(t *testing.T) {
	root := tempRoot(t)
	openDir(t, root)
	old, fresh := filepath.Join(root, tempDir, "old"), filepath.Join(root, tempDir, "fresh")
	for _, f := range []string{old, fresh} {
		if err := os.WriteFile(f, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-2 * tempStale)
	if err := os.Chtimes(old, before, before); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, root)
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the crashed one's is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("the live one's is gone: %v", err)
	}
	if got := list(t, d, ""); len(got) != 0 {
		t.Errorf("temporary files are listed: %v", got)
	}
	if n, err := d.Sweep(t.Context(), 0); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
}

func TestDirIgnoresForeignFiles(t *testing.T) {
	root := tempRoot(t)
	d := openDir(t, root)
	put(t, d, "ours", "x")
	for _, name := range []string{".hidden", "lost and found", "caf\u00e9"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if got := list(t, d, ""); !slices.Equal(got, []string{"ours"}) {
		t.Error(got)
	}
}

func TestDirErrors(t *testing.T) {
	root := tempRoot(t)
	d := openDir(t, root)
	put(t, d, "a", "x")
	put(t, d, "b/c", "x")
	for name, err := range map[string]error{
		"a/b": create(t.Context(), d, "a/b", nil),
		"b":   create(t.Context(), d, "b", nil),
	} {
		if err == nil || errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "must not be the directory of another") ||
			!strings.Contains(err.Error(), "file://"+root+"/"+name) {
			t.Errorf("create %s: %v", name, err)
		}
	}
	if _, err := NewDir(t.Context(), "relative"); err == nil {
		t.Error("a relative root was accepted")
	}
	if _, err := NewDir(t.Context(), filepath.Join(root, "a")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file as root: %v", err)
	}
	for want, cause := range map[string]error{
		"free or add space":    syscall.ENOSPC,
		"must have hard links": &os.LinkError{Op: "link", Err: syscall.EPERM},
		"write permission":     syscall.EACCES,
		"mount it writable":    syscall.EROFS,
	} {
		if err := d.wrap("create", "name", cause); !strings.Contains(err.Error(), want) || !errors.Is(err, cause) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestDirDeleteStopsWithContext(t *testing.T) {
	d := openDir(t, tempRoot(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Delete(ctx, "a", "b", "c"); !errors.Is(err, context.Canceled) || strings.Count(err.Error(), "\n") > 0 {
		t.Error(err)
	}
}
