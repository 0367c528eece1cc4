package objstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
)

// S3Config says how S3 is reached. Credentials, and what is left empty here, come from where AWS tools take them:
// environment, shared files, web identity, container and instance roles. The zero value is right for AWS.
type S3Config struct {
	Endpoint  string // URL of another store than AWS, such as http://127.0.0.1:9000
	PathStyle bool   // the bucket is in the path, not in the host; always so when Endpoint has an IP address or localhost
	Region    string // default: that of the environment, else us-east-1

	SSE      string // encryption at rest: "" (the bucket's default), AES256, aws:kms or aws:kms:dsse
	SSEKeyID string // key of SSE aws:kms and aws:kms:dsse; "" is the account's default key

	PartSize int64 // bytes; larger objects are sent in parts of this size: 5 MiB to 5 GiB, default 16 MiB
	Parallel int   // bodies (objects or parts) being sent at once by the whole Bucket, default 4

	StallTimeout time.Duration // a transfer that moves no byte for so long is broken off and tried again, default 30 s
	MaxAttempts  int           // of each request, with exponential jittered pauses in between, default 8
	MaxBackoff   time.Duration // longest such pause, default 10 s
}

const (
	minPart  = 5 << 20 // of all parts but the last: S3's limits
	maxPart  = 5 << 30
	maxParts = 10000
)

// Validate reports what cannot work, and what to write instead.
func (c S3Config) Validate() error {
	sse := []types.ServerSideEncryption{"", types.ServerSideEncryptionAes256, types.ServerSideEncryptionAwsKms, types.ServerSideEncryptionAwsKmsDsse}
	switch {
	case !slices.Contains(sse, types.ServerSideEncryption(c.SSE)):
		return fmt.Errorf("S3 encryption %q: use AES256, aws:kms or aws:kms:dsse", c.SSE)
	case c.SSEKeyID != "" && !strings.HasPrefix(c.SSE, "aws:kms"):
		return fmt.Errorf("S3 encryption key %q needs encryption aws:kms or aws:kms:dsse", c.SSEKeyID)
	case c.PartSize != 0 && (c.PartSize < minPart || c.PartSize > maxPart):
		return fmt.Errorf("S3 part size %d: use 5 MiB to 5 GiB", c.PartSize)
	case c.Parallel < 0 || c.MaxAttempts < 0 || c.StallTimeout < 0 || c.MaxBackoff < 0:
		return errors.New("S3 limits must not be negative; 0 is the default")
	}
	if c.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return fmt.Errorf("S3 endpoint %q: use http://HOST:PORT or https://HOST", c.Endpoint)
	}
	return nil
}

func (c S3Config) withDefaults() S3Config {
	if c.PartSize == 0 {
		c.PartSize = 16 << 20
	}
	if c.Parallel == 0 {
		c.Parallel = 4
	}
	if c.StallTimeout == 0 {
		c.StallTimeout = 30 * time.Second
	}
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 8
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = 10 * time.Second
	}
	if u, err := url.Parse(c.Endpoint); err == nil && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()) != nil) {
		c.PathStyle = true // no name server knows BUCKET.127.0.0.1
	}
	return c
}

// S3 is a Bucket under a prefix of a bucket of S3, or of a store that speaks its protocol.
type S3 struct {
	cfg    S3Config
	bucket string
	prefix string // "" or ends with a slash
	client *s3.Client
	http   *http.Client

	sending chan struct{} // one token for each body being sent
	noBatch atomic.Bool   // the store has no DeleteObjects
}

var (
	_ Bucket  = (*S3)(nil)
	_ Sweeper = (*S3)(nil)
)

// NewS3 prepares access to s3://bucket/prefix, and finds the credentials. It does not ask the store: Probe does.
func NewS3(ctx context.Context, bucket, prefix string, cfg S3Config) (*S3, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &S3{cfg: cfg, bucket: bucket, sending: make(chan struct{}, cfg.Parallel)}
	if prefix != "" {
		s.prefix = prefix + "/"
	}
	ac, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{}), config.WithRetryer(s.retryer))
	if err != nil {
		return nil, &Error{Op: "configure", URL: s.String(), Hint: "check the AWS variables and shared files", Err: err}
	}
	if _, err := ac.Credentials.Retrieve(ctx); err != nil {
		return nil, &Error{Op: "find credentials for", URL: s.String(), Hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " +
			"or AWS_PROFILE, or run with a role", Err: err}
	}
	// The transport that the SDK configured (proxy, AWS_CA_BUNDLE), in a client of our own that can be closed. Redirects
	// are not followed: they would send the body to a region that the signature is not for.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c, ok := ac.HTTPClient.(interface{ GetTransport() *http.Transport }); ok {
		transport = c.GetTransport()
	}
	s.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.client = s3.NewFromConfig(ac, func(o *s3.Options) {
		o.HTTPClient = &stallGuard{next: s.http, limit: cfg.StallTimeout}
		o.UsePathStyle = cfg.PathStyle
		// Trailing checksums are not understood everywhere; the signature covers the body's SHA-256 in any case.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		if cfg.Region != "" {
			o.Region = cfg.Region
		}
		if o.Region == "" {
			o.Region = "us-east-1"
		}
	})
	return s, nil
}

// retryer gives the SDK's, with jitter. Its quota of retries is off: it would end the retries of one request because others
// failed, and there are never more than a few requests at once here.
func (s *S3) retryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = s.cfg.MaxAttempts
		o.MaxBackoff = s.cfg.MaxBackoff
		o.RateLimiter = ratelimit.None
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
	})
}

// Close closes idle connections. The Bucket must not be used any more.
func (s *S3) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// String gives the URL of the bucket and prefix.
func (s *S3) String() string { return s.url("") }

func (s *S3) url(name string) string {
	return strings.TrimSuffix("s3://"+s.bucket+"/"+s.prefix+name, "/")
}

// List asks for pages of 1000 objects, one at a time.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String(s.prefix + prefix)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Object{}, s.wrap("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				name, ok := strings.CutPrefix(aws.ToString(o.Key), s.prefix)
				if !ok || ValidName(name) != nil {
					continue
				}
				if !yield(Object{Name: name, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}

// Sweep aborts multipart uploads that were begun longer than age ago: their parts cost money and are in no listing. MinIO
// lists no uploads under a prefix, and removes them itself after a day.
func (s *S3) Sweep(ctx context.Context, age time.Duration) (int, error) {
	n, limit := 0, time.Now().Add(-age)
	pages := s3.NewListMultipartUploadsPaginator(s.client, &s3.ListMultipartUploadsInput{Bucket: &s.bucket, Prefix: &s.prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return n, s.wrap("sweep", "", err)
		}
		for _, u := range page.Uploads {
			name, ok := strings.CutPrefix(aws.ToString(u.Key), s.prefix)
			if !ok || ValidName(name) != nil || aws.ToTime(u.Initiated).After(limit) {
				continue
			}
			err := s.abort(ctx, name, aws.ToString(u.UploadId))
			if err != nil && code(err) != codeNoSuchUpload {
				return n, s.wrap("sweep", name, err)
			}
			n++
		}
	}
	return n, nil
}
