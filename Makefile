# llmjp_core. `make help` lists what there is. Needs Python >= 3.10 and a stable Rust toolchain, nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := PYTHONPATH= VIRTUAL_ENV=$(abspath $(VENV))

# What the compiled extension is made from. Python sources are not in it: the install is editable.
RUST := Cargo.toml Cargo.lock pyproject.toml build.rs scripts/compile_kernels.py $(shell find rust kernels -type f)

# CUDA's compiler (no GPU is needed), as pyproject.toml pins it for builds; LLMJP_NO_CUDA=1 goes without.
NVRTC := $(if $(filter Linux,$(shell uname -s)),$(if $(LLMJP_NO_CUDA),,nvrtc))

.PHONY: help setup quickstart test test-rust test-python check lint fmt bench kernels soak fuzz where clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.built  ## make .venv and install the package there (release build)

quickstart: $(VENV)/.built  ## train a small Japanese model, measure it, plot it, export it
	$(BIN)/llmjp-core quickstart

test: test-rust test-python  ## everything: installs torch and transformers once (several GB)

test-rust: $(NVRTC:%=$(VENV)/.%)
	cargo test --features cuda

test-python: $(VENV)/.tested
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest

check: lint $(VENV)/.tested  ## what must pass before a commit: formatting, lints, types, stubs, fast tests
	cargo test --lib --features cuda
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.linted $(VENV)/.built
	cargo fmt --check
	cargo clippy --all-targets --features python,cuda -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd python && ../$(BIN)/python -m mypy.stubtest llmjp_core._core --mypy-config-file ../pyproject.toml --allowlist ../tests/stubtest_allowlist.txt

fmt:  ## format Rust and Python
	cargo fmt
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.tested  ## beside transformers + torch: tokens/s and peak memory of the trainer, and the drop-in for PyTorch
	$(BIN)/python benches/train_step.py
	$(BIN)/python benches/torch_drop_in.py
	$(BIN)/python benches/torch_ops.py
	$(BIN)/python benches/matmul.py
	$(BIN)/python benches/torch_overhead.py
	cargo run --release --manifest-path benches/matmul_crates/Cargo.toml

kernels: $(VENV)/.tested  ## what the CUDA kernels need of real GPUs, without one: registers and occupancy of each
	$(BIN)/python scripts/compile_kernels.py

soak: $(VENV)/.tested fuzz  ## for MINUTES (default 30) kill and resume at random; a million strings beside sentencepiece; fuzz
	$(BIN)/python benches/soak.py --minutes $${MINUTES:-30}
	$(BIN)/python benches/soak_tokenizer.py --strings $${STRINGS:-1000000}

fuzz:  ## run each fuzz target for FUZZ_SECONDS (default 300); what they find stays in fuzz/artifacts
	@if command -v cargo-fuzz > /dev/null && rustup toolchain list 2> /dev/null | grep -q nightly; then \
	  for target in model_file tokenizer_json encode_decode; do \
	    mkdir -p fuzz/corpus/$$target && \
	    cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	      -max_total_time=$${FUZZ_SECONDS:-300} -timeout=20 -rss_limit_mb=2048 -max_len=65536 || exit 1; \
	  done; \
	else \
	  echo "no libFuzzer: that needs rustup toolchain install nightly and cargo install cargo-fuzz; changing the seeds instead" && \
	  FUZZ_TIMES=$${FUZZ_TIMES:-200} cargo test --release --test fuzz_corpus; \
	fi

where:  ## make where OP=rms_norm: every place of an op
	@test -n "$(OP)" || { echo "say which: make where OP=rms_norm"; exit 2; }
	@find kernels rust python tests benches -not -path '*/__pycache__/*' \( -name '$(OP).*' -o -name 'test_$(OP).py' \) | sort

clean:  ## remove build products and .venv
	rm -rf target $(VENV) python/llmjp_core/_core*.so

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "maturin>=1.9,<2"

# The lines of pyproject.toml that build-system requires.
$(VENV)/.nvrtc: pyproject.toml | $(BIN)/python
	sed -n '/^requires = \[/,/^\]/s/^ *"\(nvidia.*\)",$$/\1/p' pyproject.toml > $@.txt
	$(BIN)/python -m pip install --quiet -r $@.txt
	@mv $@.txt $@

$(VENV)/.built: $(RUST) $(NVRTC:%=$(VENV)/.%) | $(BIN)/python
	@command -v cargo > /dev/null || { echo "Rust is needed: https://rustup.rs"; exit 1; }
	$(RUN) $(BIN)/maturin develop --release --quiet --extras quickstart
	@touch $@

$(VENV)/.tested: $(VENV)/.built pyproject.toml
	$(RUN) $(BIN)/maturin develop --release --quiet --extras test
	@touch $@

$(VENV)/.linted: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "mypy>=1.13" "ruff>=0.9"
	@touch $@
