// Package coder reads and writes the few encodings that a runner must understand: windowed values, KV splits, length
// prefixes, windows, panes and timers. All other values stay opaque bytes.
package coder
