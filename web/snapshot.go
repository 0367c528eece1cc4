package web

import (
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const (
	// stagesAge is how old the stages of a running job, and the process's memory, may be when they are shown, metricsAge how old the metrics of its user
	// code. A look at stages takes the lock of the job's scheduler; metrics are decoded one by one. So clients who all ask at
	// once must not cost the job one look each.
	stagesAge  = 200 * time.Millisecond
	metricsAge = time.Second
)

// snapshots are the newest looks at jobs and at the process, for all who ask. Goroutine safe.
type snapshots struct {
	mu   sync.Mutex
	jobs map[string]*snapshot // by the job's id

	memory memorySnapshot
}

// memorySnapshot is a look at the memory of the process, for which files of the kernel are read.
type memorySnapshot struct {
	mu    sync.Mutex
	at    time.Time
	parts Memory
	inGo  goMemory
}

// memory returns the memory of the process, as it was at most stagesAge ago.
func (h *Handler) memory() (Memory, goMemory) {
	m := &h.snapshots.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.at) >= stagesAge {
		m.at, m.parts, m.inGo = now, h.Cluster.Memory(), readMemory()
	}
	return m.parts, m.inGo
}

func newSnapshots() *snapshots { return &snapshots{jobs: make(map[string]*snapshot)} }

// snapshot is a look at a job. Whoever finds it too old takes another one, while others wait for that.
type snapshot struct {
	mu      sync.Mutex
	stages  stages
	metrics jobMetricInfos

	latencies latencySnapshot
}

// latencySnapshot are the latencies of a job as metrics. They are shared: nobody may change them.
type latencySnapshot struct {
	epoch
	all []measure
}

// epoch tells looks apart that must not be mistaken for each other however young they are: what is final when a job has ended
// must be seen then.
type epoch struct {
	at                       time.Time
	changes, slots, restarts int
}

func newEpoch(i Info) epoch {
	return epoch{at: time.Now(), changes: len(i.Changes), slots: i.Slots, restarts: i.Restarts}
}

// serves reports whether a look of this epoch will do for another one.
func (e epoch) serves(now epoch, age time.Duration) bool {
	return e.changes == now.changes && e.slots == now.slots && e.restarts == now.restarts && now.at.Sub(e.at) < age
}

// stages are those of a job, in topological order. They are shared: nobody may change them.
type stages struct {
	epoch
	all  []Stage
	byID map[string]int // index by vertex id
}

// jobMetricInfos are the metrics of a job. They are shared: nobody may change them.
type jobMetricInfos struct {
	epoch
	attempted, committed []*pipepb.MonitoringInfo
	user                 []userMetric     // of the committed ones
	answer               accumulatorsJSON // of the call for all of them
}

func (s *snapshots) of(id string) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.jobs[id] == nil {
		s.jobs[id] = &snapshot{}
	}
	return s.jobs[id]
}

// forget drops everything. It is called now and then, so that ended jobs and jobs that nobody asks about take no memory.
func (s *snapshots) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.jobs)
}

// stages returns the stages of a job, at most stagesAge old. The info must be older than the look.
func (h *Handler) stages(j Job, i Info) stages {
	s := h.snapshots.of(i.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := newEpoch(i); s.stages.byID == nil || !s.stages.serves(e, stagesAge) {
		s.stages = stages{epoch: e, all: j.Stages(), byID: make(map[string]int)}
		for k, stage := range s.stages.all {
			s.stages.byID[HexID(stage.Name)] = k
		}
	}
	return s.stages
}

// metrics returns the metrics of a job, at most metricsAge old.
func (h *Handler) metrics(j Job, i Info) (jobMetricInfos, error) {
	s := h.snapshots.of(i.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := newEpoch(i)
	if s.metrics.answer.User != nil && s.metrics.serves(e, metricsAge) {
		return s.metrics, nil
	}
	m := jobMetricInfos{epoch: e}
	m.attempted, m.committed = j.Metrics()
	m.user = userMetrics(m.committed)
	var err error
	if m.answer, err = newAccumulators(m); err != nil {
		return m, err
	}
	s.metrics = m
	return m, nil
}
