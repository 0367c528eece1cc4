package tiny

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/engine"
)

func init() {
	register.Function2x1(check)
	register.Function2x1(hang)
}

func TestMain(m *testing.M) {
	beam.Init()
	goleak.VerifyTestMain(m)
}

func check(ctx context.Context, s string) error {
	beam.NewCounter("tiny", "checked").Inc(ctx, 1)
	if s == "bad" {
		return errors.New("it is bad")
	}
	return nil
}

// hang makes the file and waits until its job is cancelled.
func hang(ctx context.Context, name string) error {
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func pipeline(fn any, elems ...any) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo0(s, fn, beam.Create(s, elems...))
	return p
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestRegistered runs by the name that users give.
func TestRegistered(t *testing.T) {
	r, err := beam.Run(t.Context(), "tiny", pipeline(check, "a", "b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.JobID(), "tiny-") {
		t.Errorf("job id %q", r.JobID())
	}
	got := r.Metrics().Query(func(m metrics.SingleResult) bool { return m.Name() == "checked" }).Counters()
	if len(got) != 1 || got[0].Result() != 3 {
		t.Errorf("counters: %+v", got)
	}
}

func TestUserError(t *testing.T) {
	r, err := Run(t.Context(), pipeline(check, "a", "bad"), Options{Logger: quiet()})
	if r == nil || err == nil || !strings.Contains(err.Error(), "it is bad") {
		t.Errorf("result %v, error %v: want the DoFn's words", r, err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs := filepath.Join(t.TempDir(), "hangs")
	go func() {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(hangs); err == nil {
				break
			}
		}
		cancel()
	}()
	r, err := Run(ctx, pipeline(hang, hangs), Options{Logger: quiet()})
	if r == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("result %v, error %v: want the context's", r, err)
	}
}

// TestDataDir: a directory of the user stays, but nothing in it.
func TestDataDir(t *testing.T) {
	dir := t.TempDir() + "/new"
	if _, err := Run(t.Context(), pipeline(check, "a"), Options{DataDir: dir, Slots: 1, Logger: quiet()}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir + "/jobs")
	if err != nil || len(left) > 0 {
		t.Errorf("left in the data directory: %v, %v", left, err)
	}
}

func TestBadOptions(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"create data directory":    {DataDir: file},
		"must not be negative":     {Slots: -1},
		"at most as many slots as": {Engine: func(c *engine.Config) { c.Slots = 1000 }},
	} {
		o.Logger = quiet()
		if _, err := Run(t.Context(), pipeline(check, "a"), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v: want %q", o, err, want)
		}
	}
}

func TestForeignEnvironment(t *testing.T) {
	_, err := Open(quiet())(t.Context(), "py", &pipepb.Environment{Urn: "beam:env:docker:v1"})
	if err == nil || !strings.Contains(err.Error(), "open environment py: its functions (beam:env:docker:v1) are not linked") {
		t.Errorf("error %v", err)
	}
}

func TestFlags(t *testing.T) {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	o := flagOptions(fs)
	if err := fs.Parse([]string{"--tiny_data_dir=/d", "--tiny_slots=3", "--tiny_buffer_pool_mib=5"}); err != nil {
		t.Fatal(err)
	}
	if got := o(); got.DataDir != "/d" || got.Slots != 3 || got.BufferPool != 5<<20 {
		t.Errorf("options %+v", got)
	}
}
