package objstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// versitygw is a real S3 server that keeps the bucket "bucket" in a directory.
type versitygw struct {
	bin, dir, addr string
	flags          []string // of its posix backend
	kill           func()
}

// newVersitygw starts one for the time of the test.
func newVersitygw(t *testing.T, flags ...string) *versitygw {
	t.Helper()
	bin, err := exec.LookPath("versitygw")
	if err != nil {
		bin = filepath.Join("..", "..", ".build", "bin", "versitygw")
		if _, err := os.Stat(bin); err != nil {
			t.Skip("there is no versitygw in PATH or .build/bin: run `make versitygw`")
		}
	}
	awsEnv(t)
	v := &versitygw{bin: bin, dir: t.TempDir(), addr: freeAddr(t), flags: flags} // on a disk: it needs extended attributes
	if err := os.Mkdir(filepath.Join(v.dir, "bucket"), 0o777); err != nil {
		t.Fatal(err)
	}
	v.start(t)
	t.Cleanup(func() { v.kill() })
	return v
}

func (v *versitygw) config() S3Config {
	return S3Config{Endpoint: "http://" + v.addr, PartSize: minPart}
}

// start starts the process and waits until it listens.
func (v *versitygw) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(v.bin, append(append([]string{"--port", v.addr, "--quiet", "posix"}, v.flags...), v.dir)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=ak", "ROOT_SECRET_KEY=sksksksk")
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	v.kill = func() {
		cmd.Process.Kill()
		<-ended
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", v.addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("versitygw ended: %v\n%s", cmd.ProcessState, out.Bytes())
		case <-ctx.Done():
			v.kill()
			t.Fatalf("versitygw does not listen: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestVersitygwConforms(t *testing.T) {
	cfg, n := newVersitygw(t).config(), 0
	conform(t, func(t *testing.T) Bucket {
		n++
		s, err := NewS3(t.Context(), "bucket", fmt.Sprintf("conform/%d", n), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
	t.Run("sweep", func(t *testing.T) {
		s := openS3(t, cfg)
		id := beginUpload(t, s, "crashed")
		if n, err := s.Sweep(t.Context(), StaleAfter); n != 0 || err != nil {
			t.Errorf("swept %d live ones, %v", n, err)
		}
		if n, err := s.Sweep(t.Context(), -time.Minute); n != 1 || err != nil {
			t.Errorf("swept %d, %v", n, err)
		}
		if err := s.abort(t.Context(), "crashed", id); code(err) != codeNoSuchUpload {
			t.Errorf("the upload is still there: %v", err)
		}
	})
	t.Run("known hash", func(t *testing.T) {
		s, data := openS3(t, cfg), []byte("state of the job")
		create := func(name string, hashed []byte) error {
			sum := sha256.Sum256(hashed)
			return s.Create(t.Context(), name, Hashed{bytes.NewReader(data), hex.EncodeToString(sum[:])}, int64(len(data)))
		}
		if err := create("right", data); err != nil {
			t.Error(err)
		}
		if err := create("wrong", []byte("something else")); err == nil || errors.Is(err, ErrExists) {
			t.Errorf("content of another hash: %v, want a refusal", err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		s := openS3(t, cfg)
		s.bucket = "nobucket"
		if err := Probe(t.Context(), s); err == nil || !strings.Contains(err.Error(), "create bucket nobucket, or check") {
			t.Error(err)
		}
		t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
		if err := Probe(t.Context(), openS3(t, cfg)); err == nil || !strings.Contains(err.Error(), "check the credentials") {
			t.Error(err)
		}
	})
}

// A real server that overwrites silently.
func TestVersitygwWithoutMetadata(t *testing.T) {
	s := openS3(t, newVersitygw(t, "--nometa").config())
	err := Probe(t.Context(), s)
	if !errors.Is(err, ErrUnfenced) || !strings.Contains(err.Error(), "versitygw without --nometa") {
		t.Error(err)
	}
	if got := list(t, s, ""); len(got) > 0 {
		t.Errorf("the probe left %v", got)
	}
}

// The server is killed under transfers in both directions, and they go on when it is back.
func TestVersitygwKilled(t *testing.T) {
	v := newVersitygw(t)
	s := openS3(t, v.config())
	const size = 3*minPart + 1
	again := func() {
		v.kill()
		v.start(t)
	}
	if err := s.Create(t.Context(), "object", &trip{ReaderAt: pattern(1), off: minPart + 100, n: 2, call: again}, size); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, want := make([]byte, size), make([]byte, size)
	pattern(1).ReadAt(want, 0)
	if _, err := io.ReadFull(r, got[:1000]); err != nil {
		t.Fatal(err)
	}
	again()
	if _, err := io.ReadFull(r, got[1000:]); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v, right: %v", err, bytes.Equal(got, want))
	}
}
