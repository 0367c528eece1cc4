package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// settings is the whole configuration of a server. The table below is the only place that knows flags.
type settings struct {
	host, advertise              string
	jobPort, workerPort, webPort int
	serveHTTP                    bool
	dataDir                      string
	slots                        int
	memory, bufferPool           byteSize
	workerWait, idleShutdown     time.Duration
	stopGrace                    time.Duration

	checkpoints        string
	localCheckpoints   bool // not a flag: without --checkpoints they go to the data directory
	checkpointInterval time.Duration
	checkpointRetain   int
	unfenced           bool
	acceptLost         bool
	allowNonRestored   bool
	savepoint          string
	savepointDir       string
	jobName            string

	authToken, authTokenFile     string
	authLoopback, insecure       bool
	tlsCert, tlsKey, tlsClientCA string
	tlsPorts, allowedHosts       string // lists with commas
	maxBody, maxJar              byteSize
	readOnly                     bool

	s3Endpoint, s3Region, s3SSE, s3SSEKey string
	s3PathStyle                           bool
	logFormat, logLevel                   string
}

// setting is one flag: its name, where its value goes, its default and what it means.
type setting struct {
	name  string
	value pflag.Value
	def   string
	help  string
}

// table lists all settings. Every one is also the environment variable TINYRUNNER_NAME; the flag wins.
func (s *settings) table() []setting {
	return []setting{
		{"host", (*text)(&s.host), "127.0.0.1", "address to listen on; 0.0.0.0 is every interface. What other machines can reach needs\n--auth_token_file, --tls_client_ca or --insecure"},
		{"advertise_host", (*text)(&s.advertise), "", "host name under which clients and harnesses reach this process\n(default: --host, or this machine's name if that is 0.0.0.0)"},
		{"job_port", (*port)(&s.jobPort), "8099", "port of the Job API; 0 is any free port"},
		{"worker_port", (*port)(&s.workerPort), "8098", "port for SDK harnesses; 0 is any free port"},
		{"http_port", (*port)(&s.webPort), "8081", "port of REST, metrics and health; 0 is any free port"},
		{"serve_http", (*boolean)(&s.serveHTTP), "true", "whether to open http_port at all"},
		{"data_dir", (*text)(&s.dataDir), "", "directory for state, spilled data and artifacts\n(default: a new one in the system's temporary directory, removed at the end)"},
		{"checkpoints", (*text)(&s.checkpoints), "", "where checkpoints go: file:///DIR or s3://BUCKET/PREFIX. With it jobs survive this process\n(default: none; jobs end with this process)"},
		{"checkpoint_interval", (*duration)(&s.checkpointInterval), "10s", "time between two checkpoints of a job"},
		{"checkpoint_retain", (*count)(&s.checkpointRetain), "3", "complete checkpoints of a job that are kept"},
		{"unfenced_store", (*boolean)(&s.unfenced), "false", "accept a store that overwrites objects, where nothing keeps two processes from running one job"},
		{"accept_lost_transactions", (*boolean)(&s.acceptLost), "false", "go on without records whose Kafka transaction the brokers ended while this process was away for longer than transaction.timeout.ms,\ninstead of failing the job"},
		{"savepoint", (*text)(&s.savepoint), "", "location of a savepoint that submitted jobs begin with, unless they have checkpoints"},
		{"savepoint_dir", (*text)(&s.savepointDir), "", "where savepoints go whose request names no place: file:///DIR or s3://BUCKET/PREFIX"},
		{"allow_non_restored_state", (*boolean)(&s.allowNonRestored), "false", "drop state that a changed pipeline has no place for, instead of refusing it"},
		{"job_name", (*text)(&s.jobName), "", "name of submitted jobs, whatever they call themselves: checkpoints are found by it"},
		{"auth_token", (*text)(&s.authToken), "", "token that every REST call must bring, but for health checks, and every call of job and worker ports that\ncomes from another machine; a client certificate will do instead, and on the worker port the id of an expected worker"},
		{"auth_token_file", (*text)(&s.authTokenFile), "", "file that holds the token: it is not in the list of processes then"},
		{"auth_loopback", (*boolean)(&s.authLoopback), "false", "on job and worker ports, ask callers of this machine, too: give it if a proxy here forwards calls of others"},
		{"insecure", (*boolean)(&s.insecure), "false", "listen on an address that other machines can reach without asking who calls: they can run code here"},
		{"tls_cert", (*text)(&s.tlsCert), "", "certificate of this server, in PEM with those that it depends on. It is read again when it changes"},
		{"tls_key", (*text)(&s.tlsKey), "", "private key of --tls_cert, in PEM"},
		{"tls_client_ca", (*text)(&s.tlsClientCA), "", "certificates of authorities, in PEM: clients with a certificate of theirs need no token (mTLS)"},
		{"tls_ports", (*text)(&s.tlsPorts), "rest,job", "ports that speak TLS with --tls_cert: rest, job, worker. Callers of this machine may speak plain text to job and\nworker ports, unless --auth_loopback; Beam's harnesses on other machines can only do that"},
		{"allowed_hosts", (*text)(&s.allowedHosts), "", "names under which REST may be called, with commas, besides IP addresses: others are refused\n(default: any; if it listens on a loopback address: this machine's)"},
		{"max_body", &s.maxBody, "1MiB", "largest body of a REST call"},
		{"max_jar", &s.maxJar, "1GiB", "largest jar that may be uploaded"},
		{"read_only", (*boolean)(&s.readOnly), "false", "refuse every REST call that changes something"},
		{"s3_endpoint", (*text)(&s.s3Endpoint), "", "URL of an S3-compatible store, like http://127.0.0.1:9000 (default: AWS)"},
		{"s3_path_style", (*boolean)(&s.s3PathStyle), "false", "put the bucket's name into the path and not into the host"},
		{"s3_region", (*text)(&s.s3Region), "", "region of the bucket (default: AWS_REGION, else us-east-1)"},
		{"s3_sse", (*text)(&s.s3SSE), "", "encryption at rest: AES256, aws:kms or aws:kms:dsse (default: the bucket's)"},
		{"s3_sse_key", (*text)(&s.s3SSEKey), "", "key of aws:kms encryption (default: the account's)"},
		{"stop_grace", (*duration)(&s.stopGrace), "30s", "how long jobs may take for their last checkpoint when this process is asked to stop"},
		{"slots", (*count)(&s.slots), "0", "bundles of one stage that may run at once, at most 128; 0 is the number of CPUs"},
		{"memory", &s.memory, "250MiB", "memory this process aims to stay below, harnesses not included"},
		{"buffer_pool", &s.bufferPool, "32MiB", "memory of elements between stages; what is over it goes to files in data_dir"},
		{"worker_wait", (*duration)(&s.workerWait), "2m", "how long a job waits for an SDK harness to connect before it fails"},
		{"idle_shutdown_timeout", (*duration)(&s.idleShutdown), "0s", "exit after this time without a job; 0 or less is never"},
		{"log_format", (*text)(&s.logFormat), "auto", "text, json, or auto: text on a terminal, json otherwise"},
		{"log_level", (*text)(&s.logLevel), "info", "debug, info, warn or error"},
	}
}

