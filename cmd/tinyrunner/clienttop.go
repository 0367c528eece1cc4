package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const (
	// topRefresh is the time between two looks.
	topRefresh = time.Second
	// topWindow is how many looks back the rates go.
	topWindow = 5
	// topJobs is how many jobs are shown.
	topJobs = 10
	// topHeight is that of a screen without bound, in lines.
	topHeight = 1 << 20
)

func topCommand(stdout, stderr io.Writer) *cobra.Command {
	return newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "top [ID]",
		Short: "watch a running server and its jobs",
		Long: `Shows every second what a server does: its memory, its jobs, and the stages of one job, by default of the one that was started
last. Rates and shares are those of the last five seconds; RECORDS/S is what all stages of a job read, and 'tinyrunner job --help'
explains the other columns.

Keys: q or Ctrl-C ends it, Tab goes to the next job. Without a terminal, or with --json, it prints once what happened in one second.` + jobHelp,
		Example: `  tinyrunner top
  tinyrunner top clicks --address http://127.0.0.1:8081
  tinyrunner top --json | jq .process`,
		Args: arguments(0, "at most one job"),
	}, func(ctx context.Context, s *session, args []string) error {
		t := &top{session: s, samples: make(map[string][]topSample)}
		if len(args) > 0 {
			j, err := s.find(ctx, args[0])
			if err != nil {
				return err
			}
			t.chosen = j.ID
		}
		if !s.json && onTerminal(s.out) {
			if tty, err := os.Open("/dev/tty"); err == nil {
				return errors.Join(t.live(ctx, tty), tty.Close())
			}
		}
		return t.once(ctx)
	}).aboutJob(false).Command
}

// top looks at a server again and again.
type top struct {
	*session
	chosen  string                 // id of the job whose stages are shown; "": the newest
	samples map[string][]topSample // by job's id, oldest first
	cpu     []cpuSample
}

// topSample are a job's counters at an instant of the server's clock, in milliseconds.
type topSample struct {
	at     int64
	slots  int
	stages map[string]sumAnswer // by id of the vertex
}

// cpuSample is the CPU time that the server had used at an instant, by the clock of this machine.
type cpuSample struct {
	at time.Time
	ns float64
}

// topFrame is what one look has found.
type topFrame struct {
	Server  overviewAnswer `json:"server"`
	Process topProcess     `json:"process"`
	Jobs    []topJob       `json:"jobs"`
	view    *jobView       // of the chosen job; nil: there is none
}

// topProcess is what the server's process uses.
type topProcess struct {
	CPU       number `json:"cpu_cores"`
	Heap      number `json:"heap_bytes"`
	Pool      number `json:"buffer_pool_bytes"`
	PoolLimit number `json:"buffer_pool_limit_bytes"`
	Spilled   number `json:"spilled_bytes"`
}

// topJob is a job; all but the summary is known of those that run.
type topJob struct {
	jobSummary
	Slots          int         `json:"slots,omitempty"`
	Rate           number      `json:"records_in_per_second"` // of all stages together
	Restarts       number      `json:"restarts"`
	CheckpointAge  int64       `json:"checkpoint_age_ms"` // -1: there is none
	CheckpointSize int64       `json:"checkpoint_bytes"`
	Stages         []stageView `json:"stages,omitempty"` // of the chosen one
}

// once prints what happened between two looks.
func (t *top) once(ctx context.Context) error {
	if _, err := t.look(ctx, topHeight); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(topRefresh):
	}
	f, err := t.look(ctx, topHeight)
	if err != nil {
		return err
	}
	if t.json {
		return writeJSON(t.out, f)
	}
	for _, l := range f.lines(t.base.Redacted(), topHeight) {
		if _, err := fmt.Fprintln(t.out, l.text); err != nil {
			return err
		}
	}
	return nil
}

