package web

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
)

// maxJars is how many uploaded jars are kept; the oldest one makes room.
const maxJars = 16

// jarStore keeps uploaded jars, under names of its own. Goroutine safe.
type jarStore struct {
	dir string // "": nothing can be uploaded

	mu   sync.Mutex
	jars []jar // oldest first
}

// jar is an uploaded file. Its id is RANDOM_NAME, as Flink makes it.
type jar struct {
	id, name, file string
	uploaded       time.Time
	main           string // class that the manifest names
}

// newJarStore makes the directory, and empties it.
func newJarStore(dir string) (*jarStore, error) {
	if dir == "" {
		return &jarStore{}, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear directory of jars: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of jars: %w", err)
	}
	return &jarStore{dir: dir}, nil
}

func (s *jarStore) close() error {
	if s.dir == "" {
		return nil
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove jars: %w", err)
	}
	return nil
}

// add streams an upload to a file.
func (s *jarStore) add(name string, content io.Reader) (j jar, err error) {
	f, err := os.CreateTemp(s.dir, "jar-")
	if err != nil {
		return jar{}, fmt.Errorf("store jar: %w", err)
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		return jar{}, errors.Join(err, os.Remove(f.Name()))
	}
	z, err := zip.OpenReader(f.Name())
	if err != nil {
		return jar{}, errors.Join(badRequest("%s is no jar: %v", name, err), os.Remove(f.Name()))
	}
	j = jar{id: randomUUID() + "_" + name, name: name, file: f.Name(), uploaded: time.Now(), main: mainClass(&z.Reader)}
	if err := z.Close(); err != nil {
		return jar{}, errors.Join(fmt.Errorf("read jar: %w", err), os.Remove(f.Name()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jars = append(s.jars, j)
	if len(s.jars) > maxJars {
		err = os.Remove(s.jars[0].file)
		s.jars = s.jars[1:]
	}
	return j, err
}

func randomUUID() string {
	x := randomHex(16)
	return x[:8] + "-" + x[8:12] + "-4" + x[13:16] + "-a" + x[17:20] + "-" + x[20:]
}

// list returns the jars, newest first.
func (s *jarStore) list() []jar {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.jars)
	slices.Reverse(out)
	return out
}

func (s *jarStore) find(id string) (jar, error) {
	for _, j := range s.list() {
		if j.id == id {
			return j, nil
		}
	}
	return jar{}, missing("Jar %s not found: GET /jars lists the jars", strings.ToValidUTF8(id, "?"))
}

func (s *jarStore) remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := slices.IndexFunc(s.jars, func(j jar) bool { return j.id == id })
	if k < 0 {
		return missing("Jar %s not found: GET /jars lists the jars", strings.ToValidUTF8(id, "?"))
	}
	file := s.jars[k].file
	s.jars = slices.Delete(s.jars, k, k+1)
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("remove jar: %w", err)
	}
	return nil
}

// mainClass reads the class that a jar's manifest names; "" if none.
func mainClass(z *zip.Reader) string {
	data, err := readEntry(z, "META-INF/MANIFEST.MF", maxManifest)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "Main-Class: "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

type jarsJSON struct {
	Address string        `json:"address"`
	Files   []jarFileJSON `json:"files"`
}

type jarFileJSON struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	Uploaded int64          `json:"uploaded"`
	Entry    []jarEntryJSON `json:"entry"`
}

type jarEntryJSON struct {
	Name        string  `json:"name"`
	Description *string `json:"description"`
}

func (h *Handler) listJars(r *http.Request) (any, error) {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	out := jarsJSON{Address: scheme + cmp.Or(h.Address, r.Host), Files: []jarFileJSON{}}
	for _, j := range h.jars.list() {
		f := jarFileJSON{ID: j.id, Name: j.name, Uploaded: j.uploaded.UnixMilli(), Entry: []jarEntryJSON{}}
		if j.main != "" {
			f.Entry = append(f.Entry, jarEntryJSON{Name: j.main})
		}
		out.Files = append(out.Files, f)
	}
	return out, nil
}

type jarUploadJSON struct {
	Filename string `json:"filename"`
	Status   string `json:"status"`
}

// uploadJar takes the first file of a multipart form. It is streamed: a jar may be larger than this process's memory.
func (h *Handler) uploadJar(r *http.Request) (any, error) {
	if h.jars.dir == "" {
		return nil, fail(http.StatusForbidden, "this server takes no jars")
	}
	form, err := r.MultipartReader()
	if err != nil {
		return nil, badRequest("send the jar as part %q of a multipart form: %v", "jarfile", err)
	}
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return nil, badRequest("exactly 1 file must be sent, received 0: it is part %q of the form", "jarfile")
		}
		if err != nil {
			return nil, clientError(err)
		}
		if part.FileName() == "" {
			continue
		}
		return h.storeJar(part)
	}
}

