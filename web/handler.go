package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
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
	// Logs are what the pages with logs show; nil: nothing.
	Logs *Logs
	// Address is the host:port under which clients reach this server.
	Address string
	// JobEndpoint is the host:port of the Job API, which the UI shows to those who want to submit a job.
	JobEndpoint string
	// JarDir is a directory of the handler's own for uploaded jars: what is in it is removed. "": jars cannot be uploaded.
	JarDir string
	// SavepointDir is where savepoints go when a client names no directory; "": it has to.
	SavepointDir string

	// Token is what every call but health checks must bring; "": none.
	Token string
	// ClientCerts: a caller with a certificate that TLS has verified needs no token, and without Token one is needed.
	ClientCerts bool
	// ReadOnly refuses every call that changes something.
	ReadOnly bool
	// Hosts are the names, in lower case and without port, under which this server may be called, besides IP addresses. None:
	// any.
	Hosts []string
	// MaxBody bounds the body of a request, MaxJar that of a jar's upload, in bytes. Defaults: 1 MiB and 1 GiB.
	MaxBody, MaxJar int64
}

// Handler serves REST, /metrics and health checks. Goroutine safe.
type Handler struct {
	Config
	log       *slog.Logger
	router    http.Handler
	origins   *http.CrossOriginProtection
	meter     *meter
	snapshots *snapshots
	shared    *sharedAnswers
	dumps     threadDumps
	ops       *operations
	jars      *jarStore
	flames    *flames
	history   *history
	live      *live

	mu              sync.Mutex
	requirements    map[string]requirements // by job's id
	rescaleFailures map[string][]Failure    // by job's id
}

// NewHandler makes a handler. Run may be called for it, Close must.
func NewHandler(cfg Config) (*Handler, error) {
	if cfg.Cluster == nil || cfg.Logger == nil {
		return nil, errors.New("web config: Cluster and Logger are required")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.MaxJar == 0 {
		cfg.MaxJar = 1 << 30
	}
	if cfg.Logs == nil {
		cfg.Logs = NewLogs(0)
	}
	registry, err := newRegistry(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		Config: cfg, log: cfg.Logger, origins: http.NewCrossOriginProtection(), meter: newMeter(), snapshots: newSnapshots(),
		shared:  newSharedAnswers(),
		history: newHistory(), live: newLive(liveInterval), flames: newFlames(profileProcess, cfg.Logger),
		requirements: make(map[string]requirements), rescaleFailures: make(map[string][]Failure),
	}
	h.ops = newOperations(h.shared.changed)
	if h.jars, err = newJarStore(cfg.JarDir); err != nil {
		return nil, err
	}
	r := chi.NewRouter()
	r.NotFound(h.notFound)
	r.MethodNotAllowed(h.notFound) // as Flink does
	r.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
	}))
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	r.Get("/readyz", h.ready)
	document, err := h.document()
	if err != nil {
		return nil, err
	}
	for _, prefix := range []string{"", "/v1"} {
		for _, rt := range h.routes() {
			r.Method(rt.method, prefix+rt.path, h.serve(rt))
		}
		r.Get(prefix+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) { h.send(w, http.StatusOK, document) })
	}
	if err := h.mountUI(r); err != nil {
		return nil, err
	}
	h.router = h.guard(r)
	return h, nil
}

// document is the OpenAPI document as it is sent.
func (h *Handler) document() (encoded, error) {
	text, err := openAPI(h.routes())
	if err != nil {
		return encoded{}, err
	}
	return encode(text)
}

// ServeHTTP answers one request. A panic fails that request only.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("REST call panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			h.answer(w, http.StatusInternalServerError, errorsJSON{[]string{"internal error: see the log"}})
		}
	}()
	h.router.ServeHTTP(w, r)
}

// Run takes samples until ctx ends, so that rates are there when somebody asks for the first time. It then ends the pages
// that are open, and returns nil.
func (h *Handler) Run(ctx context.Context) error {
	defer h.live.close()
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			h.sampleAll(now)
		}
	}
}

