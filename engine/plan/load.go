package plan

import (
	"errors"
	"fmt"
	"unicode/utf8"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// Load reads a pipeline from the content of a file: a serialized Pipeline proto, or one in text format.
func Load(file []byte) (*pipepb.Pipeline, error) {
	var p pipepb.Pipeline
	err := proto.Unmarshal(file, &p)
	if err != nil && utf8.Valid(file) {
		p.Reset()
		err = prototext.Unmarshal(file, &p)
	}
	if err != nil {
		return nil, fmt.Errorf("read Pipeline proto: %w", err)
	}
	if len(p.GetComponents().GetTransforms()) == 0 {
		return nil, errors.New("read Pipeline proto: it has no transforms")
	}
	return &p, nil
}
