package checkpoint

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// seqDigits makes numbers of entries sort as names do.
const seqDigits = 12

// attemptTag is how many characters of an attempt id are in names: 12 of base 32 are 60 random bits.
const attemptTag = 12

// Names below a job's directory.
const (
	logDir   = "log/"
	filesDir = "files/"
	planDir  = "gc/"
)

// savepointName is the manifest of a savepoint; without it there is none.
const savepointName = "savepoint"

var (
	jobFileName       = regexp.MustCompile(`^files/([0-9a-f]{2})/([0-9a-f]{64})-([0-9]{12})-([A-Z0-9]{12})$`)
	savepointFileName = regexp.MustCompile(`^files/([0-9a-f]{2})/([0-9a-f]{64})-([A-Z0-9]{12})$`)
	planFileName      = regexp.MustCompile(`^gc/([0-9]{12})-([0-9]{6,12})-([A-Z0-9]{12})$`)
)

func logName(seq int64) string { return logDir + pad(seq) }

func pad(n int64) string { return fmt.Sprintf("%0*d", seqDigits, n) }

// parseLog reads a name that logName made.
func parseLog(name string) (int64, bool) {
	s, ok := strings.CutPrefix(name, logDir)
	if !ok || len(s) != seqDigits {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n > 0 && pad(n) == s
}

// fileName names a file of the content sha that is uploaded for entry seq.
func fileName(sha string, seq int64, o Owner) string {
	return filesDir + sha[:2] + "/" + sha + "-" + pad(seq) + "-" + o.tag()
}

func savepointFile(sha string, o Owner) string {
	return filesDir + sha[:2] + "/" + sha + "-" + o.tag()
}

// parseFile gives the number and the owner's tag in a name that fileName made.
func parseFile(name string) (seq int64, tag string, ok bool) {
	m := jobFileName.FindStringSubmatch(name)
	if m == nil || m[1] != m[2][:2] {
		return 0, "", false
	}
	seq, err := strconv.ParseInt(m[3], 10, 64)
	return seq, m[4], err == nil
}

// planName names the n-th plan of an owner.
func planName(claim int64, n int, o Owner) string {
	return fmt.Sprintf("%s%s-%06d-%s", planDir, pad(claim), n, o.tag())
}

// root is what comes before the names of a job or of a savepoint: "" or with a slash at its end.
func root(parts ...string) string {
	s := ""
	for _, p := range parts {
		if p != "" {
			s += p + "/"
		}
	}
	return s
}
