package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/web"
)

const forgetHelp = `Removes what the store of the checkpoints holds of a job that does not run: its checkpoints, its pipeline and its files. Nothing
goes on with it then, and its name is free: the next job of that name begins anew, or with a savepoint. Savepoints stay.

A streaming job that has failed keeps its checkpoints, and so does one whose server was stopped: it goes on when the server is
started. This command is for those that shall not. It asks before it does so, unless --yes.

JOB is the job's name, its id, or the first digits of it. The server need not have run it. Without a server, --checkpoints names
the store. A job that another process has written to in the last ` + quietText + ` is taken for running there: with --force that
process loses it. When the command was interrupted, give it again.` + clientHelp

// quietText is engine.QuietTime for people.
const quietText = "10 minutes"

// storedAnswer is a job in the store, as GET /stored-jobs tells of it. Times are milliseconds; -1: there is no checkpoint.
type storedAnswer struct {
	ID           string `json:"id"`
	JID          string `json:"jid"`
	Name         string `json:"name"`
	State        string `json:"state"`
	CheckpointID int64  `json:"checkpoint-id"`
	CheckpointAt int64  `json:"checkpoint-timestamp"`

	identity string // if the store is looked at directly
}

// forgottenAnswer is what was removed.
type forgottenAnswer struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// jobStore is what holds checkpoints: a server's, or a place.
type jobStore interface {
	stored(ctx context.Context) ([]storedAnswer, error)
	forget(ctx context.Context, j storedAnswer, force bool) (forgottenAnswer, error)
	String() string
}

