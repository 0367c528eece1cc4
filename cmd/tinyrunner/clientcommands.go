package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// addClientCommands adds what talks to a running server, and makes completion known, which is worth most for job ids.
func addClientCommands(root *cobra.Command, stdout, stderr io.Writer) {
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(jobsCommand(stdout, stderr), jobCommand(stdout, stderr), cancelCommand(stdout, stderr), stopCommand(stdout, stderr),
		savepointCommand(stdout, stderr), checkpointCommand(stdout, stderr), restoreCommand(stdout, stderr), forgetCommand(stdout, stderr),
		rescaleCommand(stdout, stderr), logsCommand(stdout, stderr), topCommand(stdout, stderr))
}

// clientHelp ends the help of every command of the client.
const clientHelp = `

The server is found at --address, or by --data_dir if it runs on this machine. https:// addresses need --tls_ca if their authority
is not known to this machine; --auth_token_file or --tls_cert and --tls_key say who calls.`

// jobHelp says how a job is named.
const jobHelp = `

ID is a job's id, the first digits of it, or the job's name; 'tinyrunner jobs' shows them.` + clientHelp

// session is one run of a command of the client.
type session struct {
	*client
	out      io.Writer
	json     bool
	progress *progress
}

// print writes v as JSON, or the text.
func (s *session) print(v any, text string, args ...any) error {
	if s.json {
		return writeJSON(s.out, v)
	}
	_, err := fmt.Fprintf(s.out, text+"\n", args...)
	return err
}

// clientCommand is what the commands of the client have in common.
type clientCommand struct {
	*cobra.Command
	connection connection
	json       bool
	timeout    duration
}

// newClientCommand makes a command of what is different about it: work, and its texts.
func newClientCommand(stdout, stderr io.Writer, c *cobra.Command, work func(ctx context.Context, s *session, args []string) error) *clientCommand {
	out := &clientCommand{Command: c}
	fs := c.Flags()
	out.connection.register(fs)
	fs.BoolVar(&out.json, "json", false, "print JSON")
	fs.SetNormalizeFunc(normalize)
	fs.SortFlags = false
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := out.connection.open(cmd.Flags(), os.LookupEnv)
		if err != nil {
			return err
		}
		ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
		if out.timeout > 0 {
			cause := fmt.Errorf("--timeout %s is over", out.timeout.String())
			ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(out.timeout), cause)
		}
		defer cancel()
		err = work(ctx, &session{client: cl, out: stdout, json: out.json, progress: newProgress(stderr)}, args)
		if err != nil && cmd.Context().Err() != nil {
			return &exitError{code: exitCancelled, err: fmt.Errorf("ended by a signal: %w", err)}
		}
		return err
	}
	return out
}

// waits adds the flag of commands that wait for something.
func (c *clientCommand) waits(otherwise time.Duration) *clientCommand {
	c.timeout = duration(otherwise)
	c.Flags().Var(&c.timeout, "timeout", "give up waiting after this time, though the server goes on; 0 is never")
	return c
}

// aboutJob makes the first argument a job that is completed by asking the server. Jobs that have ended are proposed if wanted.
func (c *clientCommand) aboutJob(ended bool) *clientCommand {
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cl, err := c.connection.open(cmd.Flags(), os.LookupEnv)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // somebody has pressed a key
		defer cancel()
		var list jobsAnswer
		if err := cl.get(ctx, "/jobs/overview", &list); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return completions(list.Jobs, begun, ended), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// completions are the ids of jobs, and their names for whoever has begun to write one.
func completions(jobs []jobSummary, begun string, ended bool) []string {
	var out []string
	for _, j := range jobs {
		if j.ended() && !ended {
			continue
		}
		name := cell(j.Name)
		if strings.HasPrefix(j.ID, begun) {
			out = append(out, j.ID+"\t"+name+", "+j.State)
		}
		if begun != "" && strings.HasPrefix(j.Name, begun) && !strings.ContainsFunc(name, func(c rune) bool { return c == ' ' || c == '?' }) {
			out = append(out, name+"\t"+j.State+", "+j.ID)
		}
	}
	return out
}

// arguments checks the number of arguments; names are how the help calls them.
func arguments(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > len(names) {
			return usage("%s takes %s, got %d arguments: 'tinyrunner jobs' lists the jobs, see '%s --help'",
				cmd.CommandPath(), strings.Join(names, " and "), len(args), cmd.CommandPath())
		}
		return nil
	}
}

