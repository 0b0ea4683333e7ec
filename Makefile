# A thin front: every target is a short command that also works by hand.

BUILD ?= build
PYTHON := /usr/bin/python3
# A build folder keeps the generator it was made with.
GENERATOR = $(if $(wildcard $(BUILD)/CMakeCache.txt),,-G Ninja)
SOURCES = $(shell find api outboxd consumerd operator-sim libcommon test -name node_modules -prune -o -name '*.[ch]' -print)

export BUILD_DIR = $(abspath $(BUILD))

# Packages of npm, as their locks say; nothing of them is run while they are installed.
NPM_CI = npm ci --ignore-scripts --no-audit --no-fund --prefix
SWAGGER_UI = api/swagger/node_modules/.package-lock.json
API_TOOLS = api/tools/node_modules/.package-lock.json
SMPP = test/carriers/node_modules/.package-lock.json

.NOTPARALLEL:
.PHONY: build run test unit system system-auth storms pages-test webhooks-test faults faults-short faults-auth upgrade-test \
  versions-test cluster-faults cluster-faults-short seed \
  loadtest benchmark sanitize sanitized \
  sanitize-units sanitized-units fuzz fuzz-short fuzzed sbom pin \
  valgrind observe-test lint swag deps clean docker images-test compose-check compose-test k8s-test \
  packages packages-test units-test backup-test carriers-test

build: $(SWAGGER_UI)
	cmake -S . -B $(BUILD) $(GENERATOR)
	cmake --build $(BUILD)

# The whole stack with the API on 8080, until Ctrl-C.
run: deps build
	@compose/run

test: deps unit fuzz-short system faults-short

# Suites of unit tests at a time: some wait for a timer or a connection.
UNIT_JOBS ?= 2

unit: $(SWAGGER_UI)
	cmake -S . -B $(BUILD) $(GENERATOR) -DWERROR=ON
	cmake --build $(BUILD)
	ctest --test-dir $(BUILD) --output-on-failure -j $(UNIT_JOBS)

# What needs a browser, newman or Prometheus is longer than a change should wait: observe-test; and what has thousands of
# clients at once compares times, for which it wants the machine to itself: storms.
LONGER = test/system/test_pages.py test/system/test_dashboards.py test/system/test_openmetrics.py \
  test/system/test_storms.py

# Three files of tests at a time, on two cores too: most of their time is waiting for something to come back.
SYSTEM_JOBS ?= 3

system:
	$(PYTHON) -m pytest test/system $(LONGER:%=--ignore=%) -n $(SYSTEM_JOBS) --dist loadfile $(PYTEST_ARGS)

# The same with keys: every stack asks for one, and whatever calls it brings one.
system-auth faults-auth: export API_AUTH = required
system-auth: system
faults-auth: faults-short

# Ten thousand clients that never finish, two thousand that are slow; figures with -s. Alone on the machine.
storms: build
	$(PYTHON) -m pytest -s test/system/test_storms.py $(PYTEST_ARGS)

# The pages in a browser, and the Postman collection.
pages-test: deps build $(API_TOOLS)
	test/deps browser
	$(PYTHON) -m pytest test/system/test_pages.py test/system/test_openapi.py $(PYTEST_ARGS)

# What endpoints are told, with the signatures read by the specification's own library (from npm).
webhooks-test: deps build
	$(NPM_CI) test/webhooks
	$(PYTHON) -m pytest test/system/test_webhooks.py test/system/test_webhooks_harm.py $(PYTEST_ARGS)

# The main path on databases and brokers of other versions, from Debian's other suites (docs/versions.md); VERSIONS names
# some of them (test/servers/fetch --list).
VERSIONS ?=

versions-test: deps build
	test/servers/run $(VERSIONS)

# Everything that can break, under load (test/faults/run --help); its short part belongs to `test`.
faults: deps build
	test/faults/run

# From the release before to this one and back, under load (docs/upgrade.md). It is built from this repository's
# history; OLD is a build folder of another one.
upgrade-test: deps build
	old="$(abspath $(OLD))"; FAULTS_OLD="$${old:-$$(test/upgrade/build)}" && export FAULTS_OLD && \
	  FAULTS_ONLY=upgrade test/faults/run --results $(BUILD)/upgrade.json

# The same of a cluster (compose/cluster): brokers, databases and machines, under load (test/cluster/run --help). As root:
# machines are network namespaces.
cluster-faults: deps build
	test/deps cluster
	test/cluster/run $(CLUSTER_ARGS)

cluster-faults-short: CLUSTER_ARGS = --short --times 1 --results $(BUILD)/cluster-faults-short.json
cluster-faults-short: cluster-faults

faults-short:
	FAULTS_SEED=$${FAULTS_SEED:-1} FAULTS_JOBS=2 test/faults/run --short --results $(BUILD)/faults-short.json

