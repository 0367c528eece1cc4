package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// Errors that callers decide on. They come wrapped in an *Error.
var (
	// ErrExists says that the name is taken, by whoever came first.
	ErrExists = errors.New("object exists already")
	// ErrNotExist says that there is no object of that name.
	ErrNotExist = errors.New("object does not exist")
	// ErrUnfenced says that a store lets a second Create of one name succeed: two processes could both believe to own a job.
	ErrUnfenced = errors.New("store does not refuse to overwrite an object")
)

// Object is what a listing says of one object.
type Object struct {
	Name     string
	Size     int64     // bytes
	Modified time.Time // when it was created, by the store's clock
}

// Bucket is all of an object store that we use. It is safe for concurrent use.
type Bucket interface {
	// Create stores the size bytes of r under name. It fails with ErrExists, and changes nothing, when the name is taken.
	// r is read from several goroutines at once, more than once, and not after Create has returned.
	// A reader that ends before size bytes is an error.
	Create(ctx context.Context, name string, r io.ReaderAt, size int64) error

	// Open reads n bytes from offset off; n < 0 means to the end. What lies past the end is left out, so a range that
	// starts there is empty. It fails with ErrNotExist when there is no such object. The reader must be closed; it ends
	// with an error when ctx does.
	Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)

	// List yields the objects whose names start with prefix (any string, not only whole components; "" is all), ordered by
	// name as bytes. An error is yielded once, last. Objects whose names ValidName refuses are not ours and are left out.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]

	// Delete removes the objects. A name that does not exist is no error, so that a deletion may be repeated. After an
	// error some of them may be gone; those that failed are named in it. A store that loses power may have them again.
	Delete(ctx context.Context, names ...string) error
}

// Close gives back what a Bucket holds open, if it holds something.
func Close(b Bucket) error {
	if c, ok := b.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Sweeper is a Bucket that can remove what crashed Creates left behind.
type Sweeper interface {
	// Sweep removes remains of Creates that nobody has touched for age, and says how many. An age below the longest that a
	// live Create may take would end that Create with an error; StaleAfter is a good one.
	Sweep(ctx context.Context, age time.Duration) (int, error)
}

// StaleAfter is the age at which the remains of a Create are surely of a crashed one.
const StaleAfter = time.Hour

// maxName and maxComponent bound names in bytes: S3 has keys of 1024 (prefix included), file systems components of 255.
const (
	maxName      = 512
	maxComponent = 255
)

// ValidName reports why name cannot name an object, in any store: it is made of components joined by single slashes, of
// ASCII letters, digits and "-_.=+@,%"; no component starts with a dot. At most 512 bytes, 255 a component.
func ValidName(name string) error {
	switch {
	case name == "":
		return errors.New("object name is empty")
	case len(name) > maxName:
		return fmt.Errorf("object name %.40q... has %d bytes, at most %d are allowed", name, len(name), maxName)
	}
	for c := range strings.SplitSeq(name, "/") {
		switch {
		case c == "":
			return fmt.Errorf("object name %q has an empty component: use no leading, trailing or double slash", name)
		case c[0] == '.':
			return fmt.Errorf("object name %q has a component that starts with a dot", name)
		case len(c) > maxComponent:
			return fmt.Errorf("object name %.40q... has a component of %d bytes, at most %d are allowed", name, len(c), maxComponent)
		}
		for i := range len(c) {
			if !nameByte(c[i]) {
				return fmt.Errorf("object name %q contains %q: allowed are ASCII letters, digits and -_.=+@,%%", name, c[i])
			}
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.=+@,%", c) >= 0
}

func validSize(name string, size int64) error {
	if size < 0 {
		return fmt.Errorf("size %d is negative", size)
	}
	return ValidName(name)
}

func validRange(name string, off int64) error {
	if off < 0 {
		return fmt.Errorf("offset %d is negative", off)
	}
	return ValidName(name)
}

// Error says what failed on which object or store, and what to do about it.
type Error struct {
	Op   string // such as "create"
	URL  string // of the object or of the store
	Hint string // the remedy, or ""
	Err  error
}

// Error gives all of it in one line.
func (e *Error) Error() string {
	s := e.Op + " " + e.URL + ": " + e.Err.Error()
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap gives the cause, for errors.Is.
func (e *Error) Unwrap() error { return e.Err }

// Hashed is a source whose SHA-256 is known, in hex: a Create that needs it does not read everything once more. A source that
// has another one is an error.
type Hashed struct {
	io.ReaderAt
	SHA256 string
}

// exact is a ReaderAt that must fill every read: a file that is shorter than its announced size is an error, not a short
// object.
type exact struct{ r io.ReaderAt }

var errShort = errors.New("source has fewer bytes than announced: was the file changed?")

// ReadAt reads len(p) bytes or fails.
func (e exact) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || errors.Is(err, io.EOF):
		return n, errShort
	}
	return n, fmt.Errorf("read source: %w", err)
}
