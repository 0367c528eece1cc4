package metric

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const (
	// defaultBound of the SDKs, for payloads that have none.
	defaultBound = 100
	// maxDepth of a path: what is longer is cut short. SDKs read messages that are nested at most 100 deep (the default
	// of protobuf in Python and Java), of which a node takes two.
	maxDepth = 48
)

// trie is bounded_trie: a set of paths, each a list of strings. Where it would have more than bound paths, a prefix
// stands for all paths that begin with it. It merges as BoundedTrieData of the SDKs does, and where that leaves a choice
// takes the least name, so that equal inputs make equal tries.
type trie struct {
	root  *node // nil: no paths
	bound int   // paths; the least bound that was added
}

// node is the end of a path, the end of a shortened path, or has children.
type node struct {
	truncated bool
	children  map[string]*node // empty if truncated
	// size counts the paths that end below, or here: max(1, the children's sizes). INVARIANT
	size int
}

func (t *trie) Add(payload []byte) error {
	in := new(pipepb.BoundedTrie)
	if err := unmarshal(payload, in); err != nil {
		return err
	}
	root := rootOf(in)
	if root == nil {
		return nil
	}
	bound := int(in.GetBound())
	if bound <= 0 {
		bound = defaultBound
	}
	if t.root == nil {
		t.root, t.bound = root, bound
	} else {
		t.root.merge(root)
		t.bound = min(t.bound, bound)
	}
	for t.root.size > t.bound {
		t.root.trim()
	}
	return nil
}

func (t *trie) Append(dst []byte) []byte {
	if t.root == nil {
		return appendMessage(dst, &pipepb.BoundedTrie{Bound: defaultBound})
	}
	return appendMessage(dst, &pipepb.BoundedTrie{Bound: int32(t.bound), Root: t.root.proto()})
}

// rootOf returns nil if there are no paths. A trie of one path may come as a list of its own.
func rootOf(in *pipepb.BoundedTrie) *node {
	if in.GetRoot() != nil {
		return newNode(in.GetRoot(), 0)
	}
	path := in.GetSingleton()
	if len(path) == 0 {
		return nil
	}
	n := &node{size: 1, truncated: len(path) > maxDepth}
	for i := min(len(path), maxDepth) - 1; i >= 0; i-- {
		n = &node{size: 1, children: map[string]*node{path[i]: n}}
	}
	return n
}

func newNode(in *pipepb.BoundedTrieNode, depth int) *node {
	n := &node{truncated: in.GetTruncated() || depth == maxDepth && len(in.GetChildren()) > 0, size: 1}
	if n.truncated || len(in.GetChildren()) == 0 {
		return n
	}
	n.size = 0
	n.children = make(map[string]*node, len(in.GetChildren()))
	for name, child := range in.GetChildren() {
		c := newNode(child, depth+1)
		n.children[name] = c
		n.size += c.size
	}
	return n
}

func (n *node) proto() *pipepb.BoundedTrieNode {
	out := &pipepb.BoundedTrieNode{Truncated: n.truncated}
	if len(n.children) > 0 {
		out.Children = make(map[string]*pipepb.BoundedTrieNode, len(n.children))
	}
	for name, c := range n.children {
		out.Children[name] = c.proto()
	}
	return out
}

func (n *node) truncate() { *n = node{truncated: true, size: 1} }

// merge adds the paths of other, whose nodes it takes. A path that goes on in the other trie does not end in the union.
func (n *node) merge(other *node) {
	switch {
	case n.truncated:
	case other.truncated:
		n.truncate()
	case len(other.children) == 0:
	case len(n.children) == 0:
		*n = *other
	default:
		n.size = 0
		for name, theirs := range other.children {
			if ours := n.children[name]; ours != nil {
				ours.merge(theirs)
			} else {
				n.children[name] = theirs
			}
		}
		for _, c := range n.children {
			n.size += c.size
		}
	}
}

// trim truncates one node: always down the child with the most paths, to where these split up for the last time.
//
// REQUIRES: n.size > 1. It makes n.size less.
func (n *node) trim() {
	var largest *node
	var at string
	for name, c := range n.children {
		if largest == nil || c.size > largest.size || c.size == largest.size && name < at {
			largest, at = c, name
		}
	}
	if largest.size == 1 {
		n.truncate()
		return
	}
	n.size -= largest.size
	largest.trim()
	n.size += largest.size
}