func (h *Handler) sampleAll(now time.Time) {
	jobs := h.Cluster.Jobs()
	known, ended := make(map[string]bool), make(map[string]bool)
	due := h.history.due(now)
	for _, j := range jobs {
		i := j.Info()
		known[i.ID] = true
		if _, ended[i.ID] = i.end(); ended[i.ID] {
			continue
		}
		stages := j.Stages()
		h.meter.sample(i, stages, now)
		if due && flinkState(i.state()) == "RUNNING" {
			h.history.add(i, stages, h.meter.rates(i, stages, now), now)
		}
	}
	if due {
		h.history.addProcess(h.Cluster.Memory(), readMemory())
	}
	h.meter.keep(known)
	h.snapshots.forget()
	h.shared.forget(now)
	h.history.keep(ended)
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.requirements, func(id string, _ requirements) bool { return !known[id] })
	maps.DeleteFunc(h.rescaleFailures, func(id string, _ []Failure) bool { return !known[id] })
}

// Close ends open pages and operations under way, and waits for them. It removes uploaded jars.
func (h *Handler) Close() error {
	h.live.close()
	h.flames.close()
	h.ops.close()
	return h.jars.close()
}

// serve makes an http.Handler of a route.
func (h *Handler) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rt.changes {
			if err := h.mayChange(r); err != nil {
				h.fail(w, err)
				return
			}
		}
		limit := h.MaxBody
		if rt.upload {
			limit = h.MaxJar
		}
		r.Body = patiently(w, http.MaxBytesReader(w, r.Body, limit), rt.upload)
		answer, err := h.ask(rt, r)
		if err != nil {
			h.fail(w, err)
			return
		}
		h.send(w, rt.status, answer)
	})
}

// ask makes a route's answer, or takes a shared one.
func (h *Handler) ask(rt route, r *http.Request) (encoded, error) {
	if rt.changes {
		defer h.shared.changed()
	}
	own := func() (encoded, error) {
		body, err := rt.serve(r)
		if err != nil {
			return encoded{}, err
		}
		return encode(body)
	}
	if rt.shared {
		return h.share(r, own)
	}
	return own()
}

func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := h.Cluster.Ready(ctx); err != nil {
		h.answer(w, http.StatusServiceUnavailable, errorsJSON{[]string{err.Error()}})
		return
	}
	fmt.Fprintln(w, "ok")
}

func (h *Handler) notFound(w http.ResponseWriter, r *http.Request) {
	h.fail(w, missing("Not found: %s %s", r.Method, strings.ToValidUTF8(r.URL.Path, "?")))
}

// find finds a job by its own id or by the hex one; nil: there is none.
func (h *Handler) find(id string) Job {
	for _, j := range h.Cluster.Jobs() {
		if j.ID() == id || HexID(j.ID()) == id {
			return j
		}
	}
	return nil
}

// job finds the job of a request's path, by its own id or by the hex one.
func (h *Handler) job(r *http.Request) (Job, Info, error) {
	id := chi.URLParam(r, "job")
	if j := h.find(id); j != nil {
		return j, j.Info(), nil
	}
	if !isHexID(id) {
		return nil, Info{}, badRequest("%q is no job id: it has 32 hex digits. GET /jobs lists the jobs", id)
	}
	return nil, Info{}, missing("Job %s not found: GET /jobs lists the jobs", id)
}

// vertex finds the stage of a request's path.
func (h *Handler) vertex(r *http.Request) (Job, Info, Stage, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, Info{}, Stage{}, err
	}
	id := chi.URLParam(r, "vertex")
	if !isHexID(id) {
		return nil, Info{}, Stage{}, badRequest("%q is no vertex id: it has 32 hex digits", id)
	}
	stages := h.stages(j, i)
	if k, ok := stages.byID[id]; ok {
		return j, i, stages.all[k], nil
	}
	return nil, Info{}, Stage{}, missing("Vertex %s not found in job %s", id, HexID(i.ID))
}

func isHexID(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 32
}
