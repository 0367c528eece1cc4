package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func TestS3Conforms(t *testing.T) {
	conform(t, func(t *testing.T) Bucket {
		f := &fakeS3{page: 3}
		t.Cleanup(func() {
			if len(f.uploads) > 0 {
				t.Errorf("%d multipart uploads are left", len(f.uploads))
			}
		})
		return f.bucket(t)
	})
}

func TestS3Config(t *testing.T) {
	for want, c := range map[string]S3Config{
		"":                               {},
		"use AES256":                     {SSE: "rot13"},
		"needs encryption":               {SSE: "AES256", SSEKeyID: "key"},
		"use 5 MiB to 5 GiB":             {PartSize: 1 << 20},
		"must not be negative":           {Parallel: -1},
		"use http://HOST:PORT or":        {Endpoint: "localhost:9000"},
		`endpoint "http://h/p"`:          {Endpoint: "http://h/p"},
		`endpoint "ftp://h"`:             {Endpoint: "ftp://h"},
		`endpoint "http://h?x=1": use h`: {Endpoint: "http://h?x=1"},
	} {
		if err := c.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	for endpoint, want := range map[string]bool{"": false, "https://s3.example.com": false, "http://localhost:1": true, "http://127.0.0.1:1": true, "http://[::1]:1": true} {
		if got := (S3Config{Endpoint: endpoint}).withDefaults().PathStyle; got != want {
			t.Errorf("%q: path style %v", endpoint, got)
		}
	}
}

// What is sent: the condition on both ways of creating, encryption, a signature over the body, no trailing checksum.
func TestS3Headers(t *testing.T) {
	f := &fakeS3{}
	cfg := f.start(t)
	cfg.SSE, cfg.SSEKeyID = "aws:kms", "key-1"
	s := openS3(t, cfg)
	put(t, s, "small", "x")
	if err := s.Create(t.Context(), "large", pattern(0), 2*minPart); err != nil {
		t.Fatal(err)
	}
	for i, h := range f.headers {
		kind := f.requests[i]
		if begins := kind == "PUT" || kind == "POST ?uploads"; begins != (h.Get("X-Amz-Server-Side-Encryption") == "aws:kms") ||
			begins != (h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") == "key-1") {
			t.Errorf("%s: %v", kind, h)
		}
		if decides := kind == "PUT" || kind == "POST ?uploadId"; decides != (h.Get("If-None-Match") == "*") {
			t.Errorf("%s: %v", kind, h)
		}
		if h.Get("X-Amz-Trailer") != "" || h.Get("Content-Encoding") != "" || len(h.Get("X-Amz-Content-Sha256")) != 64 {
			t.Errorf("%s: %v", kind, h)
		}
	}
	if _, ok := f.objects["some/prefix/small"]; !ok {
		t.Errorf("the object is elsewhere")
	}
}

// Requests that fail, and what comes of it. Every row begins with one object, "old".
func TestS3Faults(t *testing.T) {
	small := func(ctx context.Context, s *S3) error { return create(ctx, s, "new", []byte("content")) }
	large := func(ctx context.Context, s *S3) error { return s.Create(ctx, "new", pattern(0), 3*minPart) }
	taken := func(ctx context.Context, s *S3) error { return create(ctx, s, "old", []byte("content")) }
	for name, c := range map[string]struct {
		call  func(ctx context.Context, s *S3) error
		on    string
		fault []int
		want  error  // or nil; errors.Is
		text  string // in the error
		tries int    // requests of that kind
	}{
		"busy":                   {small, "PUT", []int{503, 500}, nil, "", 3},
		"busy for good":          {small, "PUT", []int{503, 503, 503, 503}, errAny, "exceeded maximum number of attempts, 4", 4},
		"answer lost":            {small, "PUT", []int{lost}, nil, "", 2},
		"answer lost twice":      {small, "PUT", []int{lost, lost}, nil, "", 3},
		"answer lost, taken":     {taken, "PUT", []int{lost}, ErrExists, "", 2},
		"conflict":               {small, "PUT", []int{409, 409, 409}, nil, "", 4},
		"conflict, taken":        {taken, "PUT", []int{409}, ErrExists, "", 2},
		"conflict for good":      {small, "PUT", slices.Repeat([]int{409}, 100), errAny, "409", conflictTries},
		"forbidden":              {small, "PUT", []int{403}, errAny, "allow these credentials s3:GetObject, PutObject", 1},
		"no conditional writes":  {small, "PUT", []int{501}, errAny, "does not know conditional writes", 1},
		"elsewhere":              {small, "PUT", []int{301}, errAny, "set the region of bucket bucket", 1},
		"nobody can say":         {taken, "HEAD", []int{403}, errAny, "find out who created", 1},
		"part busy":              {large, "PUT ?partNumber", []int{503, 500}, nil, "", 5},
		"part lost":              {large, "PUT ?partNumber", []int{lost}, nil, "", 4},
		"part forbidden":         {large, "PUT ?partNumber", []int{0, 403}, errAny, "upload part", 0},
		"completion lost":        {large, "POST ?uploadId", []int{lost}, nil, "", 2},
		"completion in conflict": {large, "POST ?uploadId", []int{409}, nil, "", 2},
		"completion refused":     {large, "POST ?uploadId", []int{501}, errAny, "complete multipart upload", 1},
		"beginning refused":      {large, "POST ?uploads", []int{403}, errAny, "begin multipart upload", 1},
		"broken body": {func(ctx context.Context, s *S3) error {
			got, err := read(ctx, s, "old", 2, 5)
			if err == nil && got != "23456" {
				return fmt.Errorf("read %q", got)
			}
			return err
		}, "GET", []int{broke, broke, 503, broke}, nil, "", 5},
		"broken listing": {func(ctx context.Context, s *S3) error {
			for _, err := range s.List(ctx, "") {
				if err != nil {
					return err
				}
			}
			return nil
		}, "GET ?list-type", []int{broke, broke}, nil, "", 3},
		"missing listing": {func(ctx context.Context, s *S3) error {
			for _, err := range s.List(ctx, "") {
				return err
			}
			return nil
		}, "GET ?list-type", []int{403}, errAny, "ListBucket", 1},
		"delete busy": {func(ctx context.Context, s *S3) error { return s.Delete(ctx, "old", "older") }, "POST ?delete", []int{503}, nil, "", 2},
		"delete not understood": {func(ctx context.Context, s *S3) error { return s.Delete(ctx, "old", "older") },
			"POST ?delete", []int{400}, nil, "", 1},
		"delete forbidden": {func(ctx context.Context, s *S3) error { return s.Delete(ctx, "old", "older") },
			"POST ?delete", []int{403}, errAny, "some/prefix/old and 1 more", 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeS3{}
			s := f.bucket(t)
			put(t, s, "old", "0123456789")
			f.inject(faults(c.on, c.fault...))
			err := c.call(t.Context(), s)
			switch {
			case c.want == nil && err != nil:
				t.Error(err)
			case errors.Is(c.want, errAny) && (err == nil || errors.Is(err, ErrExists)), errors.Is(c.want, ErrExists) && !errors.Is(err, ErrExists):
				t.Errorf("%v, want %v", err, c.want)
			case err != nil && !strings.Contains(err.Error(), c.text):
				t.Errorf("%v, want %q", err, c.text)
			}
			if n := f.count(c.on); c.tries > 0 && n != c.tries {
				t.Errorf("%d requests, want %d", n, c.tries)
			}
			if len(f.uploads) > 0 {
				t.Errorf("%d multipart uploads are left", len(f.uploads))
			}
		})
	}
}

