package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// cycle is all that an owner does in its life; it stops at the first error. published is told of each complete checkpoint.
func cycle(ctx context.Context, t *testing.T, b objstore.Bucket, n int64, rec Record, published func(id int64, files tree)) error {
	s, err := Claim(ctx, testConfig(b), rec)
	if err != nil {
		return err
	}
	list, err := s.Newest()
	switch {
	case errors.Is(err, ErrNoCheckpoint):
		s.StartOver()
	case err != nil:
		return err
	default:
		if err := s.Restore(ctx, list[0].Manifest, filepath.Join(t.TempDir(), "to"), Local{}, nil); err != nil {
			return err
		}
	}
	if err := s.Sweep(ctx); err != nil {
		return err
	}
	for i := range int64(4) {
		id := 10*n + i
		files := tree{"MANIFEST": fmt.Sprint(id), "always.sst": "the same", fmt.Sprint(n, ".sst"): fmt.Sprint("of owner ", n)}
		_, _, err := s.Save(ctx, Cut{Dir: writeTree(t, files), ID: id}, nil)
		if unknown := new(UncertainError); errors.As(err, &unknown) {
			var m *Manifest
			if m, err = s.Settle(ctx); err == nil && m == nil {
				err = unknown
			}
		}
		if err != nil {
			return err
		}
		published(id, files)
		if err := s.Retire(ctx); err != nil {
			return err
		}
	}
	return nil
}

// For each single call of the bucket in the life of an owner that comes after another one: when it fails, at each point, the next owner
// finds the newest complete checkpoint and leaves nothing that is not needed.
func TestFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, f *objstore.Faulty, mem *memory, arm func()) (verify func(call string), attempt error) {
		newest := struct {
			id    int64
			files tree
		}{}
		note := func(id int64, files tree) { newest.id, newest.files = id, files }
		check(t, cycle(t.Context(), t, f, 1, record(t, "first"), note))
		crashed(t, mem)
		arm()
		err := cycle(t.Context(), t, f, 2, record(t, "second"), note)
		return func(call string) {
			s := claim(t, f, Record{})
			if id, got := restoreNewest(t, s); id < newest.id || id == newest.id && !maps.Equal(got, newest.files) {
				t.Errorf("%s: restored checkpoint %d, %v; want %d", call, id, got, newest.id)
			}
			check(t, cycle(t.Context(), t, f, 3, Record{}, note))
			if g := garbage(t, f, "pre/fix/job/"); len(g) > 0 {
				t.Errorf("%s: garbage %v", call, g)
			}
		}, err
	})
}

// eachFault lets each single call that an attempt makes fail, before, midway and after it takes effect. The attempt begins with arm,
// and may fail with the injected error only; verify looks at what is left, when nothing fails any more.
func eachFault(t *testing.T, try func(t *testing.T, f *objstore.Faulty, mem *memory, arm func()) (verify func(call string), attempt error)) {
	t.Helper()
	total := 0
	for n := 1; ; n++ {
		calls := 0
		for _, point := range []objstore.Point{objstore.Before, objstore.Midway, objstore.After} {
			mem := newMemory()
			f := objstore.NewFaulty(mem)
			verify, err := try(t, f, mem, func() { f.Fail(n, n, point) })
			if calls = len(f.Calls()); calls < n {
				break
			}
			call := fmt.Sprintf("call %d, %v, %v", n, f.Calls()[n-1], point)
			if err != nil && !errors.Is(err, objstore.ErrInjected) {
				t.Errorf("%s: %v", call, err)
			}
			f.Fail(0, 0, objstore.Before)
			verify(call)
			total++
		}
		if calls < n {
			t.Logf("%d calls at %d points: %d faults", calls, 3, total)
			return
		}
	}
}

// crashed leaves what an owner leaves that died while it uploaded and while it deleted.
func crashed(t *testing.T, mem *memory) {
	t.Helper()
	f := objstore.NewFaulty(mem)
	s := claim(t, f, Record{})
	if _, got := restoreNewest(t, s); got == nil {
		t.Fatal("nothing")
	}
	save(t, s, 18, tree{"MANIFEST": "crashing"})
	f.Fail(4, 100, objstore.Before) // the plan is written, the deletion has begun
	if err := s.Retire(t.Context()); !errors.Is(err, objstore.ErrInjected) {
		t.Fatalf("%v: %v", err, f.Calls())
	}
	f.Fail(2, 100, objstore.Before)
	if _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, tree{"x": "x", "y": "y"})}, nil); !errors.Is(err, objstore.ErrInjected) {
		t.Fatal(err)
	}
	if len(mem.names("pre/fix/job/gc/")) == 0 || len(garbage(t, mem, "pre/fix/job/")) < 2 {
		t.Fatal("it left nothing")
	}
}

