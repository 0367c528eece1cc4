package brokertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed testdata
var testdata embed.FS

// Versions returns the versions of brokers that there are lists of jars for: the last line of 3.x, and 4.x with KIP-890.
func Versions() []string { return []string{"3.9.1", "4.1.0"} }

// plugin of Maven that copies jars; named with its version so that it does not change by itself.
const plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

// fetchTimeout bounds a download of some 50 MB.
const fetchTimeout = 5 * time.Minute

// Dir returns the directory of the jars of a version; when they are not there it gets them, or says so.
func Dir(ctx context.Context, version string, get bool) (string, error) {
	want, err := sums(version)
	if err != nil {
		return "", err
	}
	root, err := cache()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, version)
	if _, err := os.Stat(filepath.Join(dir, "verified")); err == nil {
		return dir, nil
	}
	if err := verify(dir, want); err != nil {
		if !get {
			return "", fmt.Errorf("%w (TINYRUNNER_REAL_KAFKA=1 gets the jars)", err)
		}
		if err := fetch(ctx, root, version, want); err != nil {
			return "", fmt.Errorf("get kafka %s: %w", version, err)
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "verified"), nil, 0o644)
}

func cache() (string, error) {
	if dir := os.Getenv("TINYRUNNER_KAFKA_DIR"); dir != "" {
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".build", "kafka"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not in the repository: set TINYRUNNER_KAFKA_DIR")
		}
		dir = filepath.Dir(dir)
	}
}

// sums returns the hashes of a version's jars by name.
func sums(version string) (map[string]string, error) {
	list, err := testdata.ReadFile("testdata/jars-" + version + ".sha256")
	if err != nil {
		return nil, fmt.Errorf("version %s is not one of %s", version, strings.Join(Versions(), ", "))
	}
	out := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			return nil, fmt.Errorf("jars-%s.sha256: %q is not a sum and a name", version, lines.Text())
		}
		out[name] = sum
	}
	return out, nil
}

// fetch lets Maven copy the jars next to where they belong, and moves them there when they are what they should be: tests
// of several packages may do so at once.
func fetch(ctx context.Context, root, version string, want map[string]string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return errors.New("mvn is not in the PATH: install Maven")
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(root, "get-"+version+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // what is left is in the cache directory
	pom, err := testdata.ReadFile("testdata/pom.xml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), pom, 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	jars := filepath.Join(tmp, "jars")
	out, err := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", filepath.Join(tmp, "pom.xml"), "-Dkafka.version="+version,
		"-DincludeScope=runtime", "-DoutputDirectory="+jars, plugin).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mvn: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := verify(jars, want); err != nil {
		return err
	}
	if err := os.Rename(jars, filepath.Join(root, version)); err != nil {
		return verify(filepath.Join(root, version), want) // somebody else was faster
	}
	return nil
}

func verify(dir string, want map[string]string) error {
	for name, sum := range want {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != sum {
			return fmt.Errorf("%s has sha256 %s, want %s: remove %s", name, got, sum, dir)
		}
	}
	return nil
}
