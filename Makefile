# Every target that uses .venv first brings it up to date.
#
# With a GPU, name the torch to install; it replaces another one:
#   make install TORCH="torch==2.13.0 --index-url <the address of your CUDA build>"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# One more than two cores: some tests wait for services while others compute.
TEST_WORKERS ?= 3
# Bytecode is kept, whatever the environment says: tests start hundreds of processes.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

export MDEL_HOME ?= $(CURDIR)/mdel_home

.PHONY: install setup_dev demo ui status test test_unit test_in_use test_services screenshots check bench bench_gpu bench_line clean

install: $(VENV)/.installed
ifeq ($(origin TORCH),command line)
	@test "$$(cat $(VENV)/.torch 2>/dev/null)" = '$(TORCH)' || { \
	  rm -f $(VENV)/.torch && $(BIN)/python -m pip uninstall --quiet --yes torch && \
	  { $(PIP) $(TORCH) || { rm -f $(VENV)/.installed; exit 1; }; } && \
	  echo '$(TORCH)' > $(VENV)/.torch; }
endif

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch' 2>/dev/null || { $(PIP) $(TORCH) && echo '$(TORCH)' > $(VENV)/.torch; }
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

setup_dev: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

demo: install
	@MDEL_EXPERIMENT=$${MDEL_EXPERIMENT:-sample} $(BIN)/mdel run

status: install
	@$(BIN)/mdel status

ui: install
	@exec $(BIN)/mdel ui

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q mdel_assets_tests/test_architecture.py mdel_assets_tests/test_documentation.py

# Chromium, PostgreSQL, SLURM and Azurite for tests; without a service, its tests are skipped and say so.
test_services:
	@deploy/install_test_services.sh

test_unit: $(VENV)/.installed-dev
	$(PYTEST) -m 'not slow'

# Regression tests for faults found in use, each with the command that showed it.
test_in_use: $(VENV)/.installed-dev
	$(PYTEST) -m in_use

test: $(VENV)/.installed-dev
	$(PYTEST)

# Pictures of the web UI for docs/images/. Run make demo first.
screenshots: $(VENV)/.installed-dev
	@$(BIN)/python -m mdel_assets_tests.browser.screenshots

bench: $(VENV)/.installed-dev
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	@$(BIN)/python -m benchmarks

# Training and scoring on this machine's GPU: six minutes. Without a GPU, a small version on the CPU.
bench_gpu: $(VENV)/.installed-dev
	@$(BIN)/python -W ignore -m benchmarks bench_gpu

# The pipeline with 22 domains, 1 GB of text and 160 million weights: some hours on two cores, 30 GB of disk.
bench_line: $(VENV)/.installed-dev
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	@$(BIN)/python -W ignore -m benchmarks.bench_line

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
