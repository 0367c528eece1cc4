package engine

import (
	"encoding/binary"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/state"
)

// sortedFamily is the engine's own timer family in which elements of a DoFn with RequiresTimeSortedInput wait: each is the
// payload of an event time timer at its own timestamp, so that elements and the DoFn's timers come in one order.
const sortedFamily = "\x00sorted"

// park sets a timer for each element that the watermark has not passed; the others are processed at once.
func (o *userOp) park(w *work) error {
	tx := w.begin()
	late := o.s.x.cfg.Pool.NewBuilder()
	n := uint32(0)
	err := o.s.eachKV(w.blocks, func(h coder.Header, key, _, elem []byte) error {
		if h.Timestamp < w.upTo {
			return late.Append(elem, h.Timestamp)
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
