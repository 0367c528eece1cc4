package goexec

import (
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/engine/bundle/bundletest"
)

func TestMain(m *testing.M) {
	beam.Init()
	goleak.VerifyTestMain(m)
}

func newWorker(t testing.TB, cfg Config) *Worker {
	w := New(cfg)
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return w
}

func TestWorker(t *testing.T) {
	bundletest.Run(t, func(t *testing.T) bundletest.Worker { return newWorker(t, Config{}) })
}

func TestStockWorker(t *testing.T) {
	bundletest.Run(t, func(t *testing.T) bundletest.Worker { return newWorker(t, Config{Stock: true}) })
}
