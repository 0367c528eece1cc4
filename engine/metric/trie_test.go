package metric

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// trieOf makes a trie of paths like a/b/c; one that ends in * is truncated.
func trieOf(bound string, paths ...string) *pipepb.BoundedTrie {
	n, err := strconv.Atoi(bound)
	if err != nil {
		panic(err)
	}
	root := &pipepb.BoundedTrieNode{}
	for _, p := range paths {
		p, truncated := strings.CutSuffix(p, "*")
		at := root
		for _, name := range strings.Split(p, "/") {
			if name == "" {
				continue
			}
			if at.Children == nil {
				at.Children = make(map[string]*pipepb.BoundedTrieNode)
			}
			if at.Children[name] == nil {
				at.Children[name] = &pipepb.BoundedTrieNode{}
			}
			at = at.Children[name]
		}
		at.Truncated = truncated
	}
	return &pipepb.BoundedTrie{Bound: int32(n), Root: root}
}

// paths is the inverse of trieOf.
func paths(t *testing.T, encoded []byte) (bound int, all string) {
	t.Helper()
	in := new(pipepb.BoundedTrie)
	if err := proto.Unmarshal(encoded, in); err != nil {
		t.Fatal(err)
	}
	var list []string
	var walk func(prefix string, n *pipepb.BoundedTrieNode)
	walk = func(prefix string, n *pipepb.BoundedTrieNode) {
		switch {
		case n.GetTruncated():
			list = append(list, prefix+"*")
		case len(n.GetChildren()) == 0:
			list = append(list, prefix)
		}
		for _, name := range slices.Sorted(maps.Keys(n.GetChildren())) {
			walk(strings.TrimPrefix(prefix+"/"+name, "/"), n.GetChildren()[name])
		}
	}
	if in.GetRoot() != nil {
		walk("", in.GetRoot())
	}
	return int(in.GetBound()), strings.Join(list, " ")
}

func TestTrie(t *testing.T) {
	tests := []struct {
		name  string
		add   []*pipepb.BoundedTrie
		bound int
		want  string
	}{
		{"union", []*pipepb.BoundedTrie{trieOf("9", "a/b", "c"), trieOf("9", "a/d", "c")}, 9, "a/b a/d c"},
		{"singletons", []*pipepb.BoundedTrie{{Bound: 9, Singleton: []string{"a", "b"}}, {Bound: 9, Singleton: []string{"a", "c"}}}, 9, "a/b a/c"},
		{"empty ones", []*pipepb.BoundedTrie{{Bound: 5}, trieOf("9", "a"), {Bound: 1}}, 9, "a"},
		{"nothing", []*pipepb.BoundedTrie{{Bound: 5}}, 100, ""},
		{"no bound", []*pipepb.BoundedTrie{trieOf("0", "a")}, 100, "a"},
		{"least bound counts", []*pipepb.BoundedTrie{trieOf("9", "a/b"), trieOf("2", "a/c"), trieOf("9", "d")}, 2, "a* d"},
		{"longer path goes on", []*pipepb.BoundedTrie{trieOf("9", "a"), trieOf("9", "a/b"), trieOf("9", "a")}, 9, "a/b"},
		{"truncated wins", []*pipepb.BoundedTrie{trieOf("9", "a/b", "a/c", "d"), trieOf("9", "a*")}, 9, "a* d"},
		{"truncated stays", []*pipepb.BoundedTrie{trieOf("9", "a*"), trieOf("9", "a/b/c")}, 9, "a*"},
		{"largest child is cut", []*pipepb.BoundedTrie{trieOf("4", "a/1", "a/2", "a/3", "b/1"), trieOf("4", "b/2")}, 4, "a* b/1 b/2"},
		{"cut where paths split last", []*pipepb.BoundedTrie{trieOf("2", "a/b/1/x", "a/b/2"), trieOf("2", "c")}, 2, "a/b* c"},
		{"of equals the least name is cut", []*pipepb.BoundedTrie{trieOf("3", "b/1", "b/2"), trieOf("3", "a/1", "a/2")}, 3, "a* b/1 b/2"},
		{"bound of 1", []*pipepb.BoundedTrie{trieOf("1", "a"), trieOf("1", "b")}, 1, "*"},
		{"payload over its own bound", []*pipepb.BoundedTrie{trieOf("1", "a", "b")}, 1, "*"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := New("beam:metrics:bounded_trie:v1")
			for _, in := range test.add {
				if err := v.Add(payload(in)); err != nil {
					t.Fatal(err)
				}
			}
			if bound, got := paths(t, v.Append(nil)); got != test.want || bound != test.bound {
				t.Errorf("got %q within %d, want %q within %d", got, bound, test.want, test.bound)
			}
		})
	}
}

// A path of the greatest depth is kept, a longer one cut, however it came; protobuf would refuse to read it otherwise.
func TestTrieDepth(t *testing.T) {
	path := func(n int) []string { return slices.Repeat([]string{"x"}, n) }
	for _, n := range []int{maxDepth, maxDepth + 1, 20_000} {
		want := strings.Join(path(min(n, maxDepth)), "/")
		if n > maxDepth {
			want += "*"
		}
		for _, in := range []*pipepb.BoundedTrie{{Singleton: path(n)}, trieOf("9", strings.Join(path(min(n, 1000)), "/"))} {
			v := New("beam:metrics:bounded_trie:v1")
			if err := v.Add(payload(in)); err != nil {
				t.Fatal(err)
			}
			out := v.Append(nil)
			if _, got := paths(t, out); got != want {
				t.Errorf("depth %d: got %q, want %q", n, got, want)
			}
			if err := (proto.UnmarshalOptions{RecursionLimit: 100}).Unmarshal(out, new(pipepb.BoundedTrie)); err != nil {
				t.Errorf("depth %d: an SDK cannot read it: %v", n, err)
			}
		}
	}
}

// Whatever is added, the trie keeps its bound, and each path is in it: in full, as a prefix of longer ones, or truncated.
func TestTrieKeepsAll(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bound := rapid.IntRange(1, 6).Draw(rt, "bound")
		lists := rapid.SliceOfN(rapid.SliceOfN(rapid.StringMatching(`[abc](/[abc]){0,3}`), 1, 4), 1, 5).Draw(rt, "paths")
		v := New("beam:metrics:bounded_trie:v1")
		for _, list := range lists {
			if err := v.Add(payload(trieOf(fmt.Sprint(bound), list...))); err != nil {
				rt.Fatal(err)
			}
		}
		_, all := paths(t, v.Append(nil))
		got := strings.Split(all, " ")
		if len(got) > bound {
			rt.Fatalf("%q are more than %d", got, bound)
		}
		for _, list := range lists {
			for _, p := range list {
				if !slices.ContainsFunc(got, func(g string) bool {
					cut, truncated := strings.CutSuffix(g, "*")
					return strings.HasPrefix(g+"/", p+"/") || strings.HasPrefix(g, p+"*") ||
						truncated && (cut == "" || strings.HasPrefix(p+"/", cut+"/"))
				}) {
					rt.Fatalf("%q is not in %q", p, got)
				}
			}
		}
		if size := v.(*trie).root.size; size != len(got) {
			rt.Fatalf("size is %d, of %q", size, got)
		}
	})
}
