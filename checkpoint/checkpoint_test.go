package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// openDir gives a bucket in a directory of the test.
func openDir(t *testing.T) *objstore.Dir {
	t.Helper()
	d, err := objstore.NewDir(t.Context(), t.TempDir())
	check(t, err)
	return d
}

// The life of a job in a directory: three processes, one after the other.
func TestLife(t *testing.T) {
	b := openDir(t)
	cfg := testConfig(b)
	cfg.Unfenced, cfg.Retain = false, 2
	s, err := Claim(t.Context(), cfg, record(t, "the pipeline"))
	check(t, err)
	if _, err := s.Newest(); !errors.Is(err, ErrNoCheckpoint) {
		t.Fatal(err)
	}
	check(t, s.Sweep(t.Context()))
	files := tree{"MANIFEST-1": "m", "000001.sst": strings.Repeat("x", smallFile), "empty": "", "sub/dir/file": "deep"}
	cut := Cut{Dir: writeTree(t, files), ID: 1, Trigger: Manual, MaxParallelism: 128, Slots: 2, Meta: json.RawMessage(`{"watermark": 7}`),
		Participants: []Participant{{Name: "kafka sink", Token: []byte{0, 255, '"'}}}}
	var told []int64
	m, stats, err := s.Save(t.Context(), cut, func(done, total int64) { told = append(told, done, total) })
	check(t, err)
	const total = smallFile + 5
	if stats.Files != 4 || stats.Bytes != total || stats.Uploaded != total || stats.Uploads != 2 || stats.Hashed != total || stats.Total <= 0 {
		t.Errorf("%+v", stats)
	}
	if !slices.Equal(told, []int64{smallFile, total, total, total}) {
		t.Errorf("progress %v", told)
	}
	check(t, s.Retire(t.Context()))
	for id := int64(2); id <= 5; id++ { // the sst is linked, as a cut does
		next := writeTree(t, tree{"MANIFEST-1": fmt.Sprint("m", id)})
		check(t, os.Link(filepath.Join(cut.Dir, "000001.sst"), filepath.Join(next, "000001.sst")))
		_, stats, err := s.Save(t.Context(), Cut{Dir: next, ID: id}, nil)
		check(t, err)
		if stats.Hashed != 2 || stats.Uploaded != 2 || stats.Uploads != 1 {
			t.Errorf("checkpoint %d: %+v", id, stats)
		}
		check(t, s.Retire(t.Context()))
	}

	cfg.Owner = NewOwner(began.Add(time.Hour))
	s2, err := Claim(t.Context(), cfg, Record{}) // knows nothing of the job
	check(t, err)
	list, err := s2.Newest()
	if err != nil || len(list) != 2 || list[0].Manifest.ID != 5 || list[1].Manifest.ID != 4 {
		t.Fatal(list, err)
	}
	if _, _, err := s2.Save(t.Context(), cut, nil); !errors.Is(err, ErrNotRestored) {
		t.Error(err)
	}
	_, got := restoreNewest(t, s2)
	sameTree(t, got, tree{"MANIFEST-1": "m5", "000001.sst": files["000001.sst"]})
	rec, err := s2.FetchJob(t.Context(), filepath.Join(t.TempDir(), "job"))
	check(t, err)
	if rec.JobID != "job-1" || rec.JobName != "A job" || len(rec.Files) != 3 || rec.Files[2].Role != RoleArtifact {
		t.Errorf("%+v", rec)
	}
	if c, err := os.ReadFile(rec.Files[0].Local); string(c) != "the pipeline" || err != nil {
		t.Error(string(c), err)
	}
	_, _, err = s.Save(t.Context(), cut, nil)
	fenced := new(FencedError)
	if !errors.As(err, &fenced) || fenced.Winner != cfg.Owner || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) ||
		!strings.Contains(err.Error(), "2026-01-02T04:04:05Z") {
		t.Error(err)
	}
	for _, op := range []func() error{
		func() error { return s.Retire(t.Context()) },
		func() error { return s.Sweep(t.Context()) },
		func() error { return s.End(t.Context(), "") },
		func() error { return s.Restore(t.Context(), m, t.TempDir(), Local{}, nil) },
	} {
		if err := op(); !errors.As(err, &fenced) {
			t.Error(err)
		}
	}

	jobs, err := Jobs(t.Context(), b, cfg.Prefix)
	if err != nil || len(jobs) != 1 || jobs[0].Job != "job" || jobs[0].Name != "A job" || jobs[0].Newest.ID != 5 || jobs[0].Ended || jobs[0].Owner != cfg.Owner {
		t.Errorf("%+v, %v", jobs, err)
	}
	check(t, s2.End(t.Context(), "cancelled"))
	if _, _, err := s2.Save(t.Context(), cut, nil); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
	if jobs, err = Jobs(t.Context(), b, cfg.Prefix); err != nil || len(jobs) != 1 || !jobs[0].Ended || jobs[0].How != "cancelled" || jobs[0].Newest != nil {
		t.Errorf("%+v, %v", jobs, err)
	}
	cfg.Owner = NewOwner(began)
	s3, err := Claim(t.Context(), cfg, Record{})
	check(t, err)
	if list, err := s3.Newest(); !errors.Is(err, ErrNoCheckpoint) || len(list) > 0 {
		t.Error(list, err)
	}
}

