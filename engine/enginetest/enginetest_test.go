package enginetest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/passert"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/engine/enginetest"
)

func init() {
	register.Function2x0(words)
	register.Function3x2(sometimes)
	register.Emitter1[string]()
}

func TestMain(m *testing.M) {
	beam.Init()
	goleak.VerifyTestMain(m)
}

func words(s string, emit func(string)) {
	for w := range strings.FieldsSeq(s) {
		emit(w)
	}
}

func sometimes(ctx context.Context, w string, n int) (string, error) {
	beam.NewCounter("enginetest", "words").Inc(ctx, int64(n))
	if w == "bad" {
		return "", errors.New("a bad word")
	}
	return w, nil
}

// count builds words, counted, and checked.
func count(lines ...any) (*beam.Pipeline, beam.Scope, beam.PCollection) {
	p, s := beam.NewPipelineWithRoot()
	counted := stats.Count(s, beam.ParDo(s, words, beam.Create(s, lines...)))
	return p, s, beam.ParDo(s, sometimes, counted)
}

func TestRun(t *testing.T) {
	p, s, out := count("a rose is a rose", "is", "a rose")
	passert.Equals(s, out, "a", "rose", "is")
	r := enginetest.Run(t, p)
	got := r.Metrics().Query(func(m metrics.SingleResult) bool { return m.Name() == "words" }).Counters()
	if len(got) != 1 || got[0].Committed != 8 {
		t.Errorf("counter: %+v, want 8 committed", got)
	}
}

func TestRunFails(t *testing.T) {
	p, _, _ := count("a", "bad", "c")
	r, err := enginetest.NewCluster(t).Run(p)
	if r == nil || err == nil || !strings.Contains(err.Error(), "a bad word") || !strings.Contains(err.Error(), "sometimes") {
		t.Errorf("Run: %v, error %v: want the DoFn and its words", r, err)
	}
}
