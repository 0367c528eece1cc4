package checkpoint

import (
	"strings"
	"testing"
)

func TestParseNames(t *testing.T) {
	sha := strings.Repeat("0af9", 16)
	for _, c := range []struct {
		name           string
		job, savepoint bool
	}{
		{"files/0a/" + sha + "-000000000012-ABCDEF234567", true, false},
		{"files/0a/" + sha + "-ABCDEF234567", false, true},
		{"files/0b/" + sha + "-000000000012-ABCDEF234567", false, false}, // another directory
		{"files/0A/" + strings.ToUpper(sha) + "-000000000012-ABCDEF234567", false, false},
		{"files/0a/" + sha[:63] + "g-000000000012-ABCDEF234567", false, false},
		{"files/0a/" + sha[:63] + "-000000000012-ABCDEF234567", false, false},
		{"files/0a/" + sha + "0-000000000012-ABCDEF234567", false, false},
		{"files/0a/" + sha + "_000000000012-ABCDEF234567", false, false},
		{"files/0a/" + sha + "-12-ABCDEF234567", false, false},
		{"files/0a/" + sha + "-00000000001x-ABCDEF234567", false, false},
		{"files/0a/" + sha + "-+00000000001-ABCDEF234567", false, false},
		{"files/0a/" + sha + "-000000000012-ABCDEF23456", false, false},
		{"files/0a/" + sha + "-000000000012-abcdef234567", false, false},
		{"files/0a/" + sha + "-000000000012-ABCDEF234567-X", false, false},
		{"files/0a/" + sha + "-000000000012", false, true}, // a tag may have digits only
		{"files/0a/" + sha + "-", false, false},
		{"files/0a/" + sha, false, false},
		{"file/0a/" + sha + "-ABCDEF234567", false, false},
		{"files/", false, false},
		{"", false, false},
	} {
		seq, tag, ok := parseFile(c.name)
		if ok != c.job || ok && (seq != 12 || tag != "ABCDEF234567") {
			t.Errorf("%s: entry %d, tag %s, %v", c.name, seq, tag, ok)
		}
		if got, ok := parseSavepointFile(c.name); ok != c.savepoint || ok && got != sha {
			t.Errorf("%s: hash %s, %v", c.name, got, ok)
		}
	}
}
