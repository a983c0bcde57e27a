# Everything starts here: `make run`. Needs Python 3.11 to 3.13; the rest is set up in this folder.

UV_VERSION := 0.13.9
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c '$(SUPPORTED)' >/dev/null 2>&1 && command -v "$$name" && break; done)
UV := $(shell command -v uv || echo .uv/bin/uv)
BIN := .venv/bin

# An environment of another project, or a wish not to keep compiled files, would only slow this one down.
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONDONTWRITEBYTECODE PYTHONHOME
export UV_PYTHON_DOWNLOADS := never
# OpenMP's threads would spin while they wait, and starve everything else on a small machine.
export OMP_WAIT_POLICY ?= PASSIVE
export UV_PYTHON := $(PYTHON)

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check

help: ## Show this list
	@sed -n 's/^\([a-z%-]*\):.*## /  make \1@/p' Makefile | awk -F@ '{ printf "%-18s %s\n", $$1, $$2 }'

run: setup ## Start the platform: from PostgreSQL tables to live traffic (options: make run ARGS="--dagster-port 3001")
	@$(BIN)/ml-platform up $(ARGS)

demo: setup ## Watch twelve simulated weeks in a few minutes: drift, retraining, broken data, and what is decided
	@$(BIN)/ml-platform demo $(ARGS)

test: setup ## Run every test, two at a time (options: make test ARGS="-k launcher -n 0")
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

check: setup ## Check style, types, layers, the lock file, and that the definitions load
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(UV) lock --check --quiet
	@# Libraries warn of themselves when they are imported; from then on no warning is let pass.
	@$(BIN)/python -c "import warnings, dagster, mlflow.pyfunc; warnings.simplefilter('error'); \
		from ml_platform.definitions import defs; defs.get_repository_def().get_all_jobs()"

bench-%: setup ## Measure one thing: overhead, run, load, ingest, validate, serving, score, drift, gate, new-model
	@$(BIN)/python -m benchmarks.$(subst -,_,$*) $(ARGS)

# The stamp holds the folder's path: an environment does not survive being moved.
setup:
	@if [ "$$(cat .venv/ready 2>/dev/null)" != "$(CURDIR)" ] || [ pyproject.toml -nt .venv/ready ] || [ uv.lock -nt .venv/ready ]; \
	then $(MAKE) --no-print-directory environment; fi

.PHONY: environment
environment: $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	@$(if $(PYTHON),,echo "Python 3.11, 3.12 or 3.13 is needed and none was found as python3: install one, or put it on the PATH" >&2; exit 1)
	@echo "Setting up the environment in .venv: some 200 packages, this once."
	@"$(UV)" sync --locked --quiet
	@printf '%s' "$(CURDIR)" > .venv/ready

.uv/bin/uv:
	@$(if $(PYTHON),,echo "Python 3.11, 3.12 or 3.13 is needed and none was found as python3: install one, or put it on the PATH" >&2; exit 1)
	@"$(PYTHON)" -m venv .uv || { rm -rf .uv; \
		echo "python3 cannot make an environment: install python3-venv (Debian: apt install python3-venv), or uv" >&2; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)" || { rm -rf .uv; \
		echo "uv could not be installed: check the network and pip's settings" >&2; exit 1; }
