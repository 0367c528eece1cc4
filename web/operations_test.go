package web

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestOperation: a trigger is IN_PROGRESS until what it began has ended. A second trigger of the same id begins nothing.
func TestOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := example(time.Now())
		h := newTestHandler(t, c, nil)
		job := c.jobs[len(c.jobs)-1]
		job.wait = make(chan struct{})
		const id = "abababababababababababababababab"
		path := names("/jobs/{words}/savepoints")
		for range 2 {
			if code, _, body := call(t, h, http.MethodPost, path, `{"triggerId":"`+id+`"}`); code != http.StatusAccepted {
				t.Fatalf("%d %s", code, body)
			}
		}
		synctest.Wait()
		if _, _, body := call(t, h, http.MethodGet, path+"/"+id, ""); string(body) != `{"status":{"id":"IN_PROGRESS"},"operation":null}` {
			t.Errorf("before the end: %s", body)
		}
		close(job.wait)
		synctest.Wait()
		want := `{"status":{"id":"COMPLETED"},"operation":{"location":"file:///savepoints/savepoint-c03383-RANDOM"}}`
		if _, _, body := call(t, h, http.MethodGet, path+"/"+id, ""); randomPart.ReplaceAllString(string(body), "-RANDOM") != want {
			t.Errorf("at the end: %s, want %s", body, want)
		}
		if n := strings.Count(c.called(), "checkpoint"); n != 1 {
			t.Errorf("%d savepoints were made", n)
		}
		if code, _, _ := call(t, h, http.MethodGet, names("/jobs/{done}/savepoints/")+id, ""); code != http.StatusNotFound {
			t.Errorf("the trigger of another job: %d", code)
		}
	})
}

func TestCheckpointOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHandler(t, example(time.Now()), nil)
		path := names("/jobs/{words}/checkpoints")
		_, _, body := call(t, h, http.MethodPost, path, "")
		synctest.Wait()
		_, _, body = call(t, h, http.MethodGet, path+"/"+between(string(body), `"request-id":"`, `"`), "")
		if want := `{"status":{"id":"COMPLETED"},"operation":{"checkpointId":7}}`; string(body) != want {
			t.Errorf("%s, want %s", body, want)
		}
	})
}

// TestFailedOperation: Java clients need a serialized exception.
func TestFailedOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := example(time.Now())
		h := newTestHandler(t, c, nil)
		c.jobs[len(c.jobs)-1].refuse = errors.New("no room")
		path := names("/jobs/{words}/stop")
		_, _, body := call(t, h, http.MethodPost, path, "{}")
		synctest.Wait()
		_, _, body = call(t, h, http.MethodGet, names("/jobs/{words}/savepoints/")+between(string(body), `"request-id":"`, `"`), "")
		var got operationJSON
		if err := json.Unmarshal(body, &got); err != nil || got.Operation == nil || got.Operation.FailureCause == nil {
			t.Fatalf("%v in %s", err, body)
		}
		data, err := base64.StdEncoding.DecodeString(got.Operation.FailureCause.Serialized)
		if err != nil || !strings.Contains(string(data), "no room") || got.Operation.Location != "" {
			t.Errorf("%v in %s", err, body)
		}
	})
}

// TestOperationsAreBounded: the oldest ones that have ended are forgotten, and too many at once are refused.
func TestOperationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := example(time.Now())
		h := newTestHandler(t, c, nil)
		job := c.jobs[len(c.jobs)-1]
		path := names("/jobs/{words}/checkpoints")
		trigger := func(k int) (int, string) {
			id := fmt.Sprintf("%032x", k)
			code, _, _ := call(t, h, http.MethodPost, path, `{"triggerId":"`+id+`"}`)
			return code, id
		}
		_, first := trigger(0)
		for k := range maxOperations {
			synctest.Wait()
			trigger(k + 1)
		}
		synctest.Wait()
		if code, _, _ := call(t, h, http.MethodGet, path+"/"+first, ""); code != http.StatusNotFound {
			t.Errorf("the oldest one: %d", code)
		}
		job.wait = make(chan struct{})
		defer close(job.wait)
		for k := range maxOperations {
			trigger(1000 + k)
		}
		if code, _ := trigger(9999); code != http.StatusServiceUnavailable {
			t.Errorf("one too many: %d", code)
		}
	})
}

// TestSerializedThrowable compares with the beginning of what Java itself has written.
func TestSerializedThrowable(t *testing.T) {
	const java = "\xac\xed\x00\x05sr\x00)org.apache.flink.util.SerializedThrowablee\x16\x9d\xf5\x1f\xa7\x13\xf3\x02\x00\x03L\x00\x19fullStringifiedStackTracet\x00\x12Ljava/lang/String;L\x00\x16originalErrorClassNameq\x00~\x00\x01[\x00\x13serializedExceptiont\x00\x02[Bxr\x00\x13java.lang.Exception\xd0\xfd\x1f>\x1a;\x1c\xc4\x02\x00\x00xr\x00\x13java.lang.Throwable\xd5\xc65'9w\xb8\xcb\x03\x00\x04L\x00\x05causet\x00\x15Ljava/lang/Throwable;L\x00\rdetailMessageq\x00~\x00\x01[\x00\nstackTracet\x00\x1e[Ljava/lang/StackTraceElement;L\x00\x14suppressedExceptionst\x00\x10Ljava/util/List;xppt\x00'java.lang.RuntimeException: @@MESSAGE@@ur\x00\x1e[Ljava.lang.StackTraceElement;\x02F*<<\xfd\"9\x02\x00\x00xp\x00\x00\x00\x00"
	if got := string(serializedThrowable("@@MESSAGE@@")); !strings.HasPrefix(got, java) {
		t.Errorf("got\n%q\nwant\n%q", got, java)
	}
	for text, want := range map[string]string{"a\x00b": "a\xc0\x80b", "\u00e9": "\xc3\xa9", "\U0001f600": "\xed\xa0\xbd\xed\xb8\x80", "\xff": "\xef\xbf\xbd"} {
		if got := string(modifiedUTF8(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := string(serializedThrowable(strings.Repeat("x", 70000))); !strings.Contains(got, "\x7c\x00\x00\x00\x00\x00\x01\x11\x8c") {
		t.Error("a long text is no TC_LONGSTRING")
	}
}

// TestFailedRescale: PUT has answered long before, so the requirements go and the exceptions tell; the job's own error stays
// the root.
func TestFailedRescale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := example(time.Now())
		h := newTestHandler(t, c, nil)
		c.jobs[len(c.jobs)-1].refuse = errors.New("a bundle does not end")
		path := names("/jobs/{words}/resource-requirements")
		one := `{"parallelism":{"lowerBound":1,"upperBound":1}}`
		if code, _, body := call(t, h, http.MethodPut, path, fmt.Sprintf(`{%q:%s,%q:%s}`, HexID("Read"), one, HexID("Group"), one)); code != http.StatusOK {
			t.Fatalf("%d %s", code, body)
		}
		time.Sleep(time.Minute) // it is tried again for some time
		synctest.Wait()
		if _, _, body := call(t, h, http.MethodGet, path, ""); strings.Contains(string(body), `"upperBound":1`) {
			t.Errorf("requirements that cannot be met: %s", body)
		}
		_, _, body := call(t, h, http.MethodGet, names("/jobs/{words}/exceptions"), "")
		for _, want := range []string{`"root-exception":null`, `"exceptionName":"rescaling to 1 slots failed: a bundle does not end"`} {
			if !strings.Contains(string(body), want) {
				t.Errorf("no %s in %s", want, body)
			}
		}
	})
}
