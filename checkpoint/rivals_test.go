package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// verdict is what becomes of a call of the bucket.
type verdict int

const (
	proceed    verdict = iota
	failBefore         // nothing done
	failAfter          // done, the answer is lost
	failLater          // a Create fails, and happens some time later
	crash              // the process is gone: this call and all later ones do nothing
)

var errCrashed = errors.New("process crashed")

// gate is the bucket of one process: each call waits for its verdict, so that exactly one process runs at a time.
type gate struct {
	*memory
	asks    chan string
	answers chan verdict
	dead    bool
	later   func(create func()) // takes a Create that happens later
}

// ask gives the error of a call, and whether it takes effect.
func (g *gate) ask(op, name string) (verdict, error) {
	if g.dead {
		return crash, errCrashed
	}
	g.asks <- op + " " + name
	v := <-g.answers
	if v == crash {
		g.dead = true
		return v, errCrashed
	}
	if v != proceed {
		return v, fmt.Errorf("%w: %s", objstore.ErrInjected, op)
	}
	return v, nil
}

func (g *gate) Create(_ context.Context, name string, r io.ReaderAt, size int64) error {
	v, fault := g.ask("Create", name)
	if v == failLater {
		body := make([]byte, size)
		if _, err := r.ReadAt(body, 0); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		g.later(func() {
			_ = g.memory.Create(context.Background(), name, strings.NewReader(string(body)), size)
		})
		return fault
	}
	if v == proceed || v == failAfter {
		if err := g.memory.Create(context.Background(), name, r, size); err != nil {
			return err
		}
	}
	return fault
}

func (g *gate) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if _, err := g.ask("Open", name); err != nil {
		return nil, err
	}
	return g.memory.Open(context.Background(), name, off, n)
}

// List gives two pages; what changes between them is seen in the second.
func (g *gate) List(_ context.Context, prefix string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		if _, err := g.ask("List", prefix); err != nil {
			yield(objstore.Object{}, err)
			return
		}
		names := g.names(prefix)
		first := names[:len(names)/2]
		for _, n := range first {
			if !yield(objstore.Object{Name: n}, nil) {
				return
			}
		}
		if _, err := g.ask("List again", prefix); err != nil {
			yield(objstore.Object{}, err)
			return
		}
		for _, n := range g.names(prefix) {
			if (len(first) == 0 || n > first[len(first)-1]) && !yield(objstore.Object{Name: n}, nil) {
				return
			}
		}
	}
}

func (g *gate) Delete(_ context.Context, names ...string) error {
	v, fault := g.ask("Delete", names[0])
	if v == failBefore || v == failLater {
		names = names[:len(names)/2]
	}
	if v != crash {
		_ = g.memory.Delete(context.Background(), names...)
	}
	return fault
}

// process is one that wants the job.
type process struct {
	gate   *gate
	store  *Store
	done   chan func() // what the world learns of the operation that has ended
	busy   bool
	op     string // the last one
	nextID int64
	saved  bool // or tried to
}

// world is what all processes share, and what is known to be true.
type world struct {
	t        *rapid.T
	tmp      string
	bucket   *memory
	dir      string
	maxSeq   int64
	owner    string              // attempt of the newest valid claim
	newest   *Manifest           // valid checkpoint
	valid    map[int64]*Manifest // entries that were made by the owner of the job at their time
	contents map[string]tree     // of cuts, by attempt and id
	never    map[string]bool     // checkpoints of which Save said that they were not and will not be published
	delayed  []func()
	procs    []*process
	dirs     int
	fenced   int
	saves    int
	wrong    string // what was found first
	trace    []string
}

func cutKey(o Owner, id int64) string { return o.Attempt + "/" + strconv.FormatInt(id, 10) }

// failf notes what is wrong; it may be called by the goroutine of a process, which must not end the test.
func (w *world) failf(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, args...)
	}
}

