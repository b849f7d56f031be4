# Everything runs in .venv, which the first target makes by itself; it is redone when the two files below change.
PYTHON  ?= python3
RECIPE  ?= kvr
PROFILE ?= tiny
SWEEP   ?= ablations/mixing_ratio
SEED    ?=
RUNS    ?= runs
ARGS    ?=
TORCH_INDEX ?=

TORCH   := torch==2.13.0
VENV    := .venv
LONGEST := $(addprefix tests/test_,slurm.py wheel.py launch.py recipes.py processes.py cli.py familiar.py recall.py probes.py)  # these first, or the end is slow
# Processes of the tests, of one thread each: two more than cores, because some of them wait.
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count(), 4) + 2)')
SLURM   := slurmctld slurmd slurm-client munge
REMIX   := $(VENV)/bin/remix
INSTALL := bin/python -m pip install --quiet --disable-pip-version-check
PIP     := $(VENV)/$(INSTALL)
# `make test-versions`: an environment for each end of the ranges in pyproject.toml, and the tests that it runs there
VERSIONS   := .venv-versions
AUDIT      := $(VERSIONS)/audit/bin/pip-audit
SITE       := $(VERSIONS)/docs
INVARIANTS := $(addprefix tests/test_,train.py recall.py tulu.py adapters.py processes.py)
SWEPT   := --runs $(RUNS) $(if $(filter command line environment,$(origin PROFILE)),--profile $(PROFILE)) \
           $(foreach seed,$(SEED),--seed $(seed))
OPTIONS := --profile $(PROFILE) --runs $(RUNS) $(if $(SEED),--seed $(SEED))

.DEFAULT_GOAL := help
.PHONY: help base run sweep report plan demo ablation-ratio ablation-length test test-fast test-faults test-versions slurm test-slurm browser audit licences pages docs bench gpu-check lines lint clean

help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'variables: RECIPE=$(RECIPE) SWEEP=$(SWEEP) PROFILE=$(PROFILE) SEED=$(SEED) RUNS=$(RUNS) ARGS="key=value ..."'

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) $(TORCH))
	$(PIP) --no-compile -c constraints.txt -e '.[dev]'
	$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; what is no Python of this version stays
	touch $@

base: $(VENV)/ready  ## download PROFILE's base model, unless it is here (PROFILE=smollm2: 93 to 270 MB)
	$(REMIX) base $(PROFILE) --runs $(RUNS)

# A profile whose base has to be downloaded first has it downloaded here; for others, nothing is done.
BASE := $(if $(filter smollm2,$(PROFILE)),base)

stage%: $(VENV)/ready $(BASE)  ## (stage1, stage2, ...) run RECIPE up to that stage
	$(REMIX) run $(RECIPE) $(OPTIONS) --stage $@ $(ARGS)

run: $(VENV)/ready $(BASE)  ## run all stages of RECIPE
	$(REMIX) run $(RECIPE) $(OPTIONS) $(ARGS)

sweep: $(VENV)/ready $(BASE)  ## run SWEEP: every arm and seed, each shared stage once
	$(REMIX) sweep $(SWEEP) $(SWEPT) $(ARGS)

report: $(VENV)/ready  ## all that RUNS holds, as one page in RUNS/report
	$(REMIX) report $(RUNS) $(ARGS)

plan: $(VENV)/ready  ## what SWEEP (or a recipe) will train, and what that costs
	$(REMIX) plan $(SWEEP) $(SWEPT) $(ARGS)

ablation-ratio: $(VENV)/ready  ## how much mixing data: seven arms, three seeds
	$(REMIX) sweep ablations/mixing_ratio $(SWEPT) $(ARGS)

ablation-length: $(VENV)/ready  ## how long its texts: seven arms, three seeds
	$(REMIX) sweep ablations/mixing_length $(SWEPT) $(ARGS)

demo: $(VENV)/ready  ## what the project is about: six arms, three seeds, one table, one plot; about five minutes on two cores
	$(REMIX) sweep demo $(SWEPT) --plot $(RUNS)/demo.png $(ARGS)

