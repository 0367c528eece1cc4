package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const (
	reachTimeout = 30 * time.Second // for a first answer of any broker
	reachAgain   = 300 * time.Millisecond
	metadataAge  = 500 * time.Millisecond
)

// options are what every client of a connection has.
func (c *Connection) options(log *slog.Logger) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID("tinyrunner"),
		kgo.WithLogger(newLogger(log)),
		// A partition that has moved is found again within this time; the default of 5 s is a long stall.
		kgo.MetadataMinAge(metadataAge),
		// Telemetry for the broker (KIP-714) compresses with buffers of several MB.
		kgo.DisableClientMetrics(),
	}
	if c.TLS != nil {
		cfg, err := c.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(cfg))
	}
	if c.SASL != nil {
		opt, err := c.SASL.option()
		if err != nil {
			return nil, err
		}
		opts = append(opts, opt)
	}
	return opts, nil
}

func (t *TLS) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read tls.ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read tls.ca_file: %s has no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read tls.cert_file and key_file: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

func (s *SASL) option() (kgo.Opt, error) {
	pass := s.Password
	if s.PasswordEnv != "" {
		if pass = os.Getenv(s.PasswordEnv); pass == "" {
			return nil, fmt.Errorf("sasl.password_env: %s is not set in the runner's environment", s.PasswordEnv)
		}
	}
	switch s.Mechanism {
	case Plain:
		return kgo.SASL(plain.Auth{User: s.User, Pass: pass}.AsMechanism()), nil
	case ScramSHA256:
		return kgo.SASL(scram.Auth{User: s.User, Pass: pass}.AsSha256Mechanism()), nil
	default:
		return kgo.SASL(scram.Auth{User: s.User, Pass: pass}.AsSha512Mechanism()), nil
	}
}

// reach waits until a broker answers, for at most reachTimeout: runner and broker may start in any order. What waiting does
// not repair (a wrong password) is told at once.
func (c *Connection) reach(ctx context.Context, cl *kgo.Client, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	for waited := false; ; waited = true {
		err := cl.Ping(ctx)
		var dial *net.OpError
		if err == nil || ctx.Err() != nil || !errors.As(err, &dial) {
			return err
		}
		if !waited {
			log.Warn("kafka: no broker answers yet, waiting", "brokers", c.Brokers, "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(reachAgain):
		}
	}
}

// explain adds what to do to an error of the client.
func (c *Connection) explain(err error) error {
	var remedy string
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		remedy = "check sasl user, password and mechanism"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		remedy = "the broker does not offer this sasl mechanism"
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed),
		errors.Is(err, kerr.GroupAuthorizationFailed):
		remedy = "grant the user the right (ACL)"
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		remedy = "create the topic or correct its name"
	case errors.Is(err, kerr.OffsetOutOfRange):
		remedy = "retention removed the records before they were read, or the topic was created anew: start the job without its saved positions, or say with out_of_range where to go on"
	case errors.Is(err, kerr.MessageTooLarge):
		remedy = "raise max.message.bytes of the topic or write smaller records"
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		remedy = "grant the user WRITE and DESCRIBE on transactional ids with the prefix tinyrunner-, or write at_least_once"
	case isTLS(err):
		remedy = "check the tls settings, and that the port speaks TLS"
	case errors.Is(err, context.DeadlineExceeded), isDial(err):
		remedy = "no broker answered: check the address, and that the runner can reach it"
	case kgo.IsRetryableBrokerErr(err):
		remedy = "check that the address is a broker, and whether it wants TLS or SASL"
	default:
		return fmt.Errorf("kafka %s: %w", strings.Join(c.Brokers, ","), err)
	}
	return fmt.Errorf("kafka %s: %w (%s)", strings.Join(c.Brokers, ","), err, remedy)
}

// isDial says that no connection could be made or kept.
func isDial(err error) bool { return errors.As(err, new(*net.OpError)) }

func isTLS(err error) bool {
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	return errors.As(err, &verify) || errors.As(err, &record)
}

// codec is the compression of produced batches, with none as the fallback.
func codec(name string) ([]kgo.CompressionCodec, error) {
	all := []struct {
		name  string
		codec kgo.CompressionCodec
	}{
		{"snappy", kgo.SnappyCompression()},
		{"none", kgo.NoCompression()},
		{"gzip", kgo.GzipCompression()},
		{"lz4", kgo.Lz4Compression()},
		{"zstd", kgo.ZstdCompression()},
	}
	if name == "" {
		name = all[0].name
	}
	for _, c := range all {
		if c.name == name {
			return slices.Compact([]kgo.CompressionCodec{c.codec, kgo.NoCompression()}), nil
		}
	}
	return nil, fmt.Errorf("compression=%q is unknown: use none, gzip, snappy, lz4 or zstd", name)
}