# Load on a running stack: the one of `make run`, or BENCH_BASE_URL.
LOADTEST = $(BUILD)/test/loadtest/msg-loadtest -base-url $(or $(BENCH_BASE_URL),http://localhost:8080) \
  -users $(BENCH_USERS)
BENCH_USERS ?= 5000
BENCH_RPS ?= 1000
BENCH_DURATION ?= 30s
BENCH_CONCURRENCY ?= 200
BENCH_RECIPIENTS ?= 1
BENCH_EXPRESS_RATIO ?= 0.2
BENCH_SEED_BALANCE ?= 100000
BENCH_SEED_TIMEOUT ?= 5m

seed: build
	@eval "$$(compose/local env)" && \
	  SEED_DB_DSN="$$DB_USER_NAME:$$DB_PASSWORD@tcp($$DB_HOST:$$DB_PORT)/$$DB_NAME" \
	  $(LOADTEST) -seed-only -seed-balance $(BENCH_SEED_BALANCE) -seed-timeout $(BENCH_SEED_TIMEOUT)

loadtest: build
	$(LOADTEST) -rps $(BENCH_RPS) -duration $(BENCH_DURATION) -concurrency $(BENCH_CONCURRENCY) \
	  -recipients $(BENCH_RECIPIENTS) -express-ratio $(BENCH_EXPRESS_RATIO)

# What is promised, measured on a stack of its own (test/bench/run --help).
benchmark: deps build
	test/bench/run

# The main path under AddressSanitizer with UBSan, then ThreadSanitizer; what they say fails the tests.
MAIN_PATH = test/system/test_main_path.py test/system/test_examples.py test/system/test_delivery.py

sanitize: deps
	$(MAKE) BUILD=build-asan SANITIZE=address,undefined sanitized
	$(MAKE) BUILD=build-tsan SANITIZE=thread sanitized

# The unit tests alone: quick enough for every change.
sanitize-units: deps
	$(MAKE) BUILD=build-asan SANITIZE=address,undefined sanitized-units

sanitized-units:
	cmake -S . -B $(BUILD) $(GENERATOR) -DSANITIZE=$(SANITIZE)
	cmake --build $(BUILD)
	ctest --test-dir $(BUILD) --output-on-failure -j $(UNIT_JOBS)

sanitized: sanitized-units
	$(PYTHON) -m pytest $(MAIN_PATH) $(PYTEST_ARGS)

# Whatever strangers may send, by libFuzzer under AddressSanitizer and UBSan: each target for so long, so many at
# a time. Corpora grow in build-fuzz/corpus, so that runs add up. `make fuzz FUZZ_SECONDS=3600` is a night.
FUZZ_SECONDS ?= 60
FUZZ_JOBS ?= 2
FUZZ_SEED ?= 0
FUZZ_RUNS ?= 0
FUZZ_TARGETS ?=

fuzz: deps
	$(MAKE) BUILD=build-fuzz FUZZ_SECONDS=$(FUZZ_SECONDS) fuzzed

# A minute in all: it belongs to `test`, and to CI. Always the same inputs, however quick the machine: what chance finds
# is for `fuzz`.
fuzz-short: deps
	$(MAKE) BUILD=build-fuzz FUZZ_SECONDS=60 FUZZ_RUNS=25000 FUZZ_SEED=1 fuzzed

fuzzed:
	test/deps fuzz
	cmake -S . -B $(BUILD) $(GENERATOR) -DFUZZ=ON -DCMAKE_C_COMPILER=clang
	cmake --build $(BUILD) --target fuzzers
	test/fuzz/run --seconds $(FUZZ_SECONDS) --runs $(FUZZ_RUNS) --seed $(FUZZ_SEED) --jobs $(FUZZ_JOBS) $(FUZZ_TARGETS)

# A thousand messages; a leak or an error in any daemon fails the test.
valgrind: build
	test/deps valgrind
	DAEMON_WRAPPER='valgrind --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite' \
	  READY_TIMEOUT=180 $(PYTHON) -m pytest test/system/test_main_path.py -k thousand $(PYTEST_ARGS)

# Exported spans as somebody else's decoder reads them (packages from npm, beside Debian's); rules and
# dashboards in Prometheus, on a stack under load.
# Spans read by a decoder of OpenTelemetry's own, dashboards and alerts in Prometheus, pages in a browser.
observe-test: pages-test
	test/deps observe
	cd test/observe && npm ci --ignore-scripts --no-audit --no-fund
	$(PYTHON) -m pytest test/observe $(PYTEST_ARGS)
	$(PYTHON) -m pytest test/system/test_dashboards.py test/system/test_openmetrics.py $(PYTEST_ARGS)

# Images, one a program and one with all, and the Compose file. Other engines than Docker will do:
# CONTAINER='sudo podman', CONTAINER_BUILD='buildah build --format docker', COMPOSE=podman-compose.
export CONTAINER ?= docker
export CONTAINER_BUILD ?= $(CONTAINER) build
export COMPOSE ?= $(CONTAINER) compose
export IMAGE_TAG ?= latest
IMAGES = msg-api msg-outboxd msg-consumerd operator-sim msg-loadtest
# The context comes last: buildah takes no option behind it.
BUILD_IMAGE = $(CONTAINER_BUILD) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null)
COMPOSE_TOOLS = test/deploy/compose/node_modules/.package-lock.json

