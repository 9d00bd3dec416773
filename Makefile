# Two commands for a newcomer: `make demo` and `make test`. Everything is built under this folder.
SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin
# Locked versions, this machine's own Python and certificates, no download of another Python.
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS ?= 1
# Nothing is left outside this folder, not even a cache.
export UV_NO_CACHE := 1
export PIP_NO_CACHE_DIR := 1
export UV_PROJECT_ENVIRONMENT := $(VENV)
# What Python compiles is kept: a cluster starts a dozen processes, and each would compile all it
# imports, which takes three times as long as what it does until it is ready.
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test lint format audit sbom bench bench-overload bench-observe bench-profile bench-campaign pictures

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/synced ## Build the virtual environment from uv.lock

# uv is taken from the PATH, or fetched with pip into the environment it then fills.
$(VENV)/synced: pyproject.toml uv.lock
	@command -v uv >/dev/null 2>&1 || test -x $(RUN)/uv || \
		{ python3 -m venv $(VENV) && $(RUN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@echo "Building $(VENV) from uv.lock" >&2
	@UV=$$(command -v uv || echo $(RUN)/uv); "$$UV" sync --quiet --locked --all-extras --inexact
	@touch $@

demo: $(VENV)/synced ## Replay a scaled Qwen campaign through the whole system, then audit it
	@$(RUN)/tidegate demo

test: $(VENV)/synced lint ## Run every check that CI runs
	@$(RUN)/pytest -n 3 --dist loadscope --no-loadscope-reorder

lint: $(VENV)/synced ## Check format, style, types and layers
	@$(RUN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(RUN)/ruff check --quiet .
	@$(RUN)/mypy
	@$(RUN)/lint-imports --no-logo --no-cache 

format: $(VENV)/synced ## Format the code and mend what can be mended
	@$(RUN)/ruff format --quiet .
	@$(RUN)/ruff check --quiet --fix .

audit: $(VENV)/synced ## Ask whether a locked package has a known vulnerability (exit 3: nobody to ask)
	@.ci/audit $(ARGS)

sbom: $(VENV)/synced ## Write what is shipped, and of which packages it is made, as CycloneDX
	@mkdir -p dist
	@$(RUN)/uv export --quiet --locked --no-dev --all-extras --format cyclonedx1.5 \
		--preview-features sbom-export --output-file dist/tidegate.cdx.json >/dev/null
	@echo dist/tidegate.cdx.json

# `make bench ARGS="--rows single --seconds 10"`: one row only; `ARGS=--help` names them all.
bench: $(VENV)/synced ## Measure every goal of speed but the 10-million run, beside plain Celery
	@$(RUN)/python -m tests.benchmarks $(ARGS)

bench-overload: $(VENV)/synced ## Offer up to 20 times the capacity, beside plain Celery without admission
	@$(RUN)/python -m tests.benchmarks --rows overload,plain_overload,storm,issuance,greedy,scarce,faults,appointments $(ARGS)

# `make bench-observe ARGS="--seconds 6"`: kills for one minute instead of ten.
bench-observe: $(VENV)/synced ## Hold metrics against the audit through ten minutes of kills; say what they cost
	@$(RUN)/python -m tests.benchmarks --rows exact,observed $(ARGS)

bench-profile: $(VENV)/synced ## Say where the CPU microseconds of one order go
	@$(RUN)/python -m tests.benchmarks.stages $(ARGS)

bench-campaign: $(VENV)/synced ## Run 10 million orders through the nine-hour curve, resumably
	@$(RUN)/python -m tests.benchmarks.campaign $(ARGS)

pictures: $(VENV)/synced ## Draw the dashboards from a real Prometheus, in three minutes
	@$(RUN)/python -m tests.dashboards $(ARGS)
