package checkpoint

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// resealed changes the text of a manifest and gives it a last line that fits.
func resealed(t testing.TB, body []byte, old, new string) []byte {
	t.Helper()
	text := string(body[:len(body)-lastLine])
	if !strings.Contains(text, old) {
		t.Fatalf("%q is not in\n%s", old, text)
	}
	return sealText(strings.Replace(text, old, new, 1))
}

// example is the manifest that FORMAT.md shows.
func example(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/checkpoint.manifest")
	check(t, err)
	return b
}

// What older versions have written is read for ever.
func TestVersion1(t *testing.T) {
	body, err := os.ReadFile("testdata/version1.manifest")
	check(t, err)
	m, err := DecodeManifest(body)
	check(t, err)
	if m.ID != 41 || len(m.Files) != 2 || m.Files[1].Path != "MANIFEST-000002" || m.Files[1].Pack != 0 || !strings.HasPrefix(m.Files[1].Object, "files/59/5994") {
		t.Errorf("%+v", m)
	}
}

// What was written once is read for ever, and written the same.
func TestFormat(t *testing.T) {
	body := example(t)
	m, err := DecodeManifest(body)
	check(t, err)
	if m.ID != 41 || m.Owner.Host != "pod-7" || len(m.Files) != 3 || string(m.Participants[0].Token) != "id 7 epoch 2" {
		t.Errorf("%+v", m)
	}
	again, err := m.encode()
	if err != nil || !bytes.Equal(again, body) {
		t.Errorf("%v\n%s", err, again)
	}
	page, err := os.ReadFile("FORMAT.md")
	check(t, err)
	if !bytes.Contains(page, body) {
		t.Error("FORMAT.md does not show testdata/checkpoint.manifest")
	}
	for _, f := range fields(reflect.TypeFor[Manifest](), reflect.TypeFor[File](), reflect.TypeFor[Place](), reflect.TypeFor[Owner](), reflect.TypeFor[plan]()) {
		if !bytes.Contains(page, []byte("`"+f+"`")) {
			t.Errorf("FORMAT.md does not describe the field %s", f)
		}
	}
}

