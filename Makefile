# Everything runs in .venv, which the first target makes by itself; it is redone when the two files below change.
PYTHON  ?= python3
RECIPE  ?= kvr
PROFILE ?= tiny
SEED    ?=
RUNS    ?= runs
ARGS    ?=
TORCH_INDEX ?=

VENV    := .venv
REMIX   := $(VENV)/bin/remix
PIP     := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
OPTIONS := --profile $(PROFILE) --runs $(RUNS) $(if $(SEED),--seed $(SEED))

.DEFAULT_GOAL := help
.PHONY: help run demo test lint clean

help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'variables: RECIPE=$(RECIPE) PROFILE=$(PROFILE) SEED=$(SEED) RUNS=$(RUNS) ARGS="key=value ..."'

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) 'torch==2.13.0')
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@

stage%: $(VENV)/ready  ## (stage1, stage2, ...) run RECIPE up to that stage
	$(REMIX) run $(RECIPE) $(OPTIONS) --stage $@ $(ARGS)

run: $(VENV)/ready  ## run all stages of RECIPE
	$(REMIX) run $(RECIPE) $(OPTIONS) $(ARGS)

demo: $(VENV)/ready  ## what the project is about, on this machine: six arms, one table, one plot
	$(REMIX) sweep demo $(OPTIONS) --plot $(RUNS)/demo.png $(ARGS)

test: $(VENV)/ready lint  ## the tests
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 $(ARGS)

lint: $(VENV)/ready  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## remove .venv; runs/ stays
	rm -rf $(VENV)