func jobsCommand(stdout, stderr io.Writer) *cobra.Command {
	return newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "jobs",
		Short: "list the jobs of a running server",
		Long: `Lists the jobs that run, and those that have ended and are remembered, oldest first. States are Flink's: FINISHED is also a job
that was stopped with a savepoint. With --json it is the server's own answer: GET /jobs/overview of Flink's REST API.` + clientHelp,
		Example: `  tinyrunner jobs
  tinyrunner jobs --address http://127.0.0.1:8081
  tinyrunner jobs --data_dir /var/lib/tinyrunner
  TINYRUNNER_ADDRESS=https://beam.example.org tinyrunner jobs --auth_token_file token
  tinyrunner jobs --json | jq -r '.jobs[] | select(.state == "RUNNING").jid'`,
		Args: noArgs,
	}, func(ctx context.Context, s *session, _ []string) error {
		var raw json.RawMessage
		var list jobsAnswer
		if err := s.get(ctx, "/jobs/overview", &raw); err != nil || s.json {
			return errors.Join(err, s.raw(raw))
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("read the list of jobs: %w", err)
		}
		rows := [][]string{{"ID", "NAME", "STATE", "STARTED", "DURATION"}}
		for _, j := range list.Jobs {
			rows = append(rows, []string{j.ID, cell(j.Name), j.State, instant(j.Started), span(j.Duration)})
		}
		return table(s.out, rows)
	}).Command
}

// raw writes the server's answer.
func (s *session) raw(answer json.RawMessage) error {
	if answer == nil {
		return nil
	}
	_, err := fmt.Fprintf(s.out, "%s\n", answer)
	return err
}

func jobCommand(stdout, stderr io.Writer) *cobra.Command {
	return newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "job ID",
		Short: "show a job, its stages and what made it fail",
		Long: `Shows a job and its stages, producers before consumers:

  IN/S, OUT/S  records a second, on average over the last half minute
  BUSY         share of the time that its slots were running bundles
  BLOCKED      share of the time that full queues behind it kept it from working: look for the stage that is busy
  QUEUED       records that wait for it in this process
  PENDING      records that a source knows to be waiting outside
  LAG          how far its output watermark is behind the clock; "end" if nothing more comes

With --json it is the server's own answer: GET /jobs/ID of Flink's REST API.` + jobHelp,
		Example: `  tinyrunner job 5a48336266d2e75c6067346819f346e1
  tinyrunner job 5a48
  tinyrunner job clicks --json | jq .vertices`,
		Args: arguments(1, "a job"),
	}, func(ctx context.Context, s *session, args []string) error {
		j, err := s.find(ctx, args[0])
		if err != nil {
			return err
		}
		if s.json {
			var raw json.RawMessage
			err := s.get(ctx, "/jobs/"+j.ID, &raw)
			return errors.Join(err, s.raw(raw))
		}
		v, err := s.view(ctx, j.ID, -1)
		if err != nil {
			return err
		}
		return errors.Join(table(s.out, v.facts()), v.table(s.out), s.failure(ctx, j))
	}).aboutJob(true).Command
}

// failure shows why a job failed, with the user's traceback.
func (s *session) failure(ctx context.Context, j jobSummary) error {
	var e exceptionsAnswer
	if err := s.get(ctx, "/jobs/"+j.ID+"/exceptions", &e); err != nil || e.Root == nil {
		return err
	}
	_, err := fmt.Fprintf(s.out, "\nlast failure:\n%s\n", strings.TrimSpace(printable(*e.Root)))
	return err
}

func cancelCommand(stdout, stderr io.Writer) *cobra.Command {
	return newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "cancel ID",
		Short: "end a job at once, and forget its checkpoints",
		Long: `Ends a job and waits for the end. What is under way is dropped, and so are the job's checkpoints: nothing goes on with it.
To go on later, use 'tinyrunner stop'.` + jobHelp,
		Example: `  tinyrunner cancel clicks
  tinyrunner cancel 5a48 --timeout 30s --json`,
		Args: arguments(1, "a job"),
	}, func(ctx context.Context, s *session, args []string) error {
		j, err := s.find(ctx, args[0])
		if err == nil {
			err = s.call(ctx, http.MethodPatch, "/jobs/"+j.ID+"?mode=cancel", nil, nil)
		}
		if err != nil {
			return err
		}
		if err := s.awaitEnd(ctx, &j); err != nil {
			return err
		}
		if j.State != "CANCELED" {
			return fmt.Errorf("job %s is %s: it ended before it was cancelled", j.ID, j.State)
		}
		return s.print(map[string]string{"job": j.ID, "state": j.State}, "job %s (%s) is cancelled", j.ID, cell(j.Name))
	}).waits(0).aboutJob(false).Command
}

// awaitEnd waits until a job has ended, and updates its state.
func (s *session) awaitEnd(ctx context.Context, j *jobSummary) error {
	return wait(ctx, s.progress, "the end of job "+cell(j.Name), func(ctx context.Context) (bool, string, error) {
		var now struct {
			Status string `json:"status"`
		}
		err := s.get(ctx, "/jobs/"+j.ID+"/status", &now)
		if err == nil {
			j.State = now.Status
		}
		return j.ended(), j.State, err
	})
}

