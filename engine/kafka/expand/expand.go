package expand

import (
	"context"
	"log/slog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// What SDKs ask for. The first four are URNs of external transforms, the others identifiers of SchemaTransforms.
const (
	urnRead         = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1"
	urnReadMetadata = "beam:transform:org.apache.beam:kafka_read_with_metadata:v1"
	urnWrite        = "beam:transform:org.apache.beam:kafka_write:v1"
	urnWriteHeaders = "beam:transform:org.apache.beam:kafka_write_with_headers:v1"
	urnReadSchema   = "beam:schematransform:org.apache.beam:kafka_read:v1"
	urnWriteSchema  = "beam:schematransform:org.apache.beam:kafka_write:v1"
)

// Expander makes one kind of transform. It is immutable, and what jobapi.NewExpansionService takes.
type Expander struct {
	expand func(req *jobpb.ExpansionRequest, log *slog.Logger) (*jobpb.ExpansionResponse, error)
	schema *jobpb.SchemaTransformConfig
	log    *slog.Logger
}

// Expanders returns all of them, by the name they are asked for. log gets warnings about client properties without effect.
func Expanders(log *slog.Logger) map[string]*Expander {
	return map[string]*Expander{
		urnRead:         {expand: expandRead(urnRead, false), log: log},
		urnReadMetadata: {expand: expandRead(urnReadMetadata, true), log: log},
		urnWrite:        {expand: expandWrite(urnWrite, false), log: log},
		urnWriteHeaders: {expand: expandWrite(urnWriteHeaders, true), log: log},
		urnReadSchema:   {expand: expandReadSchema, schema: readTransform(), log: log},
		urnWriteSchema:  {expand: expandWriteSchema, schema: writeTransform(), log: log},
	}
}

// Expand returns the transform with its parts. Nothing is asked of a broker: whether there is one, with the topic, shows when the job
// runs, perhaps elsewhere. An error says which field of the configuration is wrong and what to do.
func (e *Expander) Expand(_ context.Context, req *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error) {
	return e.expand(req, e.log)
}

// SchemaTransform describes the configuration; nil: the transform is no SchemaTransform.
func (e *Expander) SchemaTransform() *jobpb.SchemaTransformConfig { return e.schema }

type expandFunc = func(*jobpb.ExpansionRequest, *slog.Logger) (*jobpb.ExpansionResponse, error)

func expandRead(urn string, metadata bool) expandFunc {
	return func(req *jobpb.ExpansionRequest, log *slog.Logger) (*jobpb.ExpansionResponse, error) {
		f, err := externalRow(req)
		if err != nil {
			return nil, err
		}
		r, err := readExternal(f, metadata, log, req.GetTransform().GetUniqueName())
		if err != nil {
			return nil, err
		}
		x := newExpansion(req, urn)
		var elements string
		if metadata {
			elements, err = x.rowCoder(metadataSchema())
		} else {
			elements = x.pairCoder(r.config.Elements)
		}
		if err != nil {
			return nil, err
		}
		return x.read(r, elements)
	}
}

func expandWrite(urn string, headers bool) expandFunc {
	return func(req *jobpb.ExpansionRequest, log *slog.Logger) (*jobpb.ExpansionResponse, error) {
		f, err := externalRow(req)
		if err != nil {
			return nil, err
		}
		c, err := writeExternal(f, headers, log, req)
		if err != nil {
			return nil, err
		}
		x := newExpansion(req, urn)
		return x.write(c)
	}
}

func expandReadSchema(req *jobpb.ExpansionRequest, log *slog.Logger) (*jobpb.ExpansionResponse, error) {
	f, err := schemaRow(req)
	if err != nil {
		return nil, err
	}
	r, err := readSchema(f, log, req.GetTransform().GetUniqueName())
	if err != nil {
		return nil, err
	}
	x := newExpansion(req, urnReadSchema)
	elements, err := x.rowCoder(payloadSchema())
	if err != nil {
		return nil, err
	}
	return x.read(r, elements)
}

func expandWriteSchema(req *jobpb.ExpansionRequest, log *slog.Logger) (*jobpb.ExpansionResponse, error) {
	f, err := schemaRow(req)
	if err != nil {
		return nil, err
	}
	c, err := writeSchema(f, log, req)
	if err != nil {
		return nil, err
	}
	x := newExpansion(req, urnWriteSchema)
	return x.write(c)
}
