package objstore

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeS3 is the part of S3 that we use, with faults on demand. It has one bucket, "bucket".
type fakeS3 struct {
	unfenced bool // ignores If-None-Match
	discard  bool // keeps no content
	noBatch  bool // has no DeleteObjects
	page     int  // objects in a page of a listing

	mu       sync.Mutex
	objects  map[string]*fakeObject
	uploads  map[string]*fakeUpload
	fault    func(r *http.Request) int // see inject
	requests []string                  // method and query, "PUT ?partNumber"
	headers  []http.Header
	bodies   int // of PUTs, being received
	peak     int // the most there were
}

const (
	lost  = -1 // done, but the connection breaks before the answer
	hang  = -2 // no answer until the client goes away
	broke = -3 // half of the answer's body, then the connection breaks
)

type fakeObject struct {
	data []byte
	meta http.Header
	etag string
	time time.Time
}

type fakeUpload struct {
	key   string
	meta  http.Header
	parts map[int][]byte
	time  time.Time
}

// start serves f, and gives a configuration with fast retries for it.
func (f *fakeS3) start(t testing.TB) S3Config {
	f.objects, f.uploads = make(map[string]*fakeObject), make(map[string]*fakeUpload)
	if f.page == 0 {
		f.page = 1000
	}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	awsEnv(t)
	return S3Config{Endpoint: srv.URL, PartSize: minPart, MaxBackoff: 5 * time.Millisecond, MaxAttempts: 4}
}

// bucket opens f as a Bucket.
func (f *fakeS3) bucket(t testing.TB) *S3 {
	return openS3(t, f.start(t))
}

func awsEnv(t testing.TB) {
	none := t.TempDir() + "/none"
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "ak", "AWS_SECRET_ACCESS_KEY": "sksksksk", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.(interface{ Setenv(k, v string) }).Setenv(k, v)
	}
}

func openS3(t testing.TB, cfg S3Config) *S3 {
	s, err := NewS3(t.Context(), "bucket", "some/prefix", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// faults gives what fault says for the first requests that match, a method and query such as "PUT ?partNumber".
func faults(match string, what ...int) func(*http.Request) int {
	var mu sync.Mutex
	return func(r *http.Request) int {
		mu.Lock()
		defer mu.Unlock()
		if describe(r) != match || len(what) == 0 {
			return 0
		}
		w := what[0]
		what = what[1:]
		return w
	}
}

func describe(r *http.Request) string {
	s := r.Method
	for _, q := range []string{"list-type", "delete", "uploads", "partNumber", "uploadId"} {
		if r.URL.Query().Has(q) {
			return s + " ?" + q
		}
	}
	return s
}

// inject lets fault say what happens to a request: 0 nothing; an HTTP status: that, without effect; or one of the constants.
// It also forgets the requests so far.
func (f *fakeS3) inject(fault func(*http.Request) int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.requests = fault, nil
}

// count says how many requests of a kind there were.
func (f *fakeS3) count(kind string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if r == kind {
			n++
		}
	}
	return n
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, describe(r))
	f.headers = append(f.headers, r.Header)
	fault := f.fault
	f.mu.Unlock()
	what := 0
	if fault != nil {
		what = fault(r)
	}
	if what > 0 || what == hang {
		io.Copy(io.Discard, r.Body) // only then the server sees the client go
	}
	switch {
	case what > 0:
		fail(w, what, http.StatusText(what))
	case what == hang:
		<-r.Context().Done()
	case what == lost, what == broke:
		rec := httptest.NewRecorder()
		f.serve(rec, r)
		if what == broke {
			maps.Copy(w.Header(), rec.Header())
			w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	default:
		f.serve(w, r)
	}
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>fake</Message></Error>", code)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/xml")
	if err := xml.NewEncoder(w).Encode(v); err != nil {
		panic(err)
	}
}

func (f *fakeS3) serve(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket != "bucket" {
		fail(w, 404, "NoSuchBucket")
		return
	}
	body, err := f.receive(r)
	if err != nil {
		return // the client has gone
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch describe(r) {
	case "PUT":
		f.put(w, r, key, body, r.Header)
	case "GET", "HEAD":
		f.get(w, r, key)
	case "DELETE":
		delete(f.objects, key)
		w.WriteHeader(204)
	case "GET ?list-type":
		f.list(w, r)
	case "POST ?delete":
		f.deleteAll(w, body)
	default:
		f.multipart(w, r, key, body)
	}
}

func (f *fakeS3) receive(r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	if r.Method != "PUT" { // a list of parts or of names
		return io.ReadAll(r.Body)
	}
	f.mu.Lock()
	f.bodies++
	f.peak = max(f.peak, f.bodies)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.bodies--
		f.mu.Unlock()
	}()
	if f.discard {
		_, err := io.Copy(io.Discard, r.Body)
		return nil, err
	}
	return io.ReadAll(r.Body)
}

