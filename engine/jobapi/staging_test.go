package jobapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

func must(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// file is an artifact at the client's path, to be staged under name.
func file(path, name string) *pipepb.ArtifactInformation {
	return hashed(path, name, "")
}

func hashed(path, name, sum string) *pipepb.ArtifactInformation {
	return &pipepb.ArtifactInformation{
		TypeUrn: urnFile, TypePayload: must(&pipepb.ArtifactFilePayload{Path: path, Sha256: sum}),
		RoleUrn: urnStagingTo, RolePayload: must(&pipepb.ArtifactStagingToRolePayload{StagedName: name}),
	}
}

// stage plays a client with the given files, which sends them in chunks of 3 bytes.
func (f *fixture) stage(ctx context.Context, prep *jobpb.PrepareJobResponse, files map[string]string) error {
	stream, err := f.open(ctx, prep.GetStagingSessionToken())
	if err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r := req.GetResolveArtifact(); r != nil {
			if err := stream.Send(resolved(r.GetArtifacts()...)); err != nil {
				return err
			}
			continue
		}
		var p pipepb.ArtifactFilePayload
		if err := proto.Unmarshal(req.GetGetArtifact().GetArtifact().GetTypePayload(), &p); err != nil {
			return err
		}
		content, ok := files[p.GetPath()]
		if !ok {
			return fmt.Errorf("asked for %q", p.GetPath())
		}
		for ; content != ""; content = content[min(3, len(content)):] {
			if err := stream.Send(chunk(content[:min(3, len(content))])); err != nil {
				return err
			}
		}
		if err := stream.Send(last("")); err != nil {
			return err
		}
	}
}

type stagingStream = jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceClient

func (f *fixture) open(ctx context.Context, token string) (stagingStream, error) {
	stream, err := f.staging.ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return nil, err
	}
	return stream, stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: token})
}

func resolved(deps ...*pipepb.ArtifactInformation) *jobpb.ArtifactResponseWrapper {
	return &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
		ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: deps},
	}}
}

func chunk(data string) *jobpb.ArtifactResponseWrapper {
	return &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
		GetArtifactResponse: &jobpb.GetArtifactResponse{Data: []byte(data)},
	}}
}

func last(data string) *jobpb.ArtifactResponseWrapper {
	c := chunk(data)
	c.IsLast = true
	return c
}

// stagedFiles lists the files below the artifact directory.
func (f *fixture) stagedFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed while we looked
			return nil
		}
		if err == nil && path != f.dir {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (f *fixture) waitNoFiles(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		left := f.stagedFiles(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("files are left: %v", left)
		}
	}
}

func TestStaging(t *testing.T) {
	f := start(t)
	sum := sha256.Sum256([]byte("content of a"))
	inline := &pipepb.ArtifactInformation{
		TypeUrn: urnEmbedded, TypePayload: must(&pipepb.EmbeddedFilePayload{Data: []byte("inline")}), RoleUrn: "beam:artifact:role:other:v1",
	}
	a, empty := hashed("/a", "dir/a.txt", strings.ToUpper(hex.EncodeToString(sum[:]))), file("/empty", "empty")
	p := pipeline(a, empty, inline)
	p.GetComponents().GetEnvironments()["go"] = &pipepb.Environment{Dependencies: []*pipepb.ArtifactInformation{proto.CloneOf(a)}}

	prep := f.prepare(t, p)
	if err := f.stage(t.Context(), prep, map[string]string{"/a": "content of a", "/empty": ""}); err != nil {
		t.Fatal(err)
	}
	if n := len(f.stagedFiles(t)); n != 4 { // the directory, and three files: a is shared
		t.Errorf("staged %v", f.stagedFiles(t))
	}
	_, err := f.open(t.Context(), prep.GetStagingSessionToken())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()})
	if err != nil {
		t.Fatal(err)
	}
	job := f.engine.find(resp.GetJobId())
	envs := job.Pipeline().GetComponents().GetEnvironments()
	for i, want := range []string{"content of a", "", "inline"} {
		dep := envs["py"].GetDependencies()[i]
		r, err := job.spec.Artifacts.Open(t.Context(), dep)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(got) != want {
			t.Errorf("artifact %d: %q, %v", i, got, err)
		}
	}
	if dep := envs["py"].GetDependencies()[0]; dep.GetRoleUrn() != a.GetRoleUrn() || string(dep.GetRolePayload()) != string(a.GetRolePayload()) {
		t.Errorf("the role changed: %v", dep)
	}
	if !proto.Equal(envs["go"].GetDependencies()[0], envs["py"].GetDependencies()[0]) {
		t.Error("the shared artifact was staged twice")
	}
	_, err = job.spec.Artifacts.Open(t.Context(), file("/etc/passwd", "x"))
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != `open artifact "x": file does not exist among the 3 staged artifacts of this job` {
		t.Errorf("a file that was never staged: %v", err)
	}
	job.state(jobpb.JobState_DONE)
	f.waitNoFiles(t)
}

