package engine

import (
	"encoding/binary"
	"fmt"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/state"
)

// sortedFamily is the engine's own timer family in which elements of a DoFn with RequiresTimeSortedInput wait: each is the
// payload of an event time timer at its own timestamp, so that elements and the DoFn's timers come in one order.
const sortedFamily = "\x00sorted"

// park sets a timer for each element that the watermark has not passed; the others are processed at once.
func (o *userOp) park(w *work) error {
	in, tx := o.s.in.Coder, w.begin()
	late := o.s.x.cfg.Pool.NewBuilder()
	n := uint32(0)
	err := eachElement(w.blocks, func(elem []byte) error {
		h, err := in.ParseHeader(elem)
		if err != nil {
			return err
		}
		if h.Timestamp < w.upTo {
			return late.Append(elem, h.Timestamp)
		}
		key, _, _, err := coder.SplitKV(in.Elem(), elem[h.ValueOffset:])
		if err != nil {
			return fmt.Errorf("read key: %w", err)
		}
		_, group := o.s.x.slotOf(key)
		n++
		return tx.SetTimer(state.Timer{
			Group: group, Owner: o.s.owner, Domain: state.EventTime, Family: sortedFamily, Key: key,
			Tag:  string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(w.seq)), n)),
			Fire: h.Timestamp, Hold: h.Timestamp, Payload: elem,
		})
	})
	if err != nil {
		late.Discard()
		return err
	}
	w.extra, err = late.Finish()
	return err
}
