# What a newcomer needs. PYTHON may name another interpreter: make test PYTHON=.venv/bin/python
PYTHON ?= python

.PHONY: demo test check bench docs dist

demo:  ## add noise to a photograph, restore it, write demo/before-after.png
	$(PYTHON) examples/demo.py

# In two processes: the second loads OpenCV, OpenVINO, ONNX Runtime, Ray and a server beside each other, as nobody else does.
APART = tests/cli tests/distributed tests/evaluation tests/export tests/server
test:  ## every test
	$(PYTHON) -m pytest $(APART:%=--ignore=%)
	$(PYTHON) -m pytest $(APART)

check:  ## format, lint, types, import order
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Times are those of 2 server cores.
bench:  ## speed, memory and tiles on this machine, into benchmarks/results: half an hour, better with nothing beside it
	$(PYTHON) benchmarks/operator_sweep.py   # 4 minutes; 5 GB of memory
	$(PYTHON) benchmarks/networks.py         # 20 minutes; 8 GB of memory
	$(PYTHON) benchmarks/memory.py           # 2 minutes
	$(PYTHON) benchmarks/tiles.py            # 1 minute
	$(PYTHON) benchmarks/batches.py          # 1 minute
	$(PYTHON) benchmarks/folders.py          # 2 minutes
	$(PYTHON) benchmarks/load.py             # 1 minute; needs the extra serve
	$(PYTHON) benchmarks/hostile.py          # 4 minutes; the same
	$(PYTHON) benchmarks/costs.py            # 20 seconds: counted, not measured; docs/costs.md
	$(PYTHON) benchmarks/triton_compile.py   # 2 minutes; nothing without the package triton
	$(PYTHON) benchmarks/results_page.py     # seconds: docs/results.md, from all results there are
	$(PYTHON) benchmarks/plot.py             # seconds: docs/operator-speed.png and docs/network-speed.png

docs:  ## the documentation site into build/site; any warning fails
	$(PYTHON) -m zensical build --strict --clean

dist:  ## source archive and wheel of this commit into dist/, built twice, compared, installed and used: minutes
	.ci/dist