docker:
	for program in $(IMAGES); do \
	  $(BUILD_IMAGE) --target $$program -t distributed-messaging-platform/$$program:$(IMAGE_TAG) . || exit 1; \
	done
	$(BUILD_IMAGE) -t distributed-messaging-platform:$(IMAGE_TAG) .

images-test: docker
	$(PYTHON) -m pytest test/deploy/test_images.py $(PYTEST_ARGS)

# What needs no container: quick enough for every change.
compose-check: build $(COMPOSE_TOOLS)
	$(PYTHON) -m pytest test/deploy/test_compose_static.py $(PYTEST_ARGS)

compose-test: compose-check docker
	$(PYTHON) -m pytest test/deploy/test_compose.py $(PYTEST_ARGS)

# The Kubernetes manifests, rendered, against the official schemas and the built daemons. No cluster is needed,
# but a kubectl of 1.21 or later (Debian 12 has an older one).
k8s-test: deps build
	@command -v kubectl || command -v kustomize || { echo 'kubectl (1.21 or later) or kustomize is needed' >&2; exit 1; }
	$(NPM_CI) test/deploy/k8s
	$(PYTHON) -m pytest test/deploy/test_k8s.py $(PYTEST_ARGS)

# Backup and restore of the database, with the audit as the check.
backup-test: deps build
	test/deps backup
	$(PYTHON) -m pytest test/deploy/test_backup.py $(PYTEST_ARGS)

# Debian's Kannel, bound to an SMPP centre, as docs/carriers.md has it: ten minutes.
carriers-test: deps build $(SMPP)
	test/deps carriers
	$(PYTHON) -m pytest test/carriers $(PYTEST_ARGS)

# A Debian package a program, in $(BUILD)/packages.
packages: deps build
	rm -rf $(BUILD)/packages
	cd $(BUILD) && cpack -G DEB -B packages

# What the programs are made of, as CycloneDX: $(BUILD)/sbom.cdx.json.
sbom: deps build
	packaging/sbom $(BUILD) > $(BUILD)/sbom.cdx.json

# Digests for the images of others, as their registries give them today (with docker buildx, or skopeo).
pin:
	packaging/pin

# Installed, upgraded, removed and purged in a clean Debian 12 that boots (as root, with systemd-nspawn).
packages-test: deps build
	test/deps packages
	$(PYTHON) -m pytest test/deploy/test_packages.py $(PYTEST_ARGS)

# The units: their files, the daemons under them, and the installed ones under a real systemd (as root).
units-test: deps build
	test/deps packages
	$(PYTHON) -m pytest test/system/test_service_manager.py $(PYTEST_ARGS)
	$(PYTHON) -m pytest test/deploy/test_units.py $(PYTEST_ARGS)

lint:
	test/deps lint
	clang-format --dry-run -Werror $(SOURCES)
	cmake -S . -B $(BUILD) $(GENERATOR)
	run-clang-tidy -quiet -p $(BUILD)
	cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --enable=warning,performance,portability \
	  --suppress=missingIncludeSystem -I . -j 2 $(filter-out test/unit/% test/fuzz/% test/system/% test/faults/% test/observe/%,$(SOURCES))

# Checks the OpenAPI document and bundles it as JSON.
swag: export REDOCLY_TELEMETRY = off
swag: export REDOCLY_SUPPRESS_UPDATE_NOTICE = true
swag: $(API_TOOLS)
	mkdir -p $(BUILD)
	api/tools/node_modules/.bin/redocly lint --config api/redocly.yaml api/openapi.yaml
	api/tools/node_modules/.bin/redocly bundle --config api/redocly.yaml api/openapi.yaml -o $(BUILD)/openapi.json

# msg-api runs without its Swagger page where npm or its registry cannot be had.
$(SWAGGER_UI): api/swagger/package-lock.json
	@$(NPM_CI) api/swagger || echo 'Swagger UI could not be fetched; the API is built without its page' >&2

$(API_TOOLS): api/tools/package-lock.json
	$(NPM_CI) api/tools

$(SMPP): test/carriers/package-lock.json
	$(NPM_CI) test/carriers

$(COMPOSE_TOOLS): test/deploy/compose/package-lock.json
	$(NPM_CI) test/deploy/compose

deps:
	@test/deps

clean:
	rm -rf $(BUILD) build-asan build-tsan build-fuzz
