package objstore

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/ncw/directio"
)

const (
	// copyChunk is how much is copied between two looks at the context, bytes: a multiple of directio.BlockSize.
	copyChunk = 256 << 10
	// directSize is from which size on a file is written past the page cache, bytes. Nobody reads a checkpoint again soon: its
	// pages would push others out, and to get them from the kernel costs more than all else that is done here.
	directSize = 128 << 10
)

// writeFile makes the file path with all of r, on disk when it returns.
func (d *Dir) writeFile(ctx context.Context, path string, r *io.SectionReader) error {
	if r.Size() >= directSize && !d.buffered.Load() {
		err := d.writeDirect(ctx, path, r)
		if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		d.buffered.Store(true) // this file system has nothing but its cache
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return copyFile(ctx, os.OpenFile, path, r, make([]byte, min(copyChunk, r.Size())), 1)
}

// writeDirect writes past the page cache, which takes whole blocks of aligned memory.
func (d *Dir) writeDirect(ctx context.Context, path string, r *io.SectionReader) error {
	buf, ok := d.chunks.Get().(*[]byte)
	if !ok {
		made := directio.AlignedBlock(copyChunk)
		buf = &made
	}
	defer d.chunks.Put(buf)
	return copyFile(ctx, d.direct, path, r, *buf, directio.BlockSize)
}

// opener is os.OpenFile or directio.OpenFile.
type opener = func(name string, flag int, perm os.FileMode) (*os.File, error)

// copyFile copies by way of buf, in multiples of block, and cuts off what is behind the end.
func copyFile(ctx context.Context, open opener, path string, r *io.SectionReader, buf []byte, block int) (err error) {
	f, err := open(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	for off := int64(0); off < r.Size(); off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(min(int64(len(buf)), r.Size()-off))
		if got, err := r.ReadAt(buf[:n], off); got < n {
			return err
		}
		whole := (n + block - 1) / block * block
		clear(buf[n:whole])
		if _, err := f.Write(buf[:whole]); err != nil {
			return err
		}
	}
	if r.Size()%int64(block) != 0 {
		if err := f.Truncate(r.Size()); err != nil {
			return err
		}
	}
	return f.Sync()
}
