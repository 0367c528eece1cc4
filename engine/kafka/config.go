package kafka

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// URNs of the transforms. The version changes when an older runner could not read the payload.
const (
	ReadURN  = "tinyrunner:kafka_read:v1"
	WriteURN = "tinyrunner:kafka_write:v1"
)

// configVersion is the version of the payloads that this package writes, and the only one that it reads.
const configVersion = 1

// Format is the form of a transform's elements.
type Format string

const (
	// KV elements are KV<[]byte, []byte>: key and value. No key is an empty key, no value (a tombstone) an empty value; on
	// writing, an empty key is no key and an empty value stays an empty value.
	KV Format = "kv"
	// Records elements are Record.
	Records Format = "record"
)

// Connection says how to reach the brokers.
type Connection struct {
	// Brokers are seed brokers, host:port.
	Brokers []string `json:"brokers"`
	TLS     *TLS     `json:"tls,omitempty"`
	SASL    *SASL    `json:"sasl,omitempty"`
}

// TLS turns on transport security. Files are read by the runner, not by the program that builds the pipeline.
type TLS struct {
	CAFile     string `json:"ca_file,omitempty"`     // PEM; empty: the system's roots
	CertFile   string `json:"cert_file,omitempty"`   // PEM client certificate; needs KeyFile
	KeyFile    string `json:"key_file,omitempty"`    // PEM
	ServerName string `json:"server_name,omitempty"` // empty: the broker's host
	Insecure   bool   `json:"insecure,omitempty"`    // do not verify the broker's certificate
}

// SASL mechanisms.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// SASL authenticates with user and password.
type SASL struct {
	Mechanism string `json:"mechanism"`
	User      string `json:"user"`
	// Password is visible to everyone who sees the pipeline.
	Password string `json:"password,omitempty"`
	// PasswordEnv names an environment variable of the runner that holds the password.
	PasswordEnv string `json:"password_env,omitempty"`
}

// StartAt says where a first start begins to read. A restart always goes on from the job's own positions.
type StartAt string

// Where to start.
const (
	Earliest  StartAt = "earliest"  // the oldest record that the broker has; the default
	Latest    StartAt = "latest"    // records that come after the start
	Timestamp StartAt = "timestamp" // the first record not older than Start.Timestamp
	Committed StartAt = "committed" // what a consumer group has committed; partitions without: Start.Else
)

// Start is the position of a first start.
type Start struct {
	At        StartAt `json:"at"`
	Timestamp int64   `json:"timestamp_ms,omitempty"` // milliseconds since the epoch
	// Group is whose offsets Committed takes, if it is not ReadConfig.Group: nothing is committed to it.
	Group string `json:"group,omitempty"`
	// Else is where, with Committed, a partition begins for which the group has no offset: Earliest (the default) or Latest.
	Else StartAt `json:"else,omitempty"`
}

// Policy says which timestamp elements get, and how the watermark follows.
type Policy string

const (
	// CreateTime is the record's own timestamp, whoever set it. The watermark of a partition is the greatest seen less
	// MaxOutOfOrderness.
	CreateTime Policy = "create_time"
	// LogAppendTime is the broker's; the topic must have message.timestamp.type=LogAppendTime. It never goes back, so the
	// watermark of a partition is the greatest seen.
	LogAppendTime Policy = "log_append_time"
	// ProcessingTime is the runner's clock at reading.
	ProcessingTime Policy = "processing_time"
)

// Timestamps configures event time.
type Timestamps struct {
	Policy Policy `json:"policy"`
	// MaxOutOfOrderness, for CreateTime, is by how many milliseconds a record may be older than one before it in its
	// partition without being late. Default 1000.
	MaxOutOfOrderness int64 `json:"max_out_of_orderness_ms"`
	// IdleTimeout is after how many milliseconds without a record a partition that has been read to its end stops
	// holding the watermark back: it then follows the wall clock less MaxOutOfOrderness. Default 1000; negative: never.
	IdleTimeout int64 `json:"idle_timeout_ms"`
}

