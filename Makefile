# The four commands a newcomer needs. PYTHON may name another interpreter: make test PYTHON=.venv/bin/python
PYTHON ?= python

.PHONY: demo test check bench

demo:  ## add noise to a photograph, restore it, write demo/before-after.png
	$(PYTHON) examples/demo.py

test:  ## every test
	$(PYTHON) -m pytest

check:  ## format, lint, types, import order
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

bench:  ## speed, memory and tiles on this machine, into benchmarks/results
	$(PYTHON) benchmarks/memory.py
	$(PYTHON) benchmarks/tiles.py
