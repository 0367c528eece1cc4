package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// The first line of a sealed object, with the version, and what its last line starts with. Every version keeps both.
const (
	magic     = "{\"tinyrunner_checkpoint_format\": "
	integrity = "sha256:"
)

// lastLine is the length of the last line with its newline.
const lastLine = len(integrity) + 2*sha256.Size + 1

// NewerError says that an object was written by a newer tinyrunner.
type NewerError struct {
	Found int // its version
}

// Error names both versions and the remedy.
func (e *NewerError) Error() string {
	return fmt.Sprintf("it has version %d of the format, this program reads up to %d: use the tinyrunner that wrote it, or a newer one", e.Found, Version)
}

// seal gives v, a JSON object with at least one field, between the first line and the last.
func seal(v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%d,", magic, Version)
	b.Write(bytes.TrimPrefix(body, []byte("{")))
	b.WriteByte('\n')
	sum := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, "%s%x\n", integrity, sum)
	if b.Len() > maxSealed {
		return nil, fmt.Errorf("encode: it would have %d bytes, at most %d are allowed", b.Len(), maxSealed)
	}
	return b.Bytes(), nil
}

// unseal checks both lines and gives the JSON between them.
func unseal(b []byte) ([]byte, error) {
	if len(b) > maxSealed {
		return nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(b), maxSealed)
	}
	if len(b) < lastLine || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, errors.New("it does not start as our objects do")
	}
	body, last := b[:len(b)-lastLine], b[len(b)-lastLine:]
	sum := sha256.Sum256(body)
	if want := integrity + hex.EncodeToString(sum[:]) + "\n"; string(last) != want {
		return nil, fmt.Errorf("its last line does not fit its content, which would be %s", want[:len(want)-1])
	}
	rest := body[len(magic):]
	v, digits := 0, 0
	for digits < len(rest) && digits < 9 && '0' <= rest[digits] && rest[digits] <= '9' {
		v = v*10 + int(rest[digits]-'0')
		digits++
	}
	switch {
	case digits == 0 || v == 0:
		return nil, errors.New("its version is not a number")
	case v > Version:
		return nil, &NewerError{Found: v}
	}
	return body, nil
}

// encode gives the bytes of a manifest, checked as a reader will check them.
func (m *Manifest) encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	return seal(m)
}

// DecodeManifest reads a manifest's bytes. It fails when a single bit of them is not as it was written, when they come from
// a newer version (NewerError), or when they name a file outside of its directory.
func DecodeManifest(b []byte) (*Manifest, error) {
	body, err := unseal(b)
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	return m, nil
}
