package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// ram is a file system in memory, where there is one: these tests make thousands of small directories.
const ram = "/dev/shm"

func TestMain(m *testing.M) {
	if dir, err := os.MkdirTemp(ram, "probe"); err == nil && os.Remove(dir) == nil && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", ram)
	}
	goleak.VerifyTestMain(m)
}

// memory is a Bucket in memory. created and deleted, if not nil, are told of changes while it is locked.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	created func(name string, body []byte)
	deleted func(name string)
}

func newMemory() *memory { return &memory{objects: make(map[string][]byte)} }

func (b *memory) String() string { return "memory" }

func (b *memory) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if err := errors.Join(objstore.ValidName(name), ctx.Err()); err != nil {
		return err
	}
	body := make([]byte, size)
	if n, err := r.ReadAt(body, 0); int64(n) < size {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.objects[name]; ok {
		return fmt.Errorf("create %s: %w", name, objstore.ErrExists)
	}
	b.objects[name] = body
	if b.created != nil {
		b.created(name, body)
	}
	return nil
}

func (b *memory) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.objects[name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, objstore.ErrNotExist)
	}
	end := int64(len(body))
	off = min(off, end)
	if n >= 0 {
		end = min(end, off+n)
	}
	return io.NopCloser(bytes.NewReader(body[off:end])), ctx.Err()
}

func (b *memory) List(ctx context.Context, prefix string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		for _, n := range b.names(prefix) {
			b.mu.Lock()
			size := int64(len(b.objects[n]))
			b.mu.Unlock()
			if !yield(objstore.Object{Name: n, Size: size}, nil) {
				return
			}
		}
	}
}

func (b *memory) names(prefix string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for n := range b.objects {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func (b *memory) Delete(ctx context.Context, names ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range names {
		if _, ok := b.objects[n]; ok {
			delete(b.objects, n)
			if b.deleted != nil {
				b.deleted(n)
			}
		}
	}
	return ctx.Err()
}

// flip turns one bit of an object.
func (b *memory) flip(name string, i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body := bytes.Clone(b.objects[name])
	body[i] ^= 1 << (i % 8)
	b.objects[name] = body
}

// garbage gives what is in the bucket and that no entry of the job needs: entries themselves are needed.
func garbage(t testing.TB, b objstore.Bucket, dir string) []string {
	t.Helper()
	needed, all := map[string]bool{}, []string{}
	for o, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o.Name)
		if seq, ok := parseLog(strings.TrimPrefix(o.Name, dir)); ok {
			needed[o.Name] = true
			e, _, err := jobLog{bucket: b, dir: dir, job: strings.Trim(dir[strings.LastIndex(dir[:len(dir)-1], "/")+1:], "/")}.read(t.Context(), seq)
			if err != nil || e.err != nil {
				t.Fatal(err, e.err)
			}
			for _, f := range slices.Concat(e.m.Files, e.m.JobFiles) {
				needed[dir+f.Object] = true
			}
		}
	}
	return slices.DeleteFunc(all, func(n string) bool { return needed[n] })
}

// tree is the content of a directory, by path with slashes.
type tree map[string]string

func writeTree(t testing.TB, files tree) string {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "cut")
	if err != nil {
		t.Fatal(err)
	}
	fillTree(t, dir, files)
	return dir
}

func fillTree(t testing.TB, dir string, files tree) {
	t.Helper()
	for p, c := range files {
		p = filepath.Join(dir, filepath.FromSlash(p))
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o777), os.WriteFile(p, []byte(c), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
}

func readTree(t fatal, dir string) tree {
	t.Helper()
	files := tree{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		files[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func sameTree(t testing.TB, got, want tree) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("restored\n%v, want\n%v", got, want)
	}
}

// began is when all owners of the tests began.
var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testConfig(b objstore.Bucket) Config {
	return Config{Bucket: b, Prefix: "pre/fix", Job: "job", Owner: NewOwner(began), Unfenced: true,
		Clock: func() time.Time { return began.Add(time.Minute) }}
}

func claim(t testing.TB, b objstore.Bucket, rec Record) *Store {
	t.Helper()
	s, err := Claim(t.Context(), testConfig(b), rec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func save(t testing.TB, s *Store, id int64, files tree) *Manifest {
	t.Helper()
	m, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, files), ID: id, Trigger: Periodic}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// restoreNewest restores the newest checkpoint and gives its id and content.
func restoreNewest(t testing.TB, s *Store) (int64, tree) {
	t.Helper()
	list, err := s.Newest()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if err := s.Restore(t.Context(), list[0].Manifest, dir, Local{}, nil); err != nil {
		t.Fatal(err)
	}
	return list[0].Manifest.ID, readTree(t, dir)
}

// record gives a job of some files.
func record(t testing.TB, pipeline string) Record {
	t.Helper()
	dir := writeTree(t, tree{"pipeline.pb": pipeline, "artifacts/wheel": "wheel", "options.json": "{}"})
	return Record{JobID: "job-1", JobName: "A job", Files: []JobFile{
		{RolePipeline, "pipeline.pb", filepath.Join(dir, "pipeline.pb")},
		{RoleOptions, "options.json", filepath.Join(dir, "options.json")},
		{RoleArtifact, "artifacts/wheel", filepath.Join(dir, "artifacts/wheel")},
	}}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fatal is of testing.TB and rapid.T what readTree needs.
type fatal interface {
	Helper()
	Fatal(args ...any)
}

// sealText gives any text the last line that fits.
func sealText(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return fmt.Appendf([]byte(text), "%s%x\n", integrity, sum)
}