func fields(types ...reflect.Type) []string {
	var names []string
	for _, t := range types {
		for i := range t.NumField() {
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

func TestDecodeRefuses(t *testing.T) {
	body := example(t)
	for _, c := range []struct{ old, new, want string }{
		{`format": 2,`, `format": 3,`, "version 3 of the format, this program reads up to 2: use the tinyrunner"},
		{`format": 2,`, `format": 0,`, "version is not a number"},
		{`"checkpoint"`, `"chequepoint"`, `kind "chequepoint" is not known`},
		{`"path": "MANIFEST-000002"`, `"path": "../MANIFEST"`, "would leave its directory"},
		{`"path": "MANIFEST-000002"`, `"path": "/etc/passwd"`, "would leave its directory"},
		{`"path": "MANIFEST-000002"`, `"path": "a/../../b"`, "would leave its directory"},
		{`"path": "MANIFEST-000002"`, `"path": "a/./b"`, "would leave its directory"},
		{`"path": "MANIFEST-000002"`, `"path": ""`, "path is empty"},
		{`"path": "MANIFEST-000002"`, `"path": "."`, "would leave its directory"},
		{`"path": "MANIFEST-000002"`, `"path": "..\\b"`, "backslash"},
		{`"path": "MANIFEST-000002"`, `"path": "C:b"`, "colon"},
		{`"path": "MANIFEST-000002"`, `"path": "a\u0000"`, "control character"},
		{`"path": "MANIFEST-000002"`, `"path": "` + strings.Repeat("x", 2000) + `"`, "at most 1024"},
		{`"path": "MANIFEST-000002"`, `"path": "000001.sst"`, "comes twice"},
		{`"path": "pipeline.pb"`, `"path": "../pipeline.pb"`, "would leave its directory"},
		{`"role": "state"`, `"role": "pipeline"`, `has the role "pipeline"`},
		{`"size": 5`, `"size": -5`, "has the size -5"},
		{"state\",\n   \"size\": 8", "state\",\n   \"size\": 9223372036854775807", "more than 2^63"},
		{`"size": 5`, `"size": 6`, "its files have"},
		{`"seq": 7`, `"seq": 0`, "do not fit together"},
		{`"seq": 7`, `"seq": 1e99`, "decode"},
		{`"claim": 3`, `"claim": 8`, "do not fit together"},
		{`  6,`, `  7,`, "previous checkpoints [7 5] of entry 7"},
		{"  5\n", "  6\n", "previous checkpoints [6 6] of entry 7"},
		{`"slots": 4`, `"slots": -4`, "negative"},
		{`"object": "files/`, `"object": "../files/`, "cannot be the object"},
		{`"object": "files/`, `"object": "log/`, "cannot be the object"},
		{`"offset": 5`, `"offset": -5`, "cannot be at -5 of an object of 13"},
		{`"offset": 5`, `"offset": 6`, "cannot be at 6 of an object of 13"},
		{`"offset": 5`, `"offset": 9223372036854775807`, "cannot be at 9223372036854775807"},
		{"\n   \"pack\": 13", "\n   \"pack\": 0", "cannot be the object"},
		{"\n   \"pack\": 13", "\n   \"pack\": -1", "cannot be at 0 of an object of -1"},
		{"\n   \"pack\": 13", "\n   \"pack\": 4", "cannot be at 0 of an object of 4"},
		{`"sha256": "f7e2`, `"sha256": "g7e2`, "has the hash"},
		{`"attempt": "`, `"attempt": "a-`, "attempt id"},
		{`"job": "`, `"job": "../`, "job identity"},
		{`"job_name": "`, `"job_name": "` + strings.Repeat("x", 5000), "at most 4096"},
	} {
		_, err := DecodeManifest(resealed(t, body, c.old, c.new))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %.50s: %v, want %s", c.old, c.new, err, c.want)
		}
		if newer := strings.Contains(c.want, "version 3"); newer != errors.As(err, new(*NewerError)) {
			t.Errorf("%s -> %s: %v", c.old, c.new, err)
		}
	}
	if _, err := DecodeManifest(make([]byte, maxSealed+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
	for i := range body {
		if _, err := DecodeManifest(body[:i]); err == nil {
			t.Errorf("the first %d bytes are accepted", i)
		}
	}
}

// A newer entry stops a claim: what it says is not known.
func TestNewer(t *testing.T) {
	b := newMemory()
	s := claim(t, b, Record{})
	m := save(t, s, 1, tree{"a": "1"})
	name := s.log.dir + logName(m.Seq)
	b.objects[name] = resealed(t, b.objects[name], `format": 2,`, `format": 3,`)
	if _, err := Claim(t.Context(), testConfig(b), Record{}); !errors.As(err, new(*NewerError)) {
		t.Error(err)
	}
	jobs, err := Jobs(t.Context(), b, "pre/fix")
	if err != nil || len(jobs) != 1 || !errors.As(jobs[0].Err, new(*NewerError)) {
		t.Error(jobs, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	s := claim(t, newMemory(), Record{})
	dir := writeTree(t, tree{"a": "1"})
	check(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	if _, _, err := s.Save(t.Context(), Cut{Dir: dir}, nil); err == nil || !strings.Contains(err.Error(), "neither a file nor a directory") {
		t.Error(err)
	}
	dir = writeTree(t, tree{"back\\slash": "1"})
	if _, _, err := s.Save(t.Context(), Cut{Dir: dir}, nil); err == nil || !strings.Contains(err.Error(), "backslash") {
		t.Error(err)
	}
	if _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, nil), Meta: []byte("{")}, nil); err == nil || !strings.Contains(err.Error(), "encode") {
		t.Error(err)
	}
	shared := writeTree(t, tree{"a": "1"})
	check(t, os.Symlink("/etc/passwd", filepath.Join(shared, "link")))
	for file, want := range map[string]string{"a": "a is there twice", "link": "neither a file nor a directory", "../a": "leave", "none": "no such file"} {
		if _, _, err := s.Save(t.Context(), Cut{Dir: writeTree(t, tree{"a": "1"}), Shared: shared, SharedFiles: []string{file}}, nil); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("shared file %s: %v", file, err)
		}
	}
	if m := save(t, s, 1, nil); len(m.Files) != 0 { // nothing was published before
		t.Error(m)
	}
	rec := record(t, "p")
	rec.Files[0].Path = "../p"
	if _, err := Claim(t.Context(), testConfig(newMemory()), rec); err == nil || !strings.Contains(err.Error(), "leave its directory") {
		t.Error(err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	body := example(f)
	f.Add(body, false)
	f.Add(body[:len(body)-lastLine], true)
	f.Fuzz(func(t *testing.T, b []byte, resealing bool) {
		if resealing { // so that the fuzzer comes past the hash
			b = sealText(string(b))
		}
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		for _, file := range append(m.Files, m.JobFiles...) {
			if !filepath.IsLocal(filepath.FromSlash(file.Path)) {
				t.Errorf("path %q leaves its directory", file.Path)
			}
		}
		again, err := m.encode()
		check(t, err)
		m2, err := DecodeManifest(again)
		check(t, err)
		if third, err := m2.encode(); err != nil || !bytes.Equal(again, third) {
			t.Errorf("%v\n%s\n%s", err, again, third)
		}
	})
}

func FuzzDecodePlan(f *testing.F) {
	f.Add([]byte(magic + "1,\n\"kind\": \"plan\", \"claim\": 1, \"owner\": {\"attempt\": \"AAAAAAAAAAAA\"}, \"entries\": [1], \"files\": []}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePlan(sealText(string(b)))
		if err != nil {
			return
		}
		for _, name := range p.Files {
			if !strings.HasPrefix(name, filesDir) || strings.Contains(name, "..") {
				t.Errorf("would delete %q", name)
			}
		}
	})
}