// targetHelp is about the flag of stop and savepoint.
const targetHelp = "where the savepoint goes: file:///DIR on the server's machine, or s3://BUCKET/PREFIX"

func stopCommand(stdout, stderr io.Writer) *cobra.Command {
	target, drain := "", false
	c := newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "stop ID",
		Short: "end a job with a savepoint",
		Long: `Makes a savepoint and ends the job with it, and waits for both. Nothing is lost and nothing is done twice when the pipeline,
or a changed one, begins with the savepoint: 'tinyrunner restore' does that.

With --drain the job is to end for good: its sources stop, all windows fire, and everything is processed before the savepoint is
made. A job that begins with that has nothing more to read.` + jobHelp,
		Example: `  tinyrunner stop clicks --target_directory s3://bucket/savepoints
  tinyrunner stop clicks --target_directory /backups --drain
  tinyrunner run --savepoint $(tinyrunner stop clicks --target_directory file:///backups --json | jq -r .location) clicks-2.pb`,
		Args: arguments(1, "a job"),
	}, func(ctx context.Context, s *session, args []string) error {
		j, location, err := s.savepoint(ctx, args[0], "/stop", map[string]any{"targetDirectory": orNull(target), "drain": drain})
		if err == nil {
			err = s.awaitEnd(ctx, &j)
		}
		if err != nil {
			if location != "" {
				err = fmt.Errorf("savepoint %s is complete, but: %w", location, err)
			}
			return err
		}
		return s.print(map[string]string{"job": j.ID, "state": j.State, "location": location},
			"job %s (%s) is stopped, its savepoint is\n%s", j.ID, cell(j.Name), location)
	}).waits(0).aboutJob(false)
	c.Flags().StringVar(&target, "target_directory", "", targetHelp)
	c.Flags().BoolVar(&drain, "drain", false, "process everything first, up to the end of time: the job is not to go on")
	return c.Command
}

func savepointCommand(stdout, stderr io.Writer) *cobra.Command {
	target := ""
	c := newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "savepoint ID",
		Short: "copy the state of a job, which goes on",
		Long: `Makes a savepoint, a copy of all that a job knows which is nobody's but yours, waits until it is complete and prints where it
is. 'tinyrunner restore' starts a job from it.` + jobHelp,
		Example: `  tinyrunner savepoint clicks --target_directory s3://bucket/savepoints
  tinyrunner savepoint 5a48 --target_directory file:///backups --json | jq -r .location
  tinyrunner restore file:///backups/savepoint-5a4833-0cf2b1 --job_name clicks-copy`,
		Args: arguments(1, "a job"),
	}, func(ctx context.Context, s *session, args []string) error {
		j, location, err := s.savepoint(ctx, args[0], "/savepoints", map[string]any{"target-directory": orNull(target), "cancel-job": false})
		if err != nil {
			return err
		}
		return s.print(map[string]string{"job": j.ID, "location": location}, "%s", location)
	}).waits(0).aboutJob(false)
	c.Flags().StringVar(&target, "target_directory", "", targetHelp)
	return c.Command
}

// orNull is the target directory as the server wants it; nil leaves the choice to the server.
func orNull(target string) any {
	switch {
	case target == "":
		return nil
	case strings.HasPrefix(target, "/"):
		return "file://" + target
	default:
		return target
	}
}

type triggerAnswer struct {
	ID string `json:"request-id"`
}

// savepoint triggers a savepoint and waits until it is complete.
func (s *session) savepoint(ctx context.Context, which, call string, request map[string]any) (j jobSummary, location string, err error) {
	if j, err = s.find(ctx, which); err != nil {
		return j, "", err
	}
	var trigger triggerAnswer
	err = s.call(ctx, http.MethodPost, "/jobs/"+j.ID+call, request, &trigger)
	var told *apiError
	if errors.As(err, &told) && told.status == http.StatusBadRequest {
		return j, "", usage("%w (--target_directory)", err)
	}
	if err != nil {
		return j, "", err
	}
	op, err := s.operation(ctx, s.progress, "the savepoint of job "+cell(j.Name), "/jobs/"+j.ID+"/savepoints", trigger.ID)
	return j, printable(op.Operation.Location), err
}

