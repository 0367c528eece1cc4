package web

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
)

type checkpointsJSON struct {
	Counts  checkpointCountsJSON  `json:"counts"`
	Summary checkpointSummaryJSON `json:"summary"`
	Latest  latestJSON            `json:"latest"`
	History []checkpointJSON      `json:"history"`
}

type checkpointCountsJSON struct {
	Restored   int64 `json:"restored"`
	Total      int64 `json:"total"`
	InProgress int64 `json:"in_progress"`
	Completed  int64 `json:"completed"`
	Failed     int64 `json:"failed"`
}

// checkpointSummaryJSON are statistics over the completed checkpoints that are remembered. Nothing is aligned here, and no
// data passes while a cut is made, so both of these are 0. Persisted are the elements on their way between stages.
type checkpointSummaryJSON struct {
	CheckpointedSize quantilesJSON `json:"checkpointed_size"`
	StateSize        quantilesJSON `json:"state_size"`
	Duration         quantilesJSON `json:"end_to_end_duration"`
	Alignment        quantilesJSON `json:"alignment_buffered"`
	Processed        quantilesJSON `json:"processed_data"`
	Persisted        quantilesJSON `json:"persisted_data"`
}

type quantilesJSON struct {
	Min  int64 `json:"min"`
	Max  int64 `json:"max"`
	Avg  int64 `json:"avg"`
	P50  ratio `json:"p50"`
	P90  ratio `json:"p90"`
	P95  ratio `json:"p95"`
	P99  ratio `json:"p99"`
	P999 ratio `json:"p999"`
}

func quantiles(values []int64) quantilesJSON {
	if len(values) == 0 {
		nan := ratio(math.NaN())
		return quantilesJSON{P50: nan, P90: nan, P95: nan, P99: nan, P999: nan}
	}
	s := spread(values)
	v := slices.Sorted(slices.Values(values))
	at := func(p float64) ratio { return ratio(rank(v, p)) }
	return quantilesJSON{Min: s.Min, Max: s.Max, Avg: s.Avg, P50: at(0.5), P90: at(0.9), P95: at(0.95), P99: at(0.99), P999: at(0.999)}
}

// extremes are quantiles without percentiles: Flink has none over subtasks, and its clients know them as NaN.
func extremes(values []int64) quantilesJSON {
	out, none := quantiles(values), quantiles(nil)
	none.Min, none.Max, none.Avg = out.Min, out.Max, out.Avg
	return none
}

type latestJSON struct {
	Completed *checkpointJSON `json:"completed"`
	Savepoint *checkpointJSON `json:"savepoint"`
	Failed    *checkpointJSON `json:"failed"`
	Restored  *restoredJSON   `json:"restored"`
}

type restoredJSON struct {
	ID           int64  `json:"id"`
	At           int64  `json:"restore_timestamp"`
	IsSavepoint  bool   `json:"is_savepoint"`
	ExternalPath string `json:"external_path"`
}

// checkpointJSON is a checkpoint. Flink's Java client tells the kinds apart by className.
type checkpointJSON struct {
	ClassName        string                        `json:"className"`
	ID               int64                         `json:"id"`
	Status           string                        `json:"status"`
	IsSavepoint      bool                          `json:"is_savepoint"`
	SavepointFormat  *string                       `json:"savepointFormat"`
	Trigger          int64                         `json:"trigger_timestamp"`
	LatestAck        int64                         `json:"latest_ack_timestamp"`
	CheckpointedSize int64                         `json:"checkpointed_size"`
	StateSize        int64                         `json:"state_size"`
	Duration         int64                         `json:"end_to_end_duration"`
	Alignment        int64                         `json:"alignment_buffered"`
	Processed        int64                         `json:"processed_data"`
	Persisted        int64                         `json:"persisted_data"`
	Subtasks         int                           `json:"num_subtasks"`
	Acknowledged     int                           `json:"num_acknowledged_subtasks"`
	Type             string                        `json:"checkpoint_type"`
	Tasks            map[string]taskCheckpointJSON `json:"tasks"`
	// Of completed ones.
	ExternalPath *string `json:"external_path,omitempty"`
	Discarded    *bool   `json:"discarded,omitempty"`
	// Of failed ones.
	FailedAt *int64  `json:"failure_timestamp,omitempty"`
	Failure  *string `json:"failure_message,omitempty"`
}

