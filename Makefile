# `make demo` and `make test` only need Python 3.11 or newer: they create .venv and install everything there.
# If an environment is active, they use it instead. PYTHON selects an interpreter: make test PYTHON=/usr/bin/python3
# On Linux, TORCH_INDEX selects the package index for torch; see tools/environment.py.
ifndef PYTHON
  ifneq ($(VIRTUAL_ENV),)
    ifneq ($(VIRTUAL_ENV),$(CURDIR)/.venv)
      PYTHON := $(VIRTUAL_ENV)/bin/python
    endif
  else ifneq ($(filter-out base,$(CONDA_DEFAULT_ENV)),)
    PYTHON := $(CONDA_PREFIX)/bin/python
  endif
endif
RUN := $(or $(PYTHON),.venv/bin/python)

.DEFAULT_GOAL := help
# One installation at a time, also with make -j.
.NOTPARALLEL:
.PHONY: help demo test test-all check bench docs web dist core dev

help:  ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: core  ## restore a noisy photo; writes demo/before-after.jpg
	$(RUN) examples/demo.py

# Two runs: the second group of tests loads OpenCV, OpenVINO, ONNX Runtime, Ray and a server.
APART = tests/cli tests/distributed tests/evaluation tests/export tests/server tests/web
FAST = -m "not slow"
# One process per core; the tests of a file stay together, for what they share. Tests of the second group use all cores.
PARALLEL = -n logical --maxprocesses 4 --dist loadfile
test: dev  ## run the fast tests: about five minutes on two cores
	$(RUN) -m pytest $(PARALLEL) $(FAST) $(APART:%=--ignore=%)
	$(RUN) -m pytest $(FAST) $(APART)

test-all: dev  ## run all tests: about twelve minutes on two cores
	@failed=0; set -x; $(RUN) -m pytest $(PARALLEL) $(APART:%=--ignore=%) || failed=1; $(RUN) -m pytest $(APART) && exit $$failed

check: dev  ## check formatting, lint rules, types and import order
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Times are for two server cores.
bench: dev  ## measure speed and memory on an idle machine: about 54 minutes
	$(RUN) benchmarks/operator_sweep.py   # 4 minutes; 5 GB of memory
	$(RUN) benchmarks/networks.py         # 20 minutes; 8 GB of memory
	$(RUN) benchmarks/engine.py           # 12 minutes; 12 GB of memory
	$(RUN) benchmarks/commands.py         # 3 minutes
	$(RUN) benchmarks/memory.py           # 2 minutes
	$(RUN) benchmarks/tiles.py            # 1 minute
	$(RUN) benchmarks/batches.py          # 1 minute
	$(RUN) benchmarks/folders.py          # 2 minutes
	$(RUN) benchmarks/load.py             # 1 minute; needs the serve extra
	$(RUN) benchmarks/hostile.py          # 4 minutes; needs the serve extra
	$(RUN) benchmarks/hostile_clients.py  # 90 seconds; needs the serve extra
	-$(RUN) benchmarks/web.py             # 5 minutes; needs what make web needs, Chromium, and onnxruntime-web from npm
	$(RUN) benchmarks/costs.py            # 20 seconds: counts, no measurements; writes docs/costs.md
	$(RUN) benchmarks/triton_compile.py   # 2 minutes; does nothing without the triton package
	$(RUN) benchmarks/results_page.py     # seconds: writes docs/results.md from benchmarks/results
	$(RUN) benchmarks/plot.py             # seconds: writes docs/operator-speed.png and docs/network-speed.png

docs: dev  ## build the documentation into build/site; warnings are errors
	$(RUN) tools/docs.py

web: dev  ## build the page that restores in the browser, and its npm package, into build/web
	$(RUN) tools/web.py

dist:  ## build the source archive and wheel of this commit into dist/, and test them
	.ci/dist

core:
	@tools/environment "" "$(PYTHON)"

dev:
	@tools/environment dev "$(PYTHON)"