var errAny = errors.New("any error but ErrExists")

// A transfer in which nothing moves is broken off and tried again, in both directions; one of a slow reader is not.
func TestS3Stall(t *testing.T) {
	f := &fakeS3{}
	cfg := f.start(t)
	if err := openS3(t, cfg).Create(t.Context(), "large", pattern(0), minPart); err != nil {
		t.Fatal(err)
	}
	cfg.StallTimeout = time.Second
	s := openS3(t, cfg)
	for _, kind := range []string{"PUT", "GET", "GET ?list-type"} {
		f.inject(faults(kind, hang))
		if err := Probe(t.Context(), s); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	f.inject(func(*http.Request) int { return hang })
	if err := create(t.Context(), s, "new", nil); err == nil || !strings.Contains(err.Error(), "nothing moved for 1s") ||
		!strings.Contains(err.Error(), "reachable and alive") {
		t.Error(err)
	}
	f.inject(nil)
	r, err := s.Open(t.Context(), "large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 { // before the first byte, and between two
		time.Sleep(2 * cfg.StallTimeout)
		if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
			t.Error(err)
		}
	}
	if n, err := io.Copy(io.Discard, r); n != minPart-200 || err != nil || f.count("GET") != 1 {
		t.Errorf("%d bytes, %v, %v", n, err, f.requests)
	}
}