func forgetCommand(stdout, stderr io.Writer) *cobra.Command {
	var place settings
	yes, force := false, false
	var c *clientCommand
	c = newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "forget JOB",
		Short: "remove the checkpoints of a job that does not run",
		Long:  forgetHelp,
		Example: `  tinyrunner forget clicks
  tinyrunner forget 5a48 --yes --json
  tinyrunner forget clicks --checkpoints s3://bucket/jobs --s3_endpoint http://127.0.0.1:9000
  tinyrunner forget clicks && tinyrunner restore file:///backups/savepoint-5a4833-0cf2b1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s takes a job, got %d arguments; see '%s --help'", cmd.CommandPath(), len(args), cmd.CommandPath())
			}
			return nil
		},
	}, func(ctx context.Context, s *session, args []string) (err error) {
		var from jobStore = serverStore{s}
		if c.Flags().Changed("checkpoints") { // not by the environment, which may be the server's
			direct, err := openJobStore(ctx, &place)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, objstore.Close(direct.bucket)) }()
			from = direct
		}
		ask := func(question string) error { return confirm(c.InOrStdin(), stderr, question) }
		if yes {
			ask = func(string) error { return nil }
		}
		return s.forget(ctx, from, args[0], force, ask)
	})
	fs := c.Flags()
	fs.BoolVar(&yes, "yes", false, "do not ask")
	fs.BoolVar(&force, "force", false, "also if another process may be running the job, which then loses it")
	place.registerSome(fs, "checkpoints", "unfenced_store", "s3_endpoint", "s3_path_style", "s3_region", "s3_sse", "s3_sse_key")
	fs.Lookup("checkpoints").Usage = "look into this store instead of asking a server: file:///DIR or s3://BUCKET/PREFIX"
	return c.Command
}

// registerSome adds the flags of some settings.
func (s *settings) registerSome(fs *pflag.FlagSet, names ...string) {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.register(all, nil)
	for _, name := range names {
		fs.AddFlag(all.Lookup(name))
	}
}

// forget finds the job, asks, and removes it.
func (s *session) forget(ctx context.Context, from jobStore, which string, force bool, ask func(string) error) error {
	all, err := from.stored(ctx)
	if err != nil {
		return err
	}
	j, err := findStored(all, which, from)
	if err != nil {
		return err
	}
	if j.State == "RUNNING" {
		return fmt.Errorf("job %s is running: 'tinyrunner cancel' ends it and forgets its checkpoints, 'tinyrunner stop' saves them first", cell(j.Name))
	}
	if j.State != "ENDED" {
		if err := ask(fmt.Sprintf("Forget job %s in %s: %s? Nothing can go on with it then.", cell(j.Name), from, j.holds())); err != nil {
			return err
		}
	}
	f, err := from.forget(ctx, j, force)
	if err != nil {
		return err
	}
	if f.Objects == 0 {
		return s.print(f, "%s holds nothing more of job %s", from, cell(f.Name))
	}
	return s.print(f, "job %s is forgotten: %d objects of %s were removed from %s", cell(f.Name), f.Objects, byteCount(float64(f.Bytes)), from)
}

// holds says what would be lost.
func (j storedAnswer) holds() string {
	if j.CheckpointAt < 0 {
		return "it has no checkpoint"
	}
	return fmt.Sprintf("it can go on with checkpoint %d of %s", j.CheckpointID, instant(j.CheckpointAt))
}

// findStored finds a job by name or id. Those that can go on come first.
func findStored(all []storedAnswer, which string, from jobStore) (storedAnswer, error) {
	id := strings.ToLower(which)
	found, ok, err := pick(which, all, func(j storedAnswer) string { return j.JID + " (" + j.State + ")" },
		func(j storedAnswer) bool { return j.ID == id || j.JID == id || j.JID == web.HexID(which) },
		func(j storedAnswer) bool { return j.Name == which && j.State != "ENDED" },
		func(j storedAnswer) bool { return j.Name == which },
		func(j storedAnswer) bool { return len(id) >= minPrefix && strings.HasPrefix(j.JID, id) },
	)
	if ok || err != nil {
		return found, err
	}
	var names []string
	for _, j := range all {
		if j.State != "ENDED" {
			names = append(names, cell(j.Name))
		}
	}
	return storedAnswer{}, usage("there is no job %q in %s: it holds %s", which, from, cmp.Or(strings.Join(names, ", "), "none that could go on"))
}

// confirm asks somebody at a terminal. Without one, nobody has agreed.
func confirm(in io.Reader, out io.Writer, question string) error {
	if !onTerminal(in) {
		return usage("there is no terminal to ask on: agree with --yes")
	}
	return confirmed(in, out, question)
}

// confirmed: the answer is yes.
func confirmed(in io.Reader, out io.Writer, question string) error {
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return errors.New("nothing was removed")
	}
	return nil
}

// serverStore is the store of a running server.
type serverStore struct{ s *session }

func (st serverStore) String() string { return "the store of " + st.s.base.Redacted() }

func (st serverStore) stored(ctx context.Context) ([]storedAnswer, error) {
	var list struct{ Jobs []storedAnswer }
	err := st.s.patient().call(ctx, http.MethodGet, "/stored-jobs", nil, &list)
	return list.Jobs, err
}

func (st serverStore) forget(ctx context.Context, j storedAnswer, force bool) (f forgottenAnswer, err error) {
	err = st.s.patient().call(ctx, http.MethodDelete, fmt.Sprintf("/stored-jobs/%s?force=%v", j.ID, force), nil, &f)
	var told *apiError
	if errors.As(err, &told) && told.status == http.StatusConflict && !force {
		err = fmt.Errorf("%w: if it is not, use --force", err)
	}
	return f, err
}

// placeStore is a store that no server needs to know.
type placeStore struct {
	bucket   objstore.Bucket
	location string
	unfenced bool
}

// openJobStore opens the place that the flags name. A directory is not made.
func openJobStore(ctx context.Context, s *settings) (placeStore, error) {
	loc, err := objstore.Parse(s.checkpoints)
	if err != nil {
		return placeStore{}, usage("invalid --checkpoints: %w", err)
	}
	if loc.Dir != "" {
		if _, err := os.Stat(loc.Dir); err != nil {
			return placeStore{}, usage("cannot use --checkpoints: %w", err)
		}
	}
	bucket, err := loc.Open(ctx, s.s3())
	if err != nil {
		return placeStore{}, usage("cannot use --checkpoints: %w", err)
	}
	return placeStore{bucket, loc.String(), s.unfenced}, nil
}

func (st placeStore) String() string { return st.location }

func (st placeStore) stored(ctx context.Context) ([]storedAnswer, error) {
	all, err := checkpoint.Jobs(ctx, st.bucket, "")
	if err != nil {
		return nil, err
	}
	var out []storedAnswer
	for _, e := range all {
		j := storedAnswer{ID: web.HexID(e.Job), JID: web.HexID(e.JobID), Name: cmp.Or(e.Name, e.Job), State: "KEPT", CheckpointID: -1, CheckpointAt: -1, identity: e.Job}
		if e.Ended {
			j.State = "ENDED"
		}
		if e.Newest != nil {
			j.CheckpointID, j.CheckpointAt = e.Newest.ID, e.Newest.Created.UnixMilli()
		}
		out = append(out, j)
	}
	return out, nil
}

func (st placeStore) forget(ctx context.Context, j storedAnswer, force bool) (forgottenAnswer, error) {
	quiet := engine.QuietTime
	if force {
		quiet = 0
	}
	f, err := checkpoint.Forget(ctx, checkpoint.Config{Bucket: st.bucket, Job: j.identity, Owner: checkpoint.NewOwner(time.Now()), Unfenced: st.unfenced}, quiet)
	var busy *checkpoint.BusyError
	if errors.As(err, &busy) {
		err = fmt.Errorf("%w: ask its server ('tinyrunner forget' without --checkpoints), wait until %s, or use --force", err,
			busy.Changed.Add(engine.QuietTime).UTC().Format(time.RFC3339))
	}
	return forgottenAnswer{j.Name, f.Objects, f.Bytes}, err
}
