package web

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
)

// StoredJob is a job in the store of the checkpoints.
type StoredJob struct {
	Identity   string    // its directory in the store
	ID, Name   string    // of the job that had it last
	Changed    time.Time // when something was written last
	Running    bool      // here
	Ended      bool      // nothing goes on with it
	How        string    // it ended
	Checkpoint int64     // id of the newest one
	At         time.Time // when that was made; the zero time: there is none
	Size       int64     // of it, bytes
}

// Forgotten is what was removed of a job.
type Forgotten struct {
	Objects int
	Bytes   int64
}

// ConflictError refuses what cannot be done as things are.
type ConflictError struct{ Err error }

func (e *ConflictError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *ConflictError) Unwrap() error { return e.Err }

type storedJobsJSON struct {
	Jobs []storedJobJSON `json:"jobs"`
}

// storedJobJSON: times are ms, -1 if there is no checkpoint.
type storedJobJSON struct {
	ID           string `json:"id"`  // of the place in the store
	JID          string `json:"jid"` // of the job that had it last, as everywhere
	Name         string `json:"name"`
	State        string `json:"state"` // RUNNING: here. KEPT: it can go on. ENDED: it cannot
	How          string `json:"how,omitempty"`
	Changed      int64  `json:"last-modification"`
	CheckpointID int64  `json:"checkpoint-id"`
	CheckpointAt int64  `json:"checkpoint-timestamp"`
	Size         int64  `json:"checkpoint-size"`
}

func newStoredJob(s StoredJob) storedJobJSON {
	out := storedJobJSON{
		ID: HexID(s.Identity), JID: HexID(s.ID), Name: s.Name, State: "KEPT", How: s.How, Changed: s.Changed.UnixMilli(),
		CheckpointID: -1, CheckpointAt: -1,
	}
	if !s.At.IsZero() {
		out.CheckpointID, out.CheckpointAt, out.Size = s.Checkpoint, s.At.UnixMilli(), s.Size
	}
	switch {
	case s.Running:
		out.State = "RUNNING"
	case s.Ended:
		out.State = "ENDED"
	}
	return out
}

// storedJobs are what --checkpoints holds, also of jobs that this process has never run.
func (h *Handler) storedJobs(r *http.Request) (any, error) {
	all, err := h.Cluster.Stored(r.Context())
	if err != nil {
		return nil, unreachable(err)
	}
	out := storedJobsJSON{Jobs: []storedJobJSON{}}
	for _, s := range all {
		out.Jobs = append(out.Jobs, newStoredJob(s))
	}
	return out, nil
}

// unreachable: the store does not answer.
func unreachable(err error) error {
	return fail(http.StatusServiceUnavailable, "the store of the checkpoints: %v", err)
}

type forgottenJSON struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// forgetJob frees a job's name: nothing goes on with what it has saved.
func (h *Handler) forgetJob(r *http.Request) (any, error) {
	force := false
	switch given := r.URL.Query().Get("force"); given {
	case "", "false":
	case "true":
		force = true
	default:
		return nil, badRequest("force=%q: use true or false", given)
	}
	s, err := h.stored(r)
	if err != nil {
		return nil, err
	}
	f, err := h.Cluster.Forget(r.Context(), s.Identity, force)
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		return nil, fail(http.StatusConflict, "%v", err)
	case err != nil:
		return nil, unreachable(fmt.Errorf("%w; what is left goes when it is asked for again", err))
	}
	h.log.Info("forgot what the store held of a job", "name", s.Name, "job", s.ID, "objects", f.Objects, "bytes", f.Bytes)
	return forgottenJSON{s.Name, f.Objects, f.Bytes}, nil
}

// stored finds the job of a request's path in the store, by the id of its place or by its own.
func (h *Handler) stored(r *http.Request) (StoredJob, error) {
	id := chi.URLParam(r, "stored")
	if !isHexID(id) {
		return StoredJob{}, badRequest("%q is no id: it has 32 hex digits. GET /stored-jobs lists the jobs", id)
	}
	all, err := h.Cluster.Stored(r.Context())
	if err != nil {
		return StoredJob{}, unreachable(err)
	}
	for _, s := range all {
		if HexID(s.Identity) == id || HexID(s.ID) == id {
			return s, nil
		}
	}
	return StoredJob{}, missing("The store has no job %s: GET /stored-jobs lists them", id)
}