// The same for the end of a job: whatever fails, the job is over or it is not, and the next End, or the next job of that name,
// clears up.
func TestFaultsOfEnd(t *testing.T) {
	total := 0
	for n := 1; ; n++ {
		calls := 0
		for _, point := range []objstore.Point{objstore.Before, objstore.Midway, objstore.After} {
			for _, again := range []bool{true, false} {
				mem := newMemory()
				f := objstore.NewFaulty(mem)
				check(t, cycle(t.Context(), t, f, 1, record(t, "first"), func(int64, tree) {}))
				s := claim(t, f, Record{})
				f.Fail(n, n, point)
				err := s.End(t.Context(), "finished")
				if calls = len(f.Calls()); calls < n {
					break
				}
				if err != nil && !errors.Is(err, objstore.ErrInjected) {
					t.Errorf("call %d, %v: %v", n, point, err)
				}
				f.Fail(0, 0, objstore.Before)
				if again {
					check(t, s.End(t.Context(), "finished"))
					if names := mem.names(""); len(names) != 1 {
						t.Errorf("call %d, %v: left %v", n, point, names)
					}
				} else {
					check(t, cycle(t.Context(), t, f, 2, record(t, "anew"), func(int64, tree) {}))
					if g := garbage(t, f, "pre/fix/job/"); len(g) > 0 {
						t.Errorf("call %d, %v: garbage %v", n, point, g)
					}
				}
				total++
			}
		}
		if calls < n {
			t.Logf("%d calls at 3 points, then End again or a new job: %d faults", calls, total)
			return
		}
	}
}

// The same for savepoints: a failed one leaves nothing but after an uncertain answer, and Dispose clears that.
func TestFaultsOfSavepoint(t *testing.T) {
	total := 0
	for n := 1; ; n++ {
		calls := 0
		for _, point := range []objstore.Point{objstore.Before, objstore.Midway, objstore.After} {
			mem := newMemory()
			f := objstore.NewFaulty(mem)
			cfg := SavepointConfig{Bucket: f, Prefix: "save/1", Owner: NewOwner(began)}
			f.Fail(n, n, point)
			files := tree{"a": "1", "b/c.sst": "2"}
			_, _, err := WriteSavepoint(t.Context(), cfg, record(t, "p"), Cut{Dir: writeTree(t, files)}, nil)
			if err == nil {
				var p *Savepoint
				if p, err = OpenSavepoint(t.Context(), cfg); err == nil {
					to := filepath.Join(t.TempDir(), "to")
					if err = p.Restore(t.Context(), to, nil); err == nil {
						sameTree(t, readTree(t, to), files)
						err = DisposeSavepoint(t.Context(), cfg)
					}
				}
			}
			if calls = len(f.Calls()); calls < n {
				check(t, err)
				break
			}
			f.Fail(0, 0, objstore.Before)
			if err := DisposeSavepoint(t.Context(), cfg); err != nil && !errors.Is(err, ErrNoCheckpoint) {
				t.Error(err)
			}
			if names := mem.names(""); len(names) > 0 {
				t.Errorf("call %d, %v: left %v", n, point, names)
			}
			total++
		}
		if calls < n {
			t.Logf("%d calls at 3 points: %d faults", calls, total)
			return
		}
	}
}

// A store that is gone in the middle of a Save leaves it uncertain; Settle tells when the store is back.
func TestUncertain(t *testing.T) {
	for _, published := range []bool{false, true} {
		mem := newMemory()
		f := objstore.NewFaulty(mem)
		s := claim(t, f, record(t, "p"))
		save(t, s, 1, tree{"a": "1"})
		files := tree{"a": "2"}
		f.Fail(2, 100, objstore.Before) // the upload succeeds
		if published {
			f.Fail(2, 100, objstore.After)
		}
		_, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, files), ID: 2}, nil)
		if !errors.As(err, new(*UncertainError)) || !errors.Is(err, objstore.ErrInjected) {
			t.Fatal(err)
		}
		for _, op := range []func() error{
			func() error { return s.Retire(t.Context()) },
			func() error { _, err := s.Settle(t.Context()); return err },
			func() error { _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, files), ID: 3}, nil); return err },
		} {
			if err := op(); !errors.As(err, new(*UncertainError)) {
				t.Error(err)
			}
		}
		f.Fail(0, 0, objstore.Before)
		m, err := s.Settle(t.Context())
		check(t, err)
		if (m != nil) != published || m != nil && m.ID != 2 {
			t.Errorf("settled as %v", m)
		}
		if kinds := kindsOf(t, mem); published == slices.Contains(kinds, KindVoid) {
			t.Error(kinds)
		}
		if m, err := s.Settle(t.Context()); m != nil || err != nil {
			t.Error(m, err)
		}
		save(t, s, 4, files)
		check(t, s.Retire(t.Context()))
		next := claim(t, mem, Record{})
		if list, err := next.Newest(); err != nil || len(list) != 2 && !published || len(list) != 3 && published {
			t.Error(list, err)
		}
	}
}

