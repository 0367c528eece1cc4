package engine

import (
	"errors"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/window"
)

// verdict is what becomes of an element of a work's input.
type verdict int

const (
	process verdict = iota
	postpone
	drop
)

// sift looks at the windows of each element of the work's input, given by their ends. The work keeps what is to be
// processed, counts the windows that are dropped, and hands over what is postponed, if anything, in the same instant: it is
// never seen twice or nowhere. later is called with execution.mu held. An element leaves the windows that are dropped; it
// waits when one of the others says so.
func (w *work) sift(judge func(end int64) verdict, later func([]*flow.Block)) error {
	pool := w.stage.x.cfg.Pool
	marker := flow.Oldest(w.blocks)
	s := sieve{w: w, judge: judge, now: pool.NewBuilder(), later: pool.NewBuilder()}
	s.now.Mark(marker)
	s.later.Mark(marker)
	err := s.blocks()
	if err != nil || s.later.Len() == 0 && s.dropped == 0 {
		s.now.Discard()
		s.later.Discard()
		return err
	}
	keep, err1 := s.now.Finish()
	wait, err2 := s.later.Finish()
	if err := errors.Join(err1, err2); err != nil {
		for _, b := range append(keep, wait...) {
			b.Release()
		}
		return err
	}
	w.stage.x.mu.Lock()
	defer w.stage.x.mu.Unlock()
	for _, b := range w.blocks {
		b.Release()
	}
	w.blocks = keep
	w.dropped += s.dropped
	if len(wait) > 0 {
		later(wait)
	}
	return nil
}

// sieve is the state of a sift.
type sieve struct {
	w          *work
	judge      func(end int64) verdict
	now, later *flow.Builder
	dropped    int64
	windows    []byte // of the element, that it stays in
	elem       []byte
}

func (s *sieve) blocks() error {
	for _, b := range s.w.blocks {
		err := eachElement([]*flow.Block{b}, func(elem []byte) error { return s.element(elem, b.MinTimestamp()) })
		if err != nil {
			return err
		}
	}
	return nil
}

// element judges an element of a block that holds the watermark at hold.
func (s *sieve) element(elem []byte, hold int64) error {
	in := s.w.stage.in.Coder
	h, err := in.ParseHeader(elem)
	if err != nil {
		return err
	}
	to, kept := s.now, 0
	s.windows = s.windows[:0]
	for win := range in.EachWindow(h) {
		end, err := window.End(in.Window(), win)
		if err != nil {
			return err
		}
		switch s.judge(end) {
		case drop:
			s.dropped++
			continue
		case postpone:
			to = s.later
		}
		kept++
		s.windows = append(s.windows, win...)
	}
	switch {
	case kept == 0 && h.NumWindows > 0:
		return nil
	case kept < h.NumWindows:
		s.elem = coder.AppendRawHeader(s.elem[:0], h.Timestamp, kept, s.windows, h.PaneBytes)
		s.elem = append(s.elem, elem[h.ValueOffset:]...)
		elem = s.elem
	}
	return to.Append(elem, max(h.Timestamp, hold))
}
