# The README's two commands, and what a developer needs beside them. Each target installs what it
# lacks (SKIP_DEPENDENCIES=1 leaves that out) and builds first.

BUILD ?= build
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
export DUALFP_VENV ?= $(CURDIR)/.venv
# Debian's tools, unless the environment names others.
CMAKE ?= cmake
CTEST ?= ctest

.DEFAULT_GOAL := build
.PHONY: dependencies test-dependencies configure build demo test sanitize bench accuracy performance format lint lint-quick soak install clean

dependencies:
ifndef SKIP_DEPENDENCIES
	tools/install_dependencies.sh
endif

test-dependencies:
ifndef SKIP_DEPENDENCIES
	tools/install_dependencies.sh --tests
endif

# Everything but the tests; leaves the command at build/dualfp.
build: dependencies
	$(CMAKE) -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release -DDUALFP_BUILD_TESTS=OFF \
	  -DDUALFP_BUILD_BENCHMARKS=OFF $(CMAKE_FLAGS)
	$(CMAKE) --build $(BUILD) -j $(JOBS)

# Generates text with the bundled model, switching precision in the middle.
demo: build
	tools/demo.sh $(BUILD)/dualfp

test: test-dependencies
	$(CMAKE) -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release -DDUALFP_BUILD_TESTS=ON \
	  -DDUALFP_BUILD_BENCHMARKS=ON -DDUALFP_PYTHON=$(DUALFP_VENV)/bin/python3 $(CMAKE_FLAGS)
	$(CMAKE) --build $(BUILD) -j $(JOBS)
	$(CTEST) --test-dir $(BUILD) --output-on-failure -j $(JOBS)

# The C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: test-dependencies
	tools/sanitize.sh asan-ubsan

# A long load on the server, and long fuzzing and sanitizer runs, which the tests only sample.
soak: build test-dependencies
	tools/soak.sh $(BUILD)

bench: build
	$(CMAKE) -S . -B $(BUILD) -DDUALFP_BUILD_BENCHMARKS=ON
	$(CMAKE) --build $(BUILD) -j $(JOBS)
	tools/bench.sh $(BUILD)

# Measures every format anew and rewrites docs/accuracy.md.
accuracy: build
	tools/accuracy.py --dualfp $(BUILD)/dualfp

SOURCES = $(shell git ls-files '*.h' '*.cc' '*.cu' '*.cuh')

# Rewrites docs/performance.md and its plots from the recorded GPU measurements.
performance: build
	python3 tools/tuning_log.py unpack bench/results/h200-*.xz $(BUILD)/records
	$(BUILD)/dualfp bench report $(BUILD)/records/h200-*.jsonl --output docs/performance.md

format:
	clang-format-14 -i $(SOURCES)

lint: test-dependencies
	tools/lint.sh $(BUILD)

# The formatter, and the part of the linter that takes a few minutes.
lint-quick: test-dependencies
	tools/lint.sh --quick $(BUILD)

install: build
	$(CMAKE) --install $(BUILD)

clean:
	rm -rf $(BUILD)
