package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"
)

// maxOperations is how many operations that have ended are remembered.
const maxOperations = 300

// operations are what clients have triggered and then ask after: savepoints, checkpoints, disposals. Goroutine safe.
type operations struct {
	ctx     context.Context // ends with the handler
	cancel  context.CancelFunc
	running sync.WaitGroup
	changed func() // is called before it can be seen that an operation has ended

	mu    sync.Mutex // guards the rest
	byID  map[operationID]*operation
	ended []operationID // oldest first
}

// operationID is what a client polls: the trigger's id belongs to a job and a kind.
type operationID struct {
	kind operationKind
	job  string // id; "" for disposals
	id   string
}

type operationKind string

const (
	savepointOperation  operationKind = "savepoint"
	checkpointOperation operationKind = "checkpoint"
	disposalOperation   operationKind = "disposal"
	rescaleOperation    operationKind = "rescale"
)

type operation struct {
	done bool
	// Once done, one of the three; a disposal has none.
	location     string
	checkpointID *int64
	err          error
}

func newOperations(changed func()) *operations {
	ctx, cancel := context.WithCancel(context.Background())
	return &operations{ctx: ctx, cancel: cancel, changed: changed, byID: make(map[operationID]*operation)}
}

func (o *operations) close() {
	o.cancel()
	o.running.Wait()
}

// start runs f in a goroutine of its own, unless the client has triggered the same operation before.
func (o *operations) start(id operationID, f func(ctx context.Context, op *operation)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return fail(http.StatusServiceUnavailable, "the server is shutting down")
	}
	if o.byID[id] != nil {
		return nil
	}
	if len(o.byID)-len(o.ended) >= maxOperations {
		return fail(http.StatusServiceUnavailable, "%d operations are under way: wait for some to end", maxOperations)
	}
	o.byID[id] = &operation{}
	o.running.Go(func() {
		var result operation
		f(o.ctx, &result)
		o.changed()
		o.mu.Lock()
		defer o.mu.Unlock()
		result.done = true
		o.byID[id] = &result
		o.ended = append(o.ended, id)
		if len(o.ended) > maxOperations {
			delete(o.byID, o.ended[0])
			o.ended = o.ended[1:]
		}
	})
	return nil
}

func (o *operations) get(id operationID) (operation, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op, ok := o.byID[id]
	if !ok {
		return operation{}, false
	}
	return *op, true
}

type triggerJSON struct {
	RequestID string `json:"request-id"`
}

type operationJSON struct {
	Status    queueStatusJSON `json:"status"`
	Operation *resultJSON     `json:"operation"`
}

// resultJSON is what became of an operation.
type resultJSON struct {
	Location     string     `json:"location,omitempty"`
	CheckpointID *int64     `json:"checkpointId,omitempty"`
	FailureCause *causeJSON `json:"failure-cause,omitempty"`
}

// newTrigger returns the trigger's id: the client's own if it has one.
func newTrigger(own *string) (string, error) {
	if own != nil && *own != "" {
		if id := strings.ToLower(*own); isHexID(id) {
			return id, nil
		}
		return "", badRequest("triggerId %q must have 32 hex digits", *own)
	}
	return randomHex(16), nil
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails, by its documentation
	return hex.EncodeToString(b)
}

// operationStatus answers how far an operation is.
func (h *Handler) operationStatus(r *http.Request, kind operationKind, job string) (any, error) {
	id := chi.URLParam(r, "trigger")
	if !isHexID(id) {
		return nil, badRequest("%q is no trigger id: it has 32 hex digits", id)
	}
	op, ok := h.ops.get(operationID{kind, job, id})
	if !ok {
		return nil, missing("There is no %s operation with trigger %s", kind, id)
	}
	if !op.done {
		return operationJSON{Status: queueStatusJSON{"IN_PROGRESS"}}, nil
	}
	out := operationJSON{Status: queueStatusJSON{"COMPLETED"}, Operation: &resultJSON{Location: op.location, CheckpointID: op.checkpointID}}
	if op.err != nil {
		out.Operation = &resultJSON{FailureCause: newCause(op.err.Error())}
	}
	return out, nil
}

// savepointStatus also answers for jobs that are gone: a stop with a savepoint ends the job.
func (h *Handler) savepointStatus(r *http.Request) (any, error) {
	return h.jobOperation(r, savepointOperation)
}

func (h *Handler) checkpointStatus(r *http.Request) (any, error) {
	return h.jobOperation(r, checkpointOperation)
}

func (h *Handler) jobOperation(r *http.Request, kind operationKind) (any, error) {
	_, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	return h.operationStatus(r, kind, i.ID)
}

func (h *Handler) disposalStatus(r *http.Request) (any, error) {
	return h.operationStatus(r, disposalOperation, "")
}

type savepointRequestJSON struct {
	TargetDirectory *string `json:"target-directory"`
	CancelJob       bool    `json:"cancel-job"`
	FormatType      *string `json:"formatType"`
	TriggerID       *string `json:"triggerId"`
}

type stopRequestJSON struct {
	TargetDirectory *string `json:"targetDirectory"`
	Drain           bool    `json:"drain"`
	FormatType      *string `json:"formatType"`
	TriggerID       *string `json:"triggerId"`
}

type checkpointRequestJSON struct {
	CheckpointType *string `json:"checkpointType"`
	TriggerID      *string `json:"triggerId"`
}

