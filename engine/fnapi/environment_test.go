package fnapi

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

func anyOf(envs ...*pipepb.Environment) *pipepb.Environment {
	payload, _ := proto.Marshal(&pipepb.AnyOfEnvironmentPayload{Environments: envs})
	return &pipepb.Environment{Urn: urnAnyOf, Payload: payload}
}

func docker() *pipepb.Environment {
	payload, _ := proto.Marshal(&pipepb.DockerPayload{ContainerImage: "beam:2.77"})
	return &pipepb.Environment{Urn: urnDocker, Payload: payload}
}

func TestOpenErrors(t *testing.T) {
	const remedy = ": submit with --environment_type=LOOPBACK, or start a worker pool and submit with --environment_type=EXTERNAL --environment_config=HOST:PORT"
	tests := []struct {
		name string
		env  *pipepb.Environment
		want string
	}{
		{"docker", docker(), `environment "e1" is DOCKER (image "beam:2.77"), and this machine has no docker command: install it, or` + remedy[1:]},
		{"docker without image", &pipepb.Environment{Urn: urnDocker}, `environment "e1" is DOCKER but names no image`},
		{"process without command", &pipepb.Environment{Urn: urnProcess}, `environment "e1" is PROCESS but names no command: submit with --environment_config=`},
		{"process of nothing", processEnv("no-such-boot", nil), `environment "e1" is PROCESS: exec: "no-such-boot": executable file not found in $PATH: install`},
		{"unknown", &pipepb.Environment{Urn: "beam:env:moon:v1"}, `environment "e1" is of unknown type "beam:env:moon:v1"` + remedy},
		{"none", nil, `environment "e1" is of unknown type ""` + remedy},
		{"no pool", externalEnv(""), `environment "e1" is EXTERNAL but names no worker pool: submit with --environment_config=HOST:PORT`},
		{"bad payload", &pipepb.Environment{Urn: urnExternal, Payload: []byte{0xff}}, `read the payload of environment "e1" (beam:env:external:v1): `},
		{"any of none", anyOf(docker(), &pipepb.Environment{Urn: urnProcess}),
			`environment "e1" offers [beam:env:docker:v1 beam:env:process:v1], none of which can run here` + remedy},
		{"bad any of", &pipepb.Environment{Urn: urnAnyOf, Payload: []byte{0xff}}, `read the payload of environment "e1" (beam:env:anyof:v1): `},
	}
	t.Setenv("PATH", "")
	s := NewServer(Config{Endpoint: "localhost:1"})
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.Open(t.Context(), EnvironmentConfig{ID: "e1", Proto: tc.env})
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
	_, err := NewServer(Config{}).Open(t.Context(), EnvironmentConfig{ID: "e1", Proto: externalEnv("localhost:1")})
	if want := `open environment "e1": the worker port's endpoint is not known yet`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestAnyOf(t *testing.T) {
	r := newRig(t)
	r.connect(r.open(func(c *EnvironmentConfig) { c.Proto = anyOf(docker(), externalEnv(r.pool.addr)) }))
}

// No pool, a pool that refuses, and a harness that never connects: an error says what was tried, and the log what is
// waited for.
func TestNoHarness(t *testing.T) {
	tests := map[string]struct {
		set  func(r *rig, c *EnvironmentConfig)
		want []string
	}{
		"no pool": {
			func(_ *rig, c *EnvironmentConfig) { c.Proto = externalEnv("127.0.0.1:1") },
			[]string{"(EXTERNAL at 127.0.0.1:1)", "last: start a harness: ask the worker pool: ", "connection refused", "start a worker pool there"},
		},
		"refused": {
			func(r *rig, _ *EnvironmentConfig) { r.pool.refuse = "no room" },
			[]string{"last: start a harness: the worker pool refused: no room"},
		},
		"never connects": {
			func(*rig, *EnvironmentConfig) {},
			[]string{"1 tries, last: it was asked for, but never connected to 127.0.0.1:"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.server.cfg.WorkerWait = 100 * time.Millisecond
			env := r.open(func(c *EnvironmentConfig) { tc.set(r, c) })
			_, err := env.Worker(t.Context(), 0)
			if err == nil {
				t.Fatal("got a worker")
			}
			for _, want := range append(tc.want, `no SDK harness of environment "env" `, " within 100ms, ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
			r.log.await(t, "waiting for an SDK harness", "environment=env", "limit=100ms")
		})
	}
}

// A harness that was started but gives no sign of life is given up, and another one started.
func TestSilentHarness(t *testing.T) {
	r := newRig(t)
	env := r.open()
	sl := env.slots[0]
	w := newWorker("silent", env)
	err := sl.boot(t.Context(), w, 10*time.Millisecond)
	if !errors.Is(err, errNotConnected) {
		t.Errorf("error %v, want errNotConnected", err)
	}
}

// A pool that comes late is found.
func TestLatePool(t *testing.T) {
	r := newRig(t)
	r.pool.mu.Lock()
	r.pool.refuse = "still starting"
	r.pool.mu.Unlock()
	env := r.open()
	got := make(chan *Worker, 1)
	go func() {
		w, _ := env.Worker(t.Context(), 0)
		got <- w
	}()
	r.log.await(t, "waiting for an SDK harness", "still starting")
	r.pool.mu.Lock()
	r.pool.refuse = ""
	r.pool.mu.Unlock()
	_, h := r.connect(env)
	if w := recv(t, got); w == nil || w.key != h.id {
		t.Errorf("worker %v, want %s", w, h.id)
	}
}

// Slots are spread over the harnesses, whose ids differ.
func TestParallelism(t *testing.T) {
	r := newRig(t)
	env := r.open(func(c *EnvironmentConfig) { c.Parallelism, c.Job, c.ID = 2, "wörd count/1", "go env" })
	for range 2 {
		id := recv(t, r.pool.starts)
		if !strings.HasPrefix(id, "w_rd_count_1-go_env-") {
			t.Errorf("worker id %q", id)
		}
		r.dial(id).openControl()
	}
	ids := make([]string, 4)
	for slot := range ids {
		ids[slot] = must[*Worker](t)(env.Worker(t.Context(), slot)).ID()
	}
	if ids[0] == ids[1] || ids[0] != ids[2] || ids[1] != ids[3] {
		t.Errorf("workers of slots: %v", ids)
	}
}

// A bundle that kills every harness ends the job rather than going on forever.
func TestFruitlessHarnesses(t *testing.T) {
	r := newRig(t)
	env := r.open()
	for range maxFruitless {
		_, h := r.connect(env)
		h.kill()
		recv(t, r.pool.stops)
	}
	_, err := env.Worker(t.Context(), 0)
	want := `environment "env" (EXTERNAL at ` + r.pool.addr + `): 10 harnesses in a row were lost before they answered a bundle`
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if errors.Is(err, bundle.ErrWorkerLost) {
		t.Error("the error is one that asks for another try")
	}
}

func TestWaitEnds(t *testing.T) {
	r := newRig(t)
	env := r.open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := env.Worker(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := env.Worker(context.Background(), 0)
		got <- err
	}()
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	if err := recv(t, got); err == nil || err.Error() != `environment "env" is closed` {
		t.Errorf("error %v", err)
	}
}

// Close ends the control stream first, so that the harness winds up, and stops it afterwards; nothing stays behind.
func TestClose(t *testing.T) {
	r := newRig(t)
	env := r.open()
	w, h := r.connect(env)
	sink := &recorder{}
	b := testBundle(t, "b1", sink)
	out := run1(t.Context(), w, b, sink)
	h.instruction()
	h.openData()
	h.input("b1")
	closed := make(chan error, 1)
	go func() { closed <- env.Close() }()
	if _, err := h.control.Recv(); err == nil {
		t.Error("the control stream goes on")
	}
	if len(r.pool.stops) > 0 {
		t.Error("stopped before it could wind up")
	}
	h.data.CloseSend()
	if o := recv(t, out); !errors.Is(o.err, bundle.ErrWorkerLost) {
		t.Errorf("bundle: %v, want ErrWorkerLost", o.err)
	}
	if got := recv(t, r.pool.stops); got != w.key {
		t.Errorf("stopped %q", got)
	}
	if err := recv(t, closed); err != nil {
		t.Error(err)
	}
	if _, err := w.Run(t.Context(), b); !errors.Is(err, bundle.ErrWorkerLost) {
		t.Errorf("Run after Close: %v", err)
	}
	if len(r.server.workers) != 0 || len(r.server.programs) != 0 {
		t.Errorf("%d workers, %d programs left", len(r.server.workers), len(r.server.programs))
	}
	if _, err := fnpb.NewProvisionServiceClient(h.conn).GetProvisionInfo(h.ctx, &fnpb.GetProvisionInfoRequest{}); err == nil {
		t.Error("the worker is still known")
	}
}
