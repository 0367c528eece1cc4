package plan

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// adoptTestCoders gives the outputs of TestStreams the coder that the payload's elements are encoded with. Python names
// another one where a consumer has a type hint; its SDK would read the elements with the wrong coder. An output of KVs
// stays one: consumers need its keys.
func adoptTestCoders(comps *pipepb.Components, cs *coders) error {
	for id, t := range comps.GetTransforms() {
		if t.GetSpec().GetUrn() != urnTestStream {
			continue
		}
		var stream pipepb.TestStreamPayload
		if err := proto.Unmarshal(t.GetSpec().GetPayload(), &stream); err != nil {
			return fmt.Errorf("transform %s: read TestStreamPayload: %w", id, err)
		}
		if stream.GetCoderId() == "" {
			continue
		}
		for _, out := range t.GetOutputs() {
			pc := comps.GetPcollections()[out]
			bare := pc.GetCoderId()
			if sub := cs.all[bare].GetComponentCoderIds(); cs.urn(bare) == coder.URNLengthPrefix && len(sub) == 1 {
				bare = sub[0] // Go prefixes its own coders here, and not in the payload
			}
			if _, _, kv := cs.kv(bare); !kv && !cs.same(bare, stream.GetCoderId()) {
				pc.CoderId = stream.GetCoderId()
			}
		}
	}
	return nil
}
