package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// resumeTries bounds how often a transfer is taken up again without a single byte having come. Each of them is itself
// several attempts of the retryer.
const resumeTries = 3

// Open begins the transfer. A transfer that breaks off is resumed where it was.
func (s *S3) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := s.open(ctx, name, off, n)
	if err != nil {
		return nil, s.wrap("open", name, err)
	}
	return r, nil
}

func (s *S3) open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := validRange(name, off); err != nil {
		return nil, err
	}
	if n == 0 { // no Range header can say that
		_, err := s.head(ctx, name)
		return io.NopCloser(strings.NewReader("")), err
	}
	end := int64(-1) // exclusive; -1 until it is known
	if n > 0 {
		end = off + n
	}
	out, err := s.get(ctx, name, off, end, nil)
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(strings.NewReader("")), nil // off is at the end or past it
	}
	if err != nil {
		return nil, err
	}
	if out.ContentLength == nil {
		return nil, errors.Join(errors.New("the store does not say how long the answer is"), out.Body.Close())
	}
	end = off + *out.ContentLength
	etag := out.ETag
	return &s3Reader{
		body: out.Body, off: off, end: end,
		resume: func(off int64) (io.ReadCloser, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			out, err := s.get(ctx, name, off, end, etag)
			if isTaken(err) {
				return nil, fmt.Errorf("the object was replaced while it was read: %w", err)
			}
			if err != nil {
				return nil, err
			}
			return out.Body, nil
		},
		wrap: func(err error) error { return s.wrap("read", name, err) },
	}, nil
}

// get asks for the bytes [off, end) of an object, end < 0 being its end; of the object with that etag, unless it is nil.
func (s *S3) get(ctx context.Context, name string, off, end int64, etag *string) (*s3.GetObjectOutput, error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name), IfMatch: etag}
	switch {
	case end >= 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, end-1))
	case off > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return nil, err
	}
	// Of an empty object some stores send all of it instead of a refusal.
	want, empty := fmt.Sprintf("bytes %d-", off), aws.ToInt64(out.ContentLength) == 0
	if in.Range != nil && !empty && !strings.HasPrefix(aws.ToString(out.ContentRange), want) {
		return nil, errors.Join(fmt.Errorf("asked for %s, the store sent range %q", *in.Range, aws.ToString(out.ContentRange)), out.Body.Close())
	}
	return out, nil
}

// s3Reader reads one object's bytes [off, end), over as many transfers as it takes.
type s3Reader struct {
	body     io.ReadCloser // nil between two transfers
	off, end int64
	failures int // transfers that ended since the last byte
	err      error
	resume   func(off int64) (io.ReadCloser, error)
	wrap     func(error) error
}

// Read gives bytes, or io.EOF at the end of the range, or an error that will not pass.
func (r *s3Reader) Read(p []byte) (int, error) {
	for {
		switch {
		case r.err != nil:
			return 0, r.err
		case r.off >= r.end:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		case r.body == nil:
			if r.body, r.err = r.resume(r.off); r.err != nil {
				r.body, r.err = nil, r.wrap(r.err)
				continue
			}
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.off)])
		r.off += int64(n)
		if n > 0 {
			r.failures = 0
		}
		if err != nil && r.off < r.end { // an early end is a broken transfer, whatever its error
			r.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// broken drops the transfer, and decides whether there will be another.
func (r *s3Reader) broken(err error) {
	cerr := r.body.Close()
	r.body = nil
	if r.failures++; r.failures > resumeTries || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.err = r.wrap(errors.Join(err, cerr))
	}
}

// Close ends the transfer.
func (r *s3Reader) Close() error {
	r.err = errors.New("read of a closed object")
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	return body.Close()
}
