# Every target makes what it needs, from nothing: python 3.10 or later, pip, and EGL (libegl1).
#   make demo [FAST=1]   environment, dataset, training with stock train.py, evaluation, figures
#   make test            the test suite
#   make quick           the tests that take no simulator and little time
#   make check           format, lint, types, imports, tests
#   make install-check   a wheel in an environment of its own: doctor, audit, demo in an empty folder
#   make matrix          tests with other versions of Python and libraries (CELLS="numpy2 py313")
#   make study-smoke     a whole study in miniature: datasets, jobs, measures, report, figures
#   make docs            the documentation site, in build/site; a dead link is an error
#   make mutants         a reference training step, and 23 mistakes that it must notice
#   make fuzz            thousands of random and damaged datasets; figures in docs/fuzz.md
#   make faults          trainings that are killed at random places, and what was lost
#   make bench           training, data, rollouts and collection beside robomimic's own
# Use your own environment instead of .venv with PYTHON=... INSTALLED=1.

VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
BASE_PYTHON ?= python3.11
DEMO_FOLDER ?= runs/demo$(if $(FAST),_fast)
export MUJOCO_GL ?= egl
# Threads that wait by sleeping: with busy neighbours, spinning costs many times the work itself.
export OMP_WAIT_POLICY ?= PASSIVE

# A process a core; the tests of one file stay together, since they share what is dear to make. The
# longest files come first, so that no process waits for one of them alone in the end.
LONGEST = tests/test_docs.py tests/test_packaging.py tests/test_plugin.py tests/study tests/rollout
PYTEST_ARGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder $(LONGEST) tests

STAMP = $(if $(INSTALLED),,$(VENV)/.installed)

# Environments of `make matrix`: several GB each.
MATRIX ?= .matrix
CELLS ?=

.PHONY: demo test quick check install-check matrix docs fuzz faults mutants bench study-smoke format clean

demo: $(STAMP)
	$(PYTHON) -m robomimic_vae_ext demo --out $(DEMO_FOLDER) $(if $(FAST),--fast)

test: $(STAMP)
	$(PYTHON) -m pytest $(PYTEST_ARGS)

quick: $(STAMP)
	$(PYTHON) -m pytest -m "not slow and not simulator" --numprocesses 2 --dist worksteal tests

check: $(STAMP)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as run; run()"
	$(PYTHON) -m pytest $(PYTEST_ARGS)

# Takes the newest torch, so it also shows what a user gets who installs today.
install-check:
	rm -rf build/user
	$(BASE_PYTHON) -m venv build/user/env
	build/user/env/bin/pip wheel --quiet --no-deps --wheel-dir build/user .
	build/user/env/bin/pip install --quiet build/user/*.whl
	mkdir build/user/empty
	cd build/user/empty && ../env/bin/lapo doctor --timeout 120
	cd build/user/empty && ../env/bin/lapo audit --config vae_fixed
	cd build/user/empty && ../env/bin/lapo demo --fast --out demo
	rm -rf build/user

matrix:
	$(BASE_PYTHON) scripts/matrix.py --folder $(MATRIX) $(CELLS)

# An environment of its own: the pages are made from the sources, without importing them.
docs:
	test -x build/docs_env/bin/mkdocs || { $(BASE_PYTHON) -m venv build/docs_env && \
	build/docs_env/bin/pip install --quiet --requirement docs/requirements.txt; }
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true build/docs_env/bin/mkdocs build --quiet

mutants: $(STAMP)
	$(PYTHON) -m pytest --numprocesses 2 tests/lapo/test_reference_step.py

fuzz: $(STAMP)
	$(PYTHON) -m tests.fuzz --out docs/fuzz.md

faults: $(STAMP)
	$(PYTHON) -m tests.reliability.killing

bench: $(STAMP)
	$(PYTHON) -m robomimic_vae_ext bench --out docs/bench_cpu.json
	$(PYTHON) docs/make_performance.py

study-smoke: $(STAMP)
	$(PYTHON) -m robomimic_vae_ext study configs/study/smoke.json --out runs/study_smoke

format: $(STAMP)
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

# torch and torchvision first and together: torchvision must come from the same build as torch, and
# pip would keep an older torch that happens to be there.
$(VENV)/.installed: setup.py pyproject.toml robomimic_vae_ext/_startup.py
	$(BASE_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip setuptools wheel
	$(VENV)/bin/python -m pip install --quiet torch torchvision "numpy<2"
	$(VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info $(MATRIX)
