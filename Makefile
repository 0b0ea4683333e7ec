# A thin front: every target is a short command that also works by hand.

BUILD ?= build
PYTHON := /usr/bin/python3
# A build folder keeps the generator it was made with.
GENERATOR = $(if $(wildcard $(BUILD)/CMakeCache.txt),,-G Ninja)
SOURCES = $(shell find api outboxd consumerd operator-sim libcommon test -name '*.[ch]')

export BUILD_DIR = $(abspath $(BUILD))

.NOTPARALLEL:
.PHONY: build run test unit system lint deps clean

build:
	cmake -S . -B $(BUILD) $(GENERATOR)
	cmake --build $(BUILD)

# The whole stack with the API on 8080, until Ctrl-C.
run: deps build
	@compose/run

test: deps unit system

unit:
	cmake -S . -B $(BUILD) $(GENERATOR) -DWERROR=ON
	cmake --build $(BUILD)
	ctest --test-dir $(BUILD) --output-on-failure

system:
	$(PYTHON) -m pytest test/system $(PYTEST_ARGS)

lint:
	test/deps lint
	clang-format --dry-run -Werror $(SOURCES)
	cmake -S . -B $(BUILD) $(GENERATOR)
	run-clang-tidy -quiet -p $(BUILD)
	cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --enable=warning,performance,portability \
	  --suppress=missingIncludeSystem -I . -j 2 api outboxd consumerd operator-sim libcommon

deps:
	@test/deps

clean:
	rm -rf $(BUILD)