// taskCheckpointJSON is the part of a stage. The size of its state is that of keys and values (estimated if it is large), not of
// files as that of the whole checkpoint, and has what was on its way to the stage in it, as Flink's has; -1: not known. What of it
// was uploaded is known of the whole checkpoint only: -1.
type taskCheckpointJSON struct {
	ID               int64  `json:"id"`
	Status           string `json:"status"`
	LatestAck        int64  `json:"latest_ack_timestamp"`
	CheckpointedSize int64  `json:"checkpointed_size"`
	StateSize        int64  `json:"state_size"`
	Duration         int64  `json:"end_to_end_duration"`
	Alignment        int64  `json:"alignment_buffered"`
	Processed        int64  `json:"processed_data"`
	Persisted        int64  `json:"persisted_data"`
	Subtasks         int    `json:"num_subtasks"`
	Acknowledged     int    `json:"num_acknowledged_subtasks"`
}

// notAddressable is Flink's word for a checkpoint that no other job can be started from: only the same one resumes from it.
const notAddressable = "<checkpoint-not-externally-addressable>"

func externalPath(c Checkpoint) string {
	if c.Savepoint != "" {
		return c.Savepoint
	}
	return notAddressable
}

func newCheckpoint(c Checkpoint, subtasks int) checkpointJSON {
	out := checkpointJSON{
		ClassName: "in_progress", ID: c.ID, Status: c.Status, IsSavepoint: c.Savepoint != "", Trigger: c.Started.UnixMilli(),
		LatestAck: -1, CheckpointedSize: c.Uploaded, StateSize: c.Size, Persisted: c.InFlightBytes, Duration: c.duration(time.Now()), Subtasks: subtasks,
		Type: "UNALIGNED_CHECKPOINT", Tasks: map[string]taskCheckpointJSON{},
	}
	if out.IsSavepoint {
		out.Type, out.SavepointFormat = "SAVEPOINT", new("NATIVE")
	}
	switch c.Status {
	case "COMPLETED":
		out.ClassName, out.LatestAck, out.Acknowledged = "completed", c.Ended.UnixMilli(), subtasks
		out.ExternalPath, out.Discarded = new(externalPath(c)), new(false)
	case "FAILED":
		out.ClassName, out.FailedAt, out.Failure = "failed", new(c.Ended.UnixMilli()), new(c.Error)
	}
	return out
}

// duration is from the wish to the end, or to now, in milliseconds.
func (c Checkpoint) duration(now time.Time) int64 {
	if !c.Ended.IsZero() {
		now = c.Ended
	}
	return max(0, now.Sub(c.Started).Milliseconds())
}

func (h *Handler) checkpoints(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	c := j.Checkpoints()
	subtasks := i.Slots * len(h.stages(j, i).all)
	out := checkpointsJSON{
		Counts:  checkpointCountsJSON{c.Restored, c.Total, c.InProgress, c.Completed, c.Failed},
		History: []checkpointJSON{},
	}
	var size, uploaded, duration, persisted, none []int64
	for _, p := range c.History {
		p := newCheckpoint(p, subtasks)
		out.History = append(out.History, p)
		switch {
		case p.Status == "FAILED" && out.Latest.Failed == nil:
			out.Latest.Failed = &p
		case p.Status == "COMPLETED" && p.IsSavepoint && out.Latest.Savepoint == nil:
			out.Latest.Savepoint = &p
		case p.Status == "COMPLETED" && !p.IsSavepoint && out.Latest.Completed == nil:
			out.Latest.Completed = &p
		}
		if p.Status == "COMPLETED" {
			size, uploaded = append(size, p.StateSize), append(uploaded, p.CheckpointedSize)
			duration, persisted, none = append(duration, p.Duration), append(persisted, p.Persisted), append(none, 0)
		}
	}
	if p := c.LatestRestored; p != nil {
		out.Latest.Restored = &restoredJSON{ID: p.ID, At: p.Restored.UnixMilli(), IsSavepoint: p.Savepoint != "", ExternalPath: externalPath(*p)}
	}
	out.Summary = checkpointSummaryJSON{
		quantiles(uploaded), quantiles(size), quantiles(duration), quantiles(none), quantiles(none), quantiles(persisted),
	}
	return out, nil
}

