package web

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
)

// indexRange is an index, or a range of them.
var indexRange = regexp.MustCompile(`^(\d{1,4})(?:-(\d{1,4}))?$`)

// host and endpoint are where Flink shows a TaskManager's address.
func (h *Handler) host() string {
	if host, _, err := net.SplitHostPort(h.Address); err == nil {
		return host
	}
	return "localhost"
}

func (h *Handler) endpoint() string {
	if h.Address == "" {
		return "localhost"
	}
	return h.Address
}

func (h *Handler) port() int {
	_, port, err := net.SplitHostPort(h.Address)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return -1
	}
	return n
}

// goMemory is the memory of the Go runtime, in bytes, and its garbage collection.
type goMemory struct {
	heapUsed, heapCommitted, stacks, other int64
	gcCount, gcMillis                      int64
	goroutines                             int64
	cpuMillis                              int64
}

// readMemory does not stop the world.
func readMemory() goMemory {
	samples := []gometrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/sched/goroutines:goroutines"},
	}
	gometrics.Read(samples)
	n := func(k int) int64 {
		switch samples[k].Value.Kind() {
		case gometrics.KindUint64:
			return int64(samples[k].Value.Uint64())
		case gometrics.KindFloat64:
			return int64(1000 * samples[k].Value.Float64())
		}
		return 0
	}
	m := goMemory{heapUsed: n(0), heapCommitted: n(0) + n(1) + n(2), stacks: n(3), gcCount: n(6), gcMillis: n(7), goroutines: n(8)}
	m.other = n(4) - n(5) - m.heapCommitted - m.stacks
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		m.cpuMillis = usage.Utime.Sec*1000 + usage.Utime.Usec/1000 + usage.Stime.Sec*1000 + usage.Stime.Usec/1000
	}
	return m
}

type taskManagersJSON struct {
	TaskManagers []taskManagerJSON `json:"taskmanagers"`
}

type taskManagerJSON struct {
	ID                  string           `json:"id"`
	Path                string           `json:"path"`
	DataPort            int              `json:"dataPort"`
	JMXPort             int              `json:"jmxPort"`
	LastHeartbeat       int64            `json:"timeSinceLastHeartbeat"`
	SlotsNumber         int              `json:"slotsNumber"`
	FreeSlots           int              `json:"freeSlots"`
	TotalResource       resourceJSON     `json:"totalResource"`
	FreeResource        resourceJSON     `json:"freeResource"`
	Hardware            hardwareJSON     `json:"hardware"`
	MemoryConfiguration memoryConfigJSON `json:"memoryConfiguration"`
}

type taskManagerDetailsJSON struct {
	taskManagerJSON
	AllocatedSlots []allocatedSlotJSON `json:"allocatedSlots"`
	Metrics        memoryUseJSON       `json:"metrics"`
}

// resourceJSON has memory in MiB.
type resourceJSON struct {
	CPU      float64        `json:"cpuCores"`
	Heap     int64          `json:"taskHeapMemory"`
	OffHeap  int64          `json:"taskOffHeapMemory"`
	Managed  int64          `json:"managedMemory"`
	Network  int64          `json:"networkMemory"`
	Extended map[string]any `json:"extendedResources"`
}

// hardwareJSON: what Flink calls free memory is the greatest size of the JVM's heap (HardwareDescription.sizeOfJvmHeap).
type hardwareJSON struct {
	CPU      int   `json:"cpuCores"`
	Physical int64 `json:"physicalMemory"`
	Heap     int64 `json:"freeMemory"`
	Managed  int64 `json:"managedMemory"`
}

// memoryConfigJSON maps Flink's parts: managed memory is that of the state, network memory the buffer pool.
type memoryConfigJSON struct {
	FrameworkHeap    int64 `json:"frameworkHeap"`
	TaskHeap         int64 `json:"taskHeap"`
	FrameworkOffHeap int64 `json:"frameworkOffHeap"`
	TaskOffHeap      int64 `json:"taskOffHeap"`
	Network          int64 `json:"networkMemory"`
	Managed          int64 `json:"managedMemory"`
	Metaspace        int64 `json:"jvmMetaspace"`
	Overhead         int64 `json:"jvmOverhead"`
	TotalFlink       int64 `json:"totalFlinkMemory"`
	TotalProcess     int64 `json:"totalProcessMemory"`
}

type allocatedSlotJSON struct {
	JobID    string       `json:"jobId"`
	Resource resourceJSON `json:"resource"`
}

