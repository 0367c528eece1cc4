package plan

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
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
			if _, _, kv := cs.kv(pc.GetCoderId()); !kv && !cs.same(pc.GetCoderId(), stream.GetCoderId()) {
				pc.CoderId = stream.GetCoderId()
			}
		}
	}
	return nil
}
