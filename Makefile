# `make help` says what there is. One line a stage; a stage that fails shows what it printed.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/make.log
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist worksteal

# $(call stage,NAME,COMMAND): the name, then ok; or FAILED and everything that COMMAND printed.
stage = @printf '%-38s' '$(1)'; \
	if $(2) >$(LOG) 2>&1; then echo ok; else echo FAILED; cat $(LOG); exit 1; fi

# The same for pytest; in place of ok come what was skipped, and why, and pytest's closing line.
pytest = @printf '%-38s\n' '$(1)'; \
	if $(2) >$(LOG) 2>&1; then grep '^SKIPPED' $(LOG); tail -n 1 $(LOG); else cat $(LOG); exit 1; fi

.PHONY: help demo test test-all test-faults lint format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

demo: $(VENV)/installed-study ## install into .venv, then run the example study to its verdict
	@$(BIN)/rheostat study run examples/warm_restarts.yaml

test: lint ## everything that must hold: format, lint, types, imports, tests
	$(call pytest,tests,$(PYTEST) -m 'not slow')

test-all: lint ## the same with the slow proofs
	$(call pytest,tests and slow proofs,$(PYTEST))

test-faults: lint ## what damages, kills or starves checkpoints, all of it
	$(call pytest,faults,$(PYTEST) -m faults)

lint: $(VENV)/installed-dev ## format, lint, types and imports, without the tests
	$(call stage,format (ruff),$(BIN)/ruff format --check --quiet --diff .)
	$(call stage,lint (ruff),$(BIN)/ruff check --quiet .)
	$(call stage,types (basedpyright),$(BIN)/basedpyright --pythonpath $(BIN)/python)
	$(call stage,imports (import-linter),$(BIN)/lint-imports --no-cache)

format: $(VENV)/installed-dev ## format the sources and sort their imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format --quiet .

clean: ## remove .venv and the tools' caches; studies in .rheostat/ stay
	@rm -rf $(VENV) build dist .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are remade when the dependencies change. pip is what a venv has last: its presence
# says that the venv is whole (Debian's python3 without python3-venv leaves half a one).
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; Rheostat needs Python 3.11 to 3.13: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); Rheostat needs Python 3.11 to 3.13: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed-study: pyproject.toml constraints.txt | $(BIN)/pip
	$(call stage,installing into $(VENV),$(INSTALL) -e '.[study]')
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(call stage,installing into $(VENV) (development),$(INSTALL) -e '.[dev]')
	@touch $@ $(VENV)/installed-study
