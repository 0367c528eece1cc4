package objstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// Location is where a Bucket is: a directory, or a prefix in an S3 bucket. Parse makes one.
type Location struct {
	Dir    string // absolute and clean; "" for S3
	Bucket string // of S3
	Prefix string // of S3: "" or a valid object name
}

// Parse reads file:///DIR or s3://BUCKET[/PREFIX]. It looks at the text only: whether the store is there, Open and Probe
// tell.
func Parse(s string) (Location, error) {
	loc, err := parse(s)
	if err != nil {
		return Location{}, fmt.Errorf("parse location %q: %w: use file:///DIR or s3://BUCKET/PREFIX", s, err)
	}
	return loc, nil
}

func parse(s string) (Location, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Location{}, errors.Unwrap(err) // without the text, which the caller names
	}
	if u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") || u.User != nil || u.Opaque != "" {
		return Location{}, errors.New("it has more than a scheme, a host and a path")
	}
	switch u.Scheme {
	case "file":
		return parseFile(u)
	case "s3":
		return parseS3(u)
	case "":
		return Location{}, errors.New("it has no scheme")
	}
	return Location{}, fmt.Errorf("scheme %q is not known", u.Scheme)
}

func parseFile(u *url.URL) (Location, error) {
	switch {
	case u.Host != "":
		return Location{}, fmt.Errorf("%q would be a host: a file location has three slashes", u.Host)
	case !filepath.IsAbs(u.Path):
		return Location{}, errors.New("the directory is not absolute")
	case strings.ContainsRune(u.Path, 0):
		return Location{}, errors.New("the directory has a zero byte")
	}
	dir := filepath.Clean(u.Path)
	if dir == string(filepath.Separator) {
		return Location{}, errors.New("the root directory is no place for objects")
	}
	return Location{Dir: dir}, nil
}

func parseS3(u *url.URL) (Location, error) {
	if err := validBucket(u.Host); err != nil {
		return Location{}, err
	}
	prefix := strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/")
	if prefix != "" {
		if err := ValidName(prefix); err != nil {
			return Location{}, err
		}
	}
	return Location{Bucket: u.Host, Prefix: prefix}, nil
}

// validBucket applies the part of S3's rules that protects us: the name becomes a host or a path component.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
func validBucket(b string) error {
	if len(b) < 3 || len(b) > 63 {
		return fmt.Errorf("bucket name %q must have 3 to 63 characters", b)
	}
	for i := range len(b) {
		c := b[i]
		inner := i > 0 && i < len(b)-1 && (c == '-' || c == '.' && b[i-1] != '.')
		if !inner && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("bucket name %q may have lower case letters, digits, and inside of it dots and hyphens", b)
		}
	}
	return nil
}

// String gives the URL; Parse reads it back to the same Location.
func (l Location) String() string {
	switch {
	case l.Dir != "":
		return (&url.URL{Scheme: "file", Path: l.Dir}).String()
	case l.Prefix == "":
		return "s3://" + l.Bucket
	}
	return (&url.URL{Scheme: "s3", Host: l.Bucket, Path: "/" + l.Prefix}).String()
}

// Open gives the Bucket at l. cfg matters to S3 only. Both kinds are Sweepers and io.Closers.
func (l Location) Open(ctx context.Context, cfg S3Config) (Bucket, error) {
	if l.Dir != "" {
		d, err := NewDir(ctx, l.Dir)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	s, err := NewS3(ctx, l.Bucket, l.Prefix, cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}