// register adds a flag for each setting. Defaults may differ by command.
func (s *settings) register(fs *pflag.FlagSet, defaults map[string]string) {
	for _, t := range s.table() {
		if d, ok := defaults[t.name]; ok {
			t.def = d
		}
		if err := t.value.Set(t.def); t.def != "" && err != nil {
			panic(fmt.Sprintf("not reached: default of --%s: %v", t.name, err))
		}
		f := fs.VarPF(t.value, t.name, "", t.help)
		if t.value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	fs.SetNormalizeFunc(normalize)
	fs.SortFlags = false
}

// normalize accepts dashes, and the names that Prism has for some flags.
func normalize(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name = strings.ReplaceAll(name, "-", "_"); name {
	case "web_port":
		name = "http_port"
	case "log_kind":
		name = "log_format"
	}
	return pflag.NormalizedName(name)
}

// complete fills what no flag gave from the environment and checks all of it.
func (s *settings) complete(fs *pflag.FlagSet, getenv func(string) (string, bool)) error {
	for _, t := range s.table() {
		name := "TINYRUNNER_" + strings.ToUpper(t.name)
		v, ok := getenv(name)
		if !ok || fs.Changed(t.name) {
			continue
		}
		if err := t.value.Set(v); err != nil {
			return usage("invalid %s=%q: %w", name, v, err)
		}
	}
	return s.validate()
}

func (s *settings) validate() error {
	switch s.logFormat {
	case "auto", "text", "json":
	case "dev", "console": // Prism's names for text
		s.logFormat = "text"
	default:
		return usage("invalid --log_format %q: use text, json or auto", s.logFormat)
	}
	if _, err := s.level(); err != nil {
		return usage("invalid --log_level %q: use debug, info, warn or error", s.logLevel)
	}
	if s.memory < minMemory {
		return usage("invalid --memory %s: less than %s is not enough to run a job", s.memory, byteSize(minMemory))
	}
	if s.bufferPool < minBufferPool || s.bufferPool > s.memory/2 {
		return usage("invalid --buffer_pool %s: use at least %s and at most half of --memory (%s)", s.bufferPool, byteSize(minBufferPool), s.memory)
	}
	if s.slots > maxParallelism {
		return usage("invalid --slots %d: use at most %d, the number of key groups", s.slots, maxParallelism)
	}
	if s.checkpointInterval < 10*time.Millisecond {
		return usage("invalid --checkpoint_interval %s: use at least 10ms", s.checkpointInterval)
	}
	if s.checkpointRetain < 1 {
		return usage("invalid --checkpoint_retain %d: keep at least 1", s.checkpointRetain)
	}
	if s.stopGrace <= 0 {
		return usage("invalid --stop_grace %s: use a positive time, like 30s", s.stopGrace)
	}
	if err := s.s3().Validate(); err != nil {
		return usage("invalid S3 settings: %w", err)
	}
	if s.workerWait <= 0 {
		return usage("invalid --worker_wait %s: use a positive time, like 2m", s.workerWait)
	}
	if s.maxBody < minBody || s.maxJar < s.maxBody {
		return usage("invalid --max_body %s and --max_jar %s: use at least %s, and for jars not less than for others", s.maxBody, s.maxJar, byteSize(minBody))
	}
	return s.validateSecurity()
}

// validateSecurity refuses to be open to other machines unless that was said.
func (s *settings) validateSecurity() error {
	if (s.tlsCert == "") != (s.tlsKey == "") {
		return usage("--tls_cert and --tls_key belong together: give both")
	}
	if s.tlsClientCA != "" && s.tlsCert == "" {
		return usage("--tls_client_ca needs --tls_cert and --tls_key: client certificates come by TLS")
	}
	for _, port := range s.tlsPortList() {
		if port != restPort && port != jobPort && port != workerPort {
			return usage("invalid --tls_ports %q: use %s, %s and %s, with commas", s.tlsPorts, restPort, jobPort, workerPort)
		}
	}
	if s.authToken != "" || s.authTokenFile != "" || s.tlsClientCA != "" || s.insecure || isLoopback(s.host) {
		return nil
	}
	return usage("refusing to listen on %q: whoever reaches it could run code here. Ask for a token with --auth_token_file FILE "+
		"or for certificates with --tls_client_ca FILE, listen on --host 127.0.0.1, or say --insecure", s.host)
}

// list splits what has commas.
func list(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' })
}

func (s *settings) tlsPortList() []string { return list(s.tlsPorts) }

// hosts are the names under which REST may be called; nil: any. A web site can give its own name to a loopback address, and then
// its pages could call what listens there: so there it is only this machine's names.
func (s *settings) hosts() []string {
	out := list(strings.ToLower(s.allowedHosts))
	if len(out) > 0 || !isLoopback(s.host) {
		return out
	}
	out = []string{"localhost", strings.ToLower(s.host)}
	if s.advertise != "" {
		out = append(out, strings.ToLower(s.advertise))
	}
	if name, err := os.Hostname(); err == nil {
		out = append(out, strings.ToLower(name))
	}
	return out
}

const (
	minMemory     = 64 << 20 // 64 MiB
	minBufferPool = 1 << 20  // 1 MiB
	minBody       = 64 << 10 // 64 KiB
)

func (s *settings) level() (l slog.Level, err error) {
	err = l.UnmarshalText([]byte(s.logLevel))
	return l, err
}

// token is what REST calls must bring.
func (s *settings) token() (string, error) {
	if s.authTokenFile == "" {
		return s.authToken, nil
	}
	data, err := os.ReadFile(s.authTokenFile)
	if err != nil {
		return "", usage("cannot read --auth_token_file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", usage("--auth_token_file %s is empty: put the token in it", s.authTokenFile)
	}
	return token, nil
}

// logger writes to w, in the format that suits it.
func (s *settings) logger(w io.Writer) *slog.Logger {
	level, err := s.level()
	if err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.logFormat == "text" || s.logFormat == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// The kinds of values. Their errors end a sentence that begins with the flag and the value.
type (
	text     string
	port     int
	count    int
	boolean  bool
	duration time.Duration
	byteSize int64 // bytes
)

func (v *text) Set(s string) error { *v = text(s); return nil }
func (v *text) String() string     { return string(*v) }
func (v *text) Type() string       { return "string" }

func (v *port) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("use a port from 1 to 65535, or 0 for any free one")
	}
	*v = port(n)
	return nil
}
func (v *port) String() string { return strconv.Itoa(int(*v)) }
func (v *port) Type() string   { return "port" }

func (v *count) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return fmt.Errorf("use a whole number, 0 or more")
	}
	*v = count(n)
	return nil
}
func (v *count) String() string { return strconv.Itoa(int(*v)) }
func (v *count) Type() string   { return "number" }

