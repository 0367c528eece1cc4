package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conform checks that a Bucket keeps what its documentation promises. open gives an empty one.
func conform(t *testing.T, open func(t *testing.T) Bucket) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b Bucket)
	}{
		{"ranges", testRanges},
		{"create once", testCreateOnce},
		{"race", testRace},
		{"missing", testMissing},
		{"list", testList},
		{"delete", testDelete},
		{"bad names", testBadNames},
		{"short source", testShortSource},
		{"cancelled", testCancelled},
		{"cancelled create", testCancelCreate},
		{"cancelled read", testCancelRead},
		{"large", testLarge},
		{"probe", testProbe},
		{"model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			c.run(t, b)
			if names := list(t, b, "probe"); len(names) > 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

func put(t testing.TB, b Bucket, name, content string) {
	t.Helper()
	if err := create(t.Context(), b, name, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func read(ctx context.Context, b Bucket, name string, off, n int64) (string, error) {
	r, err := b.Open(ctx, name, off, n)
	if err != nil {
		return "", err
	}
	got, err := io.ReadAll(r)
	return string(got), errors.Join(err, r.Close())
}

func list(t testing.TB, b Bucket, prefix string) []string {
	t.Helper()
	var names []string
	for o, err := range b.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Name)
	}
	return names
}

func testRanges(t *testing.T, b Bucket) {
	put(t, b, "dir/object", "0123456789")
	put(t, b, "empty", "")
	for _, c := range []struct {
		name   string
		off, n int64
		want   string
	}{
		{"dir/object", 0, -1, "0123456789"},
		{"dir/object", 0, 10, "0123456789"},
		{"dir/object", 0, 100, "0123456789"},
		{"dir/object", 3, -1, "3456789"},
		{"dir/object", 3, 4, "3456"},
		{"dir/object", 8, 4, "89"},
		{"dir/object", 9, 1, "9"},
		{"dir/object", 10, 1, ""},
		{"dir/object", 10, -1, ""},
		{"dir/object", 11, 5, ""},
		{"dir/object", 2, 0, ""},
		{"empty", 0, -1, ""},
		{"empty", 0, 0, ""},
		{"empty", 0, 5, ""},
		{"empty", 1, -1, ""},
	} {
		got, err := read(t.Context(), b, c.name, c.off, c.n)
		if err != nil || got != c.want {
			t.Errorf("%s from %d, %d bytes: %q, %v; want %q", c.name, c.off, c.n, got, err, c.want)
		}
	}
	if _, err := read(t.Context(), b, "dir/object", -1, 1); err == nil {
		t.Error("a negative offset was accepted")
	}
}

func testCreateOnce(t *testing.T, b Bucket) {
	put(t, b, "name", "first")
	for _, second := range []string{"first", "", "second, and longer"} {
		err := create(t.Context(), b, "name", []byte(second))
		if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "/name") {
			t.Errorf("second create: %v", err)
		}
	}
	if got, err := read(t.Context(), b, "name", 0, -1); got != "first" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func testRace(t *testing.T, b Bucket) {
	for round := range 3 {
		name := fmt.Sprintf("race/%d", round)
		var wg sync.WaitGroup
		errs := make([]error, 4) // no more than S3 sends at once
		var start sync.WaitGroup
		start.Add(len(errs))
		for i := range errs {
			wg.Go(func() {
				meet := sync.OnceFunc(func() { start.Done(); start.Wait() })
				errs[i] = b.Create(t.Context(), name, &trip{ReaderAt: strings.NewReader(fmt.Sprint(i)), n: 1, call: meet}, 1)
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("%d and %d both created %s", winner, i, name)
			case err == nil:
				winner = i
			case !errors.Is(err, ErrExists):
				t.Fatal(err)
			}
		}
		if got, err := read(t.Context(), b, name, 0, -1); err != nil || got != fmt.Sprint(winner) {
			t.Fatalf("%d won, the object has %q, %v", winner, got, err)
		}
	}
}

func testMissing(t *testing.T, b Bucket) {
	put(t, b, "dir/object", "x")
	for _, name := range []string{"nothing", "dir/nothing", "dir", "no/such/dir", "dir/object/below"} {
		for _, n := range []int64{-1, 0, 5} {
			_, err := read(t.Context(), b, name, 0, n)
			if !errors.Is(err, ErrNotExist) || !strings.Contains(err.Error(), name) {
				t.Errorf("open %s: %v", name, err)
			}
		}
		if err := b.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if got := list(t, b, ""); !slices.Equal(got, []string{"dir/object"}) {
		t.Error(got)
	}
}

func testList(t *testing.T, b Bucket) {
	if got := list(t, b, ""); len(got) != 0 {
		t.Fatalf("not empty: %v", got)
	}
	// In this order, which is not that of a walk over directories: '-' and '.' are less than '/'.
	names := []string{"A", "a-b", "a-c/d", "a.b", "a/b", "a/c/d", "a0", "b"}
	for _, n := range slices.Backward(names) {
		put(t, b, n, n)
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/c", "a/c/", "a-", "A", "nothing", "a/nothing/", "b/", "../", "/"} {
		var want []string
		for _, n := range names {
			if strings.HasPrefix(n, prefix) {
				want = append(want, n)
			}
		}
		if got := list(t, b, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %v, want %v", prefix, got, want)
		}
	}
	for o, err := range b.List(t.Context(), "a/c") {
		if err != nil || o.Size != int64(len(o.Name)) || o.Modified.IsZero() {
			t.Errorf("%+v, %v", o, err)
		}
	}
	for range b.List(t.Context(), "") {
		break // must not go on
	}
}

func testDelete(t *testing.T, b Bucket) {
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("d%d/%02d", i%3, i))
		put(t, b, names[i], "x")
	}
	if err := b.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Delete(t.Context(), append([]string{"nothing", "d0/nothing"}, names[5:]...)...); err != nil {
		t.Error(err)
	}
	got, want := list(t, b, ""), slices.Clone(names[:5])
	if sort.Strings(want); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := b.Delete(t.Context(), names...); err != nil {
		t.Error(err)
	}
	put(t, b, names[0], "again")
	if got, err := read(t.Context(), b, names[0], 0, -1); got != "again" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func testBadNames(t *testing.T, b Bucket) {
	for _, name := range badNames() {
		if err := create(t.Context(), b, name, nil); err == nil || errors.Is(err, ErrExists) {
			t.Errorf("create %q: %v", name, err)
		}
		if _, err := b.Open(t.Context(), name, 0, -1); err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("open %q: %v", name, err)
		}
		if err := b.Delete(t.Context(), name); err == nil {
			t.Errorf("delete %q succeeded", name)
		}
	}
	if err := b.Create(t.Context(), "negative", strings.NewReader(""), -1); err == nil {
		t.Error("a negative size was accepted")
	}
}

func badNames() []string {
	return []string{"", "/", "/abs", "a/", "a//b", ".", "..", "../up", "a/../b", "a/./b", ".hidden", "a/.tmp", "a\\b", "a b", "a\x00b",
		"a\nb", "\u00fc", "a?b", "a#b", strings.Repeat("n", maxComponent+1), strings.Repeat("n/", maxName/2) + "n"}
}

func testShortSource(t *testing.T, b Bucket) {
	for _, size := range []int{11, minPart + 1000, 2*minPart + 1000} {
		err := b.Create(t.Context(), "short", bytes.NewReader(make([]byte, size-1)), int64(size))
		if !errors.Is(err, errShort) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if got := list(t, b, ""); len(got) > 0 {
		t.Errorf("it left %v", got)
	}
}

func testCancelled(t *testing.T, b Bucket) {
	put(t, b, "object", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs := map[string]error{
		"create": create(ctx, b, "other", []byte("x")),
		"large":  b.Create(ctx, "large", pattern(0), 3*minPart),
		"delete": b.Delete(ctx, "object"),
	}
	_, errs["open"] = read(ctx, b, "object", 0, -1)
	for _, err := range b.List(ctx, "") {
		errs["list"] = err
	}
	for op, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if got := list(t, b, ""); !slices.Equal(got, []string{"object"}) {
		t.Error(got)
	}
}

// pattern gives an endless source of bytes that depend on their offset and on the seed. Its period is no divisor of a
// part's size, so that swapped parts are seen.
func pattern(seed byte) io.ReaderAt {
	content := make([]byte, 1<<16+1)
	rand.NewChaCha8([32]byte{seed}).Read(content)
	return repeated{content}
}

// repeated is its content over and over.
type repeated struct{ content []byte }

func (r repeated) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		n += copy(p[n:], r.content[(off+int64(n))%int64(len(r.content)):])
	}
	return len(p), nil
}

// trip calls a function when an offset is read for the n-th time: a body is read once for its hash and once to be sent.
type trip struct {
	io.ReaderAt
	off  int64
	mu   sync.Mutex
	n    int
	call func()
}

func (r *trip) ReadAt(p []byte, off int64) (int, error) {
	if off <= r.off && r.off < off+int64(len(p)) {
		r.mu.Lock()
		if r.n--; r.n == 0 {
			r.call()
		}
		r.mu.Unlock()
	}
	return r.ReaderAt.ReadAt(p, off)
}

func testCancelCreate(t *testing.T, b Bucket) {
	times := 1
	_, remote := b.(*S3)
	if remote {
		times = 2
	}
	for i, size := range []int64{minPart - 1, 3 * minPart} {
		ctx, cancel := context.WithCancel(t.Context())
		name := fmt.Sprint("large", i)
		err := b.Create(ctx, name, &trip{ReaderAt: pattern(0), off: size / 2, n: times, call: cancel}, size)
		if cancel(); !errors.Is(err, context.Canceled) {
			t.Errorf("size %d: %v", size, err)
		}
		for o, err := range b.List(t.Context(), "") {
			// The rest of a single request's body may have been on its way: the object then appears, and is whole.
			if err != nil || !remote || o.Name != "large0" || o.Size != minPart-1 {
				t.Errorf("size %d: it left %v, %v", size, o, err)
			}
		}
	}
	// Parts on their way can bring an aborted upload back: rarely, and not for long.
	for n, tries := 1, 0; n > 0; tries++ {
		var err error
		if n, err = b.(Sweeper).Sweep(t.Context(), 0); err != nil || n > 0 && (!remote || tries == 10) {
			t.Fatalf("it left %d remains, %v", n, err)
		}
	}
}

func testCancelRead(t *testing.T, b Bucket) {
	const size = 8 << 20
	if err := b.Create(t.Context(), "large", pattern(0), size); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := b.Open(ctx, "large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) || n >= size-100 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func testLarge(t *testing.T, b Bucket) {
	const size = 3*minPart + 12345
	if err := b.Create(t.Context(), "dir/large", pattern(7), size); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "dir/large", pattern(8), size); !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v", err)
	}
	want := make([]byte, size)
	pattern(7).ReadAt(want, 0)
	for _, off := range []int64{0, minPart - 5, 2*minPart + 1} {
		got, err := read(t.Context(), b, "dir/large", off, size)
		if err != nil || got != string(want[off:]) {
			t.Errorf("from %d: %d bytes, %v, right: %v", off, len(got), err, got == string(want[off:]))
		}
	}
}

func testProbe(t *testing.T, b Bucket) {
	put(t, b, "object", "x")
	if err := Probe(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got := list(t, b, ""); !slices.Equal(got, []string{"object"}) {
		t.Errorf("after the probe there is %v", got)
	}
}

// testModel compares random calls with a map.
func testModel(t *testing.T, b Bucket) {
	names := []string{"a/b", "a/c", "a/d/e", "a-/x", "f"}
	rapid.Check(t, func(rt *rapid.T) {
		if err := b.Delete(t.Context(), names...); err != nil {
			rt.Fatal(err)
		}
		model := make(map[string]string)
		for range rapid.IntRange(1, 8).Draw(rt, "calls") {
			name := rapid.SampledFrom(names).Draw(rt, "name")
			old, exists := model[name]
			switch rapid.SampledFrom([]string{"create", "create", "delete", "open", "list"}).Draw(rt, "call") {
			case "create":
				content := rapid.StringN(0, 20, -1).Draw(rt, "content")
				err := create(t.Context(), b, name, []byte(content))
				if exists != errors.Is(err, ErrExists) || !exists && err != nil {
					rt.Fatalf("create %s, exists %v: %v", name, exists, err)
				}
				if !exists {
					model[name] = content
				}
			case "delete":
				if err := b.Delete(t.Context(), name); err != nil {
					rt.Fatal(err)
				}
				delete(model, name)
			case "open":
				got, err := read(t.Context(), b, name, 0, -1)
				if exists == errors.Is(err, ErrNotExist) || got != old {
					rt.Fatalf("open %s: %q, %v; want %q, exists %v", name, got, err, old, exists)
				}
			case "list":
				prefix := name[:rapid.IntRange(0, len(name)).Draw(rt, "prefix")]
				var want []string
				for n := range model {
					if strings.HasPrefix(n, prefix) {
						want = append(want, n)
					}
				}
				slices.Sort(want)
				if got := list(t, b, prefix); !slices.Equal(got, want) {
					rt.Fatalf("list %q: %v, want %v", prefix, got, want)
				}
			}
		}
	})
}

func FuzzValidName(f *testing.F) {
	for _, n := range append(badNames(), "a/b", "x=1/@2+3,%41") {
		f.Add(n)
	}
	d := &Dir{root: "/root/dir"}
	f.Fuzz(func(t *testing.T, name string) {
		if ValidName(name) == nil && (d.path(name) != "/root/dir/"+name || strings.HasPrefix(d.path(name), "/root/dir/"+tempDir)) {
			t.Errorf("%q is valid and leads to %s", name, d.path(name))
		}
	})
}
