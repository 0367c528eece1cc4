package objstore

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in, want string // want is Location.String, or a part of the error
		ok       bool
	}{
		{"file:///var/lib/t", "file:///var/lib/t", true},
		{"file:///var//lib/./t/", "file:///var/lib/t", true},
		{"file:///with%20space/%C3%BC", "file:///with%20space/%C3%BC", true},
		{"s3://bucket", "s3://bucket", true},
		{"s3://bucket/", "s3://bucket", true},
		{"s3://bucket//", "s3://bucket", true},
		{"s3://my.bucket-1/a/b", "s3://my.bucket-1/a/b", true},
		{"s3://bucket/a/b/", "s3://bucket/a/b", true},
		{"s3://bucket/100%25", "s3://bucket/100%25", true},

		{"", "no scheme", false},
		{"/var/lib/t", "no scheme", false},
		{"file://var/lib/t", "three slashes", false},
		{"file:relative", "more than", false},
		{"file:", "not absolute", false},
		{"file:///", "root directory", false},
		{"file:///a/../..", "root directory", false},
		{"file:///a%00b", "zero byte", false},
		{"file:///a?x=1", "more than", false},
		{"file:///a#", "more than", false},
		{"s3:///prefix", "3 to 63", false},
		{"s3://B/x", "3 to 63", false},
		{"s3://Bucket/x", "lower case", false},
		{"s3://bucket-/x", "lower case", false},
		{"s3://buc..ket/x", "lower case", false},
		{"s3://bucket:80/x", "lower case", false},
		{"s3://ak:sk@bucket/x", "more than", false},
		{"s3://bucket/a//b", "empty component", false},
		{"s3://bucket/../x", "dot", false},
		{"s3://bucket/a%2F..%2Fb", "dot", false},
		{"s3://bucket/a b", "contains ' '", false},
		{"gs://bucket/x", `scheme "gs" is not known`, false},
		{"s3://bucket/%zz", "invalid URL escape", false},
	} {
		loc, err := Parse(c.in)
		switch {
		case c.ok && (err != nil || loc.String() != c.want):
			t.Errorf("%q: %q, %v; want %q", c.in, loc, err, c.want)
		case !c.ok && err == nil:
			t.Errorf("%q gave %q", c.in, loc)
		case !c.ok && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "use file:///DIR or s3://BUCKET/PREFIX")):
			t.Errorf("%q: %v; want %q", c.in, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"file:///var/lib/t", "s3://bucket/a/b", "s3://b%2f/", "file://h/x", "s3://bucket/%41", "file:///a/../b%00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		loc, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(loc.String())
		if err != nil || again != loc {
			t.Errorf("%q gives %+v, and its String %q gives %+v, %v", s, loc, loc, again, err)
		}
		if (loc.Dir == "") == (loc.Bucket == "") || loc.Prefix != "" && ValidName(loc.Prefix) != nil {
			t.Errorf("%q gives %+v", s, loc)
		}
	})
}

func TestLocationOpen(t *testing.T) {
	awsEnv(t)
	for _, url := range []string{"file://" + tempRoot(t) + "/x", "s3://bucket/prefix"} {
		loc, err := Parse(url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := loc.Open(t.Context(), S3Config{})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.(interface{ String() string }).String(); got != url {
			t.Errorf("%s became %s", url, got)
		}
		if err := b.(interface{ Close() error }).Close(); err != nil {
			t.Error(err)
		}
		if _, ok := b.(Sweeper); !ok {
			t.Errorf("%s cannot be swept", url)
		}
	}
	if b, err := (Location{Bucket: "bucket"}).Open(t.Context(), S3Config{SSE: "rot13"}); err == nil || b != nil {
		t.Errorf("%v, %v", b, err)
	}
	if b, err := (Location{Dir: "relative"}).Open(t.Context(), S3Config{}); err == nil || b != nil {
		t.Errorf("%v, %v", b, err)
	}
}

func TestNoCredentials(t *testing.T) {
	awsEnv(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	var e *Error
	_, err := NewS3(t.Context(), "bucket", "", S3Config{})
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "AWS_ACCESS_KEY_ID") || e.URL != "s3://bucket" {
		t.Error(err)
	}
}
