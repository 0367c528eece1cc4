package userstate

import (
	"bytes"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/state"
)

// seqLen is the length of the sequence that state puts behind a bag's prefix: 8 bytes.
const seqLen = 8

// pageBuilder fills a page with whole pieces.
type pageBuilder struct {
	max  int
	data []byte
}

// fits reports whether a piece of n more bytes belongs on the page. The first one always does.
func (p *pageBuilder) fits(n int) bool { return len(p.data) == 0 || len(p.data)+n <= p.max }

func (p *pageBuilder) response(token []byte) *fnpb.StateGetResponse {
	return &fnpb.StateGetResponse{Data: p.data, ContinuationToken: token}
}

// bagPage answers a get of a bag. Tokens are the sequence of the next chunk.
func (s *Server) bagPage(r Reader, b Bag, token []byte) (*fnpb.StateGetResponse, error) {
	if len(token) != 0 && len(token) != seqLen {
		return nil, errToken
	}
	p := pageBuilder{max: s.cfg.MaxPage}
	for kv, err := range r.ScanPrefixFrom(b.Group, b.Cell, b.Prefix, token) {
		if err != nil {
			return nil, err
		}
		if !p.fits(len(kv.Value)) {
			return p.response(bytes.Clone(kv.Suffix[len(b.Prefix):])), nil
		}
		p.data = append(p.data, kv.Value...)
	}
	return p.response(nil), nil
}

// stepsPerKey is how many chunks of a map key are stepped over before seeking to the next key.
const stepsPerKey = 8

// eachKey calls f with each distinct map key of the multimap at b, from the component token on, until f returns false.
// The key is valid during the call.
func eachKey(r Reader, b Bag, token []byte, f func(key []byte) bool) error {
	if len(token) != 0 {
		if _, rest, ok := state.CutComponent(token); !ok || len(rest) != 0 {
			return errToken
		}
	}
	var last []byte // the last key's component
	from := token
	for {
		steps, sought := 0, false
		for kv, err := range r.ScanPrefixFrom(b.Group, b.Cell, b.Prefix, from) {
			if err != nil {
				return err
			}
			tail := kv.Suffix[len(b.Prefix):]
			if last != nil && bytes.HasPrefix(tail, last) {
				if steps++; steps > stepsPerKey {
					sought = true
					break
				}
				continue
			}
			key, rest, ok := state.CutComponent(tail)
			if !ok {
				return errEntry
			}
			steps = 0
			last = append(last[:0], tail[:len(tail)-len(rest)]...)
			if !f(key) {
				return nil
			}
		}
		if !sought {
			return nil
		}
		from = append(bytes.Clone(last), afterSequences...)
	}
}

// afterSequences sorts behind every sequence.
const afterSequences = "\xff\xff\xff\xff\xff\xff\xff\xff\xff"

// keysPage answers a get of the keys of a multimap. Tokens are the component of the next key.
func (s *Server) keysPage(r Reader, b Bag, token []byte) (*fnpb.StateGetResponse, error) {
	p := pageBuilder{max: s.cfg.MaxPage}
	var next []byte
	err := eachKey(r, b, token, func(key []byte) bool {
		if !p.fits(len(key)) {
			next = state.AppendComponent(nil, key)
			return false
		}
		p.data = append(p.data, key...)
		return true
	})
	if err != nil {
		return nil, err
	}
	return p.response(next), nil
}