// look asks the server. Of the chosen job's stages it asks for as many as a screen of that height may show.
func (t *top) look(ctx context.Context, height int) (*topFrame, error) {
	f := new(topFrame)
	if err := t.get(ctx, "/overview", &f.Server); err != nil {
		return nil, err
	}
	var list jobsAnswer
	if err := t.get(ctx, "/jobs/overview", &list); err != nil {
		return nil, err
	}
	if err := t.process(ctx, &f.Process); err != nil {
		return nil, err
	}
	slices.Reverse(list.Jobs) // newest first, those that run before the others
	slices.SortStableFunc(list.Jobs, func(a, b jobSummary) int { return rankOf(a) - rankOf(b) })
	t.choose(list.Jobs)
	stages := max(1, height-topFixed-min(len(list.Jobs), topJobs+1))
	for k, j := range list.Jobs {
		job := topJob{jobSummary: j, Rate: number(math.NaN()), Restarts: number(math.NaN()), CheckpointAge: -1}
		if j.ID == t.chosen || !j.ended() && k < topJobs {
			if err := t.lookAt(ctx, f, &job, stages); err != nil {
				return nil, err
			}
		}
		f.Jobs = append(f.Jobs, job)
	}
	t.forget(list.Jobs)
	return f, nil
}

func rankOf(j jobSummary) int {
	if j.ended() {
		return 1
	}
	return 0
}

// choose takes the first job if nobody has chosen, or the chosen one is gone.
func (t *top) choose(jobs []jobSummary) {
	if !slices.ContainsFunc(jobs, func(j jobSummary) bool { return j.ID == t.chosen }) {
		t.chosen = ""
	}
	if t.chosen == "" && len(jobs) > 0 {
		t.chosen = jobs[0].ID
	}
}

// next chooses the job after the chosen one.
func (t *top) next(f *topFrame) {
	k := slices.IndexFunc(f.Jobs, func(j topJob) bool { return j.ID == t.chosen })
	if n := min(len(f.Jobs), topJobs); n > 0 {
		t.chosen = f.Jobs[(k+1)%n].ID
	}
}

// forget drops the samples of jobs that are gone.
func (t *top) forget(jobs []jobSummary) {
	for id := range t.samples {
		if !slices.ContainsFunc(jobs, func(j jobSummary) bool { return j.ID == id }) {
			delete(t.samples, id)
		}
	}
}

func (t *top) process(ctx context.Context, p *topProcess) error {
	const cpu, heap, spilled = "Status.JVM.CPU.Time", "Status.JVM.Memory.Heap.Used", "spilledBytes"
	const used, limit = "Status.Shuffle.Netty.UsedMemory", "Status.Shuffle.Netty.TotalMemory"
	m, err := t.metrics(ctx, "/jobmanager/metrics", cpu, heap, used, limit, spilled)
	if err != nil {
		return err
	}
	*p = topProcess{CPU: number(math.NaN()), Heap: m[heap], Pool: m[used], PoolLimit: m[limit], Spilled: m[spilled]}
	t.cpu = append(t.cpu, cpuSample{time.Now(), float64(m[cpu])})
	t.cpu = t.cpu[max(0, len(t.cpu)-topWindow-1):]
	first, last := t.cpu[0], t.cpu[len(t.cpu)-1]
	if d := last.at.Sub(first.at); d > 0 && last.ns >= first.ns {
		p.CPU = number((last.ns - first.ns) / float64(d.Nanoseconds()))
	}
	return nil
}

// lookAt asks for a job; for its stages only if it is the chosen one.
func (t *top) lookAt(ctx context.Context, f *topFrame, job *topJob, stages int) error {
	if job.ID != t.chosen {
		stages = 0
	}
	v, err := t.view(ctx, job.ID, stages)
	if err != nil {
		return err
	}
	s := topSample{at: v.Now, slots: v.slots(), stages: make(map[string]sumAnswer)}
	for _, x := range v.Vertices {
		s.stages[x.ID] = x.Sums
	}
	job.Slots, job.Restarts = s.slots, v.Restarts
	if c := v.Checkpoints.Latest.Completed; c != nil {
		job.CheckpointAge, job.CheckpointSize = max(0, v.Now-c.At), c.Size
	}
	old := t.samples[job.ID]
	if len(old) > 0 && !job.ended() {
		job.Rate = v.recent(old[0], s)
	}
	old = append(old, s)
	t.samples[job.ID] = old[max(0, len(old)-topWindow):]
	if job.ID == t.chosen {
		job.Stages, f.view = v.Stages, &v
	}
	return nil
}