// A body that stops in the middle is taken up where it stopped; an object that was replaced meanwhile is not.
func TestS3Resume(t *testing.T) {
	f := &fakeS3{}
	s := f.bucket(t)
	content := strings.Repeat("0123456789", 100)
	put(t, s, "object", content)
	f.inject(faults("GET", slices.Repeat([]int{broke}, 9)...)) // each gives half of what is left
	if got, err := read(t.Context(), s, "object", 0, -1); err != nil || got != content || f.count("GET") != 10 {
		t.Errorf("%d bytes, %v, %d requests", len(got), err, f.count("GET"))
	}

	f.inject(faults("GET", slices.Repeat([]int{broke}, 100)...))
	if got, err := read(t.Context(), s, "object", 0, 1); !errors.Is(err, io.ErrUnexpectedEOF) || got != "" || !strings.Contains(err.Error(), "prefix/object") {
		t.Errorf("%q, %v", got, err)
	}

	f.inject(faults("GET", broke))
	r, err := s.Open(t.Context(), "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Delete(t.Context(), "object"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "object", strings.Repeat("x", len(content)))
	if got, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "replaced while it was read") || strings.Contains(string(got), "x") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestS3Delete(t *testing.T) {
	for _, c := range []struct {
		noBatch        bool
		batch, singles int
	}{
		{false, 2, 120}, // the fake leaves every tenth
		{true, 1, 1200},
	} {
		f := &fakeS3{noBatch: c.noBatch}
		s := f.bucket(t)
		var names []string
		for i := range 1200 {
			names = append(names, fmt.Sprintf("d/%04d", i))
			f.objects["some/prefix/"+names[i]] = &fakeObject{}
		}
		if got := list(t, s, ""); !slices.Equal(got, names) {
			t.Fatalf("%d objects", len(got))
		}
		if err := s.Delete(t.Context(), names...); err != nil || len(f.objects) > 0 {
			t.Errorf("%d are left, %v", len(f.objects), err)
		}
		if b, n := f.count("POST ?delete"), f.count("DELETE"); b != c.batch || n != c.singles {
			t.Errorf("%d batches and %d single requests, want %d and %d", b, n, c.batch, c.singles)
		}
	}
}

func TestS3Sweep(t *testing.T) {
	f := &fakeS3{}
	s := f.bucket(t)
	f.uploads["1"] = &fakeUpload{key: "some/prefix/old", time: time.Now().Add(-2 * StaleAfter)}
	f.uploads["2"] = &fakeUpload{key: "some/prefix/fresh", time: time.Now()}
	f.uploads["3"] = &fakeUpload{key: "others/old", time: time.Now().Add(-2 * StaleAfter)}
	n, err := s.Sweep(t.Context(), StaleAfter)
	if n != 1 || err != nil || len(f.uploads) != 2 || f.uploads["1"] != nil {
		t.Errorf("swept %d, %v, left %v", n, err, f.uploads)
	}
}

func TestProbeRefuses(t *testing.T) {
	f := &fakeS3{unfenced: true}
	s := f.bucket(t)
	err := Probe(t.Context(), s)
	if !errors.Is(err, ErrUnfenced) || !strings.Contains(err.Error(), "s3://bucket/some/prefix") || !strings.Contains(err.Error(), "conditional writes") {
		t.Error(err)
	}
	if len(f.objects) > 0 {
		t.Errorf("left %v", f.objects)
	}

	err = Probe(t.Context(), &racy{s})
	f.unfenced = false
	if err := Probe(t.Context(), s); err != nil {
		t.Error(err)
	}
	if !errors.Is(err, ErrUnfenced) {
		t.Errorf("a store that lets rivals win: %v", err)
	}

	old := &fakeObject{time: time.Now().Add(-2 * StaleAfter)}
	f.objects["some/prefix/probe/CRASHED/twice"] = old
	f.objects["some/prefix/probe/ALIVE/twice"] = &fakeObject{time: time.Now()}
	if err := Probe(t.Context(), s); err != nil {
		t.Error(err)
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"probe/ALIVE/twice"}) {
		t.Error(got)
	}

	s.bucket = "nobucket"
	if err := Probe(t.Context(), s); err == nil || !strings.Contains(err.Error(), "create bucket nobucket, or check") {
		t.Error(err)
	}
}

