package objstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/sync/errgroup"
)

const (
	// creatorKey is the metadata that says which Create made an object: a random token. A Create that is refused because
	// the name is taken looks whether it was itself, in an attempt whose answer was lost.
	creatorKey = "tinyrunner-creator"
	// conflictTries bounds how often a Create starts again because S3 saw another write of the name at the same time
	// (409 ConditionalRequestConflict), which decides nothing.
	conflictTries = 8
	// cleanupTimeout bounds the abort of a failed multipart upload, which goes on when the context has ended.
	cleanupTimeout = 15 * time.Second
	// abortTries and abortPause say how often and how slowly an upload with parts still on their way is aborted.
	// https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html asks for it.
	abortTries = 3
	abortPause = 100 * time.Millisecond
	// deleteBatch is the most that DeleteObjects takes.
	deleteBatch = 1000
	// deleteParallel is how many single deletions are under way at once.
	deleteParallel = 8
)

// Create sends r in one request, or in parts when it is larger than S3Config.PartSize. The last request carries the
// condition. Parts of a failed Create are removed.
func (s *S3) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if err := validSize(name, size); err != nil {
		return s.wrap("create", name, err)
	}
	send := s.putObject
	if size > s.cfg.PartSize {
		send = s.putParts
	}
	token := rand.Text()
	for try := 1; ; try++ {
		err := s.settle(ctx, name, token, send(ctx, name, token, exact{r}, size))
		if err == nil {
			return nil
		}
		if !isConflict(err) || try == conflictTries {
			return s.wrap("create", name, err)
		}
		if err := sleep(ctx, mathrand.N(s.cfg.MaxBackoff/100+time.Duration(try)*s.cfg.MaxBackoff/20)); err != nil {
			return s.wrap("create", name, err)
		}
	}
}

// settle gives ErrExists for the answers that mean it, and nil when the object that is in the way has the token.
func (s *S3) settle(ctx context.Context, name, token string, err error) error {
	lost := code(err) == codeNoSuchUpload // perhaps because it is complete
	if !isTaken(err) && !lost {
		return err
	}
	head, herr := s.head(ctx, name)
	switch {
	case herr == nil && head.Metadata[creatorKey] == token:
		return nil
	case lost:
		return err
	case herr == nil, isNotFound(herr): // not found: it was there and has been deleted since
		return ErrExists
	}
	return fmt.Errorf("find out who created the object: %w", herr)
}

func (s *S3) head(ctx context.Context, name string) (*s3.HeadObjectOutput, error) {
	return s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
}

func (s *S3) key(name string) *string { return aws.String(s.prefix + name) }

func (s *S3) keyID() *string {
	if s.cfg.SSEKeyID == "" {
		return nil
	}
	return &s.cfg.SSEKeyID
}

func (s *S3) putObject(ctx context.Context, name, token string, r io.ReaderAt, size int64) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.key(name),
		Body:          io.NewSectionReader(r, 0, size),
		ContentLength: &size,
		IfNoneMatch:   aws.String("*"),
		Metadata:      map[string]string{creatorKey: token},

		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE), SSEKMSKeyId: s.keyID(),
	}, knownHash(r))
	return err
}

// knownHash spares the computation of the hash that signs a request's body.
func knownHash(r io.ReaderAt) func(*s3.Options) {
	e, _ := r.(exact)
	h, ok := e.r.(Hashed)
	if !ok {
		return func(*s3.Options) {}
	}
	return s3.WithAPIOptions(func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("KnownHash",
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
				return next.HandleInitialize(v4.SetPayloadHash(ctx, h.SHA256), in)
			}), middleware.After)
	})
}

func (s *S3) putParts(ctx context.Context, name, token string, r io.ReaderAt, size int64) error {
	if head, err := s.head(ctx, name); err == nil && head.Metadata[creatorKey] != token {
		return ErrExists // spares the transfer; the last request decides
	}
	up, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: s.key(name),
		Metadata: map[string]string{creatorKey: token},

		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE), SSEKMSKeyId: s.keyID(),
	})
	if err != nil {
		return fmt.Errorf("begin multipart upload: %w", err)
	}
	id := aws.ToString(up.UploadId)
	parts, err := s.sendParts(ctx, name, id, r, size)
	aborts := abortTries // parts that were broken off may still arrive, and bring the upload back
	if err == nil {
		aborts = 1
		_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.bucket, Key: s.key(name), UploadId: &id,
			IfNoneMatch:     aws.String("*"),
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		if err == nil {
			return nil
		}
		err = fmt.Errorf("complete multipart upload: %w", err)
	}
	return errors.Join(err, s.abandon(ctx, name, id, aborts))
}

