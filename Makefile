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
	$(RESOLVE) --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove .venv and caches; warehouses stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .nox

RESOLVE := uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	--no-annotate --no-header --no-emit-index-url

# Apart, because dlt imports pandas where it finds it: half a second and 50 MB in every process.
.venv/bench/ready: requirements-bench.lock .venv/ready-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target .venv/bench -r requirements-bench.lock
	@touch $@

# What lints and tests, beside what runs.
.venv/ready-dev: requirements-dev.lock .venv/ready
	$(call install,requirements-dev.lock)
	@touch $@

# A .venv of another place, or of a Python that is gone, is of no use: its scripts name both by their
# whole paths. One that was never finished begins anew as well.
MOVED := $(shell test ! -e .venv || { test -x $(BIN)/python && \
	test "$$(cat .venv/ready 2>&1)" = "$$(pwd)"; } || echo moved)
.PHONY: moved

# What runs.
.venv/ready: requirements.lock pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || \
		{ echo "verify-sync needs Python 3.10 to 3.14: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(if $(MOVED),rm -rf .venv,:)
	@test -d .venv || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "no venv module: install it first (Debian: apt install python3-venv)" >&2; exit 1; }
	$(call install,requirements.lock)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@pwd > $@

# pip, in one line that tells how far it is; where no terminal shows that, in one for ten packages.
# Some registries have pip download each package as it is looked up, others all of them afterwards.
define install
	@{ $(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-input \
		--progress-bar off -r $(1) 2>&1; echo "exit $$?"; } | { \
	all=$$(grep -c == $(1)); found=0; got=0; \
	tell() { if test -t 2; then printf '\r\033[Ksetting up .venv: %s' "$$2"; \
		elif test $$(($$1 % 10)) -eq 0; then echo "setting up .venv: $$2"; fi; }; \
	while IFS= read -r line; do case "$$line" in \
		"Ignoring "*) all=$$((all - 1)) ;; \
		"Collecting "*|"Processing "*|"Requirement already "*) found=$$((found + 1)); \
			name=$${line%% (*}; name=$${name##*[ /]}; \
			tell $$found "package $$found of $$all $${name%%[=-]*}" ;; \
		"Downloading "*|"Using cached "*) got=$$((got + 1)); tell $$got "download $$got of $$all" ;; \
		"Installing "*) tell 0 "unpacking $$all" ;; \
		ERROR*|"WARNING: Retrying"*) echo "$$line" ;; \
		"exit "*) test ! -t 2 || printf '\r\033[K'; exit $${line#exit } ;; \
	esac; done; } >&2
endef
