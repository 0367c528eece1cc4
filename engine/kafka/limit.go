package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// Limits end a read that has no end of its own, and make its output bounded. They are for tests and demonstrations: one slot
// reads everything.
type Limits struct {
	// MaxRecords ends the read after so many records; 0: no limit. It waits for them as long as it takes.
	MaxRecords int64 `json:"max_records,omitempty"`
	// MaxReadTime ends the read so many milliseconds after it was opened, also after a restart; 0: no limit.
	MaxReadTime int64 `json:"max_read_time_ms,omitempty"`
}

func (l *Limits) validate() error {
	if l.MaxRecords < 0 {
		return fmt.Errorf("max_records=%d is negative", l.MaxRecords)
	}
	if l.MaxReadTime < 0 || l.MaxReadTime > int64(366*24*time.Hour/time.Millisecond) {
		return fmt.Errorf("max_read_time_ms=%d is not between 0 and a year", l.MaxReadTime)
	}
	return nil
}

func (l *Limits) set() bool { return l.MaxRecords > 0 || l.MaxReadTime > 0 }

// limited is a source that ends at its limits. Shard 0 reads, the others are done from the start.
type limited struct {
	native.Source
	limits Limits
	end    time.Time // zero: none
	now    func() time.Time
	left   int64 // records; owned by the Fetch of shard 0
	// inner is the source's own position.
	inner json.RawMessage
}

// limitedPosition is the form of a limited source's positions.
type limitedPosition struct {
	Version int             `json:"v"`
	Left    int64           `json:"left,omitempty"`
	Inner   json.RawMessage `json:"inner,omitempty"`
}

var (
	_ native.Source    = (*limited)(nil)
	_ native.Committer = (*limited)(nil)
)

// openLimited opens a source within limits. open opens the source itself.
func openLimited(ctx context.Context, cfg native.SourceConfig, l Limits, open native.SourceFactory) (native.Source, error) {
	s := &limited{limits: l, left: l.MaxRecords, now: time.Now}
	cfg.Shards = 1
	if err := s.restore(&cfg); err != nil {
		return nil, err
	}
	inner, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s.Source = inner
	if l.MaxReadTime > 0 {
		s.end = s.now().Add(time.Duration(l.MaxReadTime) * time.Millisecond)
	}
	return s, nil
}

// restore takes over the position of the shard that reads, and leaves the source its own.
func (s *limited) restore(cfg *native.SourceConfig) error {
	positions := cfg.Positions
	cfg.Positions = nil
	for i, b := range positions {
		if len(b) == 0 {
			continue
		}
		var p limitedPosition
		if err := json.Unmarshal(b, &p); err != nil {
			return fmt.Errorf("decode kafka position of shard %d: %w", i, err)
		}
		if p.Version != configVersion {
			return fmt.Errorf("decode kafka position of shard %d: version %d is not %d", i, p.Version, configVersion)
		}
		if p.Inner == nil {
			continue
		}
		if cfg.Positions != nil {
			return errors.New("two shards have positions of a limited read: start the job without its saved positions")
		}
		s.left, s.inner = p.Left, p.Inner
		cfg.Positions = [][]byte{p.Inner}
	}
	return nil
}

// smallest is the least size of an element in bytes: timestamp, number of windows, pane, and a value of a byte.
const smallest = 8 + 4 + 1 + 1

// Fetch implements native.Source.
func (s *limited) Fetch(ctx context.Context, shard int, out *flow.Builder, max int64) (native.Fetched, error) {
	if shard > 0 {
		return s.over(limitedPosition{Version: configVersion})
	}
	if s.finished() {
		return s.over(s.position())
	}
	if !s.end.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, s.end)
		defer cancel()
	}
	if s.limits.MaxRecords > 0 {
		// A source goes over max by less than one element, so this many bytes are not too many records.
		max = min(max, s.left*smallest)
	}
	before := out.Len()
	f, err := s.Source.Fetch(ctx, 0, out, max)
	if err != nil {
		return f, err
	}
	s.left -= int64(out.Len() - before)
	s.inner = f.Position
	if s.finished() {
		return s.over(s.position())
	}
	f.Position, err = encodeLimited(s.position())
	return f, err
}

func (s *limited) finished() bool {
	return s.limits.MaxRecords > 0 && s.left <= 0 || !s.end.IsZero() && !s.now().Before(s.end)
}

func (s *limited) position() limitedPosition {
	return limitedPosition{Version: configVersion, Left: s.left, Inner: s.inner}
}

// over is what a shard that is done returns.
func (s *limited) over(p limitedPosition) (native.Fetched, error) {
	b, err := encodeLimited(p)
	return native.Fetched{Position: b, Watermark: coder.MaxTimestamp, Done: true}, err
}

func encodeLimited(p limitedPosition) ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode kafka position: %w", err)
	}
	return b, nil
}

// Committed implements native.Committer.
func (s *limited) Committed(shard int, position []byte) {
	var p limitedPosition
	c, ok := s.Source.(native.Committer)
	if ok && shard == 0 && json.Unmarshal(position, &p) == nil && p.Inner != nil {
		c.Committed(0, p.Inner)
	}
}
