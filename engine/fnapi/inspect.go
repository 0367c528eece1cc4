package fnapi

import "time"

// HarnessInfo tells of one of an environment's places for a harness, for people and monitoring.
type HarnessInfo struct {
	Environment string // its id in the pipeline
	From        string // where harnesses come from: "PROCESS /opt/apache/beam/boot"
	Index       int    // of the place
	// Worker is the id of the harness that is connected; "": none is.
	Worker string
	// PID is the process that was started for it; 0: it is not a child of this process.
	PID int
	// Since is when it connected, LastCall when it last gave a sign of life.
	Since, LastCall time.Time
	Running         int   // bundles
	Bundles         int64 // that it has answered
	// Restarts is how many connected harnesses were lost in this place, Tries how often one was asked for since the last one.
	Restarts, Tries int
	// LastError is why the last one was lost, or did not come; nil after another one has connected.
	LastError error
}

// Harnesses returns the present state of all places, in their order. It may be called after Close.
func (e *Environment) Harnesses() []HarnessInfo {
	var out []HarnessInfo
	for _, s := range e.slots {
		i, w := s.info()
		if p, ok := e.launcher.(*process); ok && w != nil {
			i.PID = p.pid(w.key)
		}
		out = append(out, i)
	}
	return out
}

func (s *slot) info() (HarnessInfo, *Worker) {
	s.mu.Lock()
	i := HarnessInfo{
		Environment: s.env.cfg.ID, From: s.env.launcher.String(), Index: s.index,
		Restarts: s.losses, Tries: s.tries, LastError: s.lastErr,
	}
	w := s.worker
	if w != nil {
		i.Since = s.since
	}
	s.mu.Unlock()
	if w == nil {
		return i, nil
	}
	i.Worker, i.LastCall, i.Bundles = w.id, time.Unix(0, w.lastSign.Load()), w.finished.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	i.Running = len(w.runs)
	return i, w
}

// pid is the process of a worker; 0: it has ended.
func (x *process) pid(worker string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.children[worker]; c != nil {
		return c.cmd.Process.Pid
	}
	return 0
}
