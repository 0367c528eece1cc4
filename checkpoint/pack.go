package checkpoint

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// Small files of a checkpoint are uploaded together, as one object, a pack: a state that changes everywhere has hundreds of
// them, and what an object costs, in a store or in money, does not depend on its size.
const (
	// smallFile is from which size on a file is an object of its own, bytes.
	smallFile = 512 << 10
	// packSize is the most that a pack has, bytes. It is made in memory.
	packSize = 4 << 20
	// thinPack: when less than one in thinPack bytes of a pack is still needed, those are uploaded anew, so that the rest can go.
	thinPack = 4
	// packGap is how much of a pack that is not needed is read, not skipped, bytes: a request takes as long.
	packGap = 256 << 10
)

// storeSmall gives the small files their places: where they are already, or in new packs. The others have theirs.
func (s *Store) storeSmall(ctx context.Context, found []scanned, files []File, seq int64, known map[string]Place, t *transfer) error {
	thin := thinPacks(files, known)
	var missing []int
	for i := range files {
		f := &files[i]
		if f.Size >= smallFile {
			continue
		}
		if at, ok := s.place(f.SHA256, known, thin); ok {
			f.Place = at
			t.done(f.Size, false, 0)
			continue
		}
		missing = append(missing, i)
	}
	return eachPack(ctx, s.cfg.Parallel, missing, files, func(ctx context.Context, members []int, buf []byte) error {
		return s.storePack(ctx, members, found, files, seq, buf, t)
	})
}

// eachPack calls store for the members of each pack, several at once: indexes of files, and memory for them.
func eachPack(ctx context.Context, parallel int, which []int, files []File, store func(ctx context.Context, members []int, buf []byte) error) error {
	var packs [][]int
	room := int64(0)
	for _, i := range which {
		if room -= files[i].Size; len(packs) == 0 || room < 0 {
			packs = append(packs, nil)
			room = packSize - files[i].Size
		}
		last := &packs[len(packs)-1]
		*last = append(*last, i)
	}
	var buffers sync.Pool
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, members := range packs {
		g.Go(func() error {
			buf, ok := buffers.Get().(*[]byte)
			if !ok {
				made := make([]byte, 0, packSize)
				buf = &made
			}
			defer buffers.Put(buf)
			return store(gctx, members, *buf)
		})
	}
	return g.Wait()
}

// thinPacks gives the packs of which files need so little that they are given up.
func thinPacks(files []File, known map[string]Place) map[string]bool {
	needed := make(map[string]int64)
	for sha, size := range sizes(files) {
		if at := known[sha]; at.Pack > 0 {
			needed[at.Object] += size
		}
	}
	thin := make(map[string]bool)
	for _, at := range known {
		if at.Pack > 0 && needed[at.Object] < at.Pack/thinPack {
			thin[at.Object] = true
		}
	}
	return thin
}

// sizes gives the sizes of contents by hash.
func sizes(files []File) map[string]int64 {
	m := make(map[string]int64, len(files))
	for _, f := range files {
		m[f.SHA256] = f.Size
	}
	return m
}

// storePack uploads files as one object. A file alone is an object of its own.
func (s *Store) storePack(ctx context.Context, members []int, found []scanned, files []File, seq int64, buf []byte, t *transfer) error {
	if len(members) == 1 {
		i := members[0]
		at, err := s.storeNew(ctx, found[i], files[i].SHA256, seq, t)
		files[i].Place = at
		return err
	}
	begin := time.Now()
	pack, sha, err := readPack(buf, members, found, files)
	if err != nil {
		return err
	}
	name := fileName(sha, seq, s.cfg.Owner)
	s.mu.Lock()
	s.uploads[name] = seq
	s.mu.Unlock()
	if err := uploadPack(ctx, s.cfg.Bucket, s.log.dir+name, pack, sha); err != nil {
		return err
	}
	s.mu.Lock()
	for _, i := range members {
		files[i].Object = name
		s.ready[files[i].SHA256] = files[i].Place
	}
	s.mu.Unlock()
	t.done(int64(len(pack)), true, time.Since(begin))
	return nil
}

// readPack reads files one behind the other and gives them the places they have in the pack, but for its name; and the pack's
// hash.
func readPack(buf []byte, members []int, found []scanned, files []File) (pack []byte, sha string, err error) {
	pack = buf[:0]
	for _, i := range members {
		files[i].Offset = int64(len(pack))
		if pack, err = appendFile(pack, found[i]); err != nil {
			return nil, "", err
		}
	}
	for _, i := range members {
		files[i].Pack = int64(len(pack))
	}
	sum := sha256.Sum256(pack)
	return pack, hex.EncodeToString(sum[:]), nil
}

// uploadPack creates the object of a pack, which may exist from an earlier try.
func uploadPack(ctx context.Context, b objstore.Bucket, name string, pack []byte, sha string) error {
	err := b.Create(ctx, name, objstore.Hashed{ReaderAt: bytes.NewReader(pack), SHA256: sha}, int64(len(pack)))
	if err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("upload small files: %w", err)
	}
	return nil
}

// appendFile reads a file of a cut.
func appendFile(b []byte, f scanned) ([]byte, error) {
	r, err := os.Open(f.local)
	if err != nil {
		return b, fmt.Errorf("upload file: %w", err)
	}
	defer r.Close() //nolint:errcheck // it was only read
	n := len(b)
	b = slices.Grow(b, int(f.info.Size()))[:n+int(f.info.Size())]
	if _, err := io.ReadFull(r, b[n:]); err != nil {
		return b, fmt.Errorf("upload %s: %w", f.path, err)
	}
	return b, f.unchanged(r)
}

// run is a part of an object that is read at once: files one behind the other, perhaps with gaps.
type run struct {
	object string
	size   int64 // of the object
	from   int64
	files  []File
}

// end is where its last file ends.
func (r run) end() int64 {
	last := r.files[len(r.files)-1]
	return last.Offset + last.Size
}

// runs says how files are read with few requests.
func runs(files []File) []run {
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Offset, b.Offset))
	})
	var out []run
	for _, f := range files {
		if n := len(out); n > 0 && out[n-1].object == f.Object {
			if gap := f.Offset - out[n-1].end(); 0 <= gap && gap <= packGap {
				out[n-1].files = append(out[n-1].files, f)
				continue
			}
		}
		out = append(out, run{object: f.Object, size: max(f.Pack, f.Size), from: f.Offset, files: []File{f}})
	}
	return out
}
