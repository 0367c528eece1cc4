package state

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// lazySync is a file system that does not wait for the disk. A database that was not Cut is of no use after a crash, so only
// the files of a Cut need be on the disk, and SyncCut sees to that when commits no longer wait. (A process that is killed
// loses nothing that it wrote; only a machine does.)
type lazySync struct{ vfs.FS }

// lazyFile is a file whose syncs do nothing.
type lazyFile struct{ vfs.File }

func (lazyFile) Sync() error                { return nil }
func (lazyFile) SyncData() error            { return nil }
func (lazyFile) SyncTo(int64) (bool, error) { return false, nil }

func lazy(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

func (l lazySync) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return lazy(l.FS.Create(name, c))
}

func (l lazySync) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return lazy(l.FS.OpenReadWrite(name, c, opts...))
}

func (l lazySync) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return lazy(l.FS.ReuseForWrite(from, to, c))
}

func (l lazySync) OpenDir(name string) (vfs.File, error) { return lazy(l.FS.OpenDir(name)) }

func (l lazySync) Unwrap() vfs.FS { return l.FS }

// SyncCut waits until a Cut's files are on the disk. Tables that an earlier call has seen are not written again. One call
// at a time.
func (db *DB) SyncCut(dir string) error {
	names, err := db.fs.List(dir)
	if err != nil {
		return fmt.Errorf("sync cut %s: %w", dir, err)
	}
	tables := make(map[string]bool, len(names))
	for _, name := range names {
		table := strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
		if table && db.synced[name] {
			tables[name] = true
			continue
		}
		if err := syncFile(db.fs.Open(filepath.Join(dir, name))); err != nil {
			return fmt.Errorf("sync cut %s: file %s: %w", dir, name, err)
		}
		if table {
			tables[name] = true
		}
	}
	db.synced = tables
	if err := syncFile(db.fs.OpenDir(dir)); err != nil {
		return fmt.Errorf("sync cut %s: %w", dir, err)
	}
	return nil
}

func syncFile(f vfs.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
