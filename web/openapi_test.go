package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOpenAPI calls every route and compares status and answer with what the document says of it. A route without an
// example here, or a path of the document without a route, is an error.
func TestOpenAPI(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), nil)
	document := readDocument(t, h)
	paths := document["paths"].(map[string]any)
	described := 0
	for _, operations := range paths {
		described += len(operations.(map[string]any))
	}
	routes := h.routes()
	if described != len(routes) {
		t.Errorf("%d operations are described, there are %d", described, len(routes))
	}
	for _, rt := range routes {
		operation, ok := paths[rt.path].(map[string]any)[strings.ToLower(rt.method)].(map[string]any)
		if !ok {
			t.Errorf("%s %s is not described", rt.method, rt.path)
			continue
		}
		t.Run(rt.method+strings.ReplaceAll(rt.path, "/", "."), func(t *testing.T) { checkRoute(t, rt, operation) })
	}
}

func readDocument(t *testing.T, h *Handler) map[string]any {
	t.Helper()
	_, _, data := call(t, h, http.MethodGet, "/openapi.json", "")
	var document map[string]any
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("*")) || document["openapi"] != "3.1.0" {
		t.Errorf("odd document: %.300s", data)
	}
	return document
}

// checkRoute calls a route of a fresh handler.
func checkRoute(t *testing.T, rt route, operation map[string]any) {
	c := example(time.Now())
	c.submit = func(Submission) (string, error) { return "new", nil }
	h := newTestHandler(t, c, nil)
	path, body, contentType := exampleOf(t, h, rt)
	code, header, answer := call(t, h, rt.method, path, body, "Content-Type: "+contentType)
	if code >= 500 && code != http.StatusNotImplemented {
		t.Fatalf("%s %s: %d %s", rt.method, path, code, answer)
	}
	if rt.path == "/jobs" && rt.method == http.MethodPost {
		return // always refused
	}
	response, ok := operation["responses"].(map[string]any)[fmt.Sprint(code)].(map[string]any)
	if !ok {
		t.Fatalf("%s %s: status %d is not described: %s", rt.method, path, code, answer)
	}
	content := response["content"].(map[string]any)
	if _, text := content["text/plain"]; text {
		if !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %s", path, header.Get("Content-Type"))
		}
		return
	}
	var v any
	if err := json.Unmarshal(answer, &v); err != nil {
		t.Fatalf("%s: %v in %s", path, err, answer)
	}
	if err := validate(v, content["application/json"].(map[string]any)["schema"].(map[string]any), "$"); err != nil {
		t.Errorf("%s: %v\n%.600s", path, err, answer)
	}
}

// exampleOf makes a request that succeeds.
func exampleOf(t *testing.T, h *Handler, rt route) (path, body, contentType string) {
	t.Helper()
	jar, form, boundary := "", uberJar(t, nil), "multipart/form-data; boundary=x"
	if strings.Contains(rt.path, "{jar}") {
		_, _, answer := call(t, h, http.MethodPost, "/jars/upload", form, "Content-Type: "+boundary)
		jar = between(string(answer), "/jars/", `"`)
	}
	const trigger = "abababababababababababababababab"
	id, job := HexID("Group"), HexID("words-abc")
	switch rt.path {
	case "/jobs/{job}/savepoints/{trigger}":
		call(t, h, http.MethodPost, "/jobs/"+job+"/savepoints", `{"triggerId":"`+trigger+`"}`)
	case "/jobs/{job}/checkpoints/{trigger}":
		call(t, h, http.MethodPost, "/jobs/"+job+"/checkpoints", `{"triggerId":"`+trigger+`"}`)
	case "/savepoint-disposal/{trigger}":
		_, _, answer := call(t, h, http.MethodPost, "/savepoint-disposal", `{"savepoint-path":"file:///x"}`)
		return "/savepoint-disposal/" + between(string(answer), `"request-id":"`, `"`), "", ""
	case "/jobs/{job}/resource-requirements":
		one := `{"parallelism":{"lowerBound":1,"upperBound":1}}`
		body = fmt.Sprintf(`{%q:%s,%q:%s}`, HexID("Read"), one, id, one)
	case "/savepoint-disposal", "/savepoint-restore":
		body = `{"savepoint-path":"file:///x"}`
	case "/jars/upload":
		body, contentType = form, boundary
	}
	if rt.method == http.MethodGet {
		body = ""
	}
	path = strings.NewReplacer("{job}", job, "{vertex}", id, "{checkpoint}", "3", "{trigger}", trigger, "{subtask}", "1",
		"{attempt}", "1", "{taskmanager}", taskManagerID, "{file}", logFile, "{jar}", jar, "{stored}", HexID("failed")).Replace(rt.path)
	return path, body, contentType
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// validate checks a value against a schema, as far as documents here need it: type, properties, required, additionalProperties and items.
func validate(v any, s map[string]any, at string) error {
	if s == nil {
		return nil // anything
	}
	if types := typesOf(s["type"]); types != nil && !slices.ContainsFunc(types, func(typ string) bool { return is(v, typ) }) {
		return fmt.Errorf("%s is %v, not %v", at, v, types)
	}
	switch v := v.(type) {
	case []any:
		items, ok := s["items"].(map[string]any)
		for k, x := range v {
			if !ok {
				return fmt.Errorf("%s: items are not described", at)
			}
			if err := validate(x, items, fmt.Sprintf("%s[%d]", at, k)); err != nil {
				return err
			}
		}
	case map[string]any:
		return validateObject(v, s, at)
	}
	return nil
}

func validateObject(v, s map[string]any, at string) error {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s.%v is missing", at, name)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	other, open := s["additionalProperties"].(map[string]any)
	for name, x := range v {
		inner, ok := properties[name].(map[string]any)
		switch {
		case !ok && open:
			inner = other
		case !ok && properties != nil:
			return fmt.Errorf("%s.%s is not described", at, name)
		}
		if err := validate(x, inner, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func typesOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, x := range v {
			out = append(out, x.(string))
		}
		return out
	}
	return nil
}

func is(v any, typ string) bool {
	switch v := v.(type) {
	case nil:
		return typ == "null"
	case bool:
		return typ == "boolean"
	case string:
		return typ == "string"
	case float64:
		return typ == "number" || typ == "integer" && v == math.Trunc(v)
	case []any:
		return typ == "array"
	default:
		return typ == "object"
	}
}
