package state

import "github.com/cockroachdb/pebble/v2/vfs"

// lazySync is a file system that does not wait for the disk. A process that is killed loses nothing that it wrote; only a
// machine does, and whoever trusts a Cut after that must look at its content.
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
