# Everything that is built lies under .build. Needed: Go 1.26, Python 3.10 or newer, bash, and cc for the race detector.
BUILD  := .build
PYTHON ?= python3
VENV   := $(BUILD)/venv
SUITES ?= ../shared/suites
GO     := CGO_ENABLED=0 go
# For the tests of one package: three times what the slowest takes on two busy cores.
TIMEOUT := 8m
GOLANGCI := v2.15.0
LINT   := $(BUILD)/bin/golangci-lint-$(GOLANGCI)

.PHONY: build test race lint demo conformance clients bench browser chromium chaos venv versitygw promtool clean

build:
	$(GO) build -buildvcs=auto -o $(BUILD)/tinyrunner ./cmd/tinyrunner

# The whole suite, with pipelines of the real Python and Go SDKs.
test: venv
	PYTHON=$(abspath $(VENV)/bin/python) $(GO) test -timeout $(TIMEOUT) ./...

# The same without the real SDKs: their processes are not Go and only wait longer here.
race:
	CGO_ENABLED=1 go test -race -short -timeout $(TIMEOUT) ./...

lint: $(LINT)
	@test -z "$$(gofmt -l cmd engine state web checkpoint benchmarks)" || { echo "run gofmt on:"; gofmt -l cmd engine state web checkpoint benchmarks; exit 1; }
	$(GO) vet ./...
	CGO_ENABLED=0 $(LINT) run

$(LINT):
	GOBIN=$(abspath $(BUILD)/bin) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	mv $(BUILD)/bin/golangci-lint $@

# Kafka -> filter -> count -> Kafka on an embedded broker; Ctrl-C ends it.
demo: build
	$(BUILD)/tinyrunner demo

# Beam's own suites against this build, on free ports. SUITES is where their drivers are. JOBS=4 runs four of them at once
# on one server, RACE=1 takes a build with the race detector.
conformance: build venv
ifdef RACE
	CGO_ENABLED=1 go build -race -o $(BUILD)/tinyrunner-race ./cmd/tinyrunner
	BINARY=$(BUILD)/tinyrunner-race bash .ci/conformance "$(SUITES)"
else
	bash .ci/conformance "$(SUITES)"
endif

# Flink's own clients against this build: the flink command, Beam's uber jars, Flink's web UI in Chromium, its autoscaler. They are
# installed first. CLIENTS=cli,webui takes some of them: cli, uberjar, rest, webui, autoscaler. Java, Maven and node are needed.
clients: build venv
	$(GO) build -o $(BUILD)/clients-driver ./web/clients
	$(BUILD)/clients-driver --python $(VENV)/bin/python --suites "$(SUITES)" --only "$(CLIENTS)"

# Figures of the parts, on this machine and as busy as it is.
bench:
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

# The web UI's pages in a headless Chromium, on a real server with jobs of the Python SDK. Pictures go to .build/screenshots.
browser: venv chromium
	PYTHON=$(abspath $(VENV)/bin/python) TINYRUNNER_REAL_CHROMIUM=1 $(GO) test -count 1 -timeout $(TIMEOUT) ./web/ui

# Debian's, if there is none. On other systems install one that is called chromium.
chromium:
	@command -v chromium >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "no chromium on the PATH, and no apt-get to install it with: install it" >&2; exit 1; }; \
	  as=; test "$$(id -u)" = 0 || as=sudo; \
	  test -z "$$as" || command -v sudo >/dev/null || { echo "no chromium on the PATH: install it as root (apt-get install chromium)" >&2; exit 1; }; \
	  $$as apt-get -qq update && $$as apt-get -qq install -y --no-install-recommends chromium; }

# kill -9, again and again, of a job from Kafka to Kafka and all around it, on a real broker and a real S3 server; then nothing may be
# lost or doubled. KILLS of tinyrunner, MODE=at_least_once, KAFKA_VERSION=3.9.1. Ten minutes with 200 kills; java is needed.
KILLS         ?= 200
MODE          ?= exactly_once
KAFKA_VERSION ?= 4.1.0
chaos: build versitygw
	cd benchmarks/chaos/job && $(GO) build -ldflags '-s -w' -o $(abspath $(BUILD))/chaos-job .
	$(GO) build -o $(BUILD)/chaos ./benchmarks/chaos
	$(BUILD)/chaos --kills $(KILLS) --mode $(MODE) --kafka $(KAFKA_VERSION)

venv: $(VENV)/ready

$(VENV)/ready: .ci/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r .ci/requirements.txt
	touch $@

# A real S3 server for the tests of checkpoint/objstore, which skip it when it is not there.
versitygw:
	GOBIN=$(abspath $(BUILD)/bin) $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0

# Prometheus' own linter, on the alert rules and on what a server with a job tells. It is built in a module of its own, without the
# service discovery of the clouds: some minutes the first time.
PROMETHEUS := v0.313.5
PROMTOOL   := $(BUILD)/bin/promtool-$(PROMETHEUS)
promtool: build $(PROMTOOL)
	TINYRUNNER=$(abspath $(BUILD))/tinyrunner PROMTOOL=$(abspath $(PROMTOOL)) .ci/promtool

$(PROMTOOL):
	rm -rf $(BUILD)/promtool && mkdir -p $(BUILD)/promtool
	cd $(BUILD)/promtool && go mod init promtool && go mod edit -require=github.com/prometheus/prometheus@$(PROMETHEUS)
	cd $(BUILD)/promtool && $(GO) build -mod=mod -tags remove_all_sd -o $(abspath $(PROMTOOL)) github.com/prometheus/prometheus/cmd/promtool

clean:
	rm -rf $(BUILD)
