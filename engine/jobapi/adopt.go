package jobapi

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Adopt makes the Spec of a job that an earlier process had staged and that the engine resumes. files are its staged files as
// they lie here now: of the same names, in another directory. The pipeline is changed to name them. They are not this
// service's: it does not remove them. The caller fills in ID and Name.
func (s *Service) Adopt(p *pipepb.Pipeline, raw *structpb.Struct, files []string) (Spec, error) {
	options, err := ParseOptions(raw)
	if err != nil {
		return Spec{}, fmt.Errorf("adopt job: %w", err)
	}
	a := &Artifacts{files: make(map[string]struct{})}
	here := make(map[string]string)
	for _, f := range files {
		a.files[f] = struct{}{}
		here[filepath.Base(f)] = f
	}
	envs := p.GetComponents().GetEnvironments()
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		for _, dep := range envs[id].GetDependencies() {
			if err := rename(dep, here); err != nil {
				return Spec{}, fmt.Errorf("adopt job: environment %q: %w", id, err)
			}
		}
	}
	return Spec{Pipeline: p, Raw: raw, Options: options, Artifacts: a}, nil
}

// rename lets a staged artifact name the file that lies here.
func rename(dep *pipepb.ArtifactInformation, here map[string]string) error {
	if dep.GetTypeUrn() != urnFile {
		return nil
	}
	var f pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(dep.GetTypePayload(), &f); err != nil {
		return fmt.Errorf("malformed file payload: %w", err)
	}
	path, ok := here[filepath.Base(f.GetPath())]
	if !ok {
		return fmt.Errorf("%s was not stored with the job", describe(dep))
	}
	f.Path = path
	payload, err := proto.Marshal(&f)
	if err != nil {
		return fmt.Errorf("encode file payload: %w", err)
	}
	dep.TypePayload = payload
	return nil
}

// Watch counts a job that did not come through Run among the running ones, until it ends.
func (s *Service) Watch(job Job) {
	s.mu.Lock()
	s.active(+1)
	s.mu.Unlock()
	s.watchers.Go(func() { s.watch(job, nil) })
}
