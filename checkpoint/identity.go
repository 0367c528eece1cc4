package checkpoint

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// maxIdentity bounds an identity that was not cut, bytes.
const maxIdentity = 100

// Identity gives the identity of the job called name: what its directory in the store is called. Lower case letters,
// digits, "-" and "_", dots inside and upper case letters stay; other bytes become %XX. What would be longer than
// 100 bytes is cut, with a hash of the whole name behind.
func Identity(name string) string {
	if name == "" {
		return "=" // no other name gives this
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0
		if i == 0 && name+"/" == objstore.ProbePrefix {
			plain = false // its objects would be taken for remains of probes
		}
		if plain {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	s := b.String()
	if len(s) <= maxIdentity {
		return s
	}
	sum := sha256.Sum256([]byte(name))
	// One byte longer than anything that was not cut.
	return s[:maxIdentity-16] + "=" + hex.EncodeToString(sum[:8])
}

// Owner is a process that has, or had, a job. Each Claim needs one of its own.
type Owner struct {
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Attempt string    `json:"attempt"` // random; tells owners apart
	Began   time.Time `json:"began"`
}

// NewOwner describes this process, with a new attempt id.
func NewOwner(began time.Time) Owner {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return Owner{Host: host, PID: os.Getpid(), Attempt: rand.Text(), Began: began.UTC()}
}

// tag is what of the attempt id is in the names of files.
func (o Owner) tag() string { return o.Attempt[:attemptTag] }

func (o Owner) validate() error {
	if len(o.Attempt) < attemptTag || len(o.Attempt) > 64 {
		return fmt.Errorf("attempt id %q must have %d to 64 characters: use NewOwner", o.Attempt, attemptTag)
	}
	for i := range len(o.Attempt) {
		if c := o.Attempt[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return fmt.Errorf("attempt id %q may have upper case letters and digits: use NewOwner", o.Attempt)
		}
	}
	return nil
}
