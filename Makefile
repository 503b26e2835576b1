# Only python3 (3.11 or newer), its venv module and make are needed; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
UV_VERSION := 0.13.8
BIN := $(VENV)/bin
# The system's certificates, so that a company's proxy works.
export UV_SYSTEM_CERTS ?= 1

.PHONY: help setup run test test-all check lint bench format lock clean
help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.stamp ## make .venv with the locked dependencies and the project

$(VENV)/.stamp: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Harmonium needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python has no venv module. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## start the demo on http://127.0.0.1:8000
	$(BIN)/harmonium demo

test: setup ## the quick tests, on SQLite and, where it is installed, on PostgreSQL
	$(BIN)/pytest -n 2 --dist worksteal

test-all: setup ## these, and those with real processes, real data, long fits, the whole API on PostgreSQL
	$(BIN)/pytest -n 2 --dist worksteal --all

check: setup ## ruff, mypy and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports_direction.py

bench: setup ## list the benchmarks, and run the quick ones (imports, the learner)
	@echo "python -m benchmarks.NAME --help, NAME of:" $$(cd benchmarks && grep -l __main__ *.py | sed 's/\.py//')
	$(BIN)/python -m benchmarks.rbm --only sklearn --rounds 3
	$(BIN)/python -m benchmarks.imports --rows 100000 --rounds 1

format: setup ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## renew requirements.lock after a change of pyproject.toml
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header --python-version 3.11 --extra postgres --group dev pyproject.toml -o requirements.lock

clean: ## remove what setup, tests and runs have made, except data/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
