# `make` lists the targets. Needs python3 (3.11 or 3.12), git and make; `make env` says what else.

SCALE ?= laptop
CORES ?= all
PYTHON ?= python3

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env reproduce test lint report bench pins clean

# Folder of the environment's programs; makes or updates the environment if need be.
BIN = bin="$$($(PYTHON) workflow/environment.py)"
SNAKEMAKE = $(BIN); "$$bin/snakemake" --cores $(CORES) --config scale=$(SCALE) --
REPORT = results/$(SCALE)/report/index.html

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20
	@echo "variables: SCALE=smoke|laptop|paper (now $(SCALE))  CORES=N|all  PYTHON=python3.12"

env: ## install every pin into .venv, or find the active conda environment
	@$(BIN); echo "programs: $$bin"

reproduce: ## rebuild every table, figure and claim, and the report
	@$(SNAKEMAKE) all
	@echo "report: $(REPORT)"

test: ## run the tests, on all cores; PYTEST="-n 0 -x" and the like change how
	@$(BIN); "$$bin/python" -m pytest -n auto --dist loadfile $(PYTEST)

lint: ## check style, types and the workflow
	@$(BIN); export PATH="$$bin:$$PATH"; \
	ruff check .; ruff format --check .; mypy; \
	snakefmt --check Snakefile workflow/*.smk; snakemake --lint

report: ## render the report from what is there, with benchmarks if they ran, and times
	@$(BIN); for part in summary house_time report; do \
	"$$bin/python" -m common.results $$part --scale $(SCALE); done

bench: ## run the benchmarks and put their ratios into the report
	@$(SNAKEMAKE) benchmarks
	@$(MAKE) --no-print-directory report

pins: ## compile requirements.txt from pyproject.toml
	@$(BIN); "$$bin/python" workflow/pins.py

clean: ## remove all results, logs and resume state
	rm -rf results work logs .snakemake