// created checks each new object against what is true.
func (w *world) created(name string, body []byte) {
	seq, ok := parseLog(strings.TrimPrefix(name, w.dir))
	if !ok {
		return
	}
	m, err := DecodeManifest(body)
	if err != nil {
		w.failf("%s: %v", name, err)
		return
	}
	if seq <= w.maxSeq {
		return // the number was used before: it means nothing, and its author must learn that
	}
	w.maxSeq = seq
	if m.Kind == KindClaim {
		w.owner = m.Owner.Attempt
	}
	if m.Owner.Attempt != w.owner {
		w.failf("%s of %s was published by %s, the owner is %s", m.Kind, name, m.Owner.Attempt, w.owner)
	}
	w.valid[seq] = m
	switch m.Kind {
	case KindCheckpoint:
		if w.never[cutKey(m.Owner, m.ID)] {
			w.failf("checkpoint %d was published after Save had said that it never will be", m.ID)
		}
		w.newest = m
	case KindEnd:
		w.newest = nil
	}
	w.whole(name)
}

// whole checks that the newest checkpoint is there with all its files.
func (w *world) whole(why string) {
	if w.newest == nil {
		return
	}
	for _, f := range append(slices.Concat(w.newest.Files, w.newest.JobFiles), File{Place: Place{Object: logName(w.newest.Seq)}}) {
		if _, ok := w.bucket.objects[w.dir+f.Object]; !ok {
			w.failf("after %s the newest checkpoint, entry %d, lacks %s", why, w.newest.Seq, f.Object)
		}
	}
}

func (w *world) path() string {
	w.dirs++
	return filepath.Join(w.tmp, strconv.Itoa(w.dirs))
}

// cut makes the files of a cut: some that come and go and come back, some that other processes have too, one of its own.
func (w *world) cut(key string) (string, tree) {
	files := tree{"MANIFEST": key, "mode": rapid.SampledFrom([]string{"a", "b"}).Draw(w.t, "mode")}
	for k := range 4 {
		if rapid.Bool().Draw(w.t, "sst") {
			files[fmt.Sprintf("%06d.sst", k)] = fmt.Sprint("content of ", k)
		}
	}
	dir := w.path()
	for p, c := range files {
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.WriteFile(filepath.Join(dir, p), []byte(c), 0o666)); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir, files
}

// start begins an operation of a process that has nothing to do.
func (w *world) start(p *process) {
	op := "claim"
	if p.store != nil {
		op = rapid.SampledFrom([]string{"save", "save", "save", "retire", "retire", "sweep", "restore", "older", "over", "settle", "end", "claim", "quit"}).Draw(w.t, "op")
	}
	var run func() func()
	switch op {
	case "claim", "quit":
		run = w.claim(p)
	case "restore", "older":
		run = w.restore(p, op == "older")
	case "save":
		run = w.save(p)
	default:
		run = w.other(p, op)
	}
	p.busy, p.op = true, op
	go func() { p.done <- run() }()
	w.wait(p)
}

// other is an operation after which there is nothing to check.
func (w *world) other(p *process, op string) func() func() {
	s := p.store
	return func() func() {
		var err error
		switch op {
		case "retire":
			err = s.Retire(context.Background())
		case "sweep":
			err = s.Sweep(context.Background())
		case "over":
			s.StartOver()
		case "settle":
			_, err = s.Settle(context.Background())
		case "end":
			err = s.End(context.Background(), "finished")
		}
		return func() { w.note(err) }
	}
}

func (w *world) note(err error) {
	if errors.As(err, new(*FencedError)) {
		w.fenced++
	}
}

func (w *world) claim(p *process) func() func() {
	dir := w.path()
	text := rapid.SampledFrom([]string{"", "pipeline 1", "pipeline 2"}).Draw(w.t, "pipeline")
	rec := Record{}
	if text != "" {
		local := filepath.Join(dir, "p")
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.WriteFile(local, []byte(text), 0o666)); err != nil {
			w.t.Fatal(err)
		}
		rec = Record{JobID: "1", JobName: "job", Files: []JobFile{{RolePipeline, "p", local}}}
	}
	p.gate = &gate{memory: w.bucket, asks: make(chan string), answers: make(chan verdict),
		later: func(f func()) { w.delayed = append(w.delayed, f) }}
	p.store, p.saved = nil, false
	cfg := testConfig(p.gate)
	cfg.Parallel, cfg.Retain = 1, rapid.IntRange(1, 3).Draw(w.t, "retain")
	return func() func() {
		s, err := Claim(context.Background(), cfg, rec)
		return func() {
			w.note(err)
			if err == nil {
				p.store = s
			}
		}
	}
}