// Of several claims at once exactly one succeeds, and the others learn who it is.
func TestClaimsAtOnce(t *testing.T) {
	for range 20 {
		b := newMemory()
		check(t, claim(t, b, record(t, "p")).Retire(t.Context()))
		const n = 4
		stores, errs := make([]*Store, n), make([]error, n)
		configs := make([]Config, n)
		start, done := make(chan bool), make(chan bool)
		for i := range n {
			configs[i] = testConfig(&listFirst{memory: b, start: start, ready: done})
			go func() {
				stores[i], errs[i] = Claim(context.Background(), configs[i], Record{})
				done <- true
			}()
		}
		for range n {
			<-done // all have seen the same log
		}
		close(start)
		for range n {
			<-done
		}
		winner := slices.IndexFunc(stores, func(s *Store) bool { return s != nil })
		for i := range n {
			fenced := new(FencedError)
			if i != winner && (stores[i] != nil || !errors.As(errs[i], &fenced) || fenced.Winner != configs[winner].Owner) {
				t.Errorf("%v, %v", stores[i], errs[i])
			}
		}
	}
}

// listFirst holds the first claim up until all have listed the log.
type listFirst struct {
	*memory
	start, ready chan bool
}

func (b *listFirst) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	select {
	case <-b.start:
	default:
		b.ready <- true
		<-b.start
	}
	return b.memory.Create(ctx, name, r, size)
}

// Whatever byte of whatever object of the newest checkpoint is flipped: it is noticed and named, and the one before is restored.
func TestFlippedBytes(t *testing.T) {
	b := newMemory()
	s := claim(t, b, record(t, "p"))
	first := tree{"a.sst": "the same", "b": "old"}
	save(t, s, 1, first)
	m := save(t, s, 2, tree{"a.sst": "the same", "b": "new", "c": strings.Repeat("c", 100_000)})
	entry := s.log.dir + logName(m.Seq)
	for i := range b.objects[entry] {
		b.flip(entry, i)
		next := claim(t, b, Record{})
		list, err := next.Newest()
		corrupt := new(CorruptError)
		if err != nil || len(list) != 2 || list[0].Seq != m.Seq || !errors.As(list[0].Err, &corrupt) || corrupt.Object != entry ||
			list[1].Manifest.ID != 1 {
			t.Fatalf("byte %d: %+v, %v", i, list, err)
		}
		b.flip(entry, i)
		check(t, b.Delete(t.Context(), next.log.dir+logName(next.claim.Seq)))
	}
	next := claim(t, b, Record{})
	to := filepath.Join(t.TempDir(), "to")
	for _, f := range m.Files {
		for i := 0; i < int(f.Size); i += 1 + int(f.Size)/20 {
			b.flip(next.log.dir+f.Object, int(f.Offset)+i)
			err := next.Restore(t.Context(), m, to, Local{}, nil)
			corrupt := new(CorruptError)
			if !errors.As(err, &corrupt) || corrupt.File != f.Path || corrupt.Checkpoint != 2 || corrupt.Object != next.log.dir+f.Object {
				t.Errorf("%s, byte %d: %v", f.Path, i, err)
			}
			if left, _ := filepath.Glob(to + "*"); len(left) > 0 {
				t.Errorf("left %v", left)
			}
			b.flip(next.log.dir+f.Object, int(f.Offset)+i)
		}
	}
	for _, change := range []func(body []byte) []byte{
		func([]byte) []byte { return nil },
		func(b []byte) []byte { return b[:len(b)-1] },
		func(b []byte) []byte { return append(slices.Clone(b), 'x') },
	} {
		c := m.Files[slices.IndexFunc(m.Files, func(f File) bool { return f.Path == "c" })]
		whole := b.objects[next.log.dir+c.Object]
		b.objects[next.log.dir+c.Object] = change(whole)
		if err := next.Restore(t.Context(), m, to, Local{}, nil); !errors.As(err, new(*CorruptError)) {
			t.Error(err)
		}
		delete(b.objects, next.log.dir+c.Object)
		if err := next.Restore(t.Context(), m, to, Local{}, nil); !errors.As(err, new(*CorruptError)) || !errors.Is(err, objstore.ErrNotExist) {
			t.Error(err)
		}
		b.objects[next.log.dir+c.Object] = whole
	}
	list, err := next.Newest()
	check(t, err)
	check(t, next.Restore(t.Context(), list[1].Manifest, to, Local{}, nil))
	sameTree(t, readTree(t, to), first)
	// What was passed over goes once there is something better.
	check(t, next.Retire(t.Context()))
	save(t, next, 3, first)
	check(t, next.Retire(t.Context()))
	if list, err = next.Newest(); err != nil || len(list) != 2 || list[0].Manifest.ID != 3 || list[1].Manifest.ID != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if g := garbage(t, b, "pre/fix/job/"); len(g) > 0 {
		t.Error(g)
	}
}

