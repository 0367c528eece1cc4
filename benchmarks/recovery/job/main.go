// Command job is the pool of harnesses of benchmarks/recovery: it says on the first line where it listens, and ends with its standard
// input.
//
// It is a module of its own because Beam's harness brings all the modules of Google's cloud.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"

	_ "github.com/tinyrunner/tinyrunner/benchmarks/recovery/newest" // the functions
)

func main() {
	beam.Init()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "recovery job:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pool, err := extworker.StartLoopback(ctx, 0)
	if err != nil {
		return fmt.Errorf("start pool of harnesses: %w", err)
	}
	if _, err := fmt.Println(pool.EnvironmentConfig(ctx)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return pool.Stop(ctx)
}