type checkpointConfigJSON struct {
	Mode               string                        `json:"mode"`
	Interval           int64                         `json:"interval"`
	Timeout            int64                         `json:"timeout"`
	MinPause           int64                         `json:"min_pause"`
	MaxConcurrent      int                           `json:"max_concurrent"`
	Externalization    checkpointExternalizationJSON `json:"externalization"`
	StateBackend       string                        `json:"state_backend"`
	Storage            string                        `json:"checkpoint_storage"`
	Unaligned          bool                          `json:"unaligned_checkpoints"`
	TolerableFailures  int                           `json:"tolerable_failed_checkpoints"`
	AlignedTimeout     int64                         `json:"aligned_checkpoint_timeout"`
	AfterTasksFinish   bool                          `json:"checkpoints_after_tasks_finish"`
	ChangelogEnabled   bool                          `json:"state_changelog_enabled"`
	ChangelogInterval  int64                         `json:"changelog_periodic_materialization_interval"`
	ChangelogStorage   string                        `json:"changelog_storage"`
	CheckpointLocation string                        `json:"checkpoint_location"`
}

type checkpointExternalizationJSON struct {
	Enabled              bool `json:"enabled"`
	DeleteOnCancellation bool `json:"delete_on_cancellation"`
}

// forever is Flink's Long.MAX_VALUE: no limit, or no checkpoints.
const forever = math.MaxInt64

// checkpointConfig: a checkpoint holds what is between the stages, as Flink's unaligned ones, and is pursued until it is
// complete or the job ends.
func (h *Handler) checkpointConfig(r *http.Request) (any, error) {
	j, _, err := h.job(r)
	if err != nil {
		return nil, err
	}
	c := j.Checkpoints()
	out := checkpointConfigJSON{
		Mode: "exactly_once", Interval: forever, Timeout: forever, MaxConcurrent: 1,
		Externalization: checkpointExternalizationJSON{Enabled: c.Enabled, DeleteOnCancellation: true},
		StateBackend:    "Pebble", Storage: "none", Unaligned: true, TolerableFailures: math.MaxInt32, AfterTasksFinish: true,
		ChangelogInterval: 0, ChangelogStorage: "none", CheckpointLocation: c.Location,
	}
	if c.Enabled {
		out.Interval, out.Storage = c.Interval.Milliseconds(), "object store"
	}
	return out, nil
}

// checkpoint finds the checkpoint of a request's path.
func (h *Handler) checkpoint(r *http.Request) (Job, Info, Checkpoint, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, Info{}, Checkpoint{}, err
	}
	id, err := strconv.ParseInt(chi.URLParam(r, "checkpoint"), 10, 64)
	if err != nil {
		return nil, Info{}, Checkpoint{}, badRequest("%q is no checkpoint id: it is a number", chi.URLParam(r, "checkpoint"))
	}
	for _, c := range j.Checkpoints().History {
		if c.ID == id {
			return j, i, c, nil
		}
	}
	return nil, Info{}, Checkpoint{}, missing("Checkpoint %d not found: only the newest ones are remembered", id)
}

func newTaskCheckpoint(c Checkpoint, stage string, slots int) taskCheckpointJSON {
	out := taskCheckpointJSON{
		ID: c.ID, Status: c.Status, LatestAck: -1, CheckpointedSize: -1, StateSize: -1, Duration: c.duration(time.Now()), Subtasks: slots,
	}
	if c.Status == "COMPLETED" {
		out.LatestAck, out.Acknowledged = c.Ended.UnixMilli(), slots
	}
	if s, ok := c.stage(stage); ok {
		out.Persisted = s.InFlight
		if s.State >= 0 {
			out.StateSize = s.State + s.InFlight
		}
	}
	return out
}

func (h *Handler) checkpointDetails(r *http.Request) (any, error) {
	j, i, c, err := h.checkpoint(r)
	if err != nil {
		return nil, err
	}
	stages := h.stages(j, i).all
	out := newCheckpoint(c, i.Slots*len(stages))
	for _, s := range stages {
		out.Tasks[HexID(s.Name)] = newTaskCheckpoint(c, s.Name, i.Slots)
	}
	return out, nil
}

type vertexCheckpointJSON struct {
	taskCheckpointJSON
	Summary  vertexCheckpointSummaryJSON `json:"summary"`
	Subtasks []subtaskCheckpointJSON     `json:"subtasks"`
}

