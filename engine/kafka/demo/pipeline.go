package demo

import (
	"encoding/json"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// windowSize is the length of the windows in which failures are counted.
const windowSize = 10 * time.Second

// disorder is by how much the generator's records may come late: the time they wait in its batches.
const disorder = 500 * time.Millisecond

// Beam finds functions by name, in a registry that must be filled before beam.Init: the reason for an init.
func init() { //nolint:gochecknoinits // see above
	register.Function3x1(parse)
	register.Function3x0(keepFailed)
	register.Function3x2(format)
	register.Emitter1[string]()
	register.Emitter2[string, int]()
}

// request is what the pipeline looks at of an input line.
type request struct {
	Page   string `json:"page"`
	Status int    `json:"status"`
}

// Count is a line of the output topic.
type Count struct {
	Window time.Time `json:"window"` // its end
	Page   string    `json:"page"`
	Failed int       `json:"failed"`
}

func parse(_, line []byte, emit func(string, int)) error {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	emit(r.Page, r.Status)
	return nil
}

func keepFailed(page string, status int, emit func(string)) {
	if status >= 500 {
		emit(page)
	}
}

func format(w beam.Window, page string, failed int) ([]byte, []byte) {
	end := time.UnixMilli(w.MaxTimestamp().Milliseconds() + 1)
	line, err := json.Marshal(Count{Window: end, Page: page, Failed: failed})
	if err != nil {
		panic(err) // not reached: plain data
	}
	return []byte(page), line
}

// build makes the pipeline.
func build(brokers string) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	lines := kafka.Read(s, brokers, []string{inputTopic}, kafka.WithCreateTime(disorder))
	requests := beam.ParDo(s, parse, lines)
	failed := beam.ParDo(s, keepFailed, requests)
	windowed := beam.WindowInto(s, window.NewFixedWindows(windowSize), failed)
	counts := stats.Count(s, windowed)
	kafka.Write(s, brokers, outputTopic, beam.ParDo(s, format, counts))
	return p
}
