package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/kafka/demo"
	"github.com/tinyrunner/tinyrunner/engine/plan"
)

const rootHelp = `tinyrunner runs Apache Beam pipelines, batch and streaming, in one small process.

Start a server, then point a pipeline at it:

  tinyrunner serve
  python wordcount.py --runner=PortableRunner --job_endpoint=localhost:8099 --environment_type=LOOPBACK
  ./wordcount --runner=universal --endpoint=localhost:8099 --environment_type=LOOPBACK

Or let Beam Python start it (flags without a command serve, as Beam's Prism does):

  python wordcount.py --runner=PrismRunner --prism_location=$(which tinyrunner)

Every flag can also be given as an environment variable: --job_port as TINYRUNNER_JOB_PORT.
Exit codes: 0 done, 1 a job failed, 2 wrong usage or configuration, 3 another process has taken over the job, 130 cancelled.`

func rootCommand(stdout, stderr io.Writer) *cobra.Command {
	var s settings
	root := &cobra.Command{
		Use:           "tinyrunner",
		Short:         "run Apache Beam pipelines in one small process",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %q: 'tinyrunner --help' lists the commands", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().NFlag() == 0 {
				return cmd.Help()
			}
			return serve(cmd, &s, stderr)
		},
	}
	// Prism's place in Beam Python is one job's: only its job port is agreed on.
	s.register(root.Flags(), map[string]string{"worker_port": "0", "http_port": "0"})
	hideFlags(root)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see '%s --help'", err, cmd.CommandPath())
	})
	root.AddCommand(serveCommand(stderr), runCommand(stdout, stderr), demoCommand(stdout, stderr), planCommand(stdout), versionCommand(stdout))
	addClientCommands(root, stdout, stderr)
	return root
}

// hideFlags keeps the flags of serve out of the help of the bare program, which is about commands.
func hideFlags(cmd *cobra.Command) {
	for _, t := range new(settings).table() {
		if f := cmd.Flags().Lookup(t.name); f != nil {
			f.Hidden = true
		}
	}
}

// noArgs refuses arguments; cobra's own message has no remedy.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no arguments, got %q; flags begin with --, see '%s --help'", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

func serveCommand(stderr io.Writer) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "a mini-cluster that accepts jobs until it is stopped",
		Long: `Accepts pipelines over Beam's Job API and runs them until SIGTERM or SIGINT. A second signal ends the process at once.

With --checkpoints jobs outlive the process: what it is doing is written there every --checkpoint_interval, and once more
when it is asked to stop. A server that is started with the same location goes on with all of them, wherever it runs and
however the one before ended. Without, running jobs are cancelled when the process ends.

The ports in use are logged, and written to DATA_DIR/ports.json once all of them listen.`,
		Example: `  tinyrunner serve
  tinyrunner serve --job_port 0 --worker_port 0 --http_port 0 --data_dir /var/lib/tinyrunner
  tinyrunner serve --checkpoints file:///var/lib/tinyrunner/checkpoints
  tinyrunner serve --checkpoints s3://bucket/jobs --s3_endpoint http://127.0.0.1:9000 --checkpoint_interval 1s
  TINYRUNNER_MEMORY=1GiB tinyrunner serve --slots 4
  curl localhost:8081/overview`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, &s, stderr) },
	}
	s.register(cmd.Flags(), nil)
	return cmd
}

func serve(cmd *cobra.Command, s *settings, stderr io.Writer) error {
	if err := s.complete(cmd.Flags(), os.LookupEnv); err != nil {
		return err
	}
	srv, err := newServer(s, s.logger(stderr))
	if err != nil {
		return err
	}
	srv.resumes = true
	return srv.run(cmd.Context())
}

func planCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "plan FILE",
		Short: "print how a pipeline would be executed",
		Long: `Prints the fused stages of a pipeline, what each reads and writes, and which transforms run in it.
FILE is a Pipeline proto (org.apache.beam.model.pipeline.v1.Pipeline), binary or in text format; - is standard input.`,
		Example: `  tinyrunner plan pipeline.pb
  tinyrunner plan pipeline.txtpb
  # in Python: open('pipeline.pb', 'wb').write(p.to_runner_api().SerializeToString())`,
		Args: oneFile,
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := readPipeline(args[0])
			if err != nil {
				return err
			}
			compiled, err := plan.Compile(p, plan.Options{Native: nativeKind})
			if err != nil {
				return fmt.Errorf("plan %s: %w", args[0], err)
			}
			return compiled.Format(stdout)
		},
	}
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("%s takes one pipeline file, got %d arguments; see '%s --help'", cmd.CommandPath(), len(args), cmd.CommandPath())
	}
	return nil
}

// readPipeline reads a pipeline in binary or text format.
func readPipeline(name string) (*pipepb.Pipeline, error) {
	data, err := readInput(name)
	if err != nil {
		return nil, usage("cannot read the pipeline: %w", err)
	}
	p := new(pipepb.Pipeline)
	binary := proto.Unmarshal(data, p)
	if binary == nil && len(p.GetComponents().GetTransforms()) > 0 {
		return p, nil
	}
	p.Reset()
	text := prototext.Unmarshal(data, p)
	if text == nil && len(p.GetComponents().GetTransforms()) > 0 {
		return p, nil
	}
	if binary == nil || text == nil {
		return nil, usage("%s holds no pipeline: it has no transforms", name)
	}
	return nil, usage("%s is not a Pipeline proto: as binary: %w; as text: %w", name, binary, text)
}

func readInput(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}

func versionCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the versions of tinyrunner and of what it is made of",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versions()
			_, err := fmt.Fprintf(stdout, "tinyrunner %s\nrevision   %s\ngo         %s\nbeam       %s\npebble     %s\n",
				v.program, v.revision, runtime.Version(), v.beam, v.pebble)
			return err
		},
	}
}