func (w *world) save(p *process) func() func() {
	p.nextID++
	p.saved = true
	id, s := p.nextID, p.store
	key := cutKey(s.cfg.Owner, id)
	dir, files := w.cut(key)
	w.contents[key] = files
	return func() func() {
		m, _, err := s.Save(context.Background(), Cut{Dir: dir, ID: id}, nil)
		return func() {
			w.note(err)
			if err == nil {
				w.saves++
				if v := w.valid[m.Seq]; v == nil || v.Owner != s.cfg.Owner || v.ID != id {
					w.t.Fatalf("Save said that checkpoint %d is entry %d, which is not so", id, m.Seq)
				}
				return
			}
			if errors.As(err, new(*FencedError)) || errors.As(err, new(*UncertainError)) || p.gate.dead {
				return
			}
			for _, v := range w.valid {
				if v.Kind == KindCheckpoint && cutKey(v.Owner, v.ID) == key {
					w.t.Fatalf("Save said that checkpoint %d was not published (%v), it is entry %d", id, err, v.Seq)
				}
			}
			w.never[key] = true
		}
	}
}

// restore restores the newest checkpoint, or the one before: as if the newest were corrupt.
func (w *world) restore(p *process, older bool) func() func() {
	s, to := p.store, w.path()
	fresh := !p.saved
	return func() func() {
		list, err := s.Newest()
		if err != nil {
			return func() {
				if errors.Is(err, ErrNoCheckpoint) && fresh && w.owner == s.cfg.Owner.Attempt && w.newest != nil {
					w.t.Fatalf("there is nothing to restore, not even entry %d: %v", w.newest.Seq, err)
				}
			}
		}
		i := 0
		if older {
			i = len(list) - 1
		}
		m := list[i].Manifest
		err = s.Restore(context.Background(), m, to, Local{}, nil)
		return func() { w.restored(p, m, i, fresh, to, err) }
	}
}

func (w *world) restored(p *process, m *Manifest, i int, fresh bool, to string, err error) {
	owns := w.owner == p.store.cfg.Owner.Attempt
	if i == 0 && owns && fresh && (w.newest == nil || m.Seq != w.newest.Seq) {
		w.t.Fatalf("entry %d was offered as newest", m.Seq)
	}
	if owns && errors.As(err, new(*CorruptError)) {
		w.t.Fatalf("entry %d cannot be restored by the owner: %v", m.Seq, err)
	}
	if err == nil {
		got := readTree(w.t, to)
		if want := w.contents[cutKey(m.Owner, m.ID)]; !maps.Equal(got, want) {
			w.t.Fatalf("restored %v, want %v", got, want)
		}
	}
}

// wait lets a process run until its next call of the bucket, or to the end of its operation.
func (w *world) wait(p *process) {
	select {
	case call := <-p.gate.asks:
		w.trace = append(w.trace, fmt.Sprintf("%d %s %s", slices.Index(w.procs, p), p.op, strings.TrimPrefix(call, w.dir)))
	case learn := <-p.done:
		p.busy = false
		w.trace = append(w.trace, fmt.Sprintf("%d %s ends", slices.Index(w.procs, p), p.op))
		learn()
		if p.gate.dead {
			p.store = nil
		}
	}
	if w.wrong != "" {
		w.t.Fatal(w.wrong)
	}
}

