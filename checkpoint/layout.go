package checkpoint

import (
	"crypto/sha256"
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

var planFileName = regexp.MustCompile(`^gc/([0-9]{12})-([0-9]{6,12})-([A-Z0-9]{12})$`)

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
	_, rest, ok := parseContent(name)
	if !ok {
		return 0, "", false
	}
	return parseOrigin(rest)
}

// parseOrigin splits what comes after the hash in a name that fileName made.
func parseOrigin(rest string) (seq int64, tag string, ok bool) {
	number, tag, two := strings.Cut(rest, "-")
	if !two || len(number) != seqDigits || !each(number, isDigit) || !validTag(tag) {
		return 0, "", false
	}
	seq, err := strconv.ParseInt(number, 10, 64)
	return seq, tag, err == nil
}

// parseSavepointFile gives the hash in a name that savepointFile made.
func parseSavepointFile(name string) (sha string, ok bool) {
	sha, tag, ok := parseContent(name)
	return sha, ok && validTag(tag)
}

// parseContent splits the name of a file into the hash of its content and what comes after. By hand: a manifest has thousands.
func parseContent(name string) (sha, rest string, ok bool) {
	const digits = 2 * sha256.Size
	name, ok = strings.CutPrefix(name, filesDir)
	if !ok || len(name) < len("xx/")+digits+len("-") {
		return "", "", false
	}
	sha, rest = name[3:3+digits], name[3+digits:]
	return sha, rest[1:], name[:3] == sha[:2]+"/" && rest[0] == '-' && validSHA(sha)
}

// validSHA says whether s is a SHA-256 as names have it.
func validSHA(s string) bool {
	return len(s) == 2*sha256.Size && each(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' })
}

func validTag(s string) bool {
	return len(s) == attemptTag && each(s, func(c byte) bool { return isDigit(c) || 'A' <= c && c <= 'Z' })
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// each says whether all bytes of s are ok.
func each(s string, ok func(c byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
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