func checkpointCommand(stdout, stderr io.Writer) *cobra.Command {
	return newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "checkpoint ID",
		Short: "make a checkpoint of a job now",
		Long: `Makes a checkpoint, in addition to those of every --checkpoint_interval, and waits until it is complete. What the job has done
until then will not be done again. The server must have been started with --checkpoints.` + jobHelp,
		Example: `  tinyrunner checkpoint clicks
  tinyrunner checkpoint 5a48 --json | jq .checkpoint`,
		Args: arguments(1, "a job"),
	}, func(ctx context.Context, s *session, args []string) error {
		j, err := s.find(ctx, args[0])
		var trigger triggerAnswer
		path := "/jobs/" + j.ID + "/checkpoints"
		if err == nil {
			err = s.call(ctx, http.MethodPost, path, struct{}{}, &trigger)
		}
		if err != nil {
			return err
		}
		op, err := s.operation(ctx, s.progress, "a checkpoint of job "+cell(j.Name), path, trigger.ID)
		if err != nil {
			return err
		}
		id := op.Operation.CheckpointID
		var c checkpointAnswer
		if err := s.get(ctx, path+"/details/"+strconv.FormatInt(id, 10), &c); err != nil {
			return fmt.Errorf("checkpoint %d is complete, but: %w", id, err)
		}
		return s.print(map[string]any{"job": j.ID, "checkpoint": id, "bytes": c.Size, "uploaded_bytes": c.Uploaded, "duration_ms": c.Duration},
			"checkpoint %d of job %s (%s) is complete: %s, %s of them uploaded, in %s",
			id, j.ID, cell(j.Name), byteCount(float64(c.Size)), byteCount(float64(c.Uploaded)), span(c.Duration))
	}).waits(0).aboutJob(false).Command
}

func rescaleCommand(stdout, stderr io.Writer) *cobra.Command {
	return newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "rescale ID SLOTS",
		Short: "run a job in more or fewer slots",
		Long: `Changes how many bundles of one stage may run at once, and waits until it is done. The job does not stop for it: bundles under
way end, key groups move, and it goes on. At most 128, the number of key groups.` + jobHelp,
		Example: `  tinyrunner rescale clicks 4
  tinyrunner rescale 5a48 1 --timeout 5m --json`,
		Args: arguments(2, "a job", "a number of slots"),
	}, func(ctx context.Context, s *session, args []string) error {
		slots, err := strconv.Atoi(args[1])
		if err != nil || slots < 1 || slots > maxParallelism {
			return usage("%q is no number of slots: use 1 to %d", args[1], maxParallelism)
		}
		j, err := s.find(ctx, args[0])
		if err != nil {
			return err
		}
		if err := s.rescale(ctx, j, slots); err != nil {
			return err
		}
		return s.print(map[string]any{"job": j.ID, "slots": slots}, "job %s (%s) runs in %d slots", j.ID, cell(j.Name), slots)
	}).waits(time.Minute).aboutJob(false).Command
}

// rescale asks for slots and waits until all stages have them, or the job's exceptions tell of a failure.
func (s *session) rescale(ctx context.Context, j jobSummary, slots int) error {
	path := "/jobs/" + j.ID + "/resource-requirements"
	var bounds map[string]*boundsAnswer
	if err := s.get(ctx, path, &bounds); err != nil {
		return err
	}
	for _, b := range bounds {
		b.Parallelism.Lower, b.Parallelism.Upper = min(b.Parallelism.Lower, slots), slots
	}
	asked := time.Now()
	if err := s.call(ctx, http.MethodPut, path, bounds, nil); err != nil {
		return err
	}
	err := wait(ctx, s.progress, fmt.Sprintf("job %s to run in %d slots", cell(j.Name), slots), func(ctx context.Context) (bool, string, error) {
		var now jobAnswer
		if err := s.get(ctx, "/jobs/"+j.ID, &now); err != nil {
			return false, "", err
		}
		if now.ended() {
			return false, "", fmt.Errorf("job %s is %s: it ended before it was rescaled", j.ID, now.State)
		}
		if !slices.ContainsFunc(now.Vertices, func(v vertexAnswer) bool { return v.Parallelism != slots }) {
			return true, now.State, nil
		}
		return false, now.State, s.rescaleFailure(ctx, j, now.Now-time.Since(asked).Milliseconds())
	})
	if errors.Is(err, context.DeadlineExceeded) || err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w; 'tinyrunner logs %s' may tell why it takes so long", err, j.ID)
	}
	return err
}

// rescaleFailure is what the job's exceptions tell of a rescaling that has failed since then, in ms of the server's clock.
func (s *session) rescaleFailure(ctx context.Context, j jobSummary, since int64) error {
	var e exceptionsAnswer
	if err := s.get(ctx, "/jobs/"+j.ID+"/exceptions", &e); err != nil {
		return err
	}
	for _, entry := range e.History.Entries {
		if entry.At >= since && strings.HasPrefix(entry.Text, "rescaling to ") {
			return errors.New(printable(entry.Text))
		}
	}
	return nil
}