// step does one thing.
func (w *world) step() {
	if len(w.delayed) > 0 && rapid.IntRange(0, 9).Draw(w.t, "late") == 0 {
		i := rapid.IntRange(0, len(w.delayed)-1).Draw(w.t, "which")
		f := w.delayed[i]
		w.delayed = slices.Delete(w.delayed, i, i+1)
		f()
		if w.wrong != "" {
			w.t.Fatal(w.wrong)
		}
		return
	}
	p := w.procs[rapid.IntRange(0, len(w.procs)-1).Draw(w.t, "process")]
	for range rapid.SampledFrom([]int{50, 25, 100, 12, 6, 3, 1}).Draw(w.t, "calls") {
		if !p.busy {
			w.start(p)
			continue
		}
		v := proceed
		switch rapid.IntRange(0, 1000).Draw(w.t, "verdict") {
		case 101, 102, 103:
			v = failBefore
		case 104, 105, 106:
			v = failAfter
		case 107, 108, 109:
			v = failLater
		case 110:
			v = crash
		}
		if v != proceed {
			w.trace = append(w.trace, fmt.Sprintf("  verdict %d", v))
		}
		p.gate.answers <- v
		w.wait(p)
	}
}

// stop crashes all processes.
func (w *world) stop() {
	for _, p := range w.procs {
		for p.busy {
			p.gate.answers <- crash
			select {
			case <-p.gate.asks:
			case <-p.done:
				p.busy = false
			}
		}
	}
}

// last is an owner that nothing happens to: it finds the newest checkpoint, goes on, and leaves no garbage.
func (w *world) last(t *testing.T) {
	s := claim(t, w.bucket, Record{})
	if w.newest != nil {
		want := w.contents[cutKey(w.newest.Owner, w.newest.ID)]
		if _, got := restoreNewest(t, s); !maps.Equal(got, want) {
			w.t.Fatalf("restored %v, want %v", got, want)
		}
	} else if list, err := s.Newest(); !errors.Is(err, ErrNoCheckpoint) {
		w.t.Fatalf("offers %v to restore, %v", list, err)
	}
	check(t, s.Sweep(t.Context()))
	for id := range int64(4) {
		save(t, s, 1000+id, tree{"MANIFEST": strconv.FormatInt(id, 10)})
		check(t, s.Retire(t.Context()))
	}
	if g := garbage(t, w.bucket, w.dir); len(g) > 0 {
		w.t.Fatalf("garbage: %v", g)
	}
	if n := len(w.bucket.names(w.dir + logDir)); n != 4 {
		w.t.Fatalf("%d entries are left, not 3 checkpoints and a claim: %v", n, w.bucket.names(w.dir+logDir))
	}
	check(t, s.End(t.Context(), "finished"))
	if names := w.bucket.names(""); len(names) != 1 || names[0] != w.dir+logName(w.maxSeq) {
		w.t.Fatalf("left after the end: %v", names)
	}
}

// Several processes want one job, in any order of their calls of the bucket, with calls that fail, take effect late or whose answer is
// lost, with crashes, and with processes that sleep at any point and go on when others have long taken over.
func TestRivals(t *testing.T) {
	saves, fenced, runs := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		tmp, err := os.MkdirTemp(t.TempDir(), "run")
		check(t, err)
		defer os.RemoveAll(tmp)
		w := &world{t: rt, tmp: tmp, bucket: newMemory(), dir: root("pre/fix", "job"), valid: make(map[int64]*Manifest),
			contents: make(map[string]tree), never: make(map[string]bool)}
		w.bucket.created = w.created
		w.bucket.deleted = func(name string) { w.whole("Delete of " + name) }
		for range 3 {
			w.procs = append(w.procs, &process{done: make(chan func())})
		}
		defer w.stop()
		defer func() {
			if rt.Failed() {
				rt.Log(strings.Join(w.trace, "\n"))
			}
		}()
		for range rapid.IntRange(10, 30).Draw(rt, "steps") {
			w.step()
		}
		w.stop()
		w.last(t)
		saves, fenced, runs = saves+w.saves, fenced+w.fenced, runs+1
	})
	t.Logf("%d runs: %d checkpoints, %d times fenced", runs, saves, fenced)
}
