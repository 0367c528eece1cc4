package coder

import "fmt"

// Skip returns the length of the value at the beginning of b, nested context. It does not check what the value says.
func (c *Coder) Skip(b []byte) (int, error) {
	if c.size >= 0 {
		if len(b) < c.size {
			return 0, ErrShort
		}
		return c.size, nil
	}
	switch c.kind {
	case prefixed:
		_, n, err := ParseBytes(b)
		return n, err
	case varint:
		_, n, err := ParseVarint(b)
		return n, err
	case kv:
		return skipBoth(c.components[0], c.components[1], b)
	case iterable, stateBackedIterable:
		return c.skipIterable(b)
	case nullable:
		return c.skipNullable(b)
	case shardedKey:
		_, n, err := ParseBytes(b)
		if err != nil {
			return 0, err
		}
		m, err := c.components[0].Skip(b[n:])
		return n + m, err
	case intervalWindow:
		return skipInterval(b)
	case customWindow:
		return skipAfter(timestampSize, c.components[0], b)
	case windowedValue:
		n, err := skipHeader(c.window, b)
		if err != nil {
			return 0, err
		}
		m, err := c.components[0].Skip(b[n:])
		return n + m, err
	case paramWindowedValue:
		return c.components[0].Skip(b)
	case timer:
		_, n, err := parseTimer(c.components[0], c.window, b)
		return n, err
	}
	return 0, &UnknownError{ID: c.id, URN: c.urn}
}

func skipBoth(first, second *Coder, b []byte) (int, error) {
	n, err := first.Skip(b)
	if err != nil {
		return 0, err
	}
	m, err := second.Skip(b[n:])
	return n + m, err
}

// skipAfter skips n bytes and a value of c.
func skipAfter(n int, c *Coder, b []byte) (int, error) {
	if len(b) < n {
		return 0, ErrShort
	}
	m, err := c.Skip(b[n:])
	return n + m, err
}

func (c *Coder) skipNullable(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, ErrShort
	}
	switch b[0] {
	case 0:
		return 1, nil
	case 1:
		return skipAfter(1, c.components[0], b)
	}
	return 0, fmt.Errorf("presence byte %#x of a nullable: %w", b[0], ErrMalformed)
}

// skipIterable skips a count and that many values or, when the count is -1, chunks that each begin with their count.
func (c *Coder) skipIterable(b []byte) (int, error) {
	count, err := parseCount(b)
	if err != nil {
		return 0, err
	}
	at := countSize
	if count != chunked {
		n, err := c.components[0].skipN(int64(count), b[at:])
		return at + n, err
	}
	for {
		chunk, n, err := ParseVarint(b[at:])
		if err != nil {
			return 0, err
		}
		at += n
		switch {
		case chunk == 0:
			return at, nil
		case chunk == -1 && c.kind == stateBackedIterable:
			_, n, err := ParseBytes(b[at:])
			return at + n, err
		case chunk < 0:
			return 0, fmt.Errorf("count %d of a chunk of an iterable: %w", chunk, ErrMalformed)
		}
		if n, err = c.components[0].skipN(chunk, b[at:]); err != nil {
			return 0, err
		}
		at += n
	}
}

// skipN skips count values. Values of no fixed size take a byte at least, so that the time is bounded by b, not by count.
func (c *Coder) skipN(count int64, b []byte) (int, error) {
	switch {
	case c.size == 0:
		return 0, nil
	case c.size > 0:
		if count > int64(len(b)/c.size) {
			return 0, ErrShort
		}
		return int(count) * c.size, nil
	}
	at := 0
	for range count {
		n, err := c.Skip(b[at:])
		if err != nil {
			return 0, err
		}
		at += n
	}
	return at, nil
}

// SplitKV cuts the KV at the beginning of b into its encoded key and value, which alias b; n is the length of both.
func SplitKV(c *Coder, b []byte) (key, value []byte, n int, err error) {
	if c.kind != kv {
		return nil, nil, 0, fmt.Errorf("coder %s is a %s, not a %s", c.id, c.urn, URNKV)
	}
	k, err := c.components[0].Skip(b)
	if err != nil {
		return nil, nil, 0, err
	}
	v, err := c.components[1].Skip(b[k:])
	if err != nil {
		return nil, nil, 0, err
	}
	n = k + v
	return b[:k:k], b[k:n:n], n, nil
}
