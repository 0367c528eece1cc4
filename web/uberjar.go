package web

import (
	"archive/zip"
	"encoding/json"
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

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// What Beam's uber-jar clients put into a jar (PortablePipelineJarUtils in Beam's Java runners).
const (
	uberFolder   = "BEAM-PIPELINE/"
	uberManifest = uberFolder + "pipeline-manifest.json"
)

// Bounds of what is read out of a jar, in bytes.
const (
	maxManifest = 64 << 10
	maxPipeline = 64 << 20
	maxArtifact = 4 << 30
)

var errNoPipeline = errors.New("it holds no Beam pipeline (BEAM-PIPELINE/...): only jars made with --flink_submit_uber_jar, " +
	"or by Beam's portable jar creator, run without a JVM")

// readUberJar reads the pipeline of a jar. The artifacts that it names are written to files in dir.
func readUberJar(file, dir string) (s Submission, err error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return Submission{}, fmt.Errorf("read jar: %w", err)
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	name, err := defaultJob(&z.Reader)
	if err != nil {
		return Submission{}, err
	}
	s = Submission{Name: name, Pipeline: new(pipepb.Pipeline), Options: new(structpb.Struct)}
	if err := readProto(&z.Reader, uberFolder+name+"/pipeline.json", s.Pipeline); err != nil {
		return Submission{}, err
	}
	if err := readProto(&z.Reader, uberFolder+name+"/pipeline-options.json", s.Options); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Submission{}, err
	}
	return s, extract(&z.Reader, s.Pipeline, dir)
}

// defaultJob is the pipeline of the jar that runs if none is named.
func defaultJob(z *zip.Reader) (string, error) {
	data, err := readEntry(z, uberManifest, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errNoPipeline
	}
	if err != nil {
		return "", err
	}
	var m struct {
		DefaultJobName string `json:"defaultJobName"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("read %s: %w", uberManifest, err)
	}
	if m.DefaultJobName == "" {
		return "", errNoPipeline
	}
	return m.DefaultJobName, nil
}

// readEntry reads an entry of at most so many bytes: what is compressed may be far larger than the jar.
func readEntry(z *zip.Reader, name string, limit int64) (_ []byte, err error) {
	f, err := find(z, name)
	if err != nil {
		return nil, err
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// find finds an entry by its exact name: nothing of the name is ever a path of this machine.
func find(z *zip.Reader, name string) (*zip.File, error) {
	for _, f := range slices.Backward(z.File) { // a name that is there twice means the last one
		if f.Name == name {
			return f, nil
		}
	}
	return nil, fmt.Errorf("%s: %w in the jar", name, fs.ErrNotExist)
}

func readProto(z *zip.Reader, name string, m proto.Message) error {
	data, err := readEntry(z, name, maxPipeline)
	if err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// extract writes the files that the pipeline's environments name, and lets the pipeline name them where they are now. Only
// files of the jar are: a path of this machine would let a client read any file.
func extract(z *zip.Reader, p *pipepb.Pipeline, dir string) error {
	written := make(map[string]string) // by name in the jar
	envs := p.GetComponents().GetEnvironments()
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		for k, dep := range envs[id].GetDependencies() {
			if dep.GetTypeUrn() != "beam:artifact:type:file:v1" {
				continue // embedded, or refused when it is staged
			}
			if err := extractOne(z, dep, dir, written); err != nil {
				return fmt.Errorf("environment %s: dependency %d: %w", id, k, err)
			}
		}
	}
	return nil
}

func extractOne(z *zip.Reader, dep *pipepb.ArtifactInformation, dir string, written map[string]string) error {
	var f pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(dep.GetTypePayload(), &f); err != nil {
		return fmt.Errorf("malformed file payload: %w", err)
	}
	name := path.Clean(strings.TrimLeft(strings.TrimPrefix(f.GetPath(), "classpath:"), "/"))
	if !strings.HasPrefix(name, uberFolder) {
		return fmt.Errorf("artifact %q is no file of the jar", f.GetPath())
	}
	local, ok := written[name]
	if !ok {
		local = filepath.Join(dir, strconv.Itoa(len(written)))
		if err := writeEntry(z, name, local); err != nil {
			return err
		}
		written[name] = local
	}
	f.Path = local
	payload, err := proto.Marshal(&f)
	if err != nil {
		return fmt.Errorf("encode file payload: %w", err)
	}
	dep.TypePayload = payload
	return nil
}

func writeEntry(z *zip.Reader, name, local string) (err error) {
	entry, err := find(z, name)
	if err != nil {
		return err
	}
	r, err := entry.Open()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f, err := os.OpenFile(local, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write artifact: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(r, maxArtifact))
	if err == nil && n == maxArtifact {
		err = fmt.Errorf("%s is larger than %d bytes", name, int64(maxArtifact))
	}
	return errors.Join(err, f.Close())
}
