package goexec

import (
	"fmt"
	"regexp"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const (
	execPrefix     = "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec."
	registerPrefix = "github.com/apache/beam/sdks/v2/go/pkg/beam/register."
)

// message says what happened in user code, for users: exec's own text begins with the whole plan and buries the cause, and
// a panic's stack is mostly exec's. What is not understood is left as it is.
func (st *stage) message(err error) string {
	text := strings.TrimSpace(err.Error())
	if m, stack, ok := cutPanic(text); ok {
		return m + "\n" + userFrames(stack)
	}
	re := regexp.MustCompile(`DoFn\[UID:\d+, PID:([^,]*), Name: ([^\]]*)\] failed:\n`)
	all := re.FindAllStringSubmatchIndex(text, -1)
	if len(all) == 0 {
		return text
	}
	m := all[len(all)-1] // DoFns downstream fail inside those upstream
	return fmt.Sprintf("DoFn %s failed in %s:\n%s", text[m[4]:m[5]], transformName(st.prog.Descriptor.GetTransforms(), text[m[2]:m[3]]), text[m[1]:])
}

func transformName(transforms map[string]*pipepb.PTransform, id string) string {
	if name := transforms[id].GetUniqueName(); name != "" {
		return name
	}
	return id
}

// cutPanic takes a text as exec makes it of a panic apart: "panic: value", a context, and the stack.
func cutPanic(text string) (value, stack string, ok bool) {
	value, rest, ok := strings.Cut(text, "\nFull error:\n")
	if !ok || !strings.HasPrefix(value, "panic: ") {
		return "", "", false
	}
	i := strings.Index(rest, " [running]:\n")
	if i < 0 {
		return "", "", false
	}
	return value, rest[i+len(" [running]:\n"):], true
}

// userFrames returns the frames of a stack that lie between the panic and the executor; all frames when there are none.
func userFrames(stack string) string {
	lines := strings.Split(stack, "\n")
	var out []string
	panicked := false
	for i := 0; i+1 < len(lines); i += 2 { // a frame is its function and, below it, its file
		switch f := lines[i]; {
		case strings.HasPrefix(f, "panic("):
			panicked, out = true, nil // a panic while panicking: the first one is the cause
		case !panicked, strings.HasPrefix(f, "runtime."), strings.HasPrefix(f, registerPrefix):
		case strings.HasPrefix(f, execPrefix):
			i = len(lines)
		default:
			out = append(out, f, lines[i+1])
		}
	}
	if len(out) == 0 {
		return stack
	}
	return strings.Join(out, "\n")
}
