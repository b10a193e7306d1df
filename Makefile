# Every target makes what it needs, from nothing: python 3.11, pip, and EGL (libegl1) for pictures.
#   make demo [FAST=1]   environment, dataset, training with stock train.py, evaluation, figures
#   make test            the test suite
#   make check           format, lint, types, tests
#   make study-smoke     a whole study in miniature: datasets, jobs, measures, report, figures
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
# file with the longest test comes first, so that nobody waits for it alone in the end.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder tests/test_docs.py tests

STAMP = $(if $(INSTALLED),,$(VENV)/.installed)

.PHONY: demo test check bench study-smoke format clean

demo: $(STAMP)
	$(PYTHON) scripts/demo.py --out $(DEMO_FOLDER) $(if $(FAST),--fast)

test: $(STAMP)
	$(PYTHON) -m pytest $(PYTEST_ARGS)

check: $(STAMP)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest $(PYTEST_ARGS)

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
	rm -rf $(VENV) runs build dist *.egg-info
