# Two commands matter: `make demo` and `make test`. Each sets up what it needs first.
SHELL := /bin/bash
PY := .venv/bin/python
LAB ?= hosts

.PHONY: help setup demo test lint unit soak clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what is missing: Debian packages (root), .venv with the locked dependencies
	@tools/setup

demo: setup ## move a pinned guest between two real hosts and prove that its promise is kept (LAB=, KEEP=1, SABOTAGE=n)
	@LAB=$(LAB) KEEP=$(KEEP) SABOTAGE=$(SABOTAGE) $(PY) -m numaferry.demo

test: setup lint ## everything: style, types, arrows between rooms, unit, property, ledger, CLI and lab tests
	@tools/run-tests

lint: setup ## ruff, mypy --strict, import-linter, changelog fragments
	@tools/lint

unit: setup ## the quick tests only: no root, no lab
	@$(PY) -m pytest -q -m "not lab and not hosts"

soak: setup ## 10,000 faults on simulated fleets, then the labs' long tests (SEED=, N= seeds and nothing else, LEDGER=postgresql)
	@PYTHONPATH=tools $(PY) -m soak $(if $(SEED),--seed $(SEED)) $(if $(N),--count $(N)) $(if $(LEDGER),--ledger $(LEDGER))
	@$(if $(N),true,tools/run-tests -m soak)

bench-%: setup ## run benchmarks/NAME.py (ARGS=): a table, and build/bench/NAME.json; bench-setup installs nova for it
	@mkdir -p build/bench && $(PY) benchmarks/$*.py $(ARGS)

clean: ## remove what set-up and builds made
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