// kindsOf gives the kinds of the entries in the log.
func kindsOf(t *testing.T, b objstore.Bucket) []Kind {
	t.Helper()
	l := jobLog{bucket: b, dir: "pre/fix/job/", job: "job"}
	seqs, err := l.list(t.Context())
	check(t, err)
	var kinds []Kind
	for _, seq := range seqs {
		e, _, err := l.read(t.Context(), seq)
		check(t, errors.Join(err, e.err))
		kinds = append(kinds, e.m.Kind)
	}
	return kinds
}

// What was uploaded for a checkpoint that failed is in no plan while the next Save may use it.
func TestUploadsOfFailedSave(t *testing.T) {
	f := objstore.NewFaulty(newMemory())
	cfg := testConfig(f)
	cfg.Retain, cfg.Parallel = 1, 1
	s, err := Claim(t.Context(), cfg, Record{})
	check(t, err)
	save(t, s, 1, tree{"a": "1"})
	save(t, s, 2, tree{"a": "2"})
	files := tree{"x": "in the store", "y": "not in the store"}
	f.Fail(2, 2, objstore.Before)
	if _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, files), ID: 3}, nil); !errors.Is(err, objstore.ErrInjected) {
		t.Fatal(err)
	}
	f.Fail(4, 4, objstore.After) // the files are deleted, the answer is lost
	if err := s.Retire(t.Context()); !errors.Is(err, objstore.ErrInjected) || f.Calls()[3].Op != "Delete" {
		t.Fatal(err, f.Calls())
	}
	f.Fail(0, 0, objstore.Before)
	save(t, s, 4, files)
	check(t, s.Retire(t.Context()))
	_, got := restoreNewest(t, claim(t, f, Record{}))
	sameTree(t, got, files)
}

// A claim that has to try again uploads the job's files again: an owner in between may have swept them away.
func TestClaimTriesAgain(t *testing.T) {
	mem := newMemory()
	rec := record(t, "p")
	b := &interrupted{memory: mem}
	b.before = func() {
		b.before = nil
		old := claim(t, mem, record(t, "of another")) // takes the number
		save(t, old, 1, tree{"a": "1"})
		check(t, old.Sweep(t.Context())) // the uploads of the claimer are nobody's
		check(t, old.End(t.Context(), "finished"))
		e := *old.claim // as if its number had been that of another end
		e.Kind, e.JobFiles = KindEnd, nil
		body, err := e.encode()
		check(t, err)
		mem.objects["pre/fix/job/log/000000000001"] = body
	}
	s, err := Claim(t.Context(), testConfig(b), rec)
	check(t, err)
	_, err = s.FetchJob(t.Context(), filepath.Join(t.TempDir(), "job"))
	check(t, err)
}

// interrupted does something before the first entry is made.
type interrupted struct {
	*memory
	before func()
}

func (b *interrupted) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if b.before != nil && strings.Contains(name, "/log/") {
		b.before()
	}
	return b.memory.Create(ctx, name, r, size)
}

// Whoever has saved, and then begins anew or goes back, keeps what he saved until he saves again.
func TestStartOverAfterSave(t *testing.T) {
	mem := newMemory()
	f := objstore.NewFaulty(mem)
	s := claim(t, f, Record{})
	files := tree{"a": "1"}
	save(t, s, 1, files)
	f.Fail(2, 2, objstore.Before)
	if _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, tree{"a": "2"}), ID: 2}, nil); !errors.Is(err, objstore.ErrInjected) {
		t.Fatal(err) // its number is now a void's
	}
	s.StartOver()
	check(t, s.Retire(t.Context()))
	id, got := restoreNewest(t, claim(t, f, Record{}))
	if sameTree(t, got, files); id != 1 {
		t.Error(id)
	}
}