func TestStagingTokens(t *testing.T) {
	f := start(t)
	try := func(token string) error {
		stream, err := f.open(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		return err
	}
	const unknown = `stage artifacts: staging token %q not known: it is not from this server, or its job has already been run; call Prepare again`
	wantStatus(t, try("nonsense"), codes.NotFound, fmt.Sprintf(unknown, "nonsense"))
	wantStatus(t, try(""), codes.NotFound, fmt.Sprintf(unknown, ""))

	prep := f.prepare(t, pipeline(file("/a", "a")))
	id, token := prep.GetPreparationId(), prep.GetStagingSessionToken()
	_, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id})
	wantStatus(t, err, codes.FailedPrecondition, fmt.Sprintf("run job: 1 artifacts of preparation %q have not been staged; "+
		"call ReverseArtifactRetrievalService with its staging_session_token first", id))

	ctx, cancel := context.WithCancel(t.Context())
	first, err := f.open(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, try(token), codes.FailedPrecondition, fmt.Sprintf("stage artifacts: another call is staging for preparation %q", id))
	_, err = f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id})
	wantStatus(t, err, codes.FailedPrecondition, fmt.Sprintf("run job: the artifacts of preparation %q are still being staged", id))
	cancel()

	f.stageUntilDone(t, prep, map[string]string{"/a": "x"})
	wantStatus(t, try(token), codes.FailedPrecondition, fmt.Sprintf("stage artifacts: all artifacts of preparation %q have been staged; call Run", id))
	if _, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, try(token), codes.NotFound, fmt.Sprintf(unknown, token))

	stream, err := f.staging.ReverseArtifactRetrievalService(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.InvalidArgument, "stage artifacts: the stream ended before a staging token was sent")
}

// stageUntilDone stages, again and again while an earlier stream is still being given up.
func (f *fixture) stageUntilDone(t *testing.T, prep *jobpb.PrepareJobResponse, files map[string]string) {
	t.Helper()
	var err error
	for range 1000 {
		if err = f.stage(t.Context(), prep, files); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(err)
}

// TestClientLeavesMidStaging: nothing stays behind, and the same token works again.
func TestClientLeavesMidStaging(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(t *testing.T, s stagingStream, cancel context.CancelFunc)
	}{
		{"cancels", func(_ *testing.T, _ stagingStream, cancel context.CancelFunc) { cancel() }},
		{"closes", func(t *testing.T, s stagingStream, _ context.CancelFunc) {
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			_, err := s.Recv()
			wantStatus(t, err, codes.Aborted, `stage artifacts: environment "py": receive artifact "b": the client broke off: it closed the stream`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t)
			prep := f.prepare(t, pipeline(file("/a", "a"), file("/b", "b")))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := f.open(ctx, prep.GetStagingSessionToken())
			if err != nil {
				t.Fatal(err)
			}
			converse(t, stream, resolved(file("/a", "a"), file("/b", "b")), last("all of a"), chunk("half of b"))
			for len(f.stagedFiles(t)) != 3 { // directory, a, b
				time.Sleep(time.Millisecond)
			}
			c.leave(t, stream, cancel)
			f.waitNoFiles(t)
			f.stageUntilDone(t, prep, map[string]string{"/a": "a", "/b": "b"})
			if _, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()}); err != nil {
				t.Error(err)
			}
		})
	}
}

