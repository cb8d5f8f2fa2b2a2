# Everything a fresh machine needs is done here: `make demo` and `make test` create .venv and install what they use.
PYTHON ?= python3
BIN := .venv/bin
# Tests that run side by side: as many as there are cores.
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: demo test check bench clean

demo: .venv/installed
	$(BIN)/mlload inspect tiny
	$(BIN)/mlload load tiny --prompt "A checkpoint is"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(JOBS) --dist worksteal

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: .venv/installed-bench
	$(BIN)/python tests/benchmarks/run_all.py

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

# constraints.txt names the versions that the tests run with.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,mlx,quantize,ray]"
	touch $@

.venv/installed-bench: .venv/installed-dev
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,bench,mlx,quantize,ray]"
	touch $@
