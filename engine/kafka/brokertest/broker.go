package brokertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	startTimeout = 90 * time.Second // on a busy machine
	stopTimeout  = 30 * time.Second
)

// Broker is a real broker. Its methods are for one goroutine.
type Broker struct {
	// Addr is host:port for clients; it stays over restarts.
	Addr string

	jars, dir string
	process   *process // nil: not running
}

// process is a run of the broker.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended, with err
	err   error
}

// Start starts a broker with an empty disk and waits until it answers; the end of the test stops it. settings are lines of
// server.properties that are added. Without java or jars the test is skipped, and in short mode.
func Start(t testing.TB, version string, settings ...string) *Broker {
	t.Helper()
	if testing.Short() {
		t.Skip("no real broker in short mode")
	}
	b, err := start(t.Context(), version, t.TempDir(), settings, wanted())
	var missing *missingError
	switch {
	case errors.As(err, &missing) && !wanted():
		t.Skipf("no real broker: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(b.Kill)
	return b
}

// wanted says that a real broker must be there.
func wanted() bool { return os.Getenv("TINYRUNNER_REAL_KAFKA") == "1" }

// missingError says what a machine lacks.
type missingError struct{ err error }

func (e *missingError) Error() string { return e.err.Error() }
func (e *missingError) Unwrap() error { return e.err }

// Open is Start for programs that are no tests: the broker's files and its log go to dir, the jars are fetched if need be, and
// the caller ends it by Kill.
func Open(ctx context.Context, version, dir string, settings ...string) (*Broker, error) {
	return start(ctx, version, dir, settings, true)
}

func start(ctx context.Context, version, dir string, settings []string, get bool) (*Broker, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return nil, &missingError{errors.New("java is not in the PATH: install a JRE of version 17 or newer")}
	}
	jars, err := Dir(ctx, version, get)
	if err != nil {
		return nil, &missingError{err}
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	b := &Broker{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), jars: jars, dir: dir}
	if err := os.WriteFile(b.file("server.properties"), []byte(properties(dir, ports, settings)), 0o644); err != nil {
		return nil, err
	}
	format := b.java(ctx, "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAA", "-c", b.file("server.properties"))
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format storage: %w: %s", err, out)
	}
	return b, b.start(ctx)
}

func properties(dir string, ports []int, settings []string) string {
	return fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
log.dirs=%[3]s
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.retention.check.interval.ms=1000
log.cleaner.dedupe.buffer.size=16777216
%[4]s
`, ports[0], ports[1], filepath.Join(dir, "data"), strings.Join(settings, "\n"))
}

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // nothing was sent
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

func (b *Broker) file(name string) string { return filepath.Join(b.dir, name) }

func (b *Broker) java(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "java", append([]string{"-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(b.jars, "*")}, args...)...)
}

// Start starts a broker that was stopped or killed, and waits until it answers.
func (b *Broker) Start(t testing.TB) {
	t.Helper()
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Restart is Start of a broker for programs that are no tests.
func (b *Broker) Restart(ctx context.Context) error {
	if b.process != nil {
		return errors.New("the broker is running")
	}
	return b.start(ctx)
}

func (b *Broker) start(ctx context.Context) error {
	log, err := os.OpenFile(b.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	cmd := b.java(context.WithoutCancel(ctx), "kafka.Kafka", b.file("server.properties"))
	cmd.Stdout, cmd.Stderr = log, log
	// It must not outlive a test binary that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, p := make(chan error, 1), &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	b.process = p
	if err := b.ready(ctx); err != nil {
		b.Kill()
		tail, _ := os.ReadFile(b.file("log"))
		return fmt.Errorf("start broker: %w: %s", err, tail[max(0, len(tail)-2000):])
	}
	return nil
}

// ready waits until the broker answers and knows that it is not fenced off by its controller.
func (b *Broker) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		err := client.Ping(ctx)
		if err == nil && len(client.DiscoveredBrokers()) > 0 {
			return nil
		}
		select {
		case <-b.process.ended:
			return fmt.Errorf("it ended: %w", b.process.err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Stop shuts the broker down in order.
func (b *Broker) Stop() {
	b.end(syscall.SIGTERM)
}

// Kill ends the broker at once, as kill -9 does. A broker that does not run stays as it is.
func (b *Broker) Kill() {
	b.end(syscall.SIGKILL)
}

func (b *Broker) end(sig syscall.Signal) {
	if b.process == nil {
		return
	}
	p := b.process
	b.process = nil
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}
