# The single entry: every target sets up what it needs, on a fresh clone too. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The tests run with one version; what the code uses is checked for these as well.
OTHER_PYTHONS := 3.10 3.12 3.13

.DEFAULT_GOAL := help
.PHONY: help demo test lint check clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The environment is made once, and again when what it is made from has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(STAMP)  ## tune, export, evaluate, predict and report on synthetic data, on the CPU: see the folder demo/
	$(BIN)/raytune-m2f demo --output demo

test: $(STAMP)  ## the tests (without those marked slow, gpu, detectron2 or reference)
	$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff, its formatter, mypy --strict, and whether the code fits the Python versions that are not run
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	@for version in $(OTHER_PYTHONS); do set -x; \
		$(BIN)/ruff check --quiet --ignore UP --target-version py$$(echo $$version | tr -d .) && \
		$(BIN)/mypy --strict --python-version $$version raytune_m2f || exit 1; \
	done
	$(BIN)/vermin --quiet --violations --no-tips --exclude str.decode --exclude long -t=3.10- raytune_m2f model tests benchmarks

check: lint test  ## what has to pass before a commit: lint and test

clean:  ## remove the environment, the demo's output and all caches
	rm -rf $(VENV) demo dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
