# `make demo` and `make test` need Python 3.11 or newer and nothing else: they create .venv and install what they need there.
# An active environment is used instead, as is any interpreter given by PYTHON: make test PYTHON=/usr/bin/python3
# On Linux, TORCH_INDEX names the package index that torch comes from; see tools/environment.py.
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
.PHONY: help demo test test-all check bench docs dist core dev

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: core  ## restore a noisy photograph; writes demo/before-after.jpg
	$(RUN) examples/demo.py

# In two processes: the second loads OpenCV, OpenVINO, ONNX Runtime, Ray and a server together, as no program would.
APART = tests/cli tests/distributed tests/evaluation tests/export tests/server
FAST = -m "not slow"
test: dev  ## the fast tests: about four minutes on two cores
	$(RUN) -m pytest $(FAST) $(APART:%=--ignore=%)
	$(RUN) -m pytest $(FAST) $(APART)

test-all: dev  ## all tests, the slow ones too: about twelve minutes
	$(RUN) -m pytest $(APART:%=--ignore=%)
	$(RUN) -m pytest $(APART)

check: dev  ## formatting, linting, types, import order
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Times are those of 2 server cores.
bench: dev  ## measure speed, memory and tiles into benchmarks/results: 30 minutes on an idle machine
	$(RUN) benchmarks/operator_sweep.py   # 4 minutes; 5 GB of memory
	$(RUN) benchmarks/networks.py         # 20 minutes; 8 GB of memory
	$(RUN) benchmarks/engine.py          # 1 minute
	$(RUN) benchmarks/memory.py           # 2 minutes
	$(RUN) benchmarks/tiles.py            # 1 minute
	$(RUN) benchmarks/batches.py          # 1 minute
	$(RUN) benchmarks/folders.py          # 2 minutes
	$(RUN) benchmarks/load.py             # 1 minute; needs the extra serve
	$(RUN) benchmarks/hostile.py          # 4 minutes; the same
	$(RUN) benchmarks/hostile_clients.py  # 90 seconds; the same
	$(RUN) benchmarks/costs.py            # 20 seconds: counted, not measured; docs/costs.md
	$(RUN) benchmarks/triton_compile.py   # 2 minutes; nothing without the package triton
	$(RUN) benchmarks/results_page.py     # seconds: docs/results.md, from all results in benchmarks/results
	$(RUN) benchmarks/plot.py             # seconds: docs/operator-speed.png and docs/network-speed.png

docs: dev  ## build the documentation into build/site; any warning fails
	$(RUN) tools/docs.py

dist:  ## build the source archive and the wheel of this commit into dist/, twice, and try the wheel: minutes
	.ci/dist

core:
	@tools/environment "" "$(PYTHON)"

dev:
	@tools/environment dev "$(PYTHON)"
