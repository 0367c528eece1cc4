package checkpoint

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRuns(t *testing.T) {
	at := func(object string, offset, size int64) File {
		return File{Path: fmt.Sprint(object, offset), Size: size, Place: Place{Object: object, Offset: offset, Pack: 10 << 20}}
	}
	alone := File{Path: "alone", Size: 7, Place: Place{Object: "alone"}}
	for _, c := range []struct {
		name  string
		files []File
		want  string
	}{
		{"nothing", nil, ""},
		{"alone", []File{alone}, "alone 0-7 of 7: alone"},
		{"the same content twice", []File{alone, alone}, "alone 0-7 of 7: alone; alone 0-7 of 7: alone"},
		{"in any order", []File{at("p", 5, 5), at("q", 0, 1), at("p", 0, 5)}, "p 0-10 of 10485760: p0 p5; q 0-1 of 10485760: q0"},
		{"gaps", []File{at("p", 100, 1), at("p", 101+packGap, 1), at("p", 200+2*packGap, 1)},
			fmt.Sprintf("p 100-%d of 10485760: p100 p%d; p %d-%d of 10485760: p%[3]d", 102+packGap, 101+packGap, 200+2*packGap, 201+2*packGap)},
		{"one twice in a pack", []File{at("p", 3, 4), at("p", 3, 4)}, "p 3-7 of 10485760: p3; p 3-7 of 10485760: p3"},
		{"empty ones", []File{at("p", 3, 0), at("p", 3, 4)}, "p 3-7 of 10485760: p3 p3"},
	} {
		var got []string
		for _, r := range runs(c.files) {
			s := fmt.Sprintf("%s %d-%d of %d:", r.object, r.from, r.end(), r.size)
			for _, f := range r.files {
				s += " " + f.Path
			}
			got = append(got, s)
		}
		if text := strings.Join(got, "; "); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

func TestThinPacks(t *testing.T) {
	known := map[string]Place{
		"a": {Object: "p", Pack: 100}, "b": {Object: "p", Pack: 100, Offset: 24}, "c": {Object: "p", Pack: 100, Offset: 25},
		"d": {Object: "q", Pack: 100}, "e": {Object: "alone"},
	}
	for _, c := range []struct {
		needed string
		want   []string
	}{
		{"", []string{"p", "q"}},
		{"a", []string{"p", "q"}}, // 24 of 100
		{"a a", []string{"p", "q"}},
		{"a b", []string{"q"}}, // 25
		{"c d e", nil},
	} {
		var files []File
		for _, sha := range strings.Fields(c.needed) {
			files = append(files, File{SHA256: sha, Size: map[string]int64{"a": 24, "b": 1, "c": 75, "d": 25, "e": 1}[sha]})
		}
		if got := slices.Sorted(maps.Keys(thinPacks(files, known))); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.needed, got, c.want)
		}
	}
}

// A state whose files come and go, as those of a database do: each checkpoint that is kept can be restored, nothing is in the store
// that none needs, and packs do not hold much that is not needed any more.
func TestPacksComeAndGo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := newMemory()
	s := claim(t, b, record(t, "p"))
	files := tree{}
	kept := map[int64]tree{}
	fresh := func(n int) {
		for range n {
			size := rng.IntN(60 << 10)
			switch rng.IntN(20) {
			case 0:
				size = 0
			case 1:
				size = smallFile + rng.IntN(smallFile)
			}
			c := strings.Repeat(string(rune('a'+rng.IntN(26))), size)
			files[fmt.Sprintf("%06d.sst", rng.IntN(1e6))] = c
		}
	}
	fresh(300) // several packs
	objects := 0
	for id := int64(1); id <= 40; id++ {
		cut := Cut{Dir: writeTree(t, files), ID: id}
		m, stats, err := s.Save(t.Context(), cut, nil)
		check(t, err)
		check(t, s.Retire(t.Context()))
		objects += stats.Uploads
		kept[id] = maps.Clone(files)
		checkPacks(t, b, s, m)
		if id%8 == 0 {
			list, err := s.Newest()
			check(t, err)
			for _, c := range list {
				to := filepath.Join(t.TempDir(), "to")
				_, err := s.restorer(to, c.Manifest.ID).run(t.Context(), c.Manifest.Files)
				check(t, err)
				sameTree(t, readTree(t, to), kept[c.Manifest.ID])
			}
			checkPackedSavepoint(t, cut, files)
			s = claim(t, b, Record{}) // who knows packs from the manifest only
			check(t, s.Restore(t.Context(), list[0].Manifest, filepath.Join(t.TempDir(), "to"), Local{}, nil))
			check(t, s.Sweep(t.Context()))
		}
		for p := range files {
			if rng.IntN(8) == 0 {
				delete(files, p)
			}
		}
		fresh(30)
	}
	if objects > 40*6 {
		t.Errorf("%d objects in 40 checkpoints", objects)
	}
}

// checkPackedSavepoint writes a savepoint of a cut, restores it, and removes it.
func checkPackedSavepoint(t *testing.T, cut Cut, want tree) {
	t.Helper()
	b := newMemory()
	cfg := SavepointConfig{Bucket: b, Prefix: "save", Owner: NewOwner(began)}
	m, stats, err := WriteSavepoint(t.Context(), cfg, record(t, "p"), cut, nil)
	check(t, err)
	large := len(slices.DeleteFunc(slices.Clone(m.Files), func(f File) bool { return f.Size < smallFile }))
	if most := large + len(m.JobFiles) + 1 + int(m.Bytes/(packSize-smallFile)); stats.Uploads > most {
		t.Errorf("%d objects for %d files, %d large: want at most %d", stats.Uploads, len(m.Files), large, most)
	}
	p, err := OpenSavepoint(t.Context(), cfg)
	check(t, err)
	to := filepath.Join(t.TempDir(), "to")
	check(t, p.Restore(t.Context(), to, nil))
	sameTree(t, readTree(t, to), want)
	check(t, DisposeSavepoint(t.Context(), cfg))
	if left := b.names(""); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// checkPacks looks at what the store holds for a checkpoint.
func checkPacks(t *testing.T, b *memory, s *Store, m *Manifest) {
	t.Helper()
	if g := garbage(t, b, "pre/fix/job/"); len(g) > 0 {
		t.Errorf("checkpoint %d: garbage %v", m.ID, g)
	}
	packs, needed := map[string]int64{}, int64(0)
	for _, f := range m.Files {
		if f.Pack > 0 {
			packs[f.Object] = f.Pack
			needed += f.Size
		}
		if f.Size >= smallFile && f.Pack > 0 {
			t.Errorf("checkpoint %d: %s with %d bytes is in a pack", m.ID, f.Path, f.Size)
		}
	}
	held := int64(0)
	for object, size := range packs {
		if n := int64(len(b.objects[s.log.dir+object])); n != size || n > packSize {
			t.Errorf("checkpoint %d: pack %s has %d bytes, not %d", m.ID, object, n, size)
		}
		held += size
	}
	if held > thinPack*needed {
		t.Errorf("checkpoint %d: packs of %d bytes for %d", m.ID, held, needed)
	}
}