// A sole checkpoint that cannot be read is not taken for none.
func TestOnlyCorrupt(t *testing.T) {
	b := newMemory()
	s := claim(t, b, record(t, "p"))
	m := save(t, s, 1, tree{"a": "1"})
	b.flip(s.log.dir+logName(m.Seq), 50)
	next := claim(t, b, Record{})
	if list, err := next.Newest(); !errors.Is(err, ErrNoCheckpoint) || len(list) != 1 || list[0].Err == nil {
		t.Error(list, err)
	}
	cut := Cut{Dir: writeTree(t, nil), ID: 2}
	if _, _, err := next.Save(t.Context(), cut, nil); !errors.Is(err, ErrNotRestored) {
		t.Error(err)
	}
	next.StartOver()
	_, _, err := next.Save(t.Context(), cut, nil)
	check(t, err)
	jobs, err := Jobs(t.Context(), b, "pre/fix")
	if err != nil || len(jobs) != 1 || jobs[0].Newest.ID != 2 {
		t.Error(jobs, err)
	}
}

// reads counts the Opens of files.
type reads struct {
	*memory
	n *atomic.Int64
}

func (b reads) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if strings.Contains(name, "/files/") {
		b.n.Add(1)
	}
	return b.memory.Open(ctx, name, off, n)
}

// A restore takes from the local cut what is the same, and downloads the rest, wherever the files of the cut are.
func TestRestoreFromLocal(t *testing.T) {
	t.Run("own", func(t *testing.T) { testRestoreFromLocal(t, false) })
	t.Run("shared", func(t *testing.T) { testRestoreFromLocal(t, true) })
}

