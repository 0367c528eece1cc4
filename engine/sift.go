package engine

import (
	"errors"

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
// processed, counts what is dropped, and returns what is postponed. An element in several windows is postponed when one of
// them says so, and dropped when all do.
func (w *work) sift(judge func(end int64) verdict) ([]*flow.Block, error) {
	x := w.stage.x
	now, later := x.cfg.Pool.NewBuilder(), x.cfg.Pool.NewBuilder()
	dropped := int64(0)
	err := w.eachJudged(judge, func(elem []byte, hold int64, v verdict) error {
		switch v {
		case process:
			return now.Append(elem, hold)
		case postpone:
			return later.Append(elem, hold)
		}
		dropped++
		return nil
	})
	if err != nil || later.Len() == 0 && dropped == 0 {
		now.Discard()
		later.Discard()
		return nil, err
	}
	keep, err1 := now.Finish()
	wait, err2 := later.Finish()
	if err := errors.Join(err1, err2); err != nil {
		for _, b := range append(keep, wait...) {
			b.Release()
		}
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, b := range w.blocks {
		b.Release()
	}
	w.blocks = keep
	w.dropped += dropped
	return wait, nil
}

// eachJudged calls f for each element of the input with the time up to which it holds the watermark.
func (w *work) eachJudged(judge func(end int64) verdict, f func(elem []byte, hold int64, v verdict) error) error {
	in := w.stage.in.Coder
	for _, b := range w.blocks {
		err := eachElement([]*flow.Block{b}, func(elem []byte) error {
			h, err := in.ParseHeader(elem)
			if err != nil {
				return err
			}
			v, n := drop, 0
			for win := range in.EachWindow(h) {
				end, err := window.End(in.Window(), win)
				if err != nil {
					return err
				}
				switch j := judge(end); {
				case j == postpone || v == postpone:
					v = postpone
				case j == process:
					v = process
				}
				n++
			}
			if n == 0 {
				v = process
			}
			return f(elem, max(h.Timestamp, b.MinTimestamp()), v)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
