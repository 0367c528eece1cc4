package kafka

import (
	"reflect"
	"testing"
)

func TestDecodeToken(t *testing.T) {
	tests := []struct{ name, text, err string }{
		{"nothing", `{"v":1,"slot":2,"producer_epoch":0}`, ""},
		{"all", `{"v":1,"slot":0,"transactional_id":"t","producer_id":5,"producer_epoch":7,"v2":true,"witness":{"topic":"a","partition":1,"offset":9}}`, ""},
		{"empty", ``, "decode transaction token: unexpected end of JSON input"},
		{"version", `{"v":2}`, "version 2 is not 1"},
		{"slot", `{"v":1,"slot":3}`, "slot 3 is not one of 3"},
		{"negative slot", `{"v":1,"slot":-1}`, "slot -1 is not one of 3"},
		{"epoch", `{"v":1,"transactional_id":"t","producer_epoch":-1}`, "producer 0, epoch -1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tk, err := decodeToken([]byte(tt.text))
			checkError(t, err, tt.err)
			if err != nil {
				return
			}
			b, err := tk.encode()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := decodeToken(b); err != nil || !reflect.DeepEqual(again, tk) {
				t.Errorf("%+v becomes %+v: %v", tk, again, err)
			}
		})
	}
}

func FuzzDecodeToken(f *testing.F) {
	f.Add([]byte(`{"v":1,"slot":0,"transactional_id":"t","producer_id":5,"producer_epoch":7}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if tk, err := decodeToken(b); err == nil && (tk.Slot < 0 || tk.Slot >= rotation) {
			t.Errorf("slot %d", tk.Slot)
		}
	})
}

func FuzzDecodePositions(f *testing.F) {
	f.Add([]byte(`{"v":1,"partitions":[{"t":"in","p":0,"next":3,"time":4,"end":9,"id":"00"}]}`), []byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		all, err := decodePositions([][]byte{a, b})
		for tp, at := range all {
			if err == nil && at.Next < 0 {
				t.Errorf("%v at %d", tp, at.Next)
			}
		}
	})
}

// Two transforms, or two jobs, never share an id.
func TestTransactionalID(t *testing.T) {
	seen := map[string]bool{}
	for _, job := range []string{"a", "b"} {
		for _, transform := range []string{"x", "y", ""} {
			for slot := range rotation {
				id := transactionalID(job, transform, slot)
				if seen[id] {
					t.Errorf("%s twice", id)
				}
				seen[id] = true
			}
		}
	}
	if got, want := transactionalID("a", "x", 2), "tinyrunner-a-2d711642b726-2"; got != want {
		t.Errorf("id %s, want %s: a running job would not find its transactions", got, want)
	}
}