type memoryUseJSON struct {
	HeapUsed           int64           `json:"heapUsed"`
	HeapCommitted      int64           `json:"heapCommitted"`
	HeapMax            int64           `json:"heapMax"`
	NonHeapUsed        int64           `json:"nonHeapUsed"`
	NonHeapCommitted   int64           `json:"nonHeapCommitted"`
	NonHeapMax         int64           `json:"nonHeapMax"`
	DirectCount        int64           `json:"directCount"`
	DirectUsed         int64           `json:"directUsed"`
	DirectMax          int64           `json:"directMax"`
	MappedCount        int64           `json:"mappedCount"`
	MappedUsed         int64           `json:"mappedUsed"`
	MappedMax          int64           `json:"mappedMax"`
	SegmentsAvailable  int64           `json:"memorySegmentsAvailable"`
	SegmentsTotal      int64           `json:"memorySegmentsTotal"`
	NettySegmentsAvail int64           `json:"nettyShuffleMemorySegmentsAvailable"`
	NettySegmentsUsed  int64           `json:"nettyShuffleMemorySegmentsUsed"`
	NettySegmentsTotal int64           `json:"nettyShuffleMemorySegmentsTotal"`
	NettyAvailable     int64           `json:"nettyShuffleMemoryAvailable"`
	NettyUsed          int64           `json:"nettyShuffleMemoryUsed"`
	NettyTotal         int64           `json:"nettyShuffleMemoryTotal"`
	GarbageCollectors  []collectorJSON `json:"garbageCollectors"`
}

type collectorJSON struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
	Time  int64  `json:"time"`
}

// segment is the size in which Flink counts network memory, in bytes.
const segment = 32 << 10