func testRestoreFromLocal(t *testing.T, shared bool) {
	files := tree{"1.sst": "one", "2.sst": "two", "MANIFEST": "m"}
	at := func(l Local, p string) string {
		name, _, err := l.find(p)
		check(t, err)
		return name
	}
	for _, c := range []struct {
		name      string
		harm      func(l Local) error
		downloads int // requests: all files are in one pack
	}{
		{"intact", func(Local) error { return nil }, 0},
		{"no index", func(l Local) error { return os.Remove(IndexPath(l.Dir)) }, 1},
		{"corrupt index", func(l Local) error { return os.WriteFile(IndexPath(l.Dir), []byte("{}"), 0o666) }, 1},
		{"file gone", func(l Local) error { return os.Remove(at(l, "2.sst")) }, 1},
		{"file changed", func(l Local) error { return os.WriteFile(at(l, "2.sst"), []byte("TWO"), 0o666) }, 1},
		{"other file changed", func(l Local) error { return os.WriteFile(at(l, "MANIFEST"), []byte("M"), 0o666) }, 1},
		{"touched", func(l Local) error {
			return os.Chtimes(at(l, "2.sst"), began, began)
		}, 0},
		{"machine started anew", func(l Local) error {
			idx, _ := readIndex(l.Dir)
			body, err := seal(sidecar{Kind: kindIndex, Boot: "another", Files: slices.Collect(mapValues(idx))})
			return errors.Join(err, os.WriteFile(IndexPath(l.Dir), body, 0o666))
		}, 0},
		{"all gone", func(l Local) error { return errors.Join(os.RemoveAll(l.Dir), os.RemoveAll(l.Shared)) }, 1},
	} {
		var n atomic.Int64
		b := reads{newMemory(), &n}
		s := claim(t, b, Record{})
		cut := Cut{Dir: writeTree(t, files), ID: 1}
		if shared {
			cut = Cut{Dir: writeTree(t, tree{"MANIFEST": "m"}), ID: 1, SharedFiles: []string{"1.sst", "2.sst"},
				Shared: writeTree(t, tree{"1.sst": "one", "2.sst": "two", "3.sst": "of another cut"})}
		}
		local := Local{Dir: cut.Dir, Shared: cut.Shared}
		m, _, err := s.Save(t.Context(), cut, nil)
		check(t, err)
		check(t, c.harm(local))
		next := claim(t, b, Record{})
		to := filepath.Join(t.TempDir(), "to")
		last := int64(0)
		check(t, next.Restore(t.Context(), m, to, local, func(done, total int64) {
			if last = done; total != 7 {
				t.Errorf("total %d", total)
			}
		}))
		sameTree(t, readTree(t, to), files)
		if int(n.Load()) != c.downloads || last != 7 {
			t.Errorf("%s: %d downloads, not %d; %d bytes done", c.name, n.Load(), c.downloads, last)
		}
		if c.name == "intact" {
			a, _ := os.Stat(at(local, "1.sst"))
			b, _ := os.Stat(filepath.Join(to, "1.sst"))
			c, _ := os.Stat(at(local, "MANIFEST"))
			d, _ := os.Stat(filepath.Join(to, "MANIFEST"))
			if !os.SameFile(a, b) || os.SameFile(c, d) {
				t.Error("linked what may change, or not what may not")
			}
		}
		if _, stats, err := next.Save(t.Context(), Cut{Dir: to, ID: 2}, nil); err != nil || stats.Hashed != 1 || stats.Uploads != 0 {
			t.Errorf("%s: save after restore: %+v, %v", c.name, stats, err)
		}
	}
}

