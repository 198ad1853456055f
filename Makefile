# The commands of a checkout. Each installs what it lacks first, and says so; ARGS= goes on to what it runs.

PYTHON := .venv/bin/python
ARGS ?=

# Every shell script here, by its first line; test files in Python quote some.
SCRIPTS = $(shell grep -rIlE --exclude='*.py' --exclude='*.j2' '^\#! ?(/usr)?/bin/(env )?(ba|da)?sh' .ci packer seeds builder tests)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help image test test-fast test-vms lint docs bench clean

help: ## Show this
	@echo "Usage: make TARGET [ARGS='...']"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 14

image: ## Bake the appliance: dist/hapx-<version>-<arch>.ova (ARGS are those of hapx-build image)
	@.ci/prepare image
	.venv/bin/hapx-build image $(ARGS)

test: ## Run lint and every test, with coverage (ARGS are pytest's)
	@.ci/prepare test test
	@$(MAKE) --no-print-directory run-lint
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest $(ARGS)
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

test-fast: ## Run the tests that take no bake and no boot: under 3 minutes
	@.ci/prepare test test
	$(PYTHON) -m pytest -m "not slow and not vms" --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

test-vms: ## Run a cluster, and a bake, in virtual machines: half an hour without hardware virtualisation
	@.ci/prepare test test
	$(PYTHON) -m pytest -m vms tests $(ARGS)

lint: ## Check style, types and shell scripts
	@.ci/prepare lint test
	@$(MAKE) --no-print-directory run-lint

.PHONY: run-lint
run-lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	shellcheck $(SCRIPTS)

docs: ## Make the pages of the commands anew: docs/commands/ and docs/man/
	@.ci/prepare test test
	$(PYTHON) docs/generate.py

bench: ## Run the benchmarks of tests/bench, one after the other
	@.ci/prepare test test
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(PYTHON) "$$script" $(ARGS) || exit; done

clean: ## Remove what was built here: dist/, .venv/ and the tools' caches
	rm -rf --one-file-system dist .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find builder tests -name __pycache__ -type d -prune -exec rm -rf {} +
