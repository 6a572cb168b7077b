# Development commands. PYTHON selects the interpreter (3.11 to 3.13): make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
UV := build/lock/bin/uv

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-core test-service test-fast test-lowest lint check format docs screenshots lock clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/.installed  ## Install Whence and its development tools into .venv

# Other targets depend on this stamp, so the installation runs again only if its inputs change.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,milvus,ray]'
	@touch $@

demo: .venv/.installed  ## Train on a small gallery, serve it and send a query
	$(BIN)/whence demo

# The tests use one thread each: two processes take half the time of one.
CORE := tests/index tests/model tests/browser

test: .venv/.installed  ## Run the tests, in two processes
	$(MAKE) --no-print-directory --jobs=2 --keep-going test-core test-service

test-core: .venv/.installed
	$(BIN)/python -m pytest $(CORE)

test-service: .venv/.installed
	$(BIN)/python -m pytest $(addprefix --ignore=,$(CORE))

test-fast: .venv/.installed  ## Run the tests that need no browser, Ray, Milvus, nginx or long work
	$(BIN)/python -m pytest -m 'not slow'

# An environment with the lowest versions that pyproject.toml allows.
test-lowest: build/lowest/.installed  ## Run the tests with the lowest allowed versions
	PYTHONPATH=.:client build/lowest/bin/python -m pytest tests/app tests/client tests/index tests/model

build/lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/pip install --disable-pip-version-check -c constraints-lowest.txt -e '.[dev,otel]'
	@touch $@

lint: .venv/.installed  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## Run all checks: format, lint, types, tests

format: .venv/.installed  ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.installed  ## Write docs/configuration.md from the settings
	$(BIN)/python docs/configuration.py

screenshots: .venv/.installed  ## Take the README's screenshots of the page again, from the demo
	$(BIN)/python docs/screenshots.py

# uv resolves for every supported Python at once, which pip cannot. Valid pins are kept;
# LOCK_FLAGS=--upgrade upgrades all of them.
lock: $(UV)  ## Resolve the constraints again from pyproject.toml (LOCK_FLAGS=--upgrade for newer)
	$(UV) pip compile --no-config --universal --python-version 3.11 --all-extras $(LOCK_FLAGS) \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--output-file constraints.txt pyproject.toml
	$(UV) pip compile --no-config --universal --python-version 3.11 --no-annotate --generate-hashes \
		--extra otel --extra milvus --extra signing --extra s3 --extra http --constraint constraints.txt \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--output-file constraints-image.txt pyproject.toml
	$(UV) pip compile --no-config --resolution lowest-direct --python-version 3.11 \
		--extra dev --extra otel --no-emit-index-url --no-emit-find-links \
		--custom-compile-command 'make lock' --output-file constraints-lowest.txt pyproject.toml

$(UV):
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --disable-pip-version-check --quiet uv

clean:  ## Remove the environment and every cache; data/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf build dist *.egg-info client/build client/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
