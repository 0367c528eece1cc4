package checkpoint

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// testQuiet is longer than the clock of the tests has gone on.
const testQuiet = time.Hour

// left puts into a bucket what a process leaves whose job has failed: three checkpoints, and an upload that came to nothing.
func left(t *testing.T, b *memory) {
	t.Helper()
	s := claim(t, b, record(t, "first"))
	s.StartOver()
	for id := range int64(3) {
		save(t, s, id, tree{"MANIFEST": string(rune('a' + id)), "always.sst": "the same"})
	}
	b.objects["pre/fix/job/"+fileName(strings.Repeat("ab", 32), 5, NewOwner(began))] = []byte("torn")
	b.objects["pre/fix/other/log/000000000001"] = []byte("of another job")
}

// forgotten checks that of the job there is only its end, and that it can begin anew.
func forgotten(t *testing.T, b *memory) {
	t.Helper()
	if names := b.names("pre/fix/job/"); len(names) != 1 {
		t.Errorf("%v is left", names)
	}
	if !slices.Equal(b.names("pre/fix/other/"), []string{"pre/fix/other/log/000000000001"}) {
		t.Error("another job has lost something")
	}
	delete(b.objects, "pre/fix/other/log/000000000001")
	jobs, err := Jobs(t.Context(), b, "pre/fix")
	if err != nil || len(jobs) != 1 || !jobs[0].Ended || jobs[0].How != "forgotten" || jobs[0].Name != "A job" || jobs[0].JobID != "job-1" {
		t.Errorf("%+v %v", jobs, err)
	}
	s := claim(t, b, record(t, "second"))
	if _, err := s.Newest(); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("after it was forgotten: %v", err)
	}
	s.StartOver()
	save(t, s, 0, tree{"MANIFEST": "anew"})
	check(t, s.Sweep(t.Context()))
	check(t, s.Retire(t.Context()))
	if g := garbage(t, b, "pre/fix/job/"); len(g) > 0 {
		t.Errorf("garbage %v", g)
	}
}

func TestForget(t *testing.T) {
	b := newMemory()
	left(t, b)
	sizes := 0
	for _, name := range b.names("pre/fix/job/") {
		sizes += len(b.objects[name])
	}
	objects := len(b.names("pre/fix/job/"))
	f, err := Forget(t.Context(), testConfig(b), testQuiet)
	if err != nil || f.Objects != objects || f.Bytes != int64(sizes) {
		t.Errorf("%+v of %d objects with %d bytes: %v", f, objects, sizes, err)
	}
	before := maps.Clone(b.objects)
	for range 2 {
		if f, err := Forget(t.Context(), testConfig(b), testQuiet); err != nil || f != (Forgotten{}) {
			t.Errorf("once more: %+v %v", f, err)
		}
	}
	if len(before) != len(b.objects) {
		t.Errorf("%d objects, %d when it was forgotten once more", len(before), len(b.objects))
	}
	forgotten(t, b)
	if f, err := Forget(t.Context(), testConfig(newMemory()), testQuiet); err != nil || f != (Forgotten{}) {
		t.Errorf("a job that never was: %+v %v", f, err)
	}
}

// TestForgetBusy: what another process may be running is left alone; who runs it is fenced if it is forgotten all the same.
func TestForgetBusy(t *testing.T) {
	b := newMemory()
	s := claim(t, b, record(t, "first"))
	s.StartOver()
	save(t, s, 1, tree{"MANIFEST": "1"})
	before := b.names("")
	elsewhere := func(ago time.Duration) Config {
		cfg := testConfig(b)
		cfg.Owner.PID = os.Getpid() + 1
		cfg.Clock = func() time.Time { return began.Add(time.Minute + ago) }
		return cfg
	}
	var busy *BusyError
	if _, err := Forget(t.Context(), elsewhere(59*time.Second), time.Minute); !errors.As(err, &busy) || busy.Owner.PID != os.Getpid() {
		t.Errorf("young: %v", err)
	}
	if !slices.Equal(before, b.names("")) {
		t.Errorf("there was %v, there is %v", before, b.names(""))
	}
	if _, err := Forget(t.Context(), elsewhere(time.Minute), time.Minute); err != nil {
		t.Errorf("old: %v", err)
	}
	var fenced *FencedError
	if _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, tree{"MANIFEST": "2"}), ID: 2}, nil); !errors.As(err, &fenced) {
		t.Errorf("the owner of a forgotten job: %v", err)
	}
	if left := b.names("pre/fix/job/log/"); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

// TestForgetRival: whoever publishes while his job is being forgotten keeps it.
func TestForgetRival(t *testing.T) {
	b := newMemory()
	s := claim(t, b, record(t, "first"))
	s.StartOver()
	save(t, s, 1, tree{"MANIFEST": "1"})
	cfg := testConfig(b)
	st := newStore(cfg)
	top, newest, _, err := st.log.head(t.Context())
	check(t, err)
	save(t, s, 2, tree{"MANIFEST": "2"})
	var busy *BusyError
	if err := st.endAfter(t.Context(), top, newest); !errors.As(err, &busy) || busy.Owner.Attempt != s.cfg.Owner.Attempt {
		t.Errorf("%v", err)
	}
	save(t, s, 3, tree{"MANIFEST": "3"})
}

// TestForgetFaults: each single call of the bucket fails, at each point. Then it is forgotten once more, and all is gone.
func TestForgetFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, f *objstore.Faulty, mem *memory, arm func()) (verify func(call string), attempt error) {
		left(t, mem)
		arm()
		_, err := Forget(t.Context(), testConfig(f), testQuiet)
		return func(call string) {
			again := testConfig(f)
			again.Owner.PID++ // another process
			again.Clock = func() time.Time { return began.Add(3 * time.Hour) }
			if _, err := Forget(t.Context(), again, testQuiet); err != nil {
				t.Errorf("%s: once more: %v", call, err)
			}
			forgotten(t, mem)
			if t.Failed() {
				t.Fatal(call)
			}
		}, err
	})
}
