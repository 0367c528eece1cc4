package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/tinyrunner/tinyrunner/web"
)

const (
	// defaultAddress is where a server is that was started without flags.
	defaultAddress = "http://127.0.0.1:8081"
	// callTimeout is how long one call may take.
	callTimeout = 30 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 64 << 20
	// firstPoll and lastPoll are the pauses between two questions after something that takes its time.
	firstPoll = 50 * time.Millisecond
	lastPoll  = time.Second
)

// connection is what the flags of the client's commands say about the server.
type connection struct {
	address, dataDir, token, tokenFile string
	ca, cert, key, serverName          string
}

func (c *connection) register(fs *pflag.FlagSet) {
	fs.StringVar(&c.address, "address", defaultAddress, "URL of the server's http_port")
	fs.StringVar(&c.dataDir, "data_dir", "", "find the server by its data directory instead, if it runs on this machine")
	fs.StringVar(&c.token, "auth_token", "", "token that the server asks for; --auth_token_file keeps it out of the list of processes")
	fs.StringVar(&c.tokenFile, "auth_token_file", "", "file that holds the token")
	fs.StringVar(&c.ca, "tls_ca", "", "certificates of authorities, in PEM, that the server's certificate may be from (default: this machine's)")
	fs.StringVar(&c.cert, "tls_cert", "", "certificate to show to a server that asks for one, in PEM")
	fs.StringVar(&c.key, "tls_key", "", "private key of --tls_cert, in PEM")
	fs.StringVar(&c.serverName, "tls_server_name", "", "name in the server's certificate (default: the host of --address)")
}

