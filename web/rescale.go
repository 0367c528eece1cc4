package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// requirements are a job's, by vertex id: what a client has asked for.
type requirements map[string]requirementJSON

type requirementJSON struct {
	Parallelism boundsJSON `json:"parallelism"`
}

type boundsJSON struct {
	Lower int `json:"lowerBound"`
	Upper int `json:"upperBound"`
}

// resourceRequirements are what was asked for last, else the present number of slots; in the order of the stages.
func (h *Handler) resourceRequirements(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	asked := h.requirements[i.ID]
	h.mu.Unlock()
	out := ordered[requirementJSON]{values: make(map[string]requirementJSON)}
	for _, s := range j.Stages() {
		id := HexID(s.Name)
		q, ok := asked[id]
		if !ok {
			q = requirementJSON{boundsJSON{1, i.Slots}}
		}
		out.names = append(out.names, id)
		out.values[id] = q
	}
	return out, nil
}

// setResourceRequirements rescales a job. All its stages run in the same number of slots: the greatest upper bound.
func (h *Handler) setResourceRequirements(r *http.Request) (any, error) {
	j, i, err := h.runningJob(r)
	if err != nil {
		return nil, err
	}
	var asked map[string]*requirementJSON
	if err := decode(r, &asked); err != nil {
		return nil, err
	}
	if len(asked) == 0 {
		return nil, badRequest("Request body does not specify resource requirements.")
	}
	slots, err := check(asked, j.Stages(), i.MaxParallelism)
	if err != nil {
		return nil, err
	}
	fixed := make(requirements)
	for id, q := range asked {
		fixed[id] = *q
	}
	h.mu.Lock()
	h.requirements[i.ID] = fixed
	h.mu.Unlock()
	id := operationID{rescaleOperation, i.ID, strconv.Itoa(slots) + "/" + randomHex(8)}
	return empty{}, h.ops.start(id, func(ctx context.Context, op *operation) {
		bounded, cancel := context.WithTimeoutCause(ctx, rescaleTime, fmt.Errorf("%v are over", rescaleTime))
		defer cancel()
		if op.err = h.rescale(bounded, j, slots, fixed); op.err != nil && ctx.Err() == nil {
			h.log.Warn("rescaling failed", "job", i.ID, "slots", slots, "error", op.err)
			h.rescaleFailed(i.ID, fixed, Failure{time.Now(), fmt.Sprintf("%s%d slots failed: %v", rescalingTo, slots, op.err)})
		}
	})
}

// rescalingTo begins the text of a failure that the job has survived.
const rescalingTo = "rescaling to "

func isRescaling(f Failure) bool { return strings.HasPrefix(f.Text, rescalingTo) }

// maxRescaleFailures is how many of a job's are remembered.
const maxRescaleFailures = 10

// rescaleFailed lets clients see what became of requirements that were accepted: they are no more, and the job's exceptions say
// why.
func (h *Handler) rescaleFailed(job string, asked requirements, f Failure) {
	newest := h.newest(job, asked)
	h.mu.Lock()
	defer h.mu.Unlock()
	if newest {
		delete(h.requirements, job)
	}
	all := append(h.rescaleFailures[job], f)
	h.rescaleFailures[job] = all[max(0, len(all)-maxRescaleFailures):]
}

// failures are those of a job, and of its rescalings, in the order of their times.
func (h *Handler) failures(j Job) []Failure {
	h.mu.Lock()
	all := slices.Clone(h.rescaleFailures[j.ID()])
	h.mu.Unlock()
	all = append(all, j.Failures()...)
	slices.SortStableFunc(all, func(a, b Failure) int { return a.At.Compare(b.At) })
	return all
}

// rescaleTime is how long bundles under way may take to end: until then no other begins.
const rescaleTime = 5 * time.Minute

// rescaleRetry is how long a rescaling that meets another one waits.
const rescaleRetry = 200 * time.Millisecond

// rescale brings a job to so many slots, unless somebody has asked for something else meanwhile.
func (h *Handler) rescale(ctx context.Context, j Job, slots int, asked requirements) error {
	for try := 0; ; try++ {
		i := j.Info()
		if _, ended := i.end(); ended || i.Slots == slots || !h.newest(i.ID, asked) {
			return nil
		}
		err := j.Rescale(ctx, slots)
		if err == nil || ctx.Err() != nil || try >= 50 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rescaleRetry):
		}
	}
}

// newest reports whether these are the requirements that were asked for last.
func (h *Handler) newest(job string, asked requirements) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.requirements[job]
	if len(now) != len(asked) {
		return false
	}
	for id, q := range asked {
		if now[id] != q {
			return false
		}
	}
	return true
}

// check returns how many slots the requirements ask for.
func check(asked map[string]*requirementJSON, stages []Stage, maximum int) (int, error) {
	known := make(map[string]bool)
	for _, s := range stages {
		id := HexID(s.Name)
		known[id] = true
		if asked[id] == nil {
			return 0, badRequest("The request is incomplete, missing job vertex [%s] resource requirements.", id)
		}
	}
	slots := 0
	for id, q := range asked {
		if !known[id] || q == nil {
			return 0, badRequest("The request names %q, which is no vertex of the job", id)
		}
		b := q.Parallelism
		if b.Lower < 1 || b.Upper < b.Lower || b.Upper > maximum {
			return 0, badRequest("vertex %s: bounds %d to %d: use 1 to %d, the upper one not below the lower one", id, b.Lower, b.Upper, maximum)
		}
		slots = max(slots, b.Upper)
	}
	return slots, nil
}

// heartbeat accepts the sign of life of a client that waits for its job. The job goes on without it.
func (h *Handler) heartbeat(r *http.Request) (any, error) {
	var body map[string]json.RawMessage
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	_, _, err := h.job(r)
	return empty{}, err
}

// submitGraph refuses what the flink command's run sends.
func (h *Handler) submitGraph(*http.Request) (any, error) {
	return nil, fail(http.StatusNotImplemented, "a Java JobGraph cannot run here: this is no JVM. "+
		"Beam pipelines can: use --runner=PortableRunner with the job endpoint, or FlinkRunner with --flink_submit_uber_jar")
}
