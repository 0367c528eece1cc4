package web

import (
	"slices"
	"time"
)

// harnessesView are the harnesses of a job, or of all jobs if it has no id.
type harnessesView struct {
	ofJob
	logged uint64 // number of the line to come when tails was made
	tails  map[string][]logLineJSON
}

type harnessesJSON struct {
	T    string            `json:"t"`
	List []liveHarnessJSON `json:"list"`
}

type liveHarnessJSON struct {
	Job         string        `json:"job"`
	JobName     string        `json:"jobName"`
	Environment string        `json:"environment"`
	From        string        `json:"from"`
	Index       int           `json:"index"`
	Worker      string        `json:"worker"` // "": none is connected
	PID         int           `json:"pid"`    // 0: not a child of this process
	Resident    maybe         `json:"resident"`
	Since       int64         `json:"since"` // ms since the epoch; 0: not connected
	LastCall    int64         `json:"lastCall"`
	Running     int           `json:"running"`
	Bundles     int64         `json:"bundles"`
	Restarts    int           `json:"restarts"`
	Tries       int           `json:"tries"`
	Error       string        `json:"error,omitempty"`
	Log         []logLineJSON `json:"log,omitempty"` // its newest lines
}

// harnesses of jobs that have not ended.
func (h *Handler) harnesses(jobs []Job) []liveHarnessJSON {
	out := []liveHarnessJSON{}
	for _, j := range jobs {
		i := j.Info()
		for _, x := range j.Harnesses() {
			one := liveHarnessJSON{
				Job: i.ID, JobName: i.Name, Environment: x.Environment, From: x.From, Index: x.Index, Worker: x.Worker, PID: x.PID,
				Resident: known(x.Resident), Running: x.Running, Bundles: x.Bundles, Restarts: x.Restarts, Tries: x.Tries, Error: x.Error,
			}
			if !x.Since.IsZero() {
				one.Since, one.LastCall = x.Since.UnixMilli(), x.LastCall.UnixMilli()
			}
			out = append(out, one)
		}
	}
	return out
}

func (v *harnessesView) update(now time.Time) error {
	values := []any{clock(now)}
	jobs := v.h.Cluster.Jobs()
	if v.id != "" {
		l, err := v.look(now)
		if err != nil {
			return err
		}
		jobs, values = []Job{l.job}, append(values, l.shown)
	}
	out := harnessesJSON{T: "harnesses", List: v.h.harnesses(jobs)}
	v.tail()
	for k := range out.List {
		out.List[k].Log = v.tails[out.List[k].Worker]
	}
	return v.set(append(values, out)...)
}

// tailLines is how many lines of its log are shown with a harness.
const tailLines = 8

// tail finds the newest lines of each harness. It reads what is new since the last time.
func (v *harnessesView) tail() {
	if v.tails == nil {
		v.tails = make(map[string][]logLineJSON)
	}
	lines, first, next := v.h.Logs.since(v.logged)
	v.logged = next
	for k, raw := range lines {
		l := parseLine(raw)
		l.N = first + uint64(k)
		id := l.attr("worker")
		if id == "" {
			continue
		}
		list := append(v.tails[id], l)
		v.tails[id] = list[max(0, len(list)-tailLines):]
	}
	if len(v.tails) > 4*maxPages { // harnesses that are long gone
		clear(v.tails)
	}
}

// memoryView is where the memory of the process and of its harnesses is.
type memoryView struct {
	parts
	h *Handler
}

// memoryJSON are bytes; null: not known.
type memoryJSON struct {
	T         string            `json:"t"`
	Resident  maybe             `json:"resident"`
	Limit     int64             `json:"limit"`
	Parts     []memoryPartJSON  `json:"parts"` // sum up to resident, if that is known
	Pool      useJSON           `json:"pool"`
	Spilled   int64             `json:"spilled"`
	State     useJSON           `json:"stateCache"` // blocks and memtables
	Heap      int64             `json:"heap"`       // objects, those that are no longer used included
	Mapped    int64             `json:"mapped"`     // by Go's runtime, whether or not it is in memory
	GC        int64             `json:"gc"`         // collections so far
	GCMillis  int64             `json:"gcMillis"`
	CPUMillis int64             `json:"cpuMillis"`
	Routines  int64             `json:"goroutines"`
	Harnesses []liveHarnessJSON `json:"harnesses"`
}

type useJSON struct {
	Used  maybe `json:"used"`
	Limit int64 `json:"limit"`
}

type memoryPartJSON struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

func (v *memoryView) update(now time.Time) error {
	m, g := v.h.memory()
	out := memoryJSON{
		T: "memory", Resident: known(m.Resident), Limit: m.Limit, Parts: memoryParts(m, g), Pool: useJSON{maybe(m.PoolUsed), m.PoolLimit},
		Spilled: m.PoolSpilled, State: useJSON{m.state(), m.CacheLimit}, Heap: g.heapUsed, Mapped: g.heapCommitted + g.stacks + g.other,
		GC: g.gcCount, GCMillis: g.gcMillis, CPUMillis: g.cpuMillis, Routines: g.goroutines, Harnesses: v.h.harnesses(v.h.Cluster.Jobs()),
	}
	return v.set(clock(now), out, v.h.history.all())
}

// memoryParts divides what is resident. Buffers and the state's memory are objects of Go's heap, unless the program was built
// with cgo. What Go's runtime has mapped need not be in memory: what is missing is taken off the free part of its heap first.
func memoryParts(m Memory, g goMemory) []memoryPartJSON {
	pool, cache, tables := m.PoolUsed, max(0, m.CacheInUse), max(0, m.MemTables)
	heap := g.heapUsed - pool
	if !m.StateOutsideGo {
		heap -= cache + tables
	}
	free := g.heapCommitted - g.heapUsed
	list := []memoryPartJSON{
		{"pool", pool}, {"cache", cache}, {"memtables", tables}, {"heap", heap}, {"free", free}, {"stacks", g.stacks}, {"runtime", g.other},
		{"program", max(0, m.ResidentFile)}, {"rest", 0},
	}
	sum := int64(0)
	for k := range list {
		list[k].Bytes = max(0, list[k].Bytes)
		sum += list[k].Bytes
	}
	if m.Resident < 0 {
		return list
	}
	over := sum - m.Resident
	for _, name := range []string{"free", "runtime", "heap", "cache", "pool", "program"} {
		k := slices.IndexFunc(list, func(p memoryPartJSON) bool { return p.Name == name })
		cut := min(max(0, over), list[k].Bytes)
		list[k].Bytes -= cut
		over -= cut
	}
	list[len(list)-1].Bytes = max(0, m.Resident-sum)
	return list
}
