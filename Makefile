# Two commands matter: `make demo` and `make test`. Both set everything up first, in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
DEBIAN_PACKAGES := python3-venv libpython3.11 libb64-0d libnghttp2-14
TEST_PACKAGES := prometheus chromium iproute2
SANITIZER_PACKAGES := gcc libc6-dev
EMULATOR_PACKAGES := bochs bochs-term bochsbios vgabios

.PHONY: help setup demo test test-fast test-long sanitize emulate soak zoo lint format types bench clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with pinned packages, tritonserver and perf_analyzer

# each step says what it does: the downloads take minutes the first time
$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard triton_backends/*/*.[ch]) Makefile
	@echo "set-up, once; 5 steps, some minutes in all"
	@echo "1/5 Debian packages: $(DEBIAN_PACKAGES)"
	@sh tools/debian-packages.sh $(DEBIAN_PACKAGES)
	@echo "2/5 a Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "3/5 torch: some 200 MB to download, a minute or more"
	@$(BIN)/pip install --quiet --constraint constraints.txt torch
	@echo "4/5 elasticrec, its C parts compiled, with tritonserver and the load tools: some 500 MB, minutes"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable '.[all,dev]'
	@echo "5/5 perf_analyzer in $(VENV)/perf_analyzer"
	@$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/perf_analyzer tritonclient==2.51.0
	@touch $@

demo: $(STAMP) ## build a model, serve it, compare its scores with PyTorch's, measure it
	$(BIN)/elasticrec demo

test: lint types ## lint, types and the tests, but for the long ones
	@echo "Debian packages for the tests: $(TEST_PACKAGES)"
	@sh tools/debian-packages.sh $(TEST_PACKAGES)
	sh tools/test.sh $(BIN)/pytest

test-fast: $(STAMP) ## the quick tests: no servers, no exports, no builds
	sh tools/test-fast.sh $(BIN)/pytest

test-long: $(STAMP) ## the tests that make test leaves out, each of many seconds
	@sh tools/debian-packages.sh $(TEST_PACKAGES)
	$(BIN)/pytest -m long

sanitize: $(STAMP) ## the C code's tests on builds with sanitizers of memory, undefined behaviour and threads
	@sh tools/debian-packages.sh $(SANITIZER_PACKAGES)
	sh tools/sanitize.sh address,undefined tests/triton_backends
	sh tools/sanitize.sh thread $(wildcard tests/triton_backends/test_fanout_*.py tests/triton_backends/test_listener*.py) \
		tests/triton_backends/test_call_load.py

emulate: $(STAMP) ## the kernels on an emulated processor with AVX-512: for machines that have none
	@sh tools/debian-packages.sh $(EMULATOR_PACKAGES)
	sh tools/avx512.sh

MINUTES ?= 30
soak: $(STAMP) ## half an hour of traffic a shard backend, MINUTES=5 for less; records go to build/soak
	@mkdir -p build/soak
	ELASTICREC_SOAK_MINUTES=$(MINUTES) ELASTICREC_SOAK_RUNS=build/soak $(BIN)/pytest -s -m soak tests/soak

zoo: $(STAMP) ## models of TorchRec and torch-rechub, among others: cut, built, served, asked; installs both
	@PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable '.[zoo]'
	@$(BIN)/pip install --quiet --no-deps --constraint constraints.txt torchrec
	$(BIN)/pytest -m zoo tests/zoo

lint: $(STAMP) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

bench: $(STAMP) ## the benchmarks, one after another
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

clean: ## remove what setup and the tools made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
