# Every target sets up .venv first, from exact versions, and only when they have changed.
# Options go in ARGS (make sync ARGS=--dry-run), a query in QUERY.

PYTHON ?= python3
BIN := .venv/bin
# As it was typed: a $ of SQL is none of make's.
override QUERY := $(value QUERY)
export QUERY

.DEFAULT_GOAL := help
.PHONY: help demo sync backfill list fetch reconcile status sql check views export restore sandbox test test-long test-busy test-pythons lint format bench lock clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready ## sync a made-up account and show a few answers; no account needed
	@$(BIN)/verify-sync demo $(ARGS)

sync: .venv/ready ## read what is due from Twilio, merge it, publish it: the scheduled job
	@$(BIN)/verify-sync sync $(ARGS)

backfill: .venv/ready ## read a window again, resumable: make backfill ARGS="--days 7"
	@$(BIN)/verify-sync backfill $(ARGS)

list: .venv/ready ## show attempts live from Twilio: make list ARGS="--country CO --limit 5"
	@$(BIN)/verify-sync list $(ARGS)

fetch: .venv/ready ## read single attempts again and merge them: make fetch ARGS=VL...
	@$(BIN)/verify-sync fetch $(ARGS)

reconcile: .venv/ready ## compare each day with Twilio's own totals, read again what differs
	@$(BIN)/verify-sync reconcile $(ARGS)

status: .venv/ready ## say how fresh and how complete the warehouse is: make status ARGS=--json
	@$(BIN)/verify-sync status $(ARGS)

sql: .venv/ready ## ask the published file: make sql QUERY="from daily_conversion limit 5"
	@$(BIN)/verify-sync sql $(ARGS) $${QUERY:+"$$QUERY"}

check: .venv/ready ## run the checks of sql/checks: what should not be in the warehouse
	@$(BIN)/verify-sync check $(ARGS)

views: .venv/ready ## apply the views of sql/ again without syncing
	@$(BIN)/verify-sync views $(ARGS)

export: .venv/ready ## write every view and raw table as Parquet: make export ARGS=FOLDER
	@$(BIN)/verify-sync export $(ARGS)

restore: .venv/ready ## start again from a backup of the published file: make restore ARGS=FILE
	@$(BIN)/verify-sync restore $(ARGS)

sandbox: .venv/ready ## serve a made-up account like Twilio would, on loopback
	@$(BIN)/verify-sync sandbox $(ARGS)

test: .venv/ready-dev ## run the tests
	$(BIN)/pytest -n auto $(ARGS)

test-long: .venv/ready-dev ## run the long tests: months of syncs, many kills, more random examples
	$(BIN)/pytest -n auto --long $(ARGS)

test-busy: .venv/ready-dev ## run the tests while other processes take the cores and the disk cache
	$(BIN)/python -m tests.busy $(BIN)/pytest -n auto $(ARGS)

test-pythons: .venv/ready-dev ## run the tests on each Python from 3.10 to 3.14 that is installed
	$(BIN)/nox -f tests/noxfile.py $(ARGS)

lint: .venv/ready-dev ## ruff, mypy, import-linter, sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/sqlfluff lint sql --disable-progress-bar

format: .venv/ready-dev ## let ruff and sqlfluff repair what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/sqlfluff fix sql --disable-progress-bar

bench: .venv/bench/ready ## measure beside dlt's rest_api and Twilio's own client, on the sandbox
	$(BIN)/python -m tests.bench $(ARGS)

lock: ## resolve the lock files anew from pyproject.toml (needs uv)
	$(RESOLVE) --group build --output-file requirements.lock
	$(RESOLVE) --all-extras --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove .venv and caches; warehouses stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .nox

RESOLVE := uv pip compile pyproject.toml --universal --python-version 3.10 \
	--no-annotate --no-header --no-emit-index-url

INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --no-deps

# One set-up at a time, where the system can tell: a second one waits, and finds nothing to do.
SET_UP := $(MAKE) --silent --no-print-directory ALONE=1
ifneq ($(shell command -v flock),)
SET_UP := flock -n Makefile true || echo "another make sets up .venv: waiting for it" >&2; \
	flock Makefile $(SET_UP)
endif

# A .venv of another place is of no use, nor of a Python that is gone: its files name both.
USELESS := $(shell test ! -e .venv || { \
	v=$$($(BIN)/python -V | cut -d ' ' -f 2 | cut -d . -f 1,2) && ls -d .venv/lib/python$${v:-0}* && \
	{ test ! -s .venv/ready || test "$$(cat .venv/ready)" = "$$(pwd -P)"; }; } >/dev/null 2>&1 || echo useless)
.PHONY: useless

# What runs. Otherwise .venv is brought up to date, also after a set-up that was interrupted.
.venv/ready: requirements.lock pyproject.toml $(USELESS)
ifndef ALONE
	+@$(SET_UP) $@
else
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || \
		{ echo "verify-sync needs Python 3.10 to 3.14: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(if $(USELESS),rm -rf .venv)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
		rm -rf .venv; \
		echo "no .venv without the venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(INSTALL) -r requirements.lock >&2
	@$(INSTALL) --quiet --no-build-isolation --editable .
	@pwd -P > $@
endif

# What lints and tests, beside what runs.
.venv/ready-dev: requirements-dev.lock .venv/ready
ifndef ALONE
	+@$(SET_UP) $@
else
	@$(INSTALL) -r requirements-dev.lock >&2
	@touch $@
endif

# Apart, because dlt imports pandas where it finds it: half a second and 50 MB in every process.
.venv/bench/ready: requirements-bench.lock .venv/ready-dev
	@$(INSTALL) --upgrade --target .venv/bench -r requirements-bench.lock >&2
	@touch $@
