# Two commands set everything up by themselves: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint format types layers bench lock wheel clean help

help: ## What there is.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Rebuilt only where the lock or the package's metadata changed; half-built environments are never taken for ready.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "edgesmith needs Python 3.11 or newer, $(PYTHON) is older. Set PYTHON=/path/to/python3.11."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing. Debian/Ubuntu: apt-get install python3-venv"; exit 2; }
	@echo "Installing the locked tool chain into $(VENV) (about 3 GB on disk, one to three minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## The main job on the bundled example, on this machine.
	@$(BIN)/edgesmith demo

# A file's tests stay together: what they share, such as a trained network, is made once.
test: $(READY) ## The default suite: no root, no system package, under ten minutes.
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not sshd and not data and not netns and not arm64"

test-all: $(READY) ## Everything, as CI runs it.
	@$(BIN)/python -m pytest

lint: $(READY) types layers ## Lint, format, types, layers.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)
	@$(BIN)/mypy

layers: $(READY)
	@$(BIN)/lint-imports

format: $(READY) ## Rewrites the code in the common format.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## Every benchmark, the quick way; exit 1 where a claim fails.
	@set -e; for bench in bench/*.py; do echo "== $$bench"; $(BIN)/python $$bench --quick; done

lock: ## Resolves the versions anew (needs uv).
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra all --extra dev pyproject.toml --output-file requirements.lock

wheel: $(READY) ## dist/edgesmith-*.whl
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

clean: ## Removes what was built; runs stay.
	rm -rf $(VENV) dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache
