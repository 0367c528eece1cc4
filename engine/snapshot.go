package engine

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// A snapshot is what a cut needs of an execution besides the state database: where the stages stand, and the elements on
// their way between them. Blocks never change, so the snapshot only takes references, in the instant of the cut; they are
// written to files later, while the job goes on.
type snapshot struct {
	meta   executionMeta
	blocks []savedBlock // in the order of meta.Stages
	sizes  []int64      // bytes of blocks, by stage, as of measure
}

// Files of a snapshot in the directory of a cut, beside those of the state database.
const (
	metaFile     = "execution.json"
	inflightFile = "inflight"
)

// executionMeta is the content of metaFile.
type executionMeta struct {
	Version int `json:"version"`
	// NextID numbers works: it goes on, because numbers are part of keys in the state.
	NextID   int64       `json:"next_id"`
	Draining bool        `json:"draining,omitempty"`
	Stages   []stageMeta `json:"stages"`
}

// metaVersion is the version of executionMeta and of the file of blocks.
const metaVersion = 1

// stageMeta is where a stage stood.
type stageMeta struct {
	Name            string          `json:"name"` // stage.name
	InputWatermark  int64           `json:"input_watermark"`
	OutputWatermark int64           `json:"output_watermark"`
	Operator        json.RawMessage `json:"operator,omitempty"` // by the operator's save
	Blocks          int             `json:"blocks,omitempty"`   // of this stage in the file of blocks
	Ended           int64           `json:"ended,omitempty"`    // when it had finished, ms since the epoch; 0: it had not
}

// saver is an operator that remembers something outside the state database.
type saver interface {
	// save and load are called with execution.mu held; load before the first work.
	save() (any, error)
	load(data json.RawMessage) error
}

// savedBlock is a block of a stage's input.
type savedBlock struct {
	block     *flow.Block
	due       time.Time // of a delayed residual
	truncated bool
}

// snapshot takes references to everything queued or in flight. REQUIRES: x.mu, and that no commit is half done.
func (x *execution) snapshot() (*snapshot, error) {
	snap := &snapshot{meta: executionMeta{Version: metaVersion, NextID: x.nextID, Draining: x.draining}}
	for _, s := range x.stages {
		m := stageMeta{Name: s.name, InputWatermark: s.inputWM, OutputWatermark: s.outputWM}
		if !s.ended.IsZero() {
			m.Ended = s.ended.UnixMilli()
		}
		if op, ok := s.op.(saver); ok {
			v, err := op.save()
			if err == nil {
				m.Operator, err = json.Marshal(v)
			}
			if err != nil {
				return nil, fmt.Errorf("save stage %s: %w", s.name, err)
			}
		}
		blocks := s.inflight()
		m.Blocks = len(blocks)
		snap.meta.Stages = append(snap.meta.Stages, m)
		snap.blocks = append(snap.blocks, blocks...)
	}
	for _, b := range snap.blocks {
		b.block.Retain()
	}
	return snap, nil
}

// inflight are the blocks of a stage's input that are not committed, in the order in which they would be processed: the
// input of running works comes first, for it left the queue first. REQUIRES: x.mu.
func (s *stage) inflight() []savedBlock {
	var out []savedBlock
	works := make([]*work, 0, len(s.active))
	for w := range s.active {
		works = append(works, w)
	}
	slices.SortFunc(works, func(a, b *work) int { return int(a.seq - b.seq) })
	for _, w := range works {
		for _, b := range w.blocks {
			out = append(out, savedBlock{block: b, truncated: w.truncated})
		}
	}
	for i := range s.queues {
		for b := range s.queues[i].All() {
			out = append(out, savedBlock{block: b})
		}
		for b := range s.blocked[i].All() {
			out = append(out, savedBlock{block: b})
		}
		for b := range s.unstable[i].All() {
			out = append(out, savedBlock{block: b}) // stable once the checkpoint is complete
		}
	}
	for b := range s.truncated.All() {
		out = append(out, savedBlock{block: b, truncated: true})
	}
	for _, d := range s.delayed {
		out = append(out, savedBlock{block: d.block, due: d.due, truncated: d.truncated})
	}
	return out
}

// measure adds up the sizes of blocks. REQUIRES: they were not released.
func (snap *snapshot) measure() (elements int, bytes int64) {
	k := 0
	for _, m := range snap.meta.Stages {
		size := int64(0)
		for range m.Blocks {
			size += snap.blocks[k].block.Size()
			elements += snap.blocks[k].block.Len()
			k++
		}
		snap.sizes = append(snap.sizes, size)
		bytes += size
	}
	return elements, bytes
}

// release gives the references back.
func (snap *snapshot) release() {
	for _, b := range snap.blocks {
		b.block.Release()
	}
	snap.blocks = nil
}

// write adds the snapshot's files to the directory of a cut.
func (snap *snapshot) write(dir string) error {
	data, err := json.MarshalIndent(snap.meta, "", " ")
	if err != nil {
		return fmt.Errorf("write cut %s: %w", dir, err)
	}
	if err := os.WriteFile(filepath.Join(dir, metaFile), data, 0o600); err != nil {
		return fmt.Errorf("write cut %s: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, inflightFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write cut %s: %w", dir, err)
	}
	out := bufio.NewWriterSize(f, 256<<10)
	var scratch flow.Data
	for _, b := range snap.blocks {
		if err = writeBlock(out, b, &scratch); err != nil {
			break
		}
	}
	if err == nil {
		err = out.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write cut %s: %w", dir, err)
	}
	return nil
}

// The file of blocks is a sequence of
//
//	length   uint32, of what follows, without the checksum
//	flags    1 byte: 1 truncated, 2 delayed
//	min      int64, the block's least timestamp
//	due      int64, ms since the epoch, if delayed
//	elements uint32
//	ends     uint32 each: where the element ends in the bytes
//	bytes
//	checksum uint32, CRC-32C
//
// with all numbers big endian.
const (
	flagTruncated = 1 << iota
	flagDelayed
)

const blockHead = 1 + 8 + 8 + 4

var errBlocks = errors.New("the file of in-flight elements is damaged")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func writeBlock(out io.Writer, b savedBlock, scratch *flow.Data) error {
	data, err := b.block.ReadInto(scratch)
	if err != nil {
		return err
	}
	head := make([]byte, 4+blockHead, 4+blockHead+4*len(data.Ends))
	binary.BigEndian.PutUint32(head, uint32(blockHead+4*len(data.Ends)+len(data.Bytes)))
	if b.truncated {
		head[4] |= flagTruncated
	}
	binary.BigEndian.PutUint64(head[5:], uint64(b.block.MinTimestamp()))
	if !b.due.IsZero() {
		head[4] |= flagDelayed
		binary.BigEndian.PutUint64(head[13:], uint64(b.due.UnixMilli()))
	}
	binary.BigEndian.PutUint32(head[21:], uint32(len(data.Ends)))
	for _, end := range data.Ends {
		head = binary.BigEndian.AppendUint32(head, end)
	}
	sum := crc32.Update(crc32.Checksum(head[4:], castagnoli()), castagnoli(), data.Bytes)
	for _, p := range [][]byte{head, data.Bytes, binary.BigEndian.AppendUint32(nil, sum)} {
		if _, err := out.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// rawBlock is a block as it was read back.
type rawBlock struct {
	flow.Data
	min       int64
	due       time.Time
	truncated bool
}

// readBlock reads the next block; io.EOF after the last. A block is at most limit bytes long.
func readBlock(in io.Reader, limit int) (rawBlock, error) {
	var b rawBlock
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return b, io.EOF
		}
		return b, fmt.Errorf("%w: %w", errBlocks, err)
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n < blockHead || n > limit {
		return b, fmt.Errorf("%w: a block of %d bytes", errBlocks, n)
	}
	body := make([]byte, n+4)
	if _, err := io.ReadFull(in, body); err != nil {
		return b, fmt.Errorf("%w: %w", errBlocks, err)
	}
	sum := binary.BigEndian.Uint32(body[n:])
	body = body[:n]
	if crc32.Checksum(body, castagnoli()) != sum {
		return b, fmt.Errorf("%w: wrong checksum", errBlocks)
	}
	b.truncated = body[0]&flagTruncated != 0
	b.min = int64(binary.BigEndian.Uint64(body[1:]))
	if body[0]&flagDelayed != 0 {
		b.due = time.UnixMilli(int64(binary.BigEndian.Uint64(body[9:])))
	}
	count := int(binary.BigEndian.Uint32(body[17:]))
	body = body[blockHead:]
	if count == 0 || count > len(body)/4 {
		return b, fmt.Errorf("%w: a block of %d elements", errBlocks, count)
	}
	b.Ends, b.Bytes = make([]uint32, count), body[4*count:]
	last := uint32(0)
	for i := range b.Ends {
		b.Ends[i] = binary.BigEndian.Uint32(body[4*i:])
		if b.Ends[i] < last || int(b.Ends[i]) > len(b.Bytes) {
			return b, fmt.Errorf("%w: element %d ends at %d", errBlocks, i, b.Ends[i])
		}
		last = b.Ends[i]
	}
	if int(last) != len(b.Bytes) {
		return b, fmt.Errorf("%w: %d bytes after the last element", errBlocks, len(b.Bytes)-int(last))
	}
	return b, nil
}
