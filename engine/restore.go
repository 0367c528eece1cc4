package engine

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// NotRestoredError says that a checkpoint holds what the pipeline has no place for.
type NotRestoredError struct {
	// What names it: "elements on their way to stage S", "state S".
	What []string
}

func (e *NotRestoredError) Error() string {
	return "the checkpoint holds what this pipeline has no place for: " + strings.Join(e.What, "; ") +
		". Restore it with the pipeline that wrote it, give the transforms their old names, or drop this with --allow-non-restored-state"
}

// load fills the execution with what a snapshot in dir holds. Stages are found by their names; what belongs to stages that
// are not there is named in the answer. REQUIRES: nothing runs yet.
func (x *execution) load(dir string) (missing []string, err error) {
	data, err := os.ReadFile(filepath.Join(dir, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a new database
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	var meta executionMeta
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", metaFile, err)
	}
	if meta.Version != metaVersion {
		return nil, fmt.Errorf("read snapshot %s: it has version %d, this program reads %d", metaFile, meta.Version, metaVersion)
	}
	f, err := os.Open(filepath.Join(dir, inflightFile))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	x.mu.Lock()
	defer x.mu.Unlock()
	x.nextID, x.draining = meta.NextID, x.draining || meta.Draining
	in := bufio.NewReaderSize(f, 256<<10)
	for _, m := range meta.Stages {
		i := slices.IndexFunc(x.stages, func(s *stage) bool { return s.name == m.Name })
		var s *stage
		if i >= 0 {
			s = x.stages[i]
		} else if m.Blocks > 0 {
			missing = append(missing, fmt.Sprintf("elements on their way to stage %q", m.Name))
		}
		if err := x.loadStage(s, m, in); err != nil {
			return nil, fmt.Errorf("read snapshot of stage %s: %w", m.Name, err)
		}
	}
	if _, err := readBlock(in, math.MaxInt32); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read snapshot: %w: there is more than the stages have", errBlocks)
	}
	return missing, nil
}

// loadStage reads what belongs to a stage; if s is nil it is skipped.
func (x *execution) loadStage(s *stage, m stageMeta, in io.Reader) error {
	if s != nil {
		s.inputWM, s.outputWM = m.InputWatermark, m.OutputWatermark
		if m.Ended != 0 {
			s.ended = time.UnixMilli(m.Ended)
		}
		if op, ok := s.op.(saver); ok && m.Operator != nil {
			if err := op.load(m.Operator); err != nil {
				return err
			}
		}
	}
	for range m.Blocks {
		b, err := readBlock(in, math.MaxInt32)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it ends early", errBlocks)
		}
		if err == nil && s != nil {
			err = s.requeue(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// requeue puts a block back into the queue it was in, or, if the slots have changed, its elements into theirs. REQUIRES: x.mu.
func (s *stage) requeue(b rawBlock) error {
	if s.in == nil {
		return fmt.Errorf("%w: a stage without input has elements", errBlocks)
	}
	bySlot, err := s.bySlot(b.Data, b.min, flow.Marker{})
	for slot, blocks := range bySlot {
		for _, k := range blocks {
			s.place(slot, k, b)
		}
	}
	return err
}

// bySlot makes blocks of elements, with a marker, for the slots they belong to; one that is not keyed has only slot 0. ts is the
// event time of them all: the elements' own may be later, and for a residual it is the estimated watermark that counts.
func (s *stage) bySlot(data flow.Data, ts int64, m flow.Marker) (blocks [][]*flow.Block, err error) {
	builders := make([]*flow.Builder, len(s.queues))
	defer func() {
		for _, out := range builders {
			if out != nil {
				out.Discard()
			}
		}
	}()
	for i := range data.Len() {
		elem, slot := data.Element(i), 0
		if s.keyed {
			h, err := s.in.Coder.ParseHeader(elem)
			if err != nil {
				return nil, err
			}
			key, _, _, err := coder.SplitKV(s.in.Coder.Elem(), elem[h.ValueOffset:])
			if err != nil {
				return nil, fmt.Errorf("read key: %w", err)
			}
			slot, _ = s.x.slotOf(key)
		}
		if builders[slot] == nil {
			builders[slot] = s.x.cfg.Pool.NewBuilder()
			builders[slot].Mark(m)
		}
		if err := builders[slot].Append(elem, ts); err != nil {
			return nil, err
		}
	}
	blocks = make([][]*flow.Block, len(builders))
	for slot, out := range builders {
		if out == nil {
			continue
		}
		if blocks[slot], err = out.Finish(); err != nil {
			return blocks, err
		}
	}
	return blocks, nil
}

// place puts a block where b was. REQUIRES: x.mu.
func (s *stage) place(slot int, k *flow.Block, b rawBlock) {
	switch {
	case !b.due.IsZero():
		s.delayed = append(s.delayed, delayedBlock{due: b.due, block: k, truncated: b.truncated})
		slices.SortFunc(s.delayed, func(a, b delayedBlock) int { return a.due.Compare(b.due) })
	case b.truncated:
		s.truncated.Push(k)
	default:
		s.queues[slot].Push(k)
	}
}