func mapValues(m map[string]hashed) func(yield func(hashed) bool) {
	return func(yield func(hashed) bool) {
		for _, h := range m {
			if !yield(h) {
				return
			}
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	b := newMemory()
	s := claim(t, b, Record{})
	m := save(t, s, 1, tree{"a": "1"})
	full := writeTree(t, tree{"x": "y"})
	if err := s.Restore(t.Context(), m, full, Local{}, nil); err == nil || !strings.Contains(err.Error(), "must not exist, or be empty") {
		t.Error(err)
	}
	sameTree(t, readTree(t, full), tree{"x": "y"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Restore(ctx, m, filepath.Join(t.TempDir(), "to"), Local{}, nil); !errors.Is(err, context.Canceled) || errors.As(err, new(*CorruptError)) {
		t.Error(err)
	}
}

// A cancelled Save is certain when it returns, and what it uploaded is used.
func TestCancelledSave(t *testing.T) {
	b := newMemory()
	s := claim(t, b, Record{})
	ctx, cancel := context.WithCancel(t.Context())
	dir := writeTree(t, tree{"a.sst": "1", "b.sst": "22"})
	_, _, err := s.Save(ctx, Cut{Dir: dir, ID: 1}, func(done, total int64) {
		if done == total {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || errors.As(err, new(*UncertainError)) {
		t.Fatal(err)
	}
	_, stats, err := s.Save(t.Context(), Cut{Dir: dir, ID: 2}, nil)
	if err != nil || stats.Uploads != 0 {
		t.Error(stats, err)
	}
}

func TestSavepoint(t *testing.T) {
	b := openDir(t)
	cfg := SavepointConfig{Bucket: b, Prefix: "savepoints/1", Owner: NewOwner(began)}
	files := tree{"1.sst": "x", "2.sst": "x", "MANIFEST": "m"}
	cut := Cut{Dir: writeTree(t, files), ID: 9, Trigger: ForStop, Slots: 3}
	rec := record(t, "p")
	_, stats, err := WriteSavepoint(t.Context(), cfg, rec, cut, nil)
	if err != nil || stats.Files != 6 {
		t.Fatal(stats, err)
	}
	cfg.Owner = NewOwner(began)
	if _, _, err := WriteSavepoint(t.Context(), cfg, rec, cut, nil); err == nil || !strings.Contains(err.Error(), "use a new directory") {
		t.Error(err)
	}
	p, err := OpenSavepoint(t.Context(), cfg)
	check(t, err)
	if p.Manifest.ID != 9 || p.Manifest.Trigger != ForStop || p.Manifest.Slots != 3 || p.Manifest.Bytes != 3 || p.Manifest.Job != "A%20job" {
		t.Errorf("%+v", p.Manifest)
	}
	to := filepath.Join(t.TempDir(), "to")
	check(t, p.Restore(t.Context(), to, nil))
	sameTree(t, readTree(t, to), files)
	got, err := p.FetchJob(t.Context(), filepath.Join(t.TempDir(), "job"))
	if err != nil || len(got.Files) != 3 || got.JobName != "A job" {
		t.Error(got, err)
	}
	s := claim(t, b, got) // a job goes on from it, and shares nothing with it
	s.StartOver()
	save(t, s, 1, files)
	check(t, DisposeSavepoint(t.Context(), cfg))
	if err := DisposeSavepoint(t.Context(), cfg); !errors.Is(err, ErrNoCheckpoint) {
		t.Error(err)
	}
	if _, err := OpenSavepoint(t.Context(), cfg); !errors.Is(err, ErrNoCheckpoint) {
		t.Error(err)
	}
	_, state := restoreNewest(t, claim(t, b, Record{}))
	sameTree(t, state, files)
	cfg.Prefix = "pre/fix/job" // of a job: not a savepoint's to delete
	if err := DisposeSavepoint(t.Context(), cfg); !errors.Is(err, ErrNoCheckpoint) {
		t.Error(err)
	}
}

// A store that overwrites is refused, unless the user insists.
func TestUnfencedStore(t *testing.T) {
	cfg := testConfig(overwriting{newMemory()})
	cfg.Unfenced = false
	if _, err := Claim(t.Context(), cfg, Record{}); !errors.Is(err, objstore.ErrUnfenced) {
		t.Error(err)
	}
	cfg.Unfenced = true
	s, err := Claim(t.Context(), cfg, Record{})
	check(t, err)
	save(t, s, 1, tree{"a": "1"})
}

type overwriting struct{ *memory }

func (b overwriting) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	return errors.Join(b.Delete(ctx, name), b.memory.Create(ctx, name, r, size))
}

func TestConfig(t *testing.T) {
	for want, change := range map[string]func(c *Config){
		"no bucket":                 func(c *Config) { c.Bucket = nil },
		"1 to 1000 are possible":    func(c *Config) { c.Retain = -1 },
		"parallel transfers":        func(c *Config) { c.Parallel = -1 },
		"has a slash: use Identity": func(c *Config) { c.Job = "a/b" },
		"object name":               func(c *Config) { c.Job = "a b" },
		"use NewOwner":              func(c *Config) { c.Owner = Owner{} },
		"deleted by probes":         func(c *Config) { c.Prefix = "probe" },
		"empty component":           func(c *Config) { c.Prefix = "a//b" },
	} {
		cfg := testConfig(newMemory())
		change(&cfg)
		if _, err := Claim(t.Context(), cfg, Record{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	long := strings.Repeat("long name ", 20)
	for name, want := range map[string]string{
		"":              "=",
		"job":           "job",
		"My Job":        "My%20Job",
		"a/b":           "a%2Fb",
		".hidden":       "%2Ehidden",
		"v1.2":          "v1.2",
		"probe":         "%70robe",
		"\u00e4":        "%C3%A4",
		"100%":          "100%25",
		long:            Identity(long),
		long + "other":  Identity(long + "other"),
		"BeamApp-x-123": "BeamApp-x-123",
	} {
		if got := Identity(name); got != want || validJob(got) != nil {
			t.Errorf("identity of %q is %q, want %q: %v", name, got, want, validJob(got))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		if err := validJob(Identity(a)); err != nil || len(Identity(a)) > maxIdentity+1 {
			t.Fatal(err, Identity(a))
		}
		if (a == b) != (Identity(a) == Identity(b)) {
			t.Fatal("two jobs, one identity")
		}
	})
}

// Two jobs whose directories a file system takes for one are told apart.
func TestForeignEntry(t *testing.T) {
	b := newMemory()
	s := claim(t, b, Record{})
	other := newMemory()
	for n, body := range b.objects {
		other.objects[strings.Replace(n, "/job/", "/JOB/", 1)] = body
	}
	cfg := testConfig(other)
	cfg.Job = "JOB"
	if _, err := Claim(t.Context(), cfg, Record{}); err == nil || !strings.Contains(err.Error(), `belongs to the job "job"`) {
		t.Error(err)
	}
	_ = s
}