// ReadConfig is the payload of ReadURN.
type ReadConfig struct {
	Version int `json:"version"`
	Connection
	Topics []string `json:"topics"`
	Format Format   `json:"format"`
	Elements
	Start Start `json:"start"`
	Limits
	// StopAtEnd reads up to where the partitions end when the job first starts, and makes the output bounded.
	StopAtEnd bool `json:"stop_at_end,omitempty"`
	// ReadCommitted leaves out records of open and aborted transactions.
	ReadCommitted bool `json:"read_committed,omitempty"`
	// Group is shown to monitoring only: positions are committed to it now and then. It is also what Committed starts from.
	Group      string     `json:"group,omitempty"`
	Timestamps Timestamps `json:"timestamps"`
	// Discovery is how many milliseconds pass between looks for new partitions, which are then read from their first record.
	// 0: 60000; negative: never, and then nobody notices that a topic is deleted. A bounded read never looks.
	Discovery int64 `json:"discovery_interval_ms,omitempty"`
	// OutOfRange says what to do when retention removed records before they were read. Empty: fail.
	OutOfRange OutOfRange `json:"out_of_range,omitempty"`
}

// OutOfRange is a policy for positions that the broker does not have.
type OutOfRange string

// Policies for positions that the broker does not have. Both jumps are logged with the number of records that are skipped.
const (
	FailOutOfRange     OutOfRange = "fail"     // the job fails; the default
	EarliestOutOfRange OutOfRange = "earliest" // go on with the oldest record there is
	LatestOutOfRange   OutOfRange = "latest"   // go on with records that come from now on
)

// defaultDiscovery is ReadConfig.Discovery when it is 0.
const defaultDiscovery = 60 * time.Second

// discovery returns the interval of looks for new partitions; 0: never.
func (c *ReadConfig) discovery() time.Duration {
	switch {
	case c.StopAtEnd || c.Discovery < 0:
		return 0
	case c.Discovery == 0:
		return defaultDiscovery
	default:
		return time.Duration(c.Discovery) * time.Millisecond
	}
}

// Guarantee says how often a record is written.
type Guarantee string

const (
	// ExactlyOnce writes in transactions that follow the job's checkpoints: consumers with isolation.level=read_committed see
	// each record once, when the checkpoint is complete. Refused in a job without checkpoints.
	ExactlyOnce Guarantee = "exactly_once"
	// AtLeastOnce writes at once, and again what was written after the checkpoint that a restart goes back to.
	AtLeastOnce Guarantee = "at_least_once"
)

// WriteConfig is the payload of WriteURN.
type WriteConfig struct {
	Version int `json:"version"`
	Connection
	// Topic to write to; may be empty for Records, which then name it themselves.
	Topic  string `json:"topic,omitempty"`
	Format Format `json:"format"`
	Elements
	// Compression is none, gzip, snappy, lz4 or zstd. Default snappy.
	Compression string `json:"compression,omitempty"`
	// Linger is how many milliseconds a batch waits for more records. Default 5.
	Linger int64 `json:"linger_ms"`
	// EventTime writes the element's timestamp as the record's; otherwise it is the time of writing. A Record's own
	// timestamp always goes first.
	EventTime bool `json:"event_time,omitempty"`
	// Guarantee; empty: exactly once in a job with checkpoints, at least once in one without.
	Guarantee Guarantee `json:"guarantee,omitempty"`
	// TransactionTimeout is after how many milliseconds the broker aborts an open transaction: the longest that a checkpoint
	// and its interval may take, and that the runner may be down, without losing output. The broker has a limit,
	// transaction.max.timeout.ms, 15 minutes by default. 0: 900000.
	TransactionTimeout int64 `json:"transaction_timeout_ms,omitempty"`
}

// defaultTransactionTimeout is WriteConfig.TransactionTimeout when it is 0: what brokers allow by default.
const defaultTransactionTimeout = 15 * time.Minute

func (c *WriteConfig) transactionTimeout() time.Duration {
	if c.TransactionTimeout == 0 {
		return defaultTransactionTimeout
	}
	return time.Duration(c.TransactionTimeout) * time.Millisecond
}

func newReadConfig(brokers string, topics []string, f Format) ReadConfig {
	return ReadConfig{
		Version:    configVersion,
		Connection: Connection{Brokers: splitBrokers(brokers)},
		Topics:     topics,
		Format:     f,
		Start:      Start{At: Earliest},
		Timestamps: Timestamps{Policy: CreateTime, MaxOutOfOrderness: 1000, IdleTimeout: 1000},
	}
}