// physicalMemory is that of the machine, in bytes; 0: not known.
func physicalMemory() int64 {
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

func (h *Handler) taskManager() taskManagerJSON {
	total, free := h.slots()
	m, _ := h.memory()
	resource := func(slots int) resourceJSON {
		part := func(bytes int64) int64 { return bytes * int64(slots) / int64(total) >> 20 }
		return resourceJSON{
			CPU: float64(slots), Heap: part(m.heap()), Managed: part(m.CacheLimit), Network: part(m.PoolLimit), Extended: map[string]any{},
		}
	}
	return taskManagerJSON{
		ID: taskManagerID, Path: "tinyrunner://" + h.endpoint(), DataPort: h.port(), JMXPort: -1, LastHeartbeat: time.Now().UnixMilli(),
		SlotsNumber: total, FreeSlots: free, TotalResource: resource(total), FreeResource: resource(free),
		Hardware: hardwareJSON{CPU: runtime.NumCPU(), Physical: physicalMemory(), Heap: heapMax(m), Managed: m.CacheLimit},
		MemoryConfiguration: memoryConfigJSON{
			TaskHeap: m.heap(), Network: m.PoolLimit, Managed: m.CacheLimit, TotalFlink: m.Limit, TotalProcess: m.Limit,
		},
	}
}

// heap is what the process aims at without the memory of the state and of the buffer pool.
func (m Memory) heap() int64 { return max(0, m.Limit-m.PoolLimit-m.CacheLimit) }

func (h *Handler) taskManagers(*http.Request) (any, error) {
	return taskManagersJSON{[]taskManagerJSON{h.taskManager()}}, nil
}

// isTaskManager checks the TaskManager of a request's path.
func isTaskManager(r *http.Request) error {
	if id := chi.URLParam(r, "taskmanager"); id != taskManagerID {
		return missing("TaskManager %q not found: there is %s", strings.ToValidUTF8(id, "?"), taskManagerID)
	}
	return nil
}

func (h *Handler) taskManagerDetails(r *http.Request) (any, error) {
	if err := isTaskManager(r); err != nil {
		return nil, err
	}
	out := taskManagerDetailsJSON{taskManagerJSON: h.taskManager(), AllocatedSlots: []allocatedSlotJSON{}}
	one := out.TotalResource
	n := int64(out.SlotsNumber)
	one.CPU, one.Heap, one.Managed, one.Network = 1, one.Heap/n, one.Managed/n, one.Network/n
	for _, j := range h.Cluster.Jobs() {
		i := j.Info()
		if _, ended := i.end(); ended {
			continue
		}
		for range i.Slots {
			out.AllocatedSlots = append(out.AllocatedSlots, allocatedSlotJSON{JobID: HexID(i.ID), Resource: one})
		}
	}
	m, g := h.memory()
	out.Metrics = memoryUseJSON{
		HeapUsed: g.heapUsed, HeapCommitted: g.heapCommitted, HeapMax: heapMax(m), NonHeapUsed: g.stacks + g.other,
		NonHeapCommitted: g.stacks + g.other, NonHeapMax: -1, DirectUsed: max(0, m.CacheInUse), DirectMax: m.CacheLimit,
		SegmentsTotal: m.PoolLimit / segment, SegmentsAvailable: max(0, m.PoolLimit-m.PoolUsed) / segment,
		NettySegmentsTotal: m.PoolLimit / segment, NettySegmentsUsed: m.PoolUsed / segment, NettySegmentsAvail: max(0, m.PoolLimit-m.PoolUsed) / segment,
		NettyTotal: m.PoolLimit, NettyUsed: m.PoolUsed, NettyAvailable: max(0, m.PoolLimit-m.PoolUsed),
		GarbageCollectors: []collectorJSON{{Name: "Go", Count: g.gcCount, Time: g.gcMillis}},
	}
	return out, nil
}

// heapMax is the limit of Go's memory.
func heapMax(m Memory) int64 {
	if limit := debug.SetMemoryLimit(-1); limit < 1<<62 {
		return limit
	}
	return m.Limit
}

// statusMetrics are those of the process, by the names that Flink has for a JVM's.
func (h *Handler) statusMetrics() []measure {
	m, g := h.memory()
	return []measure{
		{"Status.JVM.Memory.Heap.Used", count(g.heapUsed)}, {"Status.JVM.Memory.Heap.Committed", count(g.heapCommitted)},
		{"Status.JVM.Memory.Heap.Max", count(heapMax(m))}, {"Status.JVM.Memory.NonHeap.Used", count(g.stacks + g.other)},
		{"Status.JVM.Memory.NonHeap.Committed", count(g.stacks + g.other)}, {"Status.JVM.Memory.NonHeap.Max", "-1"},
		{"Status.JVM.Memory.Metaspace.Used", "0"}, {"Status.JVM.Memory.Metaspace.Committed", "0"}, {"Status.JVM.Memory.Metaspace.Max", "0"},
		{"Status.JVM.Memory.Direct.MemoryUsed", count(max(0, m.CacheInUse))}, {"Status.JVM.Memory.Direct.TotalCapacity", count(m.CacheLimit)},
		{"Status.JVM.Memory.Direct.Count", "0"}, {"Status.JVM.Memory.Mapped.Count", "0"},
		{"Status.JVM.Memory.Mapped.MemoryUsed", "0"}, {"Status.JVM.Memory.Mapped.TotalCapacity", "0"},
		{"Status.JVM.CPU.Time", count(g.cpuMillis * 1e6)}, {"Status.JVM.Threads.Count", count(g.goroutines)},
		{"Status.JVM.GarbageCollector.All.Count", count(g.gcCount)}, {"Status.JVM.GarbageCollector.All.Time", count(g.gcMillis)},
		{"Status.Flink.Memory.Managed.Used", count(max(0, m.CacheInUse))}, {"Status.Flink.Memory.Managed.Total", count(m.CacheLimit)},
		{"Status.Shuffle.Netty.UsedMemory", count(m.PoolUsed)}, {"Status.Shuffle.Netty.TotalMemory", count(m.PoolLimit)},
		{"Status.Shuffle.Netty.AvailableMemory", count(max(0, m.PoolLimit-m.PoolUsed))},
		{"Status.Shuffle.Netty.UsedMemorySegments", count(m.PoolUsed / segment)},
		{"Status.Shuffle.Netty.TotalMemorySegments", count(m.PoolLimit / segment)},
		{"Status.Shuffle.Netty.AvailableMemorySegments", count(max(0, m.PoolLimit-m.PoolUsed) / segment)},
		{"spilledBytes", count(m.PoolSpilled)},
	}
}

func (h *Handler) taskManagerMetrics(r *http.Request) (any, error) {
	if err := isTaskManager(r); err != nil {
		return nil, err
	}
	return metrics(r, h.statusMetrics()), nil
}

func (h *Handler) allTaskManagerMetrics(r *http.Request) (any, error) {
	return aggregate(r, [][]measure{h.statusMetrics()})
}

func (h *Handler) jobManagerMetrics(r *http.Request) (any, error) {
	total, free := h.slots()
	running := 0
	for _, j := range h.Cluster.Jobs() {
		if flinkState(j.Info().state()) == "RUNNING" {
			running++
		}
	}
	return metrics(r, append(h.statusMetrics(),
		measure{"taskSlotsTotal", strconv.Itoa(total)}, measure{"taskSlotsAvailable", strconv.Itoa(free)},
		measure{"numRegisteredTaskManagers", "1"}, measure{"numRunningJobs", strconv.Itoa(running)})), nil
}

type settingJSON struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// settings are the process's own, and what Flink's clients look for under Flink's names.
func (h *Handler) settings() []settingJSON {
	m, _ := h.memory()
	all := map[string]string{
		"rest.address": h.host(), "rest.port": strconv.Itoa(h.port()), "taskmanager.numberOfTaskSlots": strconv.Itoa(h.Cluster.Slots()),
		"jobmanager.scheduler": "adaptive", "web.refresh-interval": strconv.Itoa(refresh),
		"web.submit.enable": strconv.FormatBool(h.JarDir != "" && !h.ReadOnly), "web.cancel.enable": strconv.FormatBool(!h.ReadOnly),
		"rest.flamegraph.enabled": "true", "jobmanager.memory.heap.size": count(heapMax(m)) + "b",
	}
	for k, v := range h.Cluster.Settings() {
		if secret(k) {
			v = "******"
		}
		all[k] = v
	}
	out := []settingJSON{}
	for k, v := range all {
		out = append(out, settingJSON{k, v})
	}
	slices.SortFunc(out, func(a, b settingJSON) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (h *Handler) jobManagerConfig(*http.Request) (any, error) { return h.settings(), nil }

func (h *Handler) jobJobManagerConfig(r *http.Request) (any, error) {
	if _, _, err := h.job(r); err != nil {
		return nil, err
	}
	return h.settings(), nil
}

type environmentJSON struct {
	JVM       jvmJSON  `json:"jvm"`
	Classpath []string `json:"classpath"`
}

type jvmJSON struct {
	Version string   `json:"version"`
	Arch    string   `json:"arch"`
	Options []string `json:"options"`
}

// environment shows Go in the place of the JVM, and modules in that of the class path.
func (h *Handler) environment(*http.Request) (any, error) {
	out := environmentJSON{JVM: jvmJSON{Version: runtime.Version(), Arch: runtime.GOARCH, Options: []string{}}, Classpath: []string{}}
	for _, name := range []string{"GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GODEBUG"} {
		if v, ok := os.LookupEnv(name); ok {
			out.JVM.Options = append(out.JVM.Options, name+"="+v)
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			out.Classpath = append(out.Classpath, m.Path+" "+m.Version)
		}
	}
	return out, nil
}

type threadDumpJSON struct {
	Threads []threadJSON `json:"threadInfos"`
}

type threadJSON struct {
	Name string `json:"threadName"`
	Info string `json:"stringifiedThreadInfo"`
}

// dumpAge is how old a thread dump may be when it is shown: to make one stops the process for a moment, and takes as long as there
// are goroutines. It is the time after which Flink's web UI asks again.
const dumpAge = refresh * time.Millisecond

// threadDumps keep the newest dump. Goroutine safe.
type threadDumps struct {
	mu   sync.Mutex
	at   time.Time
	dump threadDumpJSON
}

// threadDump shows goroutines, those with equal stacks together.
func (h *Handler) threadDump(*http.Request) (any, error) {
	d := &h.dumps
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) < dumpAge {
		return d.dump, nil
	}
	dump, err := newThreadDump()
	if err != nil {
		return nil, err
	}
	d.at, d.dump = time.Now(), dump
	return dump, nil
}

func newThreadDump() (threadDumpJSON, error) {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return threadDumpJSON{}, fmt.Errorf("dump goroutines: %w", err)
	}
	out := threadDumpJSON{Threads: []threadJSON{}}
	for k, part := range strings.Split(strings.TrimSpace(b.String()), "\n\n") {
		if k == 0 { // the first line is the total
			_, part, _ = strings.Cut(part, "\n")
		}
		n, _, _ := strings.Cut(part, " ")
		out.Threads = append(out.Threads, threadJSON{Name: "goroutines " + strconv.Itoa(k) + " (" + n + ")", Info: part + "\n\n"})
	}
	return out, nil
}

type profilesJSON struct {
	Profiles []map[string]any `json:"profilingList"`
}

func (h *Handler) jobManagerProfiles(*http.Request) (any, error) {
	return profilesJSON{[]map[string]any{}}, nil
}

// logFile is the name of the one log.
const logFile = "tinyrunner.log"

type logsJSON struct {
	Logs []logFileJSON `json:"logs"`
}

type logFileJSON struct {
	Name    string `json:"name"`
	Size    int    `json:"size"`
	Changed int64  `json:"mtime"`
}

func (h *Handler) logList(*http.Request) (any, error) {
	size, changed := h.Logs.stat()
	return logsJSON{[]logFileJSON{{Name: logFile, Size: size, Changed: changed.UnixMilli()}}}, nil
}

func (h *Handler) wholeLog(*http.Request) (any, error) { return plain(h.Logs.Text()), nil }

// namedLog has one file. The name is compared, never opened.
func (h *Handler) namedLog(r *http.Request) (any, error) {
	if name := chi.URLParam(r, "file"); name != logFile {
		return nil, missing("Log %q not found: there is %s", strings.ToValidUTF8(name, "?"), logFile)
	}
	return plain(h.Logs.Text()), nil
}

// stdout is empty: everything goes to the log.
func (h *Handler) stdout(*http.Request) (any, error) { return plain(""), nil }

// ofTaskManager serves a call of the JobManager for the TaskManager, which is the same process.
func ofTaskManager(serve func(*http.Request) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		if err := isTaskManager(r); err != nil {
			return nil, err
		}
		return serve(r)
	}
}