func (f *fakeS3) put(w http.ResponseWriter, r *http.Request, key string, data []byte, meta http.Header) bool {
	if _, ok := f.objects[key]; ok && !f.unfenced && r.Header.Get("If-None-Match") == "*" {
		fail(w, 412, "PreconditionFailed")
		return false
	}
	sum := md5.Sum(data)
	o := &fakeObject{data: data, meta: make(http.Header), etag: `"` + hex.EncodeToString(sum[:]) + `"`, time: time.Now()}
	for k, v := range meta {
		if strings.HasPrefix(k, "X-Amz-Meta-") {
			o.meta[k] = v
		}
	}
	f.objects[key] = o
	w.Header().Set("ETag", o.etag)
	if r.Method == "POST" {
		answer(w, struct {
			XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
			ETag    string
		}{ETag: o.etag})
	}
	return true
}

func (f *fakeS3) get(w http.ResponseWriter, r *http.Request, key string) {
	o, ok := f.objects[key]
	if !ok {
		fail(w, 404, "NoSuchKey")
		return
	}
	maps.Copy(w.Header(), o.meta)
	w.Header().Set("ETag", o.etag)
	http.ServeContent(w, r, "", o.time, bytes.NewReader(o.data))
}

func (f *fakeS3) list(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		Key          string
		Size         int
		LastModified string
	}
	out := struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []entry
	}{}
	q := r.URL.Query()
	for _, k := range slices.Sorted(maps.Keys(f.objects)) {
		if !strings.HasPrefix(k, q.Get("prefix")) || k <= q.Get("continuation-token") {
			continue
		}
		if len(out.Contents) == f.page {
			out.IsTruncated, out.NextContinuationToken = true, out.Contents[f.page-1].Key
			break
		}
		o := f.objects[k]
		out.Contents = append(out.Contents, entry{k, len(o.data), o.time.UTC().Format(time.RFC3339)})
	}
	answer(w, out)
}

func (f *fakeS3) deleteAll(w http.ResponseWriter, body []byte) {
	var in struct{ Object []struct{ Key string } }
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Object) > deleteBatch {
		fail(w, 400, "MalformedXML")
		return
	}
	if f.noBatch {
		fail(w, 501, "NotImplemented")
		return
	}
	type failure struct{ Key, Code string }
	out := struct {
		XMLName xml.Name `xml:"DeleteResult"`
		Error   []failure
	}{}
	for i, o := range in.Object {
		if i%10 == 3 { // as S3 does when a part of it is busy
			out.Error = append(out.Error, failure{o.Key, "SlowDown"})
			continue
		}
		delete(f.objects, o.Key)
	}
	answer(w, out)
}

func (f *fakeS3) multipart(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	id := r.URL.Query().Get("uploadId")
	up := f.uploads[id]
	if up == nil && id != "" {
		fail(w, 404, "NoSuchUpload")
		return
	}
	switch describe(r) {
	case "POST ?uploads":
		id := rand.Text()
		f.uploads[id] = &fakeUpload{key: key, meta: r.Header, parts: make(map[int][]byte), time: time.Now()}
		answer(w, struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			UploadId string
		}{UploadId: id})
	case "PUT ?partNumber":
		n, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
		up.parts[n] = body
		w.Header().Set("ETag", fmt.Sprintf(`"part%d"`, n))
	case "POST ?uploadId":
		f.complete(w, r, key, id, body)
	case "DELETE ?uploadId":
		delete(f.uploads, id)
		w.WriteHeader(204)
	case "GET ?uploads":
		type entry struct{ Key, UploadId, Initiated string }
		out := struct {
			XMLName xml.Name `xml:"ListMultipartUploadsResult"`
			Upload  []entry
		}{}
		for id, u := range f.uploads {
			if strings.HasPrefix(u.key, r.URL.Query().Get("prefix")) {
				out.Upload = append(out.Upload, entry{u.key, id, u.time.UTC().Format(time.RFC3339)})
			}
		}
		answer(w, out)
	default:
		fail(w, 501, "NotImplemented")
	}
}

func (f *fakeS3) complete(w http.ResponseWriter, r *http.Request, key, id string, body []byte) {
	var in struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &in); err != nil {
		fail(w, 400, "MalformedXML")
		return
	}
	up := f.uploads[id]
	var data []byte
	for i, p := range in.Part {
		part, ok := up.parts[p.PartNumber]
		if !ok || p.PartNumber != i+1 || p.ETag != fmt.Sprintf(`"part%d"`, p.PartNumber) {
			fail(w, 400, "InvalidPart")
			return
		}
		if i < len(in.Part)-1 && len(part) < minPart && !f.discard {
			fail(w, 400, "EntityTooSmall")
			return
		}
		data = append(data, part...)
	}
	if f.put(w, r, key, data, up.meta) {
		delete(f.uploads, id)
	}
}
