// Package tiny is the Beam Go runner "tiny": it runs a pipeline in the program that built it. Import it for its side effect
// and choose it by flag:
//
//	import _ "github.com/tinyrunner/tinyrunner/engine/tiny"
//
//	go run . --runner=tiny
//
// DoFns are called directly, with no harness, no gRPC and nothing to install. State lies in Pebble in a temporary
// directory that is removed when the pipeline ends. The program must call beam.Init, as for every runner.
//
// Flags of the runner: --tiny_data_dir, --tiny_slots, --tiny_buffer_pool_mib; and Beam's own --job_name. Programs and tests
// that want more call Run.
package tiny