type vertexCheckpointSummaryJSON struct {
	CheckpointedSize quantilesJSON          `json:"checkpointed_size"`
	StateSize        quantilesJSON          `json:"state_size"`
	Duration         quantilesJSON          `json:"end_to_end_duration"`
	Checkpoint       checkpointDurationJSON `json:"checkpoint_duration"`
	Alignment        alignmentSummaryJSON   `json:"alignment"`
	StartDelay       quantilesJSON          `json:"start_delay"`
}

type checkpointDurationJSON struct {
	Sync  quantilesJSON `json:"sync"`
	Async quantilesJSON `json:"async"`
}

type alignmentSummaryJSON struct {
	Buffered  quantilesJSON `json:"buffered"`
	Processed quantilesJSON `json:"processed"`
	Persisted quantilesJSON `json:"persisted"`
	Duration  quantilesJSON `json:"duration"`
}

type subtaskCheckpointJSON struct {
	ClassName        string                      `json:"className"`
	Index            int                         `json:"index"`
	Status           string                      `json:"status"`
	Ack              int64                       `json:"ack_timestamp"`
	Duration         int64                       `json:"end_to_end_duration"`
	CheckpointedSize int64                       `json:"checkpointed_size"`
	StateSize        int64                       `json:"state_size"`
	Checkpoint       subtaskCheckpointPhasesJSON `json:"checkpoint"`
	Alignment        subtaskAlignmentJSON        `json:"alignment"`
	StartDelay       int64                       `json:"start_delay"`
	Unaligned        bool                        `json:"unaligned_checkpoint"`
	Aborted          bool                        `json:"aborted"`
}

type subtaskCheckpointPhasesJSON struct {
	Sync  int64 `json:"sync"`
	Async int64 `json:"async"`
}

type subtaskAlignmentJSON struct {
	Buffered  int64 `json:"buffered"`
	Processed int64 `json:"processed"`
	Persisted int64 `json:"persisted"`
	Duration  int64 `json:"duration"`
}

// ofSubtask is the part of each of a stage's subtasks in a size: of a size by stage it is known only if there is one, or nothing
// to share; else -1.
func ofSubtask(size int64, slots int) int64 {
	if slots == 1 || size == 0 {
		return size
	}
	return -1
}

// vertexCheckpoint: one cut is made of all stages together, so all subtasks have its times: sync is how long commits waited,
// async the upload.
func (h *Handler) vertexCheckpoint(r *http.Request) (any, error) {
	_, i, c, err := h.checkpoint(r)
	if err != nil {
		return nil, err
	}
	_, _, stage, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	out := vertexCheckpointJSON{taskCheckpointJSON: newTaskCheckpoint(c, stage.Name, i.Slots), Subtasks: []subtaskCheckpointJSON{}}
	sync := c.Pause.Milliseconds()
	async := max(0, out.Duration-sync)
	state, persisted := ofSubtask(out.StateSize, i.Slots), ofSubtask(out.Persisted, i.Slots)
	for k := range i.Slots {
		s := subtaskCheckpointJSON{ClassName: "pending", Index: k, Status: "pending_or_failed"}
		if c.Status == "COMPLETED" {
			s = subtaskCheckpointJSON{
				ClassName: "completed", Index: k, Status: "completed", Ack: out.LatestAck, Duration: out.Duration, CheckpointedSize: -1,
				StateSize: state, Checkpoint: subtaskCheckpointPhasesJSON{sync, async}, Alignment: subtaskAlignmentJSON{Persisted: persisted},
				Unaligned: true,
			}
		}
		out.Subtasks = append(out.Subtasks, s)
	}
	var unknown, states, inFlight, duration, pause, upload, none []int64
	if c.Status == "COMPLETED" {
		for range i.Slots {
			unknown, duration, none = append(unknown, -1), append(duration, out.Duration), append(none, 0)
			pause, upload = append(pause, sync), append(upload, async)
			states, inFlight = append(states, state), append(inFlight, persisted)
		}
	}
	zero := extremes(none)
	out.Summary = vertexCheckpointSummaryJSON{
		CheckpointedSize: extremes(unknown), StateSize: extremes(states), Duration: extremes(duration),
		Checkpoint: checkpointDurationJSON{extremes(pause), extremes(upload)},
		Alignment:  alignmentSummaryJSON{quantiles(none), zero, extremes(inFlight), zero}, StartDelay: zero,
	}
	return out, nil
}
