# make demo | make test: each makes the environment it needs, once, and does the whole thing.
#   PYTHON=python3.12   the interpreter that .venv is made from (3.10 or newer)
#   OFFLINE=1           install nothing but adaptinf itself; its requirements must be in PYTHON already
#   ADAPTINF_CUDA=0|1   leave the CUDA part of the native module out, or insist on it (default: when nvcc is found)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(shell find csrc -type f 2>/dev/null)
# One thread a worker: more threads than cores make torch many times slower.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 ADAPTINF_PROGRESS=0 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test quick bench lint format environment clean

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## run random replay and Adapt-infinity on a stream of five tasks, print the table, write runs/demo/report.html
	$(BIN)/adaptinf demo --out runs/demo

test: $(INSTALLED) lint ## lint, type check and the whole test suite with coverage
	$(PYTEST) -n $(WORKERS) --cov=adaptinf --cov-report=term --cov-fail-under=85

quick: $(INSTALLED) ## the tests that take no more than seconds each
	$(PYTEST) -n $(WORKERS) -m "not slow" -q

bench: $(INSTALLED) ## gate and time everything against the peers that are installed; prints the goals (benchmarks/README.md)
	$(BIN)/python -m benchmarks run

lint: $(INSTALLED) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED) ## rewrite the sources as ruff formats them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

environment: $(INSTALLED) ## make .venv and install adaptinf with its native module

$(INSTALLED): pyproject.toml setup.py constraints.txt $(NATIVE)
	PYTHON="$(PYTHON)" VENV="$(VENV)" OFFLINE="$(OFFLINE)" .ci/environment
	@touch $@

clean: ## remove the environment, builds and caches (not runs/)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov
	rm -f kernels/adaptinf_kernels/*.so