// transport has the certificates that the flags name.
func (c *connection) transport() (*http.Transport, error) {
	if (c.cert == "") != (c.key == "") {
		return nil, usage("--tls_cert and --tls_key belong together: give both")
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	if c.ca != "" {
		pool, err := readAuthorities(c.ca)
		if err != nil {
			return nil, usage("cannot use --tls_ca: %w", err)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, usage("cannot use --tls_cert and --tls_key: %w", err)
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// open makes a client. Flags come before the environment.
func (c *connection) open(fs *pflag.FlagSet, getenv func(string) (string, bool)) (*client, error) {
	rank, err := fromEnvironment(fs, getenv)
	if err != nil {
		return nil, err
	}
	for _, pair := range [][2]string{{"address", "data_dir"}, {"auth_token", "auth_token_file"}} {
		if rank[pair[0]] == byFlag && rank[pair[1]] == byFlag {
			return nil, usage("--%s and --%s say the same in two ways: give one of them", pair[0], pair[1])
		}
	}
	address := c.address
	if rank["data_dir"] > rank["address"] {
		if address, err = addressIn(c.dataDir); err != nil {
			return nil, err
		}
	}
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	out := &client{http: &http.Client{
		Transport:     transport,
		Timeout:       callTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for one server
	}}
	if out.base, err = parseAddress(address); err != nil {
		return nil, err
	}
	out.token = c.token
	if rank["auth_token_file"] > rank["auth_token"] {
		if out.token, err = readToken(c.tokenFile); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Where a flag's value comes from. The greater one wins.
const (
	byDefault = iota
	byEnvironment
	byFlag
)

// fromEnvironment fills the flags that were not given from TINYRUNNER_NAME, and tells where each value comes from.
func fromEnvironment(fs *pflag.FlagSet, getenv func(string) (string, bool)) (rank map[string]int, err error) {
	rank = make(map[string]int)
	fs.VisitAll(func(f *pflag.Flag) {
		name := "TINYRUNNER_" + strings.ToUpper(f.Name)
		v, ok := getenv(name)
		switch {
		case f.Changed:
			rank[f.Name] = byFlag
		case ok && v != "" && f.Name != "help":
			rank[f.Name] = byEnvironment
			if e := f.Value.Set(v); e != nil && err == nil {
				err = usage("invalid %s=%q: %w", name, v, e)
			}
		}
	})
	return rank, err
}

// addressIn finds the server that uses a data directory.
func addressIn(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, portsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", usage("no server uses %s: it has no %s. Start one with 'tinyrunner serve --data_dir %s', or name one with --address", dir, portsFile, dir)
	}
	if err != nil {
		return "", usage("cannot find the server of the data directory: %w: name it with --address", err)
	}
	var ports portsJSON
	if err := json.Unmarshal(data, &ports); err != nil {
		return "", usage("cannot read %s of %s: %w: name the server with --address", portsFile, dir, err)
	}
	if ports.HTTP == 0 {
		return "", usage("the server of %s has no http_port: start it without --serve_http=false", dir)
	}
	scheme := "http"
	if slices.Contains(ports.TLS, restPort) {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports.HTTP), nil
}

func parseAddress(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(strings.TrimRight(s, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usage("invalid --address %q: use a URL like %s", s, defaultAddress)
	}
	return u, nil
}

func readToken(name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", usage("cannot read --auth_token_file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", usage("cannot use --auth_token_file: %s is empty", name)
	}
	return token, nil
}

// client calls the REST API of a server (package web), which is that of Flink's monitoring.
type client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// apiError is what a server answers instead of what it was asked for.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

// unreachableError says that nobody answers.
type unreachableError struct {
	address string
	err     error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("cannot reach a server at %s: %v: start one with 'tinyrunner serve', or name it with --address or --data_dir", e.address, e.err)
}

func (e *unreachableError) Unwrap() error { return e.err }

// call sends body as JSON, unless it is nil, and reads the answer into answer, unless that is nil.
func (c *client) call(ctx context.Context, method, path string, body, answer any) error {
	data, err := c.send(ctx, method, path, body)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s is no tinyrunner: its answer to %s %s cannot be read: %w", c.base.Redacted(), method, path, err)
	}
	return nil
}

func (c *client) get(ctx context.Context, path string, answer any) error {
	return c.call(ctx, http.MethodGet, path, nil, answer)
}

// send returns the body of a successful answer. The error is the context's own when that has ended.
func (c *client) send(ctx context.Context, method, path string, body any) ([]byte, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(data)
	}
	return c.exchange(ctx, method, path, "application/json", content)
}

// upload sends content as it comes, and reads the answer.
func (c *client) upload(ctx context.Context, path, contentType string, content io.Reader, answer any) error {
	data, err := c.exchange(ctx, http.MethodPost, path, contentType, content)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, answer)
}

// exchange sends a request, whose content may be nil, and returns the body of a successful answer.
func (c *client) exchange(ctx context.Context, method, path, contentType string, content io.Reader) (_ []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, content)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if content != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("%s answers %s %s with more than %d bytes", c.base.Redacted(), method, path, maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return nil, c.refused(resp, data)
	}
	return data, nil
}

func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return usage("cannot trust %s: %w: name its authority with --tls_ca", c.base.Redacted(), err)
	case errors.As(err, &name):
		return usage("cannot trust %s: %w: name one of the certificate's names with --tls_server_name", c.base.Redacted(), err)
	}
	return &unreachableError{c.base.Redacted(), err}
}

// refused makes an error of Flink's {"errors": ["..."]}.
func (c *client) refused(resp *http.Response, data []byte) error {
	var told struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(data, &told) != nil || len(told.Errors) == 0 {
		return &apiError{resp.StatusCode, fmt.Sprintf("%s is no tinyrunner: it answers %s", c.base.Redacted(), resp.Status)}
	}
	text := printable(strings.Join(told.Errors, "\n"))
	switch {
	case resp.StatusCode == http.StatusUnauthorized && resp.Header.Get("WWW-Authenticate") == "":
		return usage("%s asks for a client certificate: give it with --tls_cert and --tls_key", c.base.Redacted())
	case resp.StatusCode == http.StatusUnauthorized && c.token == "":
		return usage("%s asks for a token: give it with --auth_token_file", c.base.Redacted())
	case resp.StatusCode == http.StatusUnauthorized:
		return usage("%s does not know this token: give another one with --auth_token_file", c.base.Redacted())
	}
	return &apiError{resp.StatusCode, text}
}

