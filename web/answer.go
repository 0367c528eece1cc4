package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

// failure is an error that a client is told of, in Flink's shape: {"errors": ["..."]}.
type failure struct {
	code int
	text string
}

func (f *failure) Error() string { return f.text }

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return fail(http.StatusBadRequest, format, args...)
}

func missing(format string, args ...any) error { return fail(http.StatusNotFound, format, args...) }

// plain is an answer that is text and not JSON.
type plain []byte

// empty is Flink's answer with nothing in it.
type empty struct{}

func (h *Handler) fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var f *failure
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		code = f.code
	case errors.As(err, &large):
		code = http.StatusRequestEntityTooLarge
		err = fmt.Errorf("the request's body is larger than %d bytes", large.Limit)
	default:
		h.log.Warn("REST call failed", "error", err)
	}
	h.answer(w, code, errorsJSON{[]string{err.Error()}})
}

type errorsJSON struct {
	Errors []string `json:"errors"`
}

// encoded is an answer as it is sent.
type encoded struct {
	contentType string
	data        []byte // shared: nobody may change it
}

func encode(body any) (encoded, error) {
	if text, ok := body.(plain); ok {
		return encoded{"text/plain; charset=utf-8", text}, nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return encoded{}, fmt.Errorf("encode answer: %w", err)
	}
	return encoded{"application/json; charset=UTF-8", data}, nil
}

func (h *Handler) answer(w http.ResponseWriter, code int, body any) {
	e, err := encode(body)
	if err != nil {
		h.fail(w, err)
		return
	}
	h.send(w, code, e)
}

// send tells the length, so that net/http sends the answer in one piece.
func (h *Handler) send(w http.ResponseWriter, code int, e encoded) {
	// As Header.Set has them, in one piece of memory.
	header, values := w.Header(), []string{"nosniff", "no-store", e.contentType, strconv.Itoa(len(e.data))}
	for k, name := range [...]string{"X-Content-Type-Options", "Cache-Control", "Content-Type", "Content-Length"} {
		header[name] = values[k : k+1 : k+1]
	}
	hurry(w)
	w.WriteHeader(code)
	if _, err := w.Write(e.data); err != nil {
		h.log.Debug("answer was not sent", "error", err)
	}
}

// decode reads a request's JSON into v. Fields that it does not know are ignored, as Flink does; no body is {}.
func decode(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail(http.StatusRequestTimeout, "the request's body takes too long")
	case err != nil:
		return badRequest("read the request's body: %v", err)
	}
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return badRequest("Request did not match expected format: %v", err)
	}
	return nil
}

// ratio is a number that may be unknown: JSON has no NaN, so Flink writes it as a string.
type ratio float64

// MarshalJSON writes "NaN" for what is no number.
func (f ratio) MarshalJSON() ([]byte, error) {
	if f != f {
		return []byte(`"NaN"`), nil
	}
	return json.Marshal(float64(f))
}