test: $(VENV)/ready lint  ## the tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --maxschedchunk 4 $(LONGEST) tests $(ARGS)

test-versions: $(VERSIONS)/lowest/ready $(VERSIONS)/newest/ready  ## the invariants at both ends of the version ranges
	$(foreach end,lowest newest,OMP_NUM_THREADS=1 $(VERSIONS)/$(end)/bin/python -m pytest -n $(WORKERS) $(INVARIANTS) &&) true

$(VERSIONS)/%/ready: pyproject.toml constraints-lowest.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(if $(TORCH_INDEX),$(@D)/$(INSTALL) --index-url $(TORCH_INDEX) $(TORCH))
	$(@D)/$(INSTALL) $(if $(filter lowest,$*),-c constraints-lowest.txt) $(TORCH) -e '.[dev]'
	touch $@

test-fast: $(VENV)/ready lint  ## of these, the ones that take seconds
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) -m 'not slow' tests $(ARGS)

test-faults: $(VENV)/ready  ## every fault: kills at every moment, full disks, damage, random input
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) -rP -m faults tests $(ARGS)

test-slurm: SLURM += slurmdbd mariadb-server-core
test-slurm: $(VENV)/ready slurm  ## sweeps on a real SLURM: time limits, preemption, lost nodes, submit limits, two machines
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 -m 'cluster or faults' tests/test_slurm.py $(ARGS)

slurm:  ## install SLURM from Debian's packages, where that can be done, for its tests
	@dpkg --status $(SLURM) >/dev/null 2>&1 || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends $(SLURM); } || \
	  echo 'SLURM cannot be installed here: its tests are skipped' >&2

browser:  ## install Chromium from Debian's packages, where that can be done, for the report's tests
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium chromium-driver; } || \
	  echo 'Chromium cannot be installed here: its tests are skipped' >&2

audit:  ## which pinned versions have known vulnerabilities, by pip-audit, where OSV's database can be reached
	@if $(PYTHON) -c 'import socket; socket.create_connection(("api.osv.dev", 443), 5)' 2>/dev/null; then \
	  { test -x $(AUDIT) || { $(PYTHON) -m venv $(VERSIONS)/audit && \
	    $(VERSIONS)/audit/$(INSTALL) pip-audit; }; } && \
	  $(AUDIT) --requirement constraints.txt --no-deps --disable-pip --vulnerability-service osv --progress-spinner off; \
	else echo 'api.osv.dev cannot be reached from here: the pinned versions are not audited' >&2; fi

licences: $(VENV)/ready  ## the licences of what is installed, into docs/licences.md
	$(VENV)/bin/python benchmarks/licences.py

pages: $(VENV)/ready  ## the pages in docs/ that are generated: commands, keys, gallery, arena
	$(VENV)/bin/python benchmarks/pages.py
	$(VENV)/bin/python benchmarks/arena.py

docs:  ## the site, from docs/ into site/, by Zensical; a link that leads nowhere is an error
	@test -x $(SITE)/bin/zensical || { $(PYTHON) -m venv $(SITE) && $(SITE)/$(INSTALL) zensical==0.0.73; }
	$(SITE)/bin/zensical build --clean --strict

bench: $(VENV)/ready  ## every benchmark on this machine's CPU, a quarter of an hour, into docs/performance.md
	$(VENV)/bin/python benchmarks/all.py

gpu-check: $(VENV)/ready  ## on one GPU of 80 GB: correctness, speed, QLoRA, the first run, in under 8 minutes
	$(VENV)/bin/python benchmarks/all.py gpu_check

lines: $(VENV)/ready  ## how large the package is, room by room, and what its rooms import
	$(VENV)/bin/python benchmarks/lines.py

lint: $(VENV)/ready  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## remove .venv, .venv-versions and site; runs/ stays
	rm -rf $(VENV) $(VERSIONS) site