// recent replaces the stages' rates by those between two samples, and returns how many records all stages have read a second;
// NaN if the samples cannot be compared: the job was rescaled, or went back to a checkpoint.
func (v *jobView) recent(old, now topSample) number {
	seconds := float64(now.at-old.at) / 1000
	if seconds <= 0 || old.slots != now.slots {
		return number(math.NaN())
	}
	read := 0.0
	for k, x := range v.Vertices {
		a, b := old.stages[x.ID], now.stages[x.ID]
		if b.RecordsIn < a.RecordsIn || b.RecordsOut < a.RecordsOut || b.Busy < a.Busy {
			return number(math.NaN())
		}
		in := float64(b.RecordsIn-a.RecordsIn) / seconds
		read += in
		if k < len(v.Stages) {
			share := func(ms int64) number { return number(min(1000, float64(ms)/seconds/float64(max(1, now.slots)))) }
			s := &v.Stages[k]
			s.RateIn, s.RateOut = number(in), number(float64(b.RecordsOut-a.RecordsOut)/seconds)
			s.Busy, s.Blocked = share(b.Busy-a.Busy), share(max(0, b.Blocked-a.Blocked))
		}
	}
	return number(read)
}

// topLine is a line of the screen.
type topLine struct {
	text  string
	style string // the terminal's code; "": plain
}

const (
	topBold    = "\x1b[1m"
	topReverse = "\x1b[7m"
	topPlain   = "\x1b[0m"
)

// topFixed is how many lines are there besides those of jobs and stages.
const topFixed = 7

// lines are the screen.
func (f *topFrame) lines(address string, height int) []topLine {
	p := f.Process
	cpu := unknown
	if !math.IsNaN(float64(p.CPU)) {
		cpu = fmt.Sprintf("%.2f", p.CPU)
	}
	out := []topLine{
		{fmt.Sprintf("tinyrunner at %s", cell(address)), topBold},
		{fmt.Sprintf("jobs: %d running, %d finished, %d failed, %d cancelled   slots: %d, %d free",
			f.Server.Running, f.Server.Finished, f.Server.Failed, f.Server.Cancelled, f.Server.Slots, f.Server.Free), ""},
		{fmt.Sprintf("cpu: %s cores   heap: %s   buffer pool: %s of %s, spilled %s", cpu, byteCount(float64(p.Heap)),
			byteCount(float64(p.Pool)), byteCount(float64(p.PoolLimit)), byteCount(float64(p.Spilled))), ""},
		{},
	}
	jobs := [][]string{{"JOB", "NAME", "STATE", "SLOTS", "DURATION", "RECORDS/S", "CHECKPOINT", "RESTARTS"}}
	for _, j := range f.Jobs[:min(len(f.Jobs), topJobs)] {
		jobs = append(jobs, j.row())
	}
	out = append(out, topTable(jobs)...)
	if n := len(f.Jobs) - topJobs; n > 0 {
		out = append(out, topLine{fmt.Sprintf("and %d more: 'tinyrunner jobs' lists them", n), ""})
	}
	if f.view == nil {
		return out
	}
	out = append(out, topLine{}, topLine{"stages of " + cell(f.view.Name), topBold})
	out = append(out, topTable(f.view.stageRows())...)
	if n := len(f.view.Vertices) - len(f.view.Stages); n > 0 && len(out) >= height {
		out = append(out[:max(0, height-1)], topLine{fmt.Sprintf("and more, %d stages in all: 'tinyrunner job %s' shows them", len(f.view.Vertices), f.view.ID[:8]), ""})
	}
	return out
}