// abandon aborts a multipart upload until it is gone, even when ctx has ended. What it cannot abort, Sweep will.
func (s *S3) abandon(ctx context.Context, name, id string, tries int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	for try := 1; ; try++ {
		err := s.abort(ctx, name, id)
		if code(err) == codeNoSuchUpload || err == nil && try == tries {
			return nil
		}
		if err == nil {
			err = sleep(ctx, abortPause)
		}
		if err != nil {
			return fmt.Errorf("abort multipart upload: %w", err)
		}
	}
}

// sendParts uploads all parts, and has none under way when it returns.
func (s *S3) sendParts(ctx context.Context, name, id string, r io.ReaderAt, size int64) ([]types.CompletedPart, error) {
	part := partSize(s.cfg.PartSize, size)
	parts := make([]types.CompletedPart, (size+part-1)/part)
	g, ctx := errgroup.WithContext(ctx)
	for i := range parts {
		if err := s.acquire(ctx); err != nil {
			break // the group's error, or the caller's context's: either way Wait or the context has it
		}
		g.Go(func() error {
			defer s.release()
			number, off := int32(i+1), int64(i)*part
			n := min(part, size-off)
			out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &s.bucket, Key: s.key(name), UploadId: &id, PartNumber: &number,
				Body:          io.NewSectionReader(r, off, n),
				ContentLength: &n,
			})
			if err != nil {
				return fmt.Errorf("upload part %d of %d: %w", number, len(parts), err)
			}
			parts[i] = types.CompletedPart{PartNumber: &number, ETag: out.ETag}
			return nil
		})
	}
	stopped := ctx.Err()
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return parts, stopped
}

// partSize is the configured one, or what it takes to do with S3's number of parts.
func partSize(configured, size int64) int64 { return max(configured, (size+maxParts-1)/maxParts) }

func (s *S3) abort(ctx context.Context, name, id string) error {
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: s.key(name), UploadId: &id})
	return err
}

// acquire waits for the right to send a body; release gives it back.
func (s *S3) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.sending <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *S3) release() { <-s.sending }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Delete removes up to 1000 objects a request, and one by one those that the store refuses to remove that way.
func (s *S3) Delete(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := ValidName(name); err != nil {
			return s.wrap("delete", name, err)
		}
	}
	var errs []error
	for batch := range slices.Chunk(names, deleteBatch) {
		rest, err := s.deleteBatch(ctx, batch)
		if err == nil {
			err = s.deleteEach(ctx, rest)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// deleteBatch sends one request, and gives the names that are to be tried again one by one.
func (s *S3) deleteBatch(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 1 || s.noBatch.Load() {
		return names, nil
	}
	ids := make([]types.ObjectIdentifier, len(names))
	for i, name := range names {
		ids[i].Key = s.key(name)
	}
	out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &s.bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
	switch st := status(err); {
	case code(err) == codeNoSuchBucket:
	case st == http.StatusMethodNotAllowed, st == http.StatusNotImplemented:
		s.noBatch.Store(true)
		return names, nil
	case st == http.StatusBadRequest, st == http.StatusNotFound, st == http.StatusLengthRequired:
		return names, nil // not understood: older stores want another checksum
	}
	if err != nil {
		return nil, s.wrap("delete", fmt.Sprintf("%s and %d more", names[0], len(names)-1), err)
	}
	var rest []string
	for _, e := range out.Errors {
		name, ok := strings.CutPrefix(aws.ToString(e.Key), s.prefix)
		if ok && aws.ToString(e.Code) != codeNoSuchKey {
			rest = append(rest, name)
		}
	}
	return rest, nil
}

func (s *S3) deleteEach(ctx context.Context, names []string) error {
	var mu sync.Mutex // protects errs
	var errs []error
	var g errgroup.Group
	g.SetLimit(deleteParallel)
	for _, name := range names {
		if ctx.Err() != nil {
			errs = append(errs, s.wrap("delete", name, ctx.Err()))
			break
		}
		g.Go(func() error {
			_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name)})
			if err != nil && !isNotFound(err) {
				mu.Lock()
				errs = append(errs, s.wrap("delete", name, err))
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // its functions give no errors
	return errors.Join(errs...)
}