// What is read of the answers. Times and durations are milliseconds.
type (
	overviewAnswer struct {
		Slots     int `json:"slots-total"`
		Free      int `json:"slots-available"`
		Running   int `json:"jobs-running"`
		Finished  int `json:"jobs-finished"`
		Cancelled int `json:"jobs-cancelled"`
		Failed    int `json:"jobs-failed"`
	}
	jobsAnswer struct {
		Jobs []jobSummary `json:"jobs"`
	}
	jobSummary struct {
		ID       string `json:"jid"`
		Name     string `json:"name"`
		State    string `json:"state"`
		Started  int64  `json:"start-time"`
		Duration int64  `json:"duration"`
	}
	jobAnswer struct {
		jobSummary
		Type           string         `json:"job-type"`
		MaxParallelism int            `json:"maxParallelism"`
		Now            int64          `json:"now"`
		Vertices       []vertexAnswer `json:"vertices"`
		Plan           struct {
			Nodes []struct {
				ID     string            `json:"id"`
				Inputs []json.RawMessage `json:"inputs"`
			} `json:"nodes"`
		} `json:"plan"`
	}
	vertexAnswer struct {
		ID          string    `json:"id"`
		Name        string    `json:"name"`
		State       string    `json:"status"`
		Parallelism int       `json:"parallelism"`
		Sums        sumAnswer `json:"metrics"`
	}
	sumAnswer struct {
		RecordsIn  int64 `json:"read-records"`
		RecordsOut int64 `json:"write-records"`
		Busy       int64 `json:"accumulated-busy-time"`
		Blocked    int64 `json:"accumulated-backpressured-time"`
	}
	checkpointsAnswer struct {
		Counts struct {
			Completed int64 `json:"completed"`
			Failed    int64 `json:"failed"`
		} `json:"counts"`
		Latest struct {
			Completed *checkpointAnswer `json:"completed"`
			Savepoint *checkpointAnswer `json:"savepoint"`
			Failed    *checkpointAnswer `json:"failed"`
		} `json:"latest"`
	}
	checkpointAnswer struct {
		ID       int64  `json:"id"`
		At       int64  `json:"latest_ack_timestamp"`
		Size     int64  `json:"state_size"`
		Uploaded int64  `json:"checkpointed_size"`
		Duration int64  `json:"end_to_end_duration"`
		Path     string `json:"external_path"`
		FailedAt int64  `json:"failure_timestamp"`
		Failure  string `json:"failure_message"`
	}
	exceptionsAnswer struct {
		Root    *string `json:"root-exception"`
		History struct {
			Entries []struct {
				Text string `json:"stacktrace"`
				At   int64  `json:"timestamp"`
			} `json:"entries"`
		} `json:"exceptionHistory"`
	}
	operationAnswer struct {
		Status struct {
			ID string `json:"id"`
		} `json:"status"`
		Operation struct {
			Location     string `json:"location"`
			CheckpointID int64  `json:"checkpointId"`
			Cause        *struct {
				Text string `json:"stack-trace"`
			} `json:"failure-cause"`
		} `json:"operation"`
	}
	boundsAnswer struct {
		Parallelism struct {
			Lower int `json:"lowerBound"`
			Upper int `json:"upperBound"`
		} `json:"parallelism"`
	}
)

// ended: the job will never be in another state.
func (j jobSummary) ended() bool {
	return j.State == "FINISHED" || j.State == "FAILED" || j.State == "CANCELED" || j.State == "SUSPENDED"
}

// number is NaN where the server knows none.
type number float64

// UnmarshalJSON reads a number, which may be in quotes.
func (n *number) UnmarshalJSON(data []byte) error {
	var f float64
	if json.Unmarshal(bytes.Trim(data, `"`), &f) != nil {
		f = math.NaN()
	}
	*n = number(f)
	return nil
}