func (j topJob) row() []string {
	row := []string{j.ID[:min(8, len(j.ID))], cell(j.Name), j.State, unknown, span(j.Duration), quantity(float64(j.Rate)), unknown, unknown}
	if j.Slots > 0 {
		row[3], row[7] = fmt.Sprint(j.Slots), quantity(float64(j.Restarts))
	}
	if j.CheckpointAge >= 0 {
		row[6] = fmt.Sprintf("%s, %s ago", byteCount(float64(j.CheckpointSize)), span(j.CheckpointAge))
	}
	return row
}

// topTable aligns rows; the heading stands out.
func topTable(rows [][]string) []topLine {
	var b bytes.Buffer
	if err := table(&b, rows); err != nil {
		return []topLine{{err.Error(), ""}}
	}
	var out []topLine
	for k, l := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		style := ""
		if k == 0 {
			style = topReverse
		}
		out = append(out, topLine{l, style})
	}
	return out
}

// live shows look after look until somebody ends it. The keys come from tty.
func (t *top) live(ctx context.Context, tty *os.File) (err error) {
	f, err := t.look(ctx, topHeight) // what goes wrong at once is an error like that of any command
	if err != nil {
		return err
	}
	restore, err := rawMode(tty)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	const enter, leave = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l" // own screen, no cursor, no wrapping
	fmt.Fprint(t.out, enter)
	defer fmt.Fprint(t.out, leave)
	ctx, quit := context.WithCancel(ctx)
	tabs, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		readKeys(tty, quit, tabs)
	}()
	defer func() {
		quit()
		err = errors.Join(err, tty.SetReadDeadline(time.Now())) // ends the reader
		<-done
	}()
	tick := time.NewTicker(topRefresh)
	defer tick.Stop()
	for {
		width, height := t.screen()
		trouble := error(nil)
		if g, err := t.look(ctx, height); err == nil {
			f = g
		} else if ctx.Err() == nil {
			trouble = err
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := t.draw(f, trouble, width, height); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tabs:
			t.next(f)
		case <-tick.C:
		}
	}
}

// rawMode makes keys come one by one, and unseen.
func rawMode(tty *os.File) (restore func() error, err error) {
	raw, err := tty.SyscallConn() // Fd would make reads block for ever
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	var old *term.State
	on := func(f func(fd int) error) error {
		var ferr error
		err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) })
		if err := errors.Join(err, ferr); err != nil {
			return fmt.Errorf("set terminal: %w", err)
		}
		return nil
	}
	err = on(func(fd int) (err error) {
		old, err = term.MakeRaw(fd)
		return err
	})
	return func() error { return on(func(fd int) error { return term.Restore(fd, old) }) }, err
}

// readKeys calls quit for q or Ctrl-C, and tells of tabs, until no more keys can be read.
func readKeys(keys io.Reader, quit func(), tabs chan<- struct{}) {
	const ctrlC = 3
	buf := make([]byte, 16)
	for {
		n, err := keys.Read(buf)
		for _, k := range buf[:n] {
			switch k {
			case 'q', 'Q', ctrlC:
				quit()
			case '\t':
				select {
				case tabs <- struct{}{}:
				default: // one is waiting
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// screen is the size of the terminal, in characters.
func (t *top) screen() (width, height int) {
	if f, ok := t.out.(interface{ Fd() uintptr }); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			return w, h
		}
	}
	return 80, 24
}

// draw writes a whole screen at once, so that it does not flicker.
func (t *top) draw(f *topFrame, trouble error, width, height int) error {
	lines := f.lines(t.base.Redacted(), height)
	if trouble != nil {
		lines[0] = topLine{cell(trouble.Error()), topReverse}
	}
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for k, l := range lines[:min(len(lines), height)] {
		if k > 0 {
			b.WriteString("\r\n")
		}
		text := []rune(l.text)
		b.WriteString(l.style + string(text[:min(len(text), width)]) + topPlain + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err := t.out.Write(b.Bytes())
	return err
}
