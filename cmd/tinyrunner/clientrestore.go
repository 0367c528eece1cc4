package main

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const restoreHelp = `Starts the job of a savepoint again, and waits until it runs. The savepoint holds all that is needed: the pipeline, its options
and its files. With --pipeline it is another pipeline that goes on with the state: it finds what belongs to transforms of the same
names. What it has no place for is named and refused, unless --allow_non_restored_state drops it.

The job is called what it was called, so that its checkpoints are found again, unless --job_name says otherwise; no other job of
that name may be running or have checkpoints. Harnesses must be within reach as they were when the job was submitted.

SAVEPOINT is file:///DIR on the server's machine, or s3://BUCKET/PREFIX, as stop and savepoint print it. A program can name one
itself: --savepoint_path is a pipeline option (in Go: --experiments=savepoint_path=SAVEPOINT). Flink's clients give it to
POST /jars/ID/run.` + clientHelp

func restoreCommand(stdout, stderr io.Writer) *cobra.Command {
	var name, pipeline string
	drop := false
	c := newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "restore SAVEPOINT",
		Short: "start the job of a savepoint again",
		Long:  restoreHelp,
		Example: `  tinyrunner restore file:///backups/savepoint-5a4833-0cf2b1
  tinyrunner restore s3://bucket/savepoints/savepoint-5a4833-0cf2b1 --job_name clicks-copy
  tinyrunner restore $(tinyrunner stop clicks --target_directory /backups --json | jq -r .location) --pipeline clicks-2.pb
  tinyrunner restore file:///backups/savepoint-5a4833-0cf2b1 --pipeline clicks-2.jar --allow_non_restored_state --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s takes the location of a savepoint, got %d arguments; see '%s --help'", cmd.CommandPath(), len(args), cmd.CommandPath())
			}
			return nil
		},
	}, func(ctx context.Context, s *session, args []string) error {
		request := map[string]any{"savepoint-path": orNull(args[0]), "job-name": name, "allow-non-restored-state": drop}
		if pipeline != "" {
			jar, err := s.uploadPipeline(ctx, pipeline)
			if err != nil {
				return err
			}
			defer s.removeJar(ctx, jar)
			request["jar-id"] = jar
		}
		return s.restore(ctx, request)
	}).waits(0)
	c.Flags().StringVar(&name, "job_name", "", "name of the job (default: as it was)")
	c.Flags().StringVar(&pipeline, "pipeline", "", "pipeline to go on with: a Pipeline proto as of 'tinyrunner run', or a jar with one (default: the savepoint's)")
	c.Flags().BoolVar(&drop, "allow_non_restored_state", false, "drop state that the pipeline has no place for, instead of refusing it")
	return c.Command
}

// restore submits the job and waits until it runs, or has ended.
func (s *session) restore(ctx context.Context, request map[string]any) error {
	var started struct {
		ID string `json:"jobid"`
	}
	err := s.patient().call(ctx, http.MethodPost, "/savepoint-restore", request, &started)
	var told *apiError
	if errors.As(err, &told) && told.status == http.StatusBadRequest {
		return usage("%w", err)
	}
	if err != nil {
		return err
	}
	j := jobSummary{ID: started.ID}
	err = wait(ctx, s.progress, "job "+j.ID+" to begin with the savepoint", func(ctx context.Context) (bool, string, error) {
		var now jobAnswer
		err := s.get(ctx, "/jobs/"+j.ID, &now)
		if err == nil {
			j = now.jobSummary
		}
		return j.State == "RUNNING" || j.ended(), j.State, err
	})
	if err != nil {
		return err
	}
	if j.State == "FAILED" {
		var e exceptionsAnswer
		if err := s.get(ctx, "/jobs/"+j.ID+"/exceptions", &e); err != nil || e.Root == nil {
			return fmt.Errorf("job %s has failed: 'tinyrunner job %[1]s' tells why", j.ID)
		}
		return fmt.Errorf("job %s has failed: %s", j.ID, strings.TrimSpace(printable(*e.Root)))
	}
	return s.print(map[string]string{"job": j.ID, "name": j.Name, "state": j.State}, "job %s (%s) goes on from the savepoint: %s", j.ID, cell(j.Name), j.State)
}

// patient is a client for calls that take as long as files are large.
func (c *client) patient() *client {
	out := *c
	h := *c.http
	h.Timeout = 0
	out.http = &h
	return &out
}

// uploadPipeline brings a pipeline to the server, in a jar, and returns the jar's id.
func (s *session) uploadPipeline(ctx context.Context, file string) (id string, err error) {
	write := copyJar
	if !strings.HasSuffix(file, ".jar") {
		p, err := readPipeline(file)
		if err != nil {
			return "", err
		}
		write = func(w io.Writer, _ string) error { return writeJar(w, p) }
	} else if _, err := os.Stat(file); err != nil {
		return "", usage("cannot read the jar: %w", err)
	}
	r, w := io.Pipe()
	form := multipart.NewWriter(w)
	go func() {
		part, err := form.CreateFormFile("jarfile", strings.TrimSuffix(filepath.Base(file), ".jar")+".jar")
		if err == nil {
			err = write(part, file)
		}
		w.CloseWithError(errors.Join(err, form.Close()))
	}()
	var stored struct {
		Filename string `json:"filename"`
	}
	err = s.patient().upload(ctx, "/jars/upload", form.FormDataContentType(), r, &stored)
	if cerr := r.Close(); cerr != nil {
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return "", fmt.Errorf("upload %s: %w", file, err)
	}
	return filepath.Base(stored.Filename), nil
}

// removeJar forgets a jar that was only needed for one job. That it stays does no harm: the server keeps few.
func (s *session) removeJar(ctx context.Context, id string) {
	_ = s.call(context.WithoutCancel(ctx), http.MethodDelete, "/jars/"+id, nil, nil)
}

func copyJar(w io.Writer, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(w, f)
	return err
}

// writeJar writes what Beam's uber-jar clients write: the pipeline and the files that its environments need.
func writeJar(w io.Writer, p *pipepb.Pipeline) error {
	const name, folder = "pipeline", "BEAM-PIPELINE/"
	z := zip.NewWriter(w)
	p = proto.CloneOf(p)
	envs := p.GetComponents().GetEnvironments()
	files := 0
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		for _, dep := range envs[id].GetDependencies() {
			entry := fmt.Sprintf("%s%s/artifacts/%d", folder, name, files)
			if err := packArtifact(z, entry, dep); err != nil {
				return fmt.Errorf("environment %s: %w", id, err)
			}
			files++
		}
	}
	pipeline, err := protojson.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode pipeline: %w", err)
	}
	for entry, data := range map[string][]byte{
		"META-INF/MANIFEST.MF":                    []byte("Manifest-Version: 1.0\r\n\r\n"),
		folder + "pipeline-manifest.json":         []byte(`{"defaultJobName":"` + name + `"}`),
		folder + name + "/pipeline.json":          pipeline,
		folder + name + "/pipeline-options.json":  []byte("{}"),
		folder + name + "/artifact-manifest.json": []byte("{}"),
	} {
		f, err := z.Create(entry)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			return fmt.Errorf("write jar: %w", err)
		}
	}
	return z.Close()
}

// packArtifact puts a file of this machine into the jar, and lets the dependency name it there.
func packArtifact(z *zip.Writer, entry string, dep *pipepb.ArtifactInformation) error {
	var f pipepb.ArtifactFilePayload
	if dep.GetTypeUrn() != "beam:artifact:type:file:v1" {
		return nil // embedded, or refused by the server
	}
	if err := proto.Unmarshal(dep.GetTypePayload(), &f); err != nil {
		return fmt.Errorf("malformed file payload: %w", err)
	}
	w, err := z.Create(entry)
	if err == nil {
		err = copyJar(w, f.GetPath())
	}
	if err != nil {
		return fmt.Errorf("pack artifact: %w", err)
	}
	f.Path = entry
	dep.TypePayload, err = proto.Marshal(&f)
	return err
}