func (h *Handler) storeJar(part *multipart.Part) (any, error) {
	name := path.Base(strings.ReplaceAll(strings.ToValidUTF8(part.FileName(), "?"), `\`, "/"))
	if !strings.HasSuffix(name, ".jar") || len(name) > 200 {
		return nil, badRequest("Only Jar files are allowed: %q", name)
	}
	j, err := h.jars.add(name, part)
	if err != nil {
		return nil, clientError(err)
	}
	return jarUploadJSON{Filename: "/jars/" + j.id, Status: "success"}, nil
}

// clientError marks an error of reading a request as the client's, but for those that say whose they are.
func clientError(err error) error {
	var large *http.MaxBytesError
	var known *failure
	var file *os.PathError
	if errors.As(err, &large) || errors.As(err, &known) || errors.As(err, &file) {
		return err
	}
	return badRequest("read the form: %v", err)
}

type jarRunRequestJSON struct {
	EntryClass            *string `json:"entryClass"`
	Parallelism           *int    `json:"parallelism"`
	JobID                 *string `json:"jobId"`
	SavepointPath         *string `json:"savepointPath"`
	AllowNonRestoredState *bool   `json:"allowNonRestoredState"`
}

// savepoint is what the body says about one, or else the query.
func (b jarRunRequestJSON) savepoint(r *http.Request) (location string, allowNonRestored bool, err error) {
	query := r.URL.Query()
	location = query.Get("savepointPath")
	if b.SavepointPath != nil {
		location = *b.SavepointPath
	}
	if b.AllowNonRestoredState != nil {
		return location, *b.AllowNonRestoredState, nil
	}
	switch v := query.Get("allowNonRestoredState"); v {
	case "", "false":
		return location, false, nil
	case "true":
		return location, true, nil
	default:
		return "", false, badRequest("allowNonRestoredState %q: use true or false", v)
	}
}

type jarRunJSON struct {
	JobID string `json:"jobid"`
}

// runJar runs the Beam pipeline that a jar holds, from a savepoint if one is named.
func (h *Handler) runJar(r *http.Request) (any, error) {
	var body jarRunRequestJSON
	var how Submission
	j, err := h.jars.find(chi.URLParam(r, "jar"))
	if err == nil {
		err = decode(r, &body)
	}
	if err == nil {
		how.Savepoint, how.AllowNonRestored, err = body.savepoint(r)
	}
	if err != nil {
		return nil, err
	}
	how.Savepoint = fileURL(how.Savepoint)
	return h.submitJar(r, j, how)
}

// submitJar runs the pipeline of a jar as how says.
func (h *Handler) submitJar(r *http.Request, j jar, how Submission) (any, error) {
	dir, err := os.MkdirTemp(h.jars.dir, "run-")
	if err != nil {
		return nil, fmt.Errorf("run jar: %w", err)
	}
	id, err := h.submit(r, j, dir, how)
	if rerr := os.RemoveAll(dir); rerr != nil {
		h.log.Warn("files of a jar are left behind", "dir", filepath.Base(dir), "error", rerr)
	}
	return jarRunJSON{HexID(id)}, err
}

func (h *Handler) submit(r *http.Request, j jar, dir string, how Submission) (string, error) {
	s, err := readUberJar(j.file, dir)
	if err != nil {
		return "", badRequest("%s cannot run here: %v", j.name, err)
	}
	how.Name, how.Pipeline, how.Options = s.Name, s.Pipeline, s.Options
	id, err := h.Cluster.Submit(r.Context(), how)
	if err != nil {
		return "", badRequest("submit the pipeline of %s: %v", j.name, err)
	}
	return id, nil
}

type restoreRequestJSON struct {
	Path             string  `json:"savepoint-path"`
	JobName          string  `json:"job-name"`
	AllowNonRestored bool    `json:"allow-non-restored-state"`
	Jar              *string `json:"jar-id"`
}

// restore starts the job of a savepoint again: with the pipeline that the savepoint holds, or with that of a jar.
func (h *Handler) restore(r *http.Request) (any, error) {
	var body restoreRequestJSON
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Path == "" {
		return nil, badRequest("savepoint-path is missing")
	}
	how := Submission{Savepoint: fileURL(body.Path), AllowNonRestored: body.AllowNonRestored, JobName: body.JobName, SavedName: true}
	if body.Jar != nil {
		j, err := h.jars.find(*body.Jar)
		if err != nil {
			return nil, err
		}
		return h.submitJar(r, j, how)
	}
	id, err := h.Cluster.Submit(r.Context(), how)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return jarRunJSON{HexID(id)}, nil
}

func (h *Handler) deleteJar(r *http.Request) (any, error) {
	return empty{}, h.jars.remove(chi.URLParam(r, "jar"))
}
