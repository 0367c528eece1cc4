package web

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// jarFiles are those of a jar whose pipeline needs one artifact at the given path.
func jarFiles(t testing.TB, artifact string) map[string]string {
	t.Helper()
	payload, err := proto.Marshal(&pipepb.ArtifactFilePayload{Path: artifact})
	if err != nil {
		t.Fatal(err)
	}
	dep := &pipepb.ArtifactInformation{TypeUrn: "beam:artifact:type:file:v1", TypePayload: payload}
	p, err := protojson.Marshal(&pipepb.Pipeline{Components: &pipepb.Components{Environments: map[string]*pipepb.Environment{
		"a": {Dependencies: []*pipepb.ArtifactInformation{dep}}, "b": {Dependencies: []*pipepb.ArtifactInformation{proto.CloneOf(dep)}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"META-INF/MANIFEST.MF":                         "Manifest-Version: 1.0\r\nMain-Class: org.example.Main\r\n",
		"BEAM-PIPELINE/pipeline-manifest.json":         `{"defaultJobName":"pipeline"}`,
		"BEAM-PIPELINE/pipeline/pipeline.json":         string(p),
		"BEAM-PIPELINE/pipeline/pipeline-options.json": `{"beam:option:job_name:v1":"wordcount"}`,
		"BEAM-PIPELINE/pipeline/artifacts/x":           "content",
	}
}

const goodArtifact = "classpath://BEAM-PIPELINE/pipeline/artifacts/x"

// uberJar is a form that uploads a jar; nil: of a good one.
func uberJar(t testing.TB, files map[string]string) string {
	t.Helper()
	if files == nil {
		files = jarFiles(t, goodArtifact)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return form(t, "beam.jar", b.String())
}

func form(t testing.TB, name, content string) string {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	if err := m.SetBoundary("x"); err != nil {
		t.Fatal(err)
	}
	w, err := m.CreateFormFile("jarfile", name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func upload(t *testing.T, h http.Handler, form string) (code int, id, answer string) {
	t.Helper()
	code, _, body := call(t, h, http.MethodPost, "/v1/jars/upload", form, "Content-Type: multipart/form-data; boundary=x")
	var up jarUploadJSON
	if err := json.Unmarshal(body, &up); err != nil {
		t.Fatal(err)
	}
	return code, up.Filename[strings.LastIndex(up.Filename, "/")+1:], string(body)
}

// TestUberJar goes the way of Beam's client: upload, run, delete.
func TestUberJar(t *testing.T) {
	c := example(time.Now())
	c.submit = func(s Submission) (string, error) {
		for id, env := range s.Pipeline.GetComponents().GetEnvironments() {
			var f pipepb.ArtifactFilePayload
			if err := proto.Unmarshal(env.GetDependencies()[0].GetTypePayload(), &f); err != nil {
				return "", err
			}
			if data, err := os.ReadFile(f.GetPath()); err != nil || string(data) != "content" {
				return "", fmt.Errorf("artifact of %s: %q, %w", id, data, err)
			}
		}
		if s.Options.GetFields()["beam:option:job_name:v1"].GetStringValue() != "wordcount" {
			return "", fmt.Errorf("options: %v", s.Options)
		}
		return "new-job", nil
	}
	h := newTestHandler(t, c, nil)
	_, id, _ := upload(t, h, uberJar(t, nil))
	if _, _, body := call(t, h, http.MethodGet, "/jars", ""); !strings.Contains(string(body), id) || !strings.Contains(string(body), "org.example.Main") {
		t.Errorf("jars: %s", body)
	}
	code, _, body := call(t, h, http.MethodPost, "/v1/jars/"+id+"/run", `{"entryClass":"org.apache.beam.runners.flink.FlinkPipelineRunner"}`)
	if want := fmt.Sprintf(`{"jobid":"%s"}`, HexID("new-job")); code != http.StatusOK || string(body) != want {
		t.Errorf("run: %d %s, want %s", code, body, want)
	}
	for _, want := range []int{http.StatusOK, http.StatusNotFound} {
		if code, _, body := call(t, h, http.MethodDelete, "/v1/jars/"+id, ""); code != want {
			t.Errorf("delete: %d %s, want %d", code, body, want)
		}
	}
	if left, err := os.ReadDir(h.JarDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestBadJars: only files of the jar itself are read, whatever the pipeline names.
func TestBadJars(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newTestHandler(t, example(time.Now()), nil)
	without := func(name string) map[string]string {
		files := jarFiles(t, goodArtifact)
		delete(files, name)
		return files
	}
	for want, files := range map[string]map[string]string{
		"artifact \\\"" + secret:                              jarFiles(t, secret),
		"artifact \\\"classpath:///etc/passwd":                jarFiles(t, "classpath:///etc/passwd"),
		"artifact \\\"classpath://BEAM-PIPELINE/../../../x\\": jarFiles(t, "classpath://BEAM-PIPELINE/../../../x"),
		"BEAM-PIPELINE/y: file does not exist":                jarFiles(t, "classpath://BEAM-PIPELINE/y"),
		"holds no Beam pipeline":                              without("BEAM-PIPELINE/pipeline-manifest.json"),
		"pipeline.json: file does not exist":                  without("BEAM-PIPELINE/pipeline/pipeline.json"),
		"submit the pipeline of beam.jar: no":                 without("BEAM-PIPELINE/pipeline/pipeline-options.json"),
	} {
		_, id, _ := upload(t, h, uberJar(t, files))
		if code, _, body := call(t, h, http.MethodPost, "/jars/"+id+"/run", ""); code != http.StatusBadRequest || !strings.Contains(string(body), want) {
			t.Errorf("%d %s, want %q", code, body, want)
		}
	}
}

func TestUploads(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), func(c *Config) { c.MaxJar = 4096 })
	for _, tc := range []struct {
		form string
		code int
		want string
	}{
		{form(t, "x.jar", "no zip"), http.StatusBadRequest, "x.jar is no jar"},
		{form(t, "x.txt", ""), http.StatusBadRequest, "Only Jar files are allowed"},
		{form(t, "x.jar", strings.Repeat("x", 5000)), http.StatusRequestEntityTooLarge, "larger than 4096 bytes"},
		{"--x--", http.StatusBadRequest, "received 0"},
		{"", http.StatusBadRequest, "received 0"},
	} {
		if code, _, answer := upload(t, h, tc.form); code != tc.code || !strings.Contains(answer, tc.want) {
			t.Errorf("%.40q: %d %s, want %d %s", tc.form, code, answer, tc.code, tc.want)
		}
	}
	if left, err := os.ReadDir(h.JarDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	name := strings.Replace(uberJar(t, nil), "beam.jar", `..\\../../etc/evil.jar`, 1)
	if code, id, answer := upload(t, h, name); code != http.StatusOK || !strings.HasSuffix(id, "_evil.jar") {
		t.Errorf("path in the name: %d %s", code, answer)
	}
	for range maxJars + 3 {
		upload(t, h, uberJar(t, nil))
	}
	if left, err := os.ReadDir(h.JarDir); err != nil || len(left) != maxJars {
		t.Errorf("%d jars are kept, want %d (%v)", len(left), maxJars, err)
	}
}

// TestRestoreCalls: a savepoint is named as Flink's clients do, or to tinyrunner's own call.
func TestRestoreCalls(t *testing.T) {
	for _, tc := range []struct {
		path, body string // {jar} is the id of an uploaded one
		code       int
		want       string
	}{
		{"/jars/{jar}/run", `{"savepointPath":"s3://b/sp"}`, 200, `from s3://b/sp as "", own name true, drop false`},
		{"/jars/{jar}/run?savepointPath=file:/sp&allowNonRestoredState=true", "", 200, `from file:///sp as "", own name true, drop true`},
		{"/jars/{jar}/run?savepointPath=s3://other", `{"savepointPath":"s3://b/sp","allowNonRestoredState":true}`, 200, `from s3://b/sp as "", own name true, drop true`},
		{"/jars/{jar}/run", `{"savepointPath":null}`, 200, ""},
		{"/jars/{jar}/run?savepointPath=s3://b/sp&allowNonRestoredState=perhaps", "", 400, "perhaps"},
		{"/savepoint-restore", `{"savepoint-path":"file:/sp","job-name":"copy"}`, 200, `from file:///sp as "copy", own name false, drop false`},
		{"/savepoint-restore", `{"savepoint-path":"s3://b/sp","jar-id":"{jar}","allow-non-restored-state":true}`, 200, `from s3://b/sp as "", own name false, drop true`},
		{"/savepoint-restore", `{"savepoint-path":"s3://b/sp","jar-id":"../x"}`, 404, "Jar ../x not found"},
		{"/savepoint-restore", `{}`, 400, "savepoint-path is missing"},
		{"/savepoint-restore", `{"savepoint-path":1}`, 400, "did not match"},
	} {
		c := example(time.Now())
		c.submit = func(Submission) (string, error) { return "new", nil }
		h := newTestHandler(t, c, nil)
		_, id, _ := upload(t, h, uberJar(t, nil))
		jar := strings.NewReplacer("{jar}", id)
		code, _, answer := call(t, h, http.MethodPost, jar.Replace(tc.path), jar.Replace(tc.body), "Content-Type: application/json")
		if got := c.called() + string(answer); code != tc.code || !strings.Contains(got, tc.want) || tc.want == "" && strings.Contains(got, "from") {
			t.Errorf("%s %s: %d %s, want %d %s", tc.path, tc.body, code, got, tc.code, tc.want)
		}
	}
}
