# Targets that need .venv set it up first, with the exact versions of the lock files, and only if
# these changed. Options go in ARGS (make sync ARGS=--dry-run), a query in QUERY.

PYTHON ?= python3
BIN := .venv/bin
# Take QUERY literally: make must not expand a $ in SQL.
override QUERY := $(value QUERY)
export QUERY

.DEFAULT_GOAL := help
.PHONY: help demo sync backfill list fetch reconcile status probe sql check views export restore sandbox test test-long test-busy test-pythons lint format bench lock clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready ## sync a made-up account and show a few answers; no account needed
	@$(BIN)/verify-sync demo $(ARGS)

sync: .venv/ready ## read what is due from Twilio, merge it, publish it: the scheduled job
	@$(BIN)/verify-sync sync $(ARGS)

backfill: .venv/ready ## read a window again (can be resumed): make backfill ARGS="--days 7"
	@$(BIN)/verify-sync backfill $(ARGS)

list: .venv/ready ## show attempts live from Twilio: make list ARGS="--country CO --limit 5"
	@$(BIN)/verify-sync list $(ARGS)

fetch: .venv/ready ## read single attempts again and merge them: make fetch ARGS=VL...
	@$(BIN)/verify-sync fetch $(ARGS)

reconcile: .venv/ready ## compare each day with Twilio's own totals, re-read days that differ
	@$(BIN)/verify-sync reconcile $(ARGS)

status: .venv/ready ## show how fresh and complete the warehouse is: make status ARGS=--json
	@$(BIN)/verify-sync status $(ARGS)

probe: .venv/ready ## find out in 20 requests how the API behaves where its documentation is silent
	@$(BIN)/verify-sync probe $(ARGS)

sql: .venv/ready ## query the published file: make sql QUERY="from daily_conversion limit 5"
	@$(BIN)/verify-sync sql $(ARGS) $${QUERY:+"$$QUERY"}

check: .venv/ready ## run all checks on the warehouse
	@$(BIN)/verify-sync check $(ARGS)

views: .venv/ready ## apply all views again without syncing
	@$(BIN)/verify-sync views $(ARGS)

export: .venv/ready ## write every view and raw table to a file, Parquet or CSV: make export ARGS=FOLDER
	@$(BIN)/verify-sync export $(ARGS)

restore: .venv/ready ## rebuild the warehouse from a backup of the published file: make restore ARGS=FILE
	@$(BIN)/verify-sync restore $(ARGS)

sandbox: .venv/ready ## serve a made-up account on loopback, through an API like Twilio's
	@$(BIN)/verify-sync sandbox $(ARGS)

test: .venv/ready-dev ## run the tests
	$(BIN)/pytest -n auto $(ARGS)

test-long: .venv/ready-dev ## run the long tests: months of syncs, many kills, more random examples
	$(BIN)/pytest -n auto --long $(ARGS)

test-busy: .venv/ready-dev ## run the tests while other processes take the cores and the disk cache
	$(BIN)/python -m tests.busy $(BIN)/pytest -n auto $(ARGS)

test-pythons: .venv/ready-dev ## run the tests on each Python from 3.10 to 3.14 that is installed
	$(BIN)/nox -f tests/noxfile.py $(ARGS)

lint: .venv/ready-dev ## ruff, mypy, import-linter, sqlfluff, portable SQL
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/sqlfluff lint sql --disable-progress-bar
	$(BIN)/python -m tests.portable

format: .venv/ready-dev ## format the code and fix lint errors with ruff and sqlfluff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/sqlfluff fix sql --disable-progress-bar

bench: .venv/bench/ready ## compare speed with dlt's rest_api and Twilio's own client, on the sandbox
	$(BIN)/python -m tests.bench $(ARGS)

lock: ## rebuild the lock files from pyproject.toml (needs uv)
	$(RESOLVE) --group build --output-file requirements.lock
	$(RESOLVE) --all-extras --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove .venv and caches; warehouses stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .nox

RESOLVE := uv pip compile pyproject.toml --universal --python-version 3.10 \
	--no-annotate --no-header --no-emit-index-url

INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --no-deps

# If flock exists, only one make sets up .venv at a time. A second one waits, and then has nothing
# to do.
SET_UP := $(MAKE) --silent --no-print-directory ALONE=1
ifneq ($(shell command -v flock),)
SET_UP := flock -n Makefile true || echo "another make is setting up .venv: waiting for it" >&2; \
	flock Makefile $(SET_UP)
endif

# A .venv is useless if the checkout was moved or its Python is gone: its files contain both paths.
USELESS := $(shell test ! -e .venv || { \
	v=$$($(BIN)/python -V | cut -d ' ' -f 2 | cut -d . -f 1,2) && ls -d .venv/lib/python$${v:-0}* && \
	{ test ! -s .venv/ready || test "$$(cat .venv/ready)" = "$$(pwd -P)"; }; } >/dev/null 2>&1 || echo useless)
.PHONY: useless

# Packages to run the program. This rule also repairs a .venv whose set-up was interrupted.
.venv/ready: requirements.lock pyproject.toml $(USELESS)
ifndef ALONE
	+@$(SET_UP) $@
else
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || \
		{ echo "verify-sync needs Python 3.10 to 3.14: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(if $(USELESS),rm -rf .venv)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
		rm -rf .venv; \
		echo "cannot create .venv: the venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(INSTALL) -r requirements.lock >&2
	@$(INSTALL) --quiet --no-build-isolation --editable .
	@pwd -P > $@
endif

# Packages to lint and test, in addition.
.venv/ready-dev: requirements-dev.lock .venv/ready
ifndef ALONE
	+@$(SET_UP) $@
else
	@$(INSTALL) -r requirements-dev.lock >&2
	@touch $@
endif

# In a folder of their own: dlt imports pandas if it is installed, which costs 0.5 s and 50 MB in
# every process.
.venv/bench/ready: requirements-bench.lock .venv/ready-dev
	@$(INSTALL) --upgrade --target .venv/bench -r requirements-bench.lock >&2
	@touch $@
