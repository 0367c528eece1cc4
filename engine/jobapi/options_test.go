package jobapi

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		name, json string
		want       Options
		err        string
	}{
		{name: "none", json: `{}`, want: Options{Harnesses: 1}},
		{name: "python", json: `{"beam:option:job_name:v1": "words", "beam:option:streaming:v1": true, "beam:option:sdk_worker_parallelism:v1": "4",
			"beam:option:experiments:v1": ["beam_fn_api", "start_draining"], "beam:option:other:v1": {"a": 1}}`,
			want: Options{JobName: "words", Streaming: true, Harnesses: 4, Experiments: []string{"beam_fn_api", "start_draining"}}},
		{name: "plain names", json: `{"job_name": "words", "streaming": "True", "sdk_worker_parallelism": 2, "experiments": "a,b"}`,
			want: Options{JobName: "words", Streaming: true, Harnesses: 2, Experiments: []string{"a", "b"}}},
		{name: "null", json: `{"beam:option:experiments:v1": null, "beam:option:streaming:v1": null, "beam:option:sdk_worker_parallelism:v1": 0}`,
			want: Options{Harnesses: 1}},
		{name: "name", json: `{"job_name": 3}`, err: `option job_name: want a string, got number_value:3`},
		{name: "streaming", json: `{"streaming": "perhaps"}`, err: `option streaming: want true or false, got string_value:"perhaps"`},
		{name: "fraction", json: `{"sdk_worker_parallelism": 1.5}`, err: `option sdk_worker_parallelism: want a whole number from 0 to 1024, got number_value:1.5`},
		{name: "negative", json: `{"sdk_worker_parallelism": "-1"}`, err: `option sdk_worker_parallelism: want a whole number from 0 to 1024, got string_value:"-1"`},
		{name: "huge", json: `{"sdk_worker_parallelism": 1e300}`, err: `option sdk_worker_parallelism: want a whole number from 0 to 1024, got number_value:1e+300`},
		{name: "experiments", json: `{"experiments": {"a": true}}`, err: `option experiments: want a list of strings, got struct_value:{fields:{key:"a" value:{bool_value:true}}}`},
		{name: "experiment", json: `{"experiments": [1]}`, err: `option experiments: want a list of strings, got list_value:{values:{number_value:1}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var raw structpb.Struct
			if err := protojson.Unmarshal([]byte(c.json), &raw); err != nil {
				t.Fatal(err)
			}
			got, err := ParseOptions(&raw)
			text := ""
			if err != nil { // protobuf prints one or two spaces, at random
				text = strings.ReplaceAll(err.Error(), "  ", " ")
			}
			if text != c.err || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %q\nwant %+v, %q", got, text, c.want, c.err)
			}
		})
	}
	if got, err := ParseOptions(nil); err != nil || got.Harnesses != 1 || got.Draining() {
		t.Errorf("no options: %+v, %v", got, err)
	}
	if o := (Options{Experiments: []string{"x", "start_draining"}}); !o.Draining() {
		t.Error("start_draining is not seen")
	}
}

func TestSanitize(t *testing.T) {
	for in, want := range map[string]string{
		"wordcount": "wordcount", "Word Count/é": "word-count", "../../x": "x", "": "job", "!!!": "job", "a__b--c": "a-b-c",
		strings.Repeat("x", 100): strings.Repeat("x", 48),
	} {
		if got := sanitize(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