// racy looks first and creates then.
type racy struct{ Bucket }

func (b *racy) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if _, err := read(ctx, b, name, 0, 0); err == nil {
		return ErrExists
	}
	time.Sleep(20 * time.Millisecond)
	return b.Bucket.Create(ctx, name, r, size)
}

func TestS3Unreachable(t *testing.T) {
	f := &fakeS3{}
	cfg := f.start(t)
	cfg.Endpoint = "http://127.0.0.1:1"
	err := Probe(t.Context(), openS3(t, cfg))
	if err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "check that the endpoint is right") {
		t.Error(err)
	}
}

// An upload holds no parts in memory, and sends no more of them at once than it may.
func TestS3Memory(t *testing.T) {
	const part, size = 16 << 20, 12*16<<20 + 1
	f := &fakeS3{discard: true}
	cfg := f.start(t)
	cfg.PartSize, cfg.Parallel = part, 4
	s := openS3(t, cfg)
	content := pattern(0)
	before := heap()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		most := uint64(0)
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(time.Millisecond):
				most = max(most, heap())
			}
		}
	}()
	err := s.Create(t.Context(), "large", content, size)
	close(stop)
	used := int64(<-peak) - int64(before)
	if err != nil {
		t.Fatal(err)
	}
	if used > 16<<20 {
		t.Errorf("the heap grew by %d MiB, less than one part was expected", used>>20)
	}
	if n := f.count("PUT ?partNumber"); n != 13 || f.peak > 4 || f.peak < 2 {
		t.Errorf("%d parts, %d at once", n, f.peak)
	}
	t.Logf("heap grew by %.1f MiB, %d parts at once", float64(used)/(1<<20), f.peak)
}

func heap() uint64 {
	m := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(m)
	return m[0].Value.Uint64()
}

// A Bucket sends no more bodies at once than it may, whoever calls.
func TestS3Parallel(t *testing.T) {
	f := &fakeS3{discard: true}
	cfg := f.start(t)
	cfg.Parallel = 2
	s := openS3(t, cfg)
	errs := make(chan error)
	for i := range 6 {
		go func() {
			errs <- s.Create(t.Context(), fmt.Sprint(i), bytes.NewReader(make([]byte, minPart+i%2*minPart)), int64(minPart+i%2*minPart))
		}()
	}
	for range 6 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if f.peak > 2 {
		t.Errorf("%d bodies at once", f.peak)
	}
}

// No size needs more than S3's 10000 parts. It is the arithmetic that is tested: nothing is sent.
func TestS3PartsOfHugeObject(t *testing.T) {
	for _, size := range []int64{minPart + 1, 10000 * minPart, 10000*minPart + 1, 5 << 40} {
		part := partSize(minPart, size)
		if n := (size + part - 1) / part; n > maxParts || part > maxPart || part < minPart {
			t.Errorf("size %d: %d parts of %d bytes", size, n, part)
		}
	}
}

// beginUpload leaves a multipart upload as a crash would.
func beginUpload(t *testing.T, s *S3, name string) string {
	t.Helper()
	up, err := s.client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &s.bucket, Key: s.key(name)})
	if err != nil {
		t.Fatal(err)
	}
	return *up.UploadId
}