type disposalRequestJSON struct {
	Path string `json:"savepoint-path"`
}

// runningJob finds a job that has not ended.
func (h *Handler) runningJob(r *http.Request) (Job, Info, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, Info{}, err
	}
	if _, ended := i.end(); ended {
		return nil, Info{}, fail(http.StatusConflict, "Job %s is %s: it has ended", HexID(i.ID), flinkState(i.state()))
	}
	return j, i, nil
}

// savepointLocation names a new savepoint in a directory, as Flink does.
func (h *Handler) savepointLocation(dir *string, i Info) (string, error) {
	where := h.SavepointDir
	if dir != nil && *dir != "" {
		where = *dir
	}
	if where == "" {
		return "", badRequest("name a target directory: this server has no directory for savepoints of its own")
	}
	scheme, _, ok := strings.Cut(where, ":")
	if !ok || scheme != "file" && scheme != "s3" {
		return "", badRequest("target directory %q: use file:///DIR or s3://BUCKET/PREFIX", where)
	}
	where = fileURL(where)
	return strings.TrimRight(where, "/") + "/savepoint-" + HexID(i.ID)[:6] + "-" + randomHex(6), nil
}

// fileURL is a location with as many slashes as there should be: Java writes file:/DIR.
func fileURL(location string) string {
	if rest, ok := strings.CutPrefix(location, "file:"); ok && !strings.HasPrefix(rest, "//") {
		return "file://" + rest
	}
	return location
}

func (h *Handler) triggerSavepoint(r *http.Request) (any, error) {
	var body savepointRequestJSON
	j, i, err := h.runningJob(r)
	if err == nil {
		err = decode(r, &body)
	}
	if err != nil {
		return nil, err
	}
	if body.CancelJob {
		return h.stopWithSavepoint(j, i, body.TargetDirectory, body.TriggerID, false)
	}
	location, err := h.savepointLocation(body.TargetDirectory, i)
	if err != nil {
		return nil, err
	}
	id, err := newTrigger(body.TriggerID)
	if err != nil {
		return nil, err
	}
	err = h.ops.start(operationID{savepointOperation, i.ID, id}, func(ctx context.Context, op *operation) {
		op.location = location
		_, op.err = j.Checkpoint(ctx, location)
	})
	return triggerJSON{id}, err
}

func (h *Handler) stop(r *http.Request) (any, error) {
	var body stopRequestJSON
	j, i, err := h.runningJob(r)
	if err == nil {
		err = decode(r, &body)
	}
	if err != nil {
		return nil, err
	}
	return h.stopWithSavepoint(j, i, body.TargetDirectory, body.TriggerID, body.Drain)
}

// stopWithSavepoint ends a job with a savepoint. Clients ask after it as after any savepoint.
func (h *Handler) stopWithSavepoint(j Job, i Info, dir, trigger *string, drain bool) (any, error) {
	location, err := h.savepointLocation(dir, i)
	if err != nil {
		return nil, err
	}
	id, err := newTrigger(trigger)
	if err != nil {
		return nil, err
	}
	err = h.ops.start(operationID{savepointOperation, i.ID, id}, func(ctx context.Context, op *operation) {
		op.location = location
		op.err = j.Stop(ctx, location, drain)
	})
	return triggerJSON{id}, err
}

// beamStop is what Beam's uber-jar client calls to cancel a job: there is no /jobs/ in its path, and no body.
func (h *Handler) beamStop(r *http.Request) (any, error) { return h.cancel(r) }

func (h *Handler) triggerCheckpoint(r *http.Request) (any, error) {
	var body checkpointRequestJSON
	j, i, err := h.runningJob(r)
	if err == nil {
		err = decode(r, &body)
	}
	if err != nil {
		return nil, err
	}
	id, err := newTrigger(body.TriggerID)
	if err != nil {
		return nil, err
	}
	err = h.ops.start(operationID{checkpointOperation, i.ID, id}, func(ctx context.Context, op *operation) {
		var n int64
		if n, op.err = j.Checkpoint(ctx, ""); op.err == nil {
			op.checkpointID = &n
		}
	})
	return triggerJSON{id}, err
}

func (h *Handler) disposeSavepoint(r *http.Request) (any, error) {
	var body disposalRequestJSON
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Path == "" {
		return nil, badRequest("savepoint-path is missing")
	}
	id := randomHex(16)
	err := h.ops.start(operationID{disposalOperation, "", id}, func(ctx context.Context, op *operation) {
		op.err = h.Cluster.DisposeSavepoint(ctx, fileURL(body.Path))
	})
	return triggerJSON{id}, err
}

func (h *Handler) shutdown(*http.Request) (any, error) {
	h.log.Info("asked to shut down by REST")
	h.Cluster.Shutdown()
	return empty{}, nil
}

// cancel ends a job at once.
func (h *Handler) cancel(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	switch mode := r.URL.Query().Get("mode"); mode {
	case "", "cancel":
	case "stop":
		return nil, badRequest("mode=stop is no more: POST to stop")
	default:
		return nil, badRequest("mode %q: use cancel", mode)
	}
	switch state := flinkState(i.state()); {
	case state == "CANCELED": // once more does no harm
	case terminal(state):
		return nil, fail(http.StatusConflict, "Job cancellation failed because the job has already reached another terminal state (%s).", state)
	default:
		j.Cancel()
	}
	return empty{}, nil
}
