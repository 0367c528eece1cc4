package web

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// flinkVersion is the version of Flink whose REST API this is: clients choose their behaviour by it.
const flinkVersion = "1.20.3"

// refresh is how often Flink's web UI asks again, in milliseconds.
const refresh = 3000

// Config is what a handler needs. Cluster and Logger are required.
type Config struct {
	Cluster Cluster
	// Revision of this program, shown where Flink shows its commit.
	Revision string
	Logger   *slog.Logger
}

// NewHandler serves REST, /metrics and /healthz.
func NewHandler(cfg Config) (http.Handler, error) {
	registry, err := newRegistry(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	h := &handler{Config: cfg}
	r := chi.NewRouter()
	r.NotFound(h.notFound)
	r.MethodNotAllowed(h.notFound) // as Flink does
	r.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	h.rest(r)
	r.Route("/v1", h.rest)
	return r, nil
}

type handler struct{ Config }

func (h *handler) rest(r chi.Router) {
	r.Get("/overview", h.overview)
	r.Get("/config", h.config)
	r.Get("/jobs", h.jobs)
	r.Get("/jobs/overview", h.jobsOverview)
	r.Get("/jobs/{id}", h.job)
}

func (h *handler) overview(w http.ResponseWriter, _ *http.Request) {
	o := overviewJSON{
		TaskManagers: 1, SlotsTotal: h.Cluster.Slots(), SlotsAvailable: h.Cluster.Slots(),
		FlinkVersion: flinkVersion, FlinkCommit: h.Revision,
	}
	for _, j := range h.Cluster.Jobs() {
		switch flinkState(j.state()) {
		case "FINISHED":
			o.JobsFinished++
		case "CANCELED":
			o.JobsCancelled++
		case "FAILED":
			o.JobsFailed++
		default:
			o.JobsRunning++
			o.SlotsAvailable = 0 // a job uses every slot, and jobs share them
		}
	}
	h.answer(w, http.StatusOK, o)
}

func (h *handler) config(w http.ResponseWriter, _ *http.Request) {
	zone, offset := time.Now().Zone()
	h.answer(w, http.StatusOK, configJSON{
		RefreshInterval: refresh, TimezoneName: zone, TimezoneOffset: offset * 1000,
		FlinkVersion: flinkVersion, FlinkRevision: h.Revision,
		Features: map[string]bool{"web-submit": false, "web-cancel": false, "web-rescale": false, "web-history": false},
	})
}

func (h *handler) jobs(w http.ResponseWriter, _ *http.Request) {
	ids := []jobIDJSON{}
	for _, j := range h.Cluster.Jobs() {
		ids = append(ids, jobIDJSON{ID: hexID(j.ID), Status: flinkState(j.state())})
	}
	h.answer(w, http.StatusOK, map[string]any{"jobs": ids})
}

func (h *handler) jobsOverview(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	list := []jobSummaryJSON{}
	for _, j := range h.Cluster.Jobs() {
		start, end, duration := times(j, now)
		tasks := counts(j, h.Cluster.Slots(), strings.ToLower)
		total := 0
		for _, n := range tasks {
			total += n
		}
		tasks["total"] = total
		list = append(list, jobSummaryJSON{
			JID: hexID(j.ID), Name: j.Name, StartTime: start, EndTime: end, Duration: duration, State: flinkState(j.state()),
			LastModification: j.Changes[len(j.Changes)-1].At.UnixMilli(), Tasks: tasks,
		})
	}
	h.answer(w, http.StatusOK, map[string]any{"jobs": list})
}

func (h *handler) job(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	jobs := h.Cluster.Jobs()
	i := slices.IndexFunc(jobs, func(j Job) bool { return j.ID == id || hexID(j.ID) == id })
	if i < 0 {
		h.fail(w, http.StatusNotFound, fmt.Sprintf("Job %s not found: GET /jobs lists the jobs", id))
		return
	}
	h.answer(w, http.StatusOK, jobDetails(jobs[i], h.Cluster.Slots(), time.Now()))
}

func (h *handler) notFound(w http.ResponseWriter, r *http.Request) {
	h.fail(w, http.StatusNotFound, fmt.Sprintf("Not found: %s %s", r.Method, r.URL.Path))
}

// fail answers with an error in Flink's shape.
func (h *handler) fail(w http.ResponseWriter, code int, text string) {
	h.answer(w, code, map[string]any{"errors": []string{text}})
}

func (h *handler) answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		h.Logger.Debug("answer was not sent", "error", err)
	}
}