func (v *boolean) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("use true or false")
	}
	*v = boolean(b)
	return nil
}
func (v *boolean) String() string { return strconv.FormatBool(bool(*v)) }
func (v *boolean) Type() string   { return "bool" }

func (v *duration) Set(s string) error {
	if s == "-1" { // as people write Prism's "never"
		s = "-1s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("use a time with a unit, like 30s or 5m")
	}
	*v = duration(d)
	return nil
}
func (v *duration) String() string { return time.Duration(*v).String() }
func (v *duration) Type() string   { return "duration" }

// byteUnits are the units of byteSize, longest suffix first.
func byteUnits() []struct {
	suffix string
	size   int64
} {
	return []struct {
		suffix string
		size   int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}
}

func (v *byteSize) Set(s string) error {
	number, size := s, int64(1)
	for _, u := range byteUnits() {
		if len(s) > len(u.suffix) && strings.EqualFold(s[len(s)-len(u.suffix):], u.suffix) {
			number, size = strings.TrimSpace(s[:len(s)-len(u.suffix)]), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<50)/size {
		return fmt.Errorf("use a number of bytes with a unit, like 250MiB or 1GiB")
	}
	*v = byteSize(n * size)
	return nil
}

func (v byteSize) String() string {
	for _, u := range byteUnits() {
		if n := int64(v); n >= u.size && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.suffix
		}
	}
	return "0"
}
func (v byteSize) Type() string { return "bytes" }
