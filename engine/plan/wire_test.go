package plan

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/prototext"
)

func TestWireCoders(t *testing.T) {
	for _, c := range []struct{ coder, element, window string }{
		{"bytes", "bytes", "custom_window<bytes>"},
		{"custom", "length_prefix<custom>", "custom_window<length_prefix<custom>>"},
		{"row", "length_prefix<row>", "custom_window<length_prefix<row>>"},
		{"length_prefix<custom>", "length_prefix<custom>", "custom_window<length_prefix<custom>>"},
		{"kv<custom,iterable<row>>", "kv<length_prefix<custom>,iterable<length_prefix<row>>>", ""},
		{"custom<bytes>", "length_prefix<custom<bytes>>", ""},
		{"nullable<sharded_key<custom>>", "nullable<sharded_key<length_prefix<custom>>>", ""},
		{"windowed_value<custom,custom>", "windowed_value<length_prefix<custom>,custom_window<length_prefix<custom>>>", ""},
		{"global_window", "global_window", "global_window"},
		{"interval_window", "interval_window", "interval_window"},
		{"length_prefix<interval_window>", "length_prefix<interval_window>", "length_prefix<interval_window>"},
		{"custom_window<custom>", "custom_window<length_prefix<custom>>", "custom_window<length_prefix<custom>>"},
	} {
		s := newSketch()
		id := s.coder(c.coder)
		w := &wiring{graph: &graph{comps: s.c, coders: newCoders(s.c)}, done: map[string]string{}}
		if got := w.coders.String(w.element(id)); got != c.element {
			t.Errorf("element %s is %s on the wire, want %s", c.coder, got, c.element)
		}
		if got := w.coders.String(w.window(id)); c.window != "" && got != c.window {
			t.Errorf("window %s is %s on the wire, want %s", c.coder, got, c.window)
		}
	}
}

func TestLiftable(t *testing.T) {
	for text, want := range map[string]bool{
		"":                               true,
		"trigger{default{}}":             true,
		"trigger{never{}}":               true,
		"trigger{always{}}":              false,
		"trigger{after_end_of_window{}}": true,
		"trigger{after_end_of_window{early_firings{repeat{subtrigger{after_processing_time{}}}}}}":            true,
		"trigger{after_end_of_window{late_firings{element_count{element_count:1}}}}":                          false,
		"trigger{after_any{subtriggers{after_processing_time{}}subtriggers{element_count{element_count:9}}}}": false,
		"trigger{after_each{subtriggers{never{}}subtriggers{default{}}}}":                                     true,
		"trigger{after_all{subtriggers{always{}}}}":                                                           false,
		"trigger{or_finally{main{default{}}finally{element_count{element_count:1}}}}":                         false,
		"accumulation_mode:RETRACTING":                                                                        false,
	} {
		var ws pipepb.WindowingStrategy
		if err := prototext.Unmarshal([]byte(text), &ws); err != nil {
			t.Fatal(err)
		}
		if got := liftable(&ws); got != want {
			t.Errorf("liftable(%s) = %v, want %v", text, got, want)
		}
	}
}