type versionInfo struct{ program, revision, beam, pebble string }

// versions reads what the Go toolchain recorded when it built the binary.
func versions() versionInfo {
	v := versionInfo{program: "unknown", revision: "unknown", beam: "unknown", pebble: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.program = info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.revision = s.Value
		}
	}
	for _, d := range info.Deps {
		switch d.Path {
		case "github.com/apache/beam/sdks/v2":
			v.beam = d.Version
		case "github.com/cockroachdb/pebble/v2":
			v.pebble = d.Version
		}
	}
	return v
}

const runHelp = `Starts a server on free ports and runs one thing on it, then exits: 0 when all jobs are done, 1 when one failed,
130 when one was cancelled.

With "-- COMMAND", the command is run with the server's address in the environment variable JOB_ENDPOINT; {job_endpoint} in
its arguments is replaced by it, too. Jobs that are still running when the command has ended are waited for.

With FILE, the Pipeline proto in it (binary or text) is submitted; artifacts are read from the paths that it names.

With --checkpoints a job goes on where an earlier run of a job of the same name was, however that one ended; --job_name
gives it a name that does not change. SIGTERM then makes a last checkpoint and exits with 0.`

func runCommand(stdout, stderr io.Writer) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGS] | run [flags] FILE",
		Short: "run one job, in a server of its own",
		Long:  runHelp,
		Example: `  tinyrunner run -- python wordcount.py --runner=PortableRunner --job_endpoint={job_endpoint} --environment_type=LOOPBACK
  tinyrunner run -- sh -c './wordcount --runner=universal --endpoint=$JOB_ENDPOINT --environment_type=LOOPBACK'
  tinyrunner run --memory 500MiB pipeline.pb
  tinyrunner run --checkpoints s3://bucket/jobs --job_name clicks -- python clicks.py --runner=PortableRunner --job_endpoint={job_endpoint} --environment_type=LOOPBACK`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash > 0 || dash == 0 && len(args) == 0 || dash < 0 && len(args) != 1 {
				return usage("run takes either one pipeline file or '-- COMMAND'; see 'tinyrunner run --help'")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.complete(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			if cmd.ArgsLenAtDash() == 0 {
				return withServer(cmd.Context(), &s, stderr, func(ctx context.Context, srv *server) error {
					return runProgram(ctx, srv, args, stdout, stderr)
				})
			}
			p, err := readPipeline(args[0])
			if err != nil {
				return err
			}
			return withServer(cmd.Context(), &s, stderr, func(ctx context.Context, srv *server) error {
				return runPipeline(ctx, srv, p, args[0])
			})
		},
	}
	s.register(cmd.Flags(), map[string]string{"job_port": "0", "worker_port": "0", "http_port": "0"})
	return cmd
}

// withServer runs work beside a server, which it stops when the work is done. The work is cancelled by a signal, or when
// the server breaks.
func withServer(ctx context.Context, s *settings, stderr io.Writer, work func(context.Context, *server) error) error {
	srv, err := newServer(s, s.logger(stderr))
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // the work ends first
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() {
		served <- srv.run(serving)
		cancel()
	}()
	var suspended error
	asked := context.AfterFunc(ctx, func() { // jobs are stopped while those who run their functions still live
		suspended = srv.suspend()
		cancel()
	})
	err = work(working, srv)
	if !asked() {
		<-working.Done()
		if suspended == nil && srv.allSuspended() {
			err = nil
		}
	}
	stop()
	if serveErr := <-served; serveErr != nil {
		return errors.Join(serveErr, err)
	}
	var coded *exitError
	if err != nil && ctx.Err() != nil && !errors.As(err, &coded) { // whatever broke, broke because of the signal
		return &exitError{code: exitCancelled, err: errors.New("cancelled by a signal")}
	}
	return err
}

func demoCommand(stdout, stderr io.Writer) *cobra.Command {
	var s settings
	var d duration
	asJSON := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "a pipeline from Kafka to Kafka, with a Kafka of its own",
		Long: `Starts a Kafka broker in this process and a generator that sends requests of a web site as fast as they are read. The
pipeline parses them, keeps the 1 % that failed, counts those by page in windows of ten seconds, and writes the counts to
another topic. Figures are shown every second. At the end the pipeline is drained, and the counts must add up.`,
		Example: `  tinyrunner demo
  tinyrunner demo --duration 20s --json | tail -n 1
  tinyrunner demo --checkpoint_interval 1s
  tinyrunner demo --http_port 8081 & curl localhost:8081/overview`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.complete(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			s.localCheckpoints = true
			return withServer(cmd.Context(), &s, stderr, func(ctx context.Context, srv *server) error {
				fmt.Fprintf(stdout, "Kafka -> parse -> filter 1 %% -> count by page in 10 s windows -> Kafka; Ctrl-C ends it\n")
				if srv.webListener != nil {
					fmt.Fprintf(stdout, "REST: %s://%s/overview\n", srv.security.scheme(), srv.address(srv.webListener))
				}
				return demo.Run(ctx, demo.Config{
					Duration: time.Duration(d), Cluster: srv.cluster, Out: stdout, Terminal: isTerminal(stdout), JSON: asJSON, Logger: srv.log,
				})
			})
		},
	}
	cmd.Flags().Var(&d, "duration", "how long to generate; 0 is until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "make the last line a JSON object: records, mb_per_s, records_per_s, rss_mb_max, watermark_lag_ms, checkpoints")
	s.register(cmd.Flags(), map[string]string{
		"job_port": "0", "worker_port": "0", "http_port": "0", "log_level": "warn",
		"memory": "130MiB", // it stays below 120, with the broker in it
	})
	return cmd
}
