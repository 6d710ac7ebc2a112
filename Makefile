# What a developer runs; each target builds .venv first if it is missing or not current.
# You need Python (3.11 or later) and make. PYTHON=... names the Python to build .venv with.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup run test test-all collect lint format types docs stubs check-stubs wheel wheel-check bench bench-large lock check-lock clean

# Without compiled modules, each of the many processes of the tests compiles them again.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
T ?=
PYTEST_ARGS ?=
WORKERS ?= 4
NAME ?=
EVENTS ?=
IN_PARALLEL = -n $(WORKERS) --dist loadgroup

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup:  ## build .venv from requirements.lock, unless it is current
	@PYTHON='$(PYTHON)' sh tools/setup.sh

run: setup  ## run everything once, on an embedded PostgreSQL and a simulated upstream
	@$(BIN)/python -m projections.sandbox.demo

test: setup  ## every test, by WORKERS=4 processes; or some in one: T=tests/unit, PYTEST_ARGS='-x' for pytest's arguments
	@$(BIN)/python -m pytest $(if $(T),$(T),$(IN_PARALLEL)) $(PYTEST_ARGS)

test-all: setup  ## every test with all parameters, on the newest and the oldest PostgreSQL; fails if make test leaves an SQL statement out there
	@$(BIN)/python -m pytest --full-matrix --check-statements $(if $(T),$(T),$(IN_PARALLEL)) $(PYTEST_ARGS)

collect: setup  ## load all tests, which also compiles them, and run none
	@found=$$($(BIN)/python -m pytest --collect-only -qq 2>&1) || { echo "$$found"; exit 1; }

lint: setup  ## check with ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup  ## repair what ruff can repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup  ## mypy --strict
	@$(BIN)/python -m mypy

docs: setup  ## generate tables in docs/: settings, metrics, JSON documents, module map, licences, data dictionary, codes of doctor
	@$(BIN)/python tools/settings_tables.py
	@$(BIN)/python tools/metrics_table.py
	@$(BIN)/python -m tools.json_tables
	@$(BIN)/python tools/module_map.py
	@$(BIN)/python tools/licences.py
	@$(BIN)/python tools/data_dictionary.py
	@$(BIN)/python tools/doctor_codes.py

stubs: setup  ## generate the protobuf stubs from proto/
	@$(BIN)/python tools/stubs.py

check-stubs: setup  ## check that the stubs match proto/
	@$(BIN)/python tools/stubs.py --check

wheel: setup  ## build the wheel in dist/ and print its path
	@$(BIN)/python -m hatchling build -t wheel -d dist

wheel-check: setup  ## build the wheel, check its contents, install it elsewhere, migrate an empty database with it
	@$(BIN)/python tools/wheel_check.py

bench: setup  ## measure against references; NAME=append for one benchmark
	@$(BIN)/python -m benchmarks $(NAME)

bench-large: setup  ## the long measurements: how a rebuild's cost grows with the log; everything on EVENTS=20000000
	@$(BIN)/python -m benchmarks --large
	@$(BIN)/python -m benchmarks.large_log $(EVENTS)

lock: setup  ## resolve the dependencies again, with few changes; UPGRADE=1 for the newest
	@$(BIN)/uv pip compile pyproject.toml --extra embedded --extra parquet --extra sql --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --system-certs --quiet \
		$(if $(UPGRADE),--upgrade) -o requirements.lock
	@$(MAKE) --no-print-directory setup

clean:  ## stop and remove the embedded database, .venv and what tools left
	@if [ -x $(BIN)/python ]; then $(BIN)/python tools/clean.py; fi
	@rm -rf .venv .projections build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