// converse answers one request with each of the answers.
func converse(t *testing.T, s stagingStream, answers ...*jobpb.ArtifactResponseWrapper) {
	t.Helper()
	for _, a := range answers {
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(a); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadAnswers(t *testing.T) {
	const wrong = "00ff"
	sum := sha256.Sum256([]byte("x"))
	for _, c := range []struct {
		name    string
		answers []*jobpb.ArtifactResponseWrapper
		want    string
	}{
		{"chunk for resolve", []*jobpb.ArtifactResponseWrapper{chunk("x")},
			`stage artifacts: resolve 1 artifacts: the client answered with *jobmanagement_v1.ArtifactResponseWrapper_GetArtifactResponse`},
		{"resolve for chunk", []*jobpb.ArtifactResponseWrapper{resolved(file("/a", "a")), resolved()},
			`stage artifacts: environment "py": receive artifact "a": unexpected answer: *jobmanagement_v1.ArtifactResponseWrapper_ResolveArtifactResponse`},
		{"name goes up after resolving", []*jobpb.ArtifactResponseWrapper{resolved(file("/a", "x/../../a"))},
			`stage artifacts: environment "py": bad artifact: staged name "x/../../a" leaves the staging directory by ".."`},
		{"hash", []*jobpb.ArtifactResponseWrapper{resolved(hashed("/a", "a", wrong)), last("x")},
			`stage artifacts: environment "py": artifact "a": sha256 differs: it has ` + hex.EncodeToString(sum[:]) +
				`, the pipeline says 00ff; it changed since the pipeline was built, so build it again`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t)
			stream, err := f.open(t.Context(), f.prepare(t, pipeline(file("/a", "a"))).GetStagingSessionToken())
			if err != nil {
				t.Fatal(err)
			}
			converse(t, stream, c.answers...)
			_, err = stream.Recv()
			wantStatus(t, err, codes.InvalidArgument, c.want)
			f.waitNoFiles(t)
		})
	}
}

func TestCheckStagedName(t *testing.T) {
	for name, want := range map[string]string{
		"a": "", "a/b.txt": "", "..a": "", "a..": "", "./a": "", "a b": "",
		"..":       `staged name ".." leaves the staging directory by ".."`,
		"a/../../": `staged name "a/../../" leaves the staging directory by ".."`,
		`a\..\..`:  `staged name "a\\..\\.." leaves the staging directory by ".."`,
		`\\host\x`: `staged name "\\\\host\\x" is an absolute path; it must be relative to the harness's staging directory`,
		`C:\x`:     `staged name "C:\\x" is an absolute path; it must be relative to the harness's staging directory`,
		"a\x00b":   `staged name "a\x00b" has a zero byte`,
		"":         `staged name is empty`,
	} {
		got := ""
		if err := checkStagedName(name); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// FuzzCheckStagedName: an accepted name, joined to a directory, stays below it.
func FuzzCheckStagedName(f *testing.F) {
	for _, s := range []string{"a", "../a", "a/../b", "/a", `..\a`, "a/./b", "...", ".. /a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkStagedName(name) != nil {
			return
		}
		for _, n := range []string{name, strings.ReplaceAll(name, `\`, "/")} {
			if got := filepath.Join("/stage", n); got != "/stage" && !strings.HasPrefix(got, "/stage/") {
				t.Errorf("%q is accepted and leads to %q", name, got)
			}
		}
	})
}