// MarshalJSON writes null for what is no number.
func (n number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// metrics returns metrics of one thing, by name. Those that the server does not know are left out.
func (c *client) metrics(ctx context.Context, path string, names ...string) (map[string]number, error) {
	var list []struct {
		ID    string `json:"id"`
		Value number `json:"value"`
	}
	if err := c.get(ctx, path+"?get="+url.QueryEscape(strings.Join(names, ",")), &list); err != nil {
		return nil, err
	}
	out := make(map[string]number)
	for _, m := range list {
		out[m.ID] = m.Value
	}
	return out, nil
}

// aggregate is a metric over the subtasks of a stage.
type aggregate struct {
	ID  string `json:"id"`
	Min number `json:"min"`
	Avg number `json:"avg"`
	Sum number `json:"sum"`
}

// aggregates returns metrics over a stage's subtasks, by name; without names, all there are, and no values.
func (c *client) aggregates(ctx context.Context, job, vertex string, names ...string) (map[string]aggregate, error) {
	path := "/jobs/" + job + "/vertices/" + vertex + "/subtasks/metrics"
	if len(names) > 0 {
		path += "?get=" + url.QueryEscape(strings.Join(names, ","))
	}
	var list []aggregate
	if err := c.get(ctx, path, &list); err != nil {
		return nil, err
	}
	out := make(map[string]aggregate)
	for _, m := range list {
		out[m.ID] = m
	}
	return out, nil
}

// minPrefix is how much of an id has to be given.
const minPrefix = 4

// pick returns the job that the first rule finds that finds any; false: there is none. If the rule finds several it is an error,
// which names them.
func pick[J any](which string, all []J, named func(J) string, rules ...func(J) bool) (job J, ok bool, err error) {
	for _, match := range rules {
		var names []string
		for _, j := range all {
			if match(j) {
				job, names = j, append(names, named(j))
			}
		}
		switch len(names) {
		case 0:
		case 1:
			return job, true, nil
		default:
			return job, false, usage("%q may be any of %d jobs, use an id: %s", which, len(names), strings.Join(names, ", "))
		}
	}
	return job, false, nil
}

// find finds a job by its id, the beginning of it, its name, or the id that Beam's Job API gave it. Of several jobs with one
// name it is the one that has not ended.
func (c *client) find(ctx context.Context, which string) (jobSummary, error) {
	var list jobsAnswer
	if err := c.get(ctx, "/jobs/overview", &list); err != nil {
		return jobSummary{}, err
	}
	id := strings.ToLower(which)
	found, ok, err := pick(which, list.Jobs, func(j jobSummary) string { return j.ID + " (" + j.State + ")" },
		func(j jobSummary) bool { return j.ID == id },
		func(j jobSummary) bool { return j.Name == which && !j.ended() },
		func(j jobSummary) bool { return j.Name == which },
		func(j jobSummary) bool { return len(id) >= minPrefix && strings.HasPrefix(j.ID, id) },
	)
	if ok || err != nil {
		return found, err
	}
	var j jobAnswer
	err = c.get(ctx, "/jobs/"+url.PathEscape(which), &j)
	var told *apiError
	switch {
	case errors.As(err, &told) && (told.status == http.StatusNotFound || told.status == http.StatusBadRequest), err == nil && j.ID == "":
		return jobSummary{}, usage("there is no job %q at %s: 'tinyrunner jobs' lists them", which, c.base.Redacted())
	}
	return j.jobSummary, err
}

// ofJob reports whether an id in the log, which Beam's Job API gave, belongs to the job: REST names it by a hash.
func ofJob(logged string, job jobSummary) bool {
	return web.HexID(logged) == job.ID
}

// operation waits for something that was triggered: a savepoint or a checkpoint.
func (c *client) operation(ctx context.Context, p *progress, what, path, trigger string) (operationAnswer, error) {
	var op operationAnswer
	err := wait(ctx, p, what, func(ctx context.Context) (bool, string, error) {
		op = operationAnswer{}
		err := c.get(ctx, path+"/"+trigger, &op)
		return op.Status.ID == "COMPLETED", "", err
	})
	if err == nil && op.Operation.Cause != nil {
		err = fmt.Errorf("%s failed: %s", what, cmp.Or(printable(op.Operation.Cause.Text), "the server does not say why"))
	}
	return op, err
}

// wait asks until done, at first often, and shows what it waits for.
func wait(ctx context.Context, p *progress, what string, ask func(context.Context) (done bool, state string, err error)) error {
	defer p.end()
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		done, state, err := ask(ctx)
		var lost *unreachableError
		switch {
		case done && err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("stopped waiting for %s, the server goes on with it: %w", what, context.Cause(ctx))
		case errors.As(err, &lost):
			return fmt.Errorf("lost the server at %s while waiting for %s, it may have ended with its job: %w", lost.address, what, lost.err)
		case err != nil:
			return err
		}
		p.show(what, state)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
