package jobapi

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
)

// Options are the pipeline options that the runner itself obeys. All others are the SDK's business.
type Options struct {
	// JobName is option job_name; "" when not given.
	JobName string
	// Streaming is option streaming. The engine does not need it: what is bounded is bounded.
	Streaming bool
	// Experiments is option experiments, e.g. "start_draining" or "name=value".
	Experiments []string
	// Savepoint is option savepoint_path, as of Beam's Flink runner, or an experiment of that name: where the savepoint lies that
	// the job begins with; "": none.
	Savepoint string
	// AllowNonRestored is option or experiment allow_non_restored_state: what the savepoint holds and the pipeline has no place
	// for is dropped.
	AllowNonRestored bool
	// Harnesses is option sdk_worker_parallelism: SDK harnesses a job and environment; at least 1.
	Harnesses int
}

// Draining says that the job is to start as draining: every initial restriction is truncated.
func (o Options) Draining() bool { return slices.Contains(o.Experiments, "start_draining") }

// The runner's own options.
const (
	savepointOption   = "savepoint_path"
	nonRestoredOption = "allow_non_restored_state"
)

// WithSavepoint returns the options of a job that is to begin with a savepoint, and to be called name unless that is "". raw,
// which may be nil, stays as it is.
func WithSavepoint(raw *structpb.Struct, location string, allowNonRestored bool, name string) *structpb.Struct {
	out := &structpb.Struct{Fields: make(map[string]*structpb.Value)}
	maps.Copy(out.Fields, raw.GetFields())
	set := func(name string, v *structpb.Value) {
		delete(out.Fields, name)
		out.Fields["beam:option:"+name+":v1"] = v
	}
	set(savepointOption, structpb.NewStringValue(location))
	set(nonRestoredOption, structpb.NewBoolValue(allowNonRestored))
	if name != "" {
		set("job_name", structpb.NewStringValue(name))
	}
	return out
}

// ParseOptions reads the options out of the struct of a PrepareJobRequest. Keys are "beam:option:NAME:v1", or plain
// NAME from old SDKs. Python sends numbers as strings. Unknown options are ignored.
func ParseOptions(raw *structpb.Struct) (Options, error) {
	r := optionReader{fields: raw.GetFields()}
	o := Options{
		JobName:          r.text("job_name"),
		Streaming:        r.boolean("streaming"),
		Experiments:      r.list("experiments"),
		Savepoint:        r.text(savepointOption),
		AllowNonRestored: r.boolean(nonRestoredOption),
		Harnesses:        r.count("sdk_worker_parallelism"),
	}
	for _, e := range o.Experiments {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case name == savepointOption && o.Savepoint == "":
			o.Savepoint = value
		case name == nonRestoredOption:
			o.AllowNonRestored = value != "false"
		}
	}
	if r.err != nil {
		return Options{}, r.err
	}
	return o, nil
}

// optionReader reads options and remembers the first error.
type optionReader struct {
	fields map[string]*structpb.Value
	err    error
}

func (r *optionReader) get(name string) *structpb.Value {
	v, ok := r.fields["beam:option:"+name+":v1"]
	if !ok {
		v = r.fields[name]
	}
	if _, null := v.GetKind().(*structpb.Value_NullValue); null {
		return nil
	}
	return v
}

func (r *optionReader) fail(name, want string, got *structpb.Value) {
	if r.err == nil {
		r.err = fmt.Errorf("option %s: want %s, got %s", name, want, got)
	}
}

func (r *optionReader) text(name string) string {
	v := r.get(name)
	if v == nil {
		return ""
	}
	s, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		r.fail(name, "a string", v)
		return ""
	}
	return s.StringValue
}

func (r *optionReader) boolean(name string) bool {
	switch v := r.get(name); k := v.GetKind().(type) {
	case nil:
		return false
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_StringValue:
		b, err := strconv.ParseBool(strings.ToLower(k.StringValue))
		if err != nil {
			r.fail(name, "true or false", v)
		}
		return b
	default:
		r.fail(name, "true or false", v)
		return false
	}
}

// count reads a positive number; absent or 0 (the SDK's "you choose") is 1.
func (r *optionReader) count(name string) int {
	const most = 1 << 10
	v := r.get(name)
	n := 0.0
	switch k := v.GetKind().(type) {
	case nil:
	case *structpb.Value_NumberValue:
		n = k.NumberValue
	case *structpb.Value_StringValue:
		i, err := strconv.Atoi(k.StringValue)
		if err != nil {
			i = -1
		}
		n = float64(i)
	default:
		n = -1
	}
	if n < 0 || n > most || n != float64(int(n)) {
		r.fail(name, fmt.Sprintf("a whole number from 0 to %d", most), v)
		return 1
	}
	return max(int(n), 1)
}

func (r *optionReader) list(name string) []string {
	v := r.get(name)
	switch k := v.GetKind().(type) {
	case nil:
		return nil
	case *structpb.Value_StringValue: // one experiment, or several with commas
		return strings.FieldsFunc(k.StringValue, func(c rune) bool { return c == ',' })
	case *structpb.Value_ListValue:
		var out []string
		for _, e := range k.ListValue.GetValues() {
			s, ok := e.GetKind().(*structpb.Value_StringValue)
			if !ok {
				r.fail(name, "a list of strings", v)
				return nil
			}
			out = append(out, s.StringValue)
		}
		return out
	default:
		r.fail(name, "a list of strings", v)
		return nil
	}
}