func newWriteConfig(brokers, topic string, f Format) WriteConfig {
	return WriteConfig{
		Version:     configVersion,
		Connection:  Connection{Brokers: splitBrokers(brokers)},
		Topic:       topic,
		Format:      f,
		Compression: "snappy",
		Linger:      5,
	}
}

// splitBrokers cuts a comma-separated list as Kafka's bootstrap.servers has it.
func splitBrokers(s string) []string {
	var out []string
	for b := range strings.SplitSeq(s, ",") {
		if b = strings.TrimSpace(b); b != "" {
			out = append(out, b)
		}
	}
	return out
}

// DecodeReadConfig reads and validates the payload of ReadURN.
func DecodeReadConfig(payload []byte) (ReadConfig, error) {
	var c ReadConfig
	if err := decode(payload, &c, func() int { return c.Version }); err != nil {
		return ReadConfig{}, fmt.Errorf("decode %s payload: %w", ReadURN, err)
	}
	if err := c.Validate(); err != nil {
		return ReadConfig{}, fmt.Errorf("decode %s payload: %w", ReadURN, err)
	}
	return c, nil
}

// DecodeWriteConfig reads and validates the payload of WriteURN.
func DecodeWriteConfig(payload []byte) (WriteConfig, error) {
	var c WriteConfig
	if err := decode(payload, &c, func() int { return c.Version }); err != nil {
		return WriteConfig{}, fmt.Errorf("decode %s payload: %w", WriteURN, err)
	}
	if err := c.Validate(); err != nil {
		return WriteConfig{}, fmt.Errorf("decode %s payload: %w", WriteURN, err)
	}
	return c, nil
}

// decode is strict: a field that this version does not know changes the meaning, so it is refused, not skipped.
func decode(payload []byte, into any, version func() int) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if v := version(); v > configVersion {
			return fmt.Errorf("version %d is newer than this runner's %d: update the runner", v, configVersion)
		}
		return err
	}
	if v := version(); v != configVersion {
		return fmt.Errorf("version %d is not %d: build the pipeline and the runner from the same release", v, configVersion)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows after the JSON document")
	}
	return nil
}

// Validate reports the first thing that is wrong, with its field.
func (c *ReadConfig) Validate() error {
	if err := c.Connection.validate(); err != nil {
		return err
	}
	if len(c.Topics) == 0 {
		return errors.New("topics is empty: name at least one topic")
	}
	seen := make(map[string]bool, len(c.Topics))
	for _, t := range c.Topics {
		if err := checkTopic(t); err != nil {
			return fmt.Errorf("topics: %w", err)
		}
		if seen[t] {
			return fmt.Errorf("topics: %q is named twice", t)
		}
		seen[t] = true
	}
	if err := errors.Join(c.Format.validate(), c.Elements.validate(c.Format, false)); err != nil {
		return err
	}
	if err := c.validateStart(); err != nil {
		return err
	}
	if c.Discovery > 0 && c.Discovery < 100 {
		return fmt.Errorf("discovery_interval_ms=%d is less than 100", c.Discovery)
	}
	switch c.OutOfRange {
	case "", FailOutOfRange, EarliestOutOfRange, LatestOutOfRange:
	default:
		return fmt.Errorf("out_of_range=%q is unknown: use fail, earliest or latest", c.OutOfRange)
	}
	if err := c.Limits.validate(); err != nil {
		return err
	}
	return c.Timestamps.validate()
}

func (c *ReadConfig) validateStart() error {
	switch c.Start.At {
	case Earliest:
	case Latest:
		if c.StopAtEnd {
			return errors.New("start.at=latest with stop_at_end would read nothing: start at earliest or at a timestamp")
		}
	case Timestamp:
		if c.Start.Timestamp <= 0 {
			return fmt.Errorf("start.timestamp_ms=%d is not a time: give milliseconds since the epoch", c.Start.Timestamp)
		}
	case Committed:
		if c.startGroup() == "" {
			return errors.New("start.at=committed needs group: name the consumer group whose offsets to begin from")
		}
		if e := c.Start.Else; e != "" && e != Earliest && e != Latest {
			return fmt.Errorf("start.else=%q is unknown: use earliest or latest", e)
		}
	default:
		return fmt.Errorf("start.at=%q is unknown: use earliest, latest, timestamp or committed", c.Start.At)
	}
	return nil
}

