package jobapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// URNs of beam_runner_api.proto, StandardArtifacts.
const (
	urnFile      = "beam:artifact:type:file:v1"
	urnURL       = "beam:artifact:type:url:v1"
	urnEmbedded  = "beam:artifact:type:embedded:v1"
	urnStagingTo = "beam:artifact:role:staging_to:v1"
)

// Artifacts are the staged files of one job: a directory of its own, with files named by number (never by what a client
// sent). Goroutine safe.
type Artifacts struct {
	dir string

	mu    sync.Mutex
	files map[string]struct{} // absolute paths of complete files; guarded by mu
}

// Resolve returns the artifacts as they are: the pipeline already names the staged files.
func (a *Artifacts) Resolve(_ context.Context, artifacts []*pipepb.ArtifactInformation) ([]*pipepb.ArtifactInformation, error) {
	return artifacts, nil
}

// Open opens a staged artifact as the rewritten pipeline names it. Only files of this job are ever opened, whatever path
// the caller gives; anything else is an error that wraps fs.ErrNotExist.
func (a *Artifacts) Open(_ context.Context, info *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	var f pipepb.ArtifactFilePayload
	if info.GetTypeUrn() != urnFile || proto.Unmarshal(info.GetTypePayload(), &f) != nil {
		return nil, fmt.Errorf("open %s: %w: its type is %q, staged files have %q", describe(info), fs.ErrNotExist, info.GetTypeUrn(), urnFile)
	}
	a.mu.Lock()
	_, ok := a.files[f.GetPath()]
	n := len(a.files)
	a.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("open %s: %w among the %d staged artifacts of this job", describe(info), fs.ErrNotExist, n)
	}
	file, err := os.Open(f.GetPath())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", describe(info), err)
	}
	return file, nil
}

// Files returns the paths of the staged files, in order.
func (a *Artifacts) Files() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.files))
}

// add writes what fetch produces to a new file and returns the artifact that stands for it. The file is complete and
// its hash is the declared one, or it does not exist. One goroutine at a time stages.
func (a *Artifacts) add(info *pipepb.ArtifactInformation, fetch func(io.Writer) error) (*pipepb.ArtifactInformation, error) {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, fmt.Errorf("create artifact directory: %w", err)
	}
	a.mu.Lock()
	name := filepath.Join(a.dir, strconv.Itoa(len(a.files)))
	a.mu.Unlock()
	sum, err := writeFile(name, fetch)
	if err != nil {
		return nil, err
	}
	if want := declaredHash(info); want != "" && !strings.EqualFold(want, sum) {
		err := fmt.Errorf("%s: %w: it has %s, the pipeline says %s; it changed since the pipeline was built, so build it again",
			describe(info), errHash, sum, want)
		return nil, errors.Join(err, os.Remove(name))
	}
	a.mu.Lock()
	a.files[name] = struct{}{}
	a.mu.Unlock()
	payload, err := proto.Marshal(&pipepb.ArtifactFilePayload{Path: name, Sha256: sum})
	if err != nil {
		return nil, fmt.Errorf("encode file payload: %w", err)
	}
	return &pipepb.ArtifactInformation{
		TypeUrn: urnFile, TypePayload: payload, RoleUrn: info.GetRoleUrn(), RolePayload: info.GetRolePayload(),
	}, nil
}

// clear removes every file.
func (a *Artifacts) clear() error {
	a.mu.Lock()
	clear(a.files)
	a.mu.Unlock()
	if err := os.RemoveAll(a.dir); err != nil {
		return fmt.Errorf("remove artifacts: %w", err)
	}
	return nil
}

// writeFile streams to a file and returns the hex SHA-256 of what it wrote. On error no file is left.
func writeFile(name string, fetch func(io.Writer) error) (sum string, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("create artifact file: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	h := sha256.New()
	if err := fetch(io.MultiWriter(f, h)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

var errHash = errors.New("sha256 differs")

// declaredHash is the SHA-256 that the pipeline gives for an artifact; "" if none.
func declaredHash(info *pipepb.ArtifactInformation) string {
	switch info.GetTypeUrn() {
	case urnFile:
		var p pipepb.ArtifactFilePayload
		if proto.Unmarshal(info.GetTypePayload(), &p) == nil {
			return p.GetSha256()
		}
	case urnURL:
		var p pipepb.ArtifactUrlPayload
		if proto.Unmarshal(info.GetTypePayload(), &p) == nil {
			return p.GetSha256()
		}
	}
	return ""
}

// embedded returns the content of an artifact that travels inside the pipeline.
func embedded(info *pipepb.ArtifactInformation) (io.Reader, bool, error) {
	if info.GetTypeUrn() != urnEmbedded {
		return nil, false, nil
	}
	var p pipepb.EmbeddedFilePayload
	if err := proto.Unmarshal(info.GetTypePayload(), &p); err != nil {
		return nil, true, fmt.Errorf("%s: malformed embedded payload: %w", describe(info), err)
	}
	return bytes.NewReader(p.GetData()), true, nil
}

// checkArtifact refuses an artifact that a harness could not, or must not, put in its directory.
func checkArtifact(info *pipepb.ArtifactInformation) error {
	if info.GetTypeUrn() == urnFile {
		if err := proto.Unmarshal(info.GetTypePayload(), new(pipepb.ArtifactFilePayload)); err != nil {
			return fmt.Errorf("malformed file payload: %w", err)
		}
	}
	if info.GetRoleUrn() != urnStagingTo {
		return nil
	}
	var p pipepb.ArtifactStagingToRolePayload
	if err := proto.Unmarshal(info.GetRolePayload(), &p); err != nil {
		return fmt.Errorf("malformed staging_to role: %w", err)
	}
	return checkStagedName(p.GetStagedName())
}

// checkStagedName allows relative names that stay below the directory they are joined to, on every platform.
func checkStagedName(name string) error {
	slashed := strings.ReplaceAll(name, `\`, "/")
	switch {
	case name == "":
		return errors.New("staged name is empty")
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("staged name %q has a zero byte", name)
	case path.IsAbs(slashed), len(slashed) > 1 && slashed[1] == ':':
		return fmt.Errorf("staged name %q is an absolute path; it must be relative to the harness's staging directory", name)
	}
	for part := range strings.SplitSeq(slashed, "/") {
		if part == ".." {
			return fmt.Errorf("staged name %q leaves the staging directory by %q", name, "..")
		}
	}
	return nil
}

// describe names an artifact for people: its staged name, else its path or URL, else its type.
func describe(info *pipepb.ArtifactInformation) string {
	var role pipepb.ArtifactStagingToRolePayload
	if info.GetRoleUrn() == urnStagingTo && proto.Unmarshal(info.GetRolePayload(), &role) == nil && role.GetStagedName() != "" {
		return fmt.Sprintf("artifact %q", role.GetStagedName())
	}
	var file pipepb.ArtifactFilePayload
	if info.GetTypeUrn() == urnFile && proto.Unmarshal(info.GetTypePayload(), &file) == nil {
		return fmt.Sprintf("artifact %q", file.GetPath())
	}
	var url pipepb.ArtifactUrlPayload
	if info.GetTypeUrn() == urnURL && proto.Unmarshal(info.GetTypePayload(), &url) == nil {
		return fmt.Sprintf("artifact %q", url.GetUrl())
	}
	return fmt.Sprintf("artifact of type %q", info.GetTypeUrn())
}
