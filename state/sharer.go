package state

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sharer is a file system that puts the hard links of a cut into a directory of all cuts. Most files are in one cut after another,
// and a link of its own for each of them, made and removed again, is most of what a small cut of a large database costs.
type sharer struct {
	vfs.FS

	mu   sync.Mutex
	dir  string // where the cut is made; "": there is none, or it shares nothing
	pool string
	last map[string]bool // files that the last cut has in pool
	cut  map[string]bool // files that this cut has in pool
}

// share lets the links that cut makes in dir go to pool, unless that is "", and gives the files of the cut that are there. Those of
// a cut that failed do not count for the next: what is there may be anything.
func (s *sharer) share(dir, pool string, cut func() error) ([]string, error) {
	if pool == "" {
		return nil, cut()
	}
	s.mu.Lock()
	if pool != s.pool {
		s.last = nil
	}
	s.dir, s.pool, s.cut = dir, pool, make(map[string]bool, len(s.last))
	s.mu.Unlock()
	err := cut()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dir = ""
	if err != nil {
		return nil, err
	}
	s.last, s.cut = s.cut, nil
	return slices.Sorted(maps.Keys(s.last)), nil
}

// Link makes a link in pool, unless the last cut did. A file of that name that was there before is one of another process, which may
// have given the number to other content.
func (s *sharer) Link(oldname, newname string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" || s.PathDir(newname) != s.dir {
		return s.FS.Link(oldname, newname)
	}
	name := s.PathBase(newname)
	if !s.last[name] && !s.cut[name] {
		to := s.PathJoin(s.pool, name)
		if err := s.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := s.FS.Link(oldname, to); err != nil {
			return err
		}
	}
	s.cut[name] = true
	return nil
}

func (s *sharer) Unwrap() vfs.FS { return s.FS }
