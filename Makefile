# `make demo` and `make test` each do all set-up first, once (a stamp file in .venv). `make lint`, `make test-all`.
# Set-up; every other target depends on $(STAMP).
PYTHON      ?= python3
VENV        ?= .venv
PY          := $(VENV)/bin/python
# Exact versions are for Python 3.11; the other Pythons take what is newest for them.
CONSTRAINTS ?= $(if $(shell $(PYTHON) --version | grep -F 'Python 3.11.'),constraints.txt,constraints-any.txt)
# `make setup DETECTRON2=upstream` builds the official Detectron2 (needs the internet); else the registry's copy is taken.
DETECTRON2  ?= registry
UPSTREAM    := 'git+https://github.com/facebookresearch/detectron2.git'
PIP         := $(PY) -m pip --disable-pip-version-check install --quiet --constraint $(CONSTRAINTS)
STAMP       := $(VENV)/.installed

help:
	@sed -n "1p" Makefile

setup: $(STAMP)

$(STAMP): constraints.txt constraints-any.txt requirements.txt requirements-dev.txt setup.py $(wildcard tools/setup/*.py)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) torch setuptools wheel cython numpy
	$(PIP) --no-deps torchvision
	$(PIP) --requirement requirements-dev.txt
	$(PIP) --no-build-isolation --no-deps pydensecrf2
	$(if $(filter upstream,$(DETECTRON2)),$(PIP) ninja && $(PIP) --no-build-isolation $(UPSTREAM))
	$(PY) tools/setup/install_detectron2.py
	$(PY) tools/setup/torchvision_cpu.py
	$(PIP) --no-build-isolation --no-deps --editable .
	$(PY) -m pip check
	touch $@

.PHONY: setup

# One thread a process: two cores are shared by the test processes.
RUN := OMP_NUM_THREADS=1 MPLBACKEND=Agg PYTHONHASHSEED=0

demo: $(STAMP)
	$(PY) tools/demo.py

test: $(STAMP)
	$(RUN) $(PY) -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu" tests

test-all: $(STAMP)
	$(RUN) $(PY) -m pytest -q -n 2 --dist loadfile tests

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: demo test test-all lint
