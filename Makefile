# make demo | examples | test | test-fast | check | lock | clean. PYTHON names another interpreter, PORT another port for the demo,
# TESTS some of the tests, such as tests/core, WORKERS how many processes run them (0: this one alone).
PYTHON ?= python3
PORT ?= 8000
TESTS ?=
# More than there are cores: most tests wait for other processes, and for deadlines, most of the time. Over a given
# Redis there is one: some tests flush its scripts and cut its connections.
WORKERS ?= $(if $(PUSHSVC_TEST_REDIS_URL),0,6)
UPGRADE ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
INSTALL := $(PIP) install --no-build-isolation --use-pep517
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header $(UPGRADE)

FAST := $(addprefix tests/,auth clean core properties metrics hub broker worker web)

# Every process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo examples test test-fast check lock clean

demo: $(VENV)/runtime.done $(VENV)/project.done
	$(BIN)/pushsvc demo --port $(PORT)

# Each starts a server of its own, shows what it does, and stops it.
examples: $(VENV)/runtime.done $(VENV)/project.done
	for example in examples/*/run.py; do $(BIN)/python $$example || exit; done

test: $(VENV)/dev.done $(VENV)/project.done $(VENV)/node.done
	$(PYTEST) $(TESTS)

# What most changes need: the rooms whose tests neither start whole systems nor wait for long.
test-fast: $(VENV)/dev.done $(VENV)/project.done
	$(PYTEST) $(FAST)

check: $(VENV)/dev.done $(VENV)/project.done
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy benchmarks --ignore-missing-imports --allow-untyped-calls \
	  --disable-error-code=misc --disable-error-code=union-attr --disable-error-code=index
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/scan.py

# UPGRADE=--upgrade takes the newest versions; without it only what pyproject.toml now asks for changes.
lock: $(VENV)/dev.done
	$(COMPILE) --extra crypto --extra embedded --extra demo --extra jobs --extra test --extra check pyproject.toml requirements/build.in --output-file requirements/dev.txt
	$(COMPILE) --extra crypto --extra embedded --extra demo --extra jobs pyproject.toml --constraint requirements/dev.txt --output-file requirements/runtime.txt
	$(COMPILE) requirements/build.in --constraint requirements/dev.txt --output-file requirements/build.txt

clean:
	rm -rf $(VENV) tests/clients/js/node_modules dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "pushsvc needs Python 3.11 or newer, but $(PYTHON) is not there: make PYTHON=/path/to/python3 names another" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pushsvc needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=/path/to/python3 names another" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "pushsvc needs a complete Python, but $(PYTHON) lacks venv or ensurepip: install Debian's python3-venv, or make PYTHON=/path/to/python3 names another" >&2; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)

# The tools that build come first: nothing is fetched that a lock does not name.
$(VENV)/build.done: requirements/build.txt | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/build.txt
	@touch $@

$(VENV)/runtime.done: requirements/runtime.txt $(VENV)/build.done
	$(INSTALL) --require-hashes -r requirements/runtime.txt
	@touch $@

$(VENV)/dev.done: requirements/dev.txt $(VENV)/build.done
	$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

# It builds with npm what the page needs: see requirements/page/build.py.
$(VENV)/project.done: pyproject.toml $(wildcard requirements/page/*) $(VENV)/build.done
	$(INSTALL) --no-deps --editable .
	@touch $@

# JavaScript that only tests use: clients, and what checks the page.
$(VENV)/node.done: tests/clients/js/package-lock.json | $(BIN)/python
	@if command -v npm >/dev/null; then \
	  npm ci --prefix tests/clients/js --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@; \
	else echo "npm is not there: the tests of JavaScript clients are skipped"; fi