// startGroup is the consumer group whose offsets Committed takes.
func (c *ReadConfig) startGroup() string {
	if c.Start.Group != "" {
		return c.Start.Group
	}
	return c.Group
}

func (t *Timestamps) validate() error {
	switch t.Policy {
	case CreateTime, LogAppendTime, ProcessingTime:
	default:
		return fmt.Errorf("timestamps.policy=%q is unknown: use create_time, log_append_time or processing_time", t.Policy)
	}
	const most = int64(366 * 24 * time.Hour / time.Millisecond)
	if t.MaxOutOfOrderness < 0 || t.MaxOutOfOrderness > most {
		return fmt.Errorf("timestamps.max_out_of_orderness_ms=%d is not between 0 and a year", t.MaxOutOfOrderness)
	}
	if t.IdleTimeout > most {
		return fmt.Errorf("timestamps.idle_timeout_ms=%d is more than a year: use a negative number for never", t.IdleTimeout)
	}
	return nil
}

// Validate reports the first thing that is wrong, with its field.
func (c *WriteConfig) Validate() error {
	if err := c.Connection.validate(); err != nil {
		return err
	}
	if err := errors.Join(c.Format.validate(), c.Elements.validate(c.Format, true)); err != nil {
		return err
	}
	if c.Topic != "" || c.Format == KV || c.Format == Pairs {
		if err := checkTopic(c.Topic); err != nil {
			return fmt.Errorf("topic: %w", err)
		}
	}
	if _, err := codec(c.Compression); err != nil {
		return err
	}
	if c.Linger < 0 || c.Linger > 60_000 {
		return fmt.Errorf("linger_ms=%d is not between 0 and 60000", c.Linger)
	}
	switch c.Guarantee {
	case "", ExactlyOnce, AtLeastOnce:
	default:
		return fmt.Errorf("guarantee=%q is unknown: use exactly_once or at_least_once", c.Guarantee)
	}
	if t := c.TransactionTimeout; t != 0 && (t < 1000 || t > math.MaxInt32) {
		return fmt.Errorf("transaction_timeout_ms=%d is not between 1000 and %d", t, math.MaxInt32)
	}
	return nil
}

func (f Format) validate() error {
	switch f {
	case KV, Records, Pairs, Rows:
		return nil
	}
	return fmt.Errorf("format=%q is unknown: use kv or record, or pairs or rows of package expand", f)
}

func (c *Connection) validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("brokers is empty: name at least one broker as host:port")
	}
	for _, b := range c.Brokers {
		_, port, err := net.SplitHostPort(b)
		if err != nil {
			return fmt.Errorf("brokers: %q is not host:port", b)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("brokers: port of %q is not a number between 1 and 65535", b)
		}
	}
	if t := c.TLS; t != nil && (t.CertFile == "") != (t.KeyFile == "") {
		return errors.New("tls: cert_file and key_file need each other")
	}
	if c.SASL != nil {
		return c.SASL.validate()
	}
	return nil
}

func (s *SASL) validate() error {
	switch s.Mechanism {
	case Plain, ScramSHA256, ScramSHA512:
	default:
		return fmt.Errorf("sasl.mechanism=%q is unknown: use %s, %s or %s", s.Mechanism, Plain, ScramSHA256, ScramSHA512)
	}
	if s.User == "" {
		return errors.New("sasl.user is empty")
	}
	if (s.Password == "") == (s.PasswordEnv == "") {
		return errors.New("sasl needs either password or password_env")
	}
	return nil
}

// checkTopic applies Kafka's rules for topic names (org.apache.kafka.common.internals.Topic).
func checkTopic(t string) error {
	if t == "" {
		return errors.New("a topic's name is empty")
	}
	if len(t) > 249 || t == "." || t == ".." {
		return fmt.Errorf("%q is not a topic name", t)
	}
	for _, r := range t {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Errorf("%q is not a topic name: %q is not one of letters, digits, '.', '_' and '-'", t, r)
		}
	}
	return nil
}
