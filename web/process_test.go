package web

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// TestTaskManagerHeap: what Flink names free memory its UI shows as the size of the JVM's heap.
func TestTaskManagerHeap(t *testing.T) {
	c := example(time.Now())
	h := newTestHandler(t, c, nil)
	var got taskManagersJSON
	code, _, body := call(t, h, http.MethodGet, "/taskmanagers", "")
	if err := json.Unmarshal(body, &got); err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	if hw := got.TaskManagers[0].Hardware; hw.Heap != heapMax(c.Memory()) || hw.Physical <= hw.Heap {
		t.Errorf("%+v", hw)
	}
}
