package objstore

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Error codes of S3 that decide what happens next. Where the status says enough, it is used: some stores send no code.
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
const (
	codeNoSuchBucket = "NoSuchBucket"
	codeNoSuchKey    = "NoSuchKey"
	codeNoSuchUpload = "NoSuchUpload"
)

// code is S3's error code, or "".
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// status is the HTTP status of the answer, or 0 when there was none.
func status(err error) int {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) {
		return resp.HTTPStatusCode()
	}
	return 0
}

// isTaken: If-None-Match did not hold, or in a read, If-Match.
func isTaken(err error) bool { return status(err) == http.StatusPreconditionFailed }

// isConflict: S3 saw another write of the name at the same time, and asks to try again.
func isConflict(err error) bool { return status(err) == http.StatusConflict }

func isNotFound(err error) bool {
	return status(err) == http.StatusNotFound && code(err) != codeNoSuchBucket && code(err) != codeNoSuchUpload
}

// retryable adds answers that broke off to what the SDK repeats.
func retryable(err error) aws.Ternary {
	switch {
	case errors.Is(err, errShort):
		return aws.FalseTernary
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return aws.UnknownTernary
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

// wrap names the object, gives our sentinels for S3's answers, and the remedy where there is one.
func (s *S3) wrap(op, name string, err error) error {
	e := &Error{Op: op, URL: s.url(name), Err: err}
	if isNotFound(err) && op == "open" {
		e.Err = ErrNotExist
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrExists) {
		return e
	}
	e.Hint = s.hint(op, err)
	return e
}

func (s *S3) hint(op string, err error) string {
	switch code(err) {
	case codeNoSuchBucket:
		return "create bucket " + s.bucket + ", or check its name, the endpoint and path style"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "ExpiredTokenException":
		return "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE)"
	case "RequestTimeTooSkewed":
		return "set this machine's clock"
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException":
		return "set the region of bucket " + s.bucket + " (AWS_REGION)"
	case "NoSpaceLeftOnDevice", "QuotaExceeded", "XMinioStorageFull", "NoSpaceLeft":
		return "free or add space in the store"
	}
	switch status(err) {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return "set the region of bucket " + s.bucket + " (AWS_REGION)"
	case http.StatusForbidden:
		return "allow these credentials s3:GetObject, PutObject, DeleteObject, AbortMultipartUpload, ListBucket and " +
			"ListBucketMultipartUploads on the bucket, and the use of its key"
	case http.StatusNotImplemented:
		if op == "create" {
			return "the store does not know conditional writes: use one that does"
		}
	}
	if status(err) != 0 {
		return ""
	}
	if errors.As(err, new(*x509.UnknownAuthorityError)) || errors.As(err, new(x509.UnknownAuthorityError)) || errors.As(err, new(x509.HostnameError)) {
		return "check the endpoint's certificate; AWS_CA_BUNDLE names a file of authorities to trust"
	}
	if errors.As(err, new(*net.OpError)) || errors.As(err, new(stallError)) {
		return "check that the endpoint is right, and the store reachable and alive"
	}
	return ""
}
