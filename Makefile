PYTHON ?= python3
VENV := .venv
EXTRAS := test
RUN := $(VENV)/bin/python -m
# The versions that the tests passed with; setuptools warns of any editable install.
INSTALL := $(VENV)/bin/python -W ignore::UserWarning -m pip install --quiet \
  --constraint constraints.txt
# Compiled programs are kept between runs.
export JAX_COMPILATION_CACHE_DIR ?= $(HOME)/.cache/dmmd_jax

.PHONY: help demo test lint lock tables peers plan mutants fuzz kills clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

# What is complete is not run again.
demo: $(VENV)/ready  ## a teacher of handwritten digits, and two students of it, compared
	$(RUN) dmmd_jax.main --config=configs/digits_dmmd.py
	$(RUN) dmmd_jax.main --config=configs/digits_dmmd_kernel.py \
	  --config.phases="('distill','evaluate')" --config.evaluate.teacher_nfe="(1,)" \
	  --config.evaluate.student_nfe="(1,2,4,8)" \
	  --config.distill.teacher_workdir=runs/digits_dmmd
	$(RUN) dmmd_jax compare runs/digits_dmmd runs/digits_dmmd_kernel --metric=frechet

# Most of their time is compilation, which takes one core. Files are kept together for what they
# share, and in the order of tests/conftest.py: the longest come first. Their hundreds of processes
# compile the sources once, whatever the environment says.
test: $(VENV)/ready  ## run all tests
	PYTHONDONTWRITEBYTECODE= $(RUN) pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/ready  ## check format and style
	$(RUN) ruff format --check .
	$(RUN) ruff check .

tables: $(VENV)/ready  ## make the tables of README.md and docs/ from docs/results
	$(RUN) benchmarks.overview
	$(RUN) benchmarks.tables

lock:  ## write constraints.txt: the newest versions that setup.py allows; make test tells whether they will do
	set -e; folder=$$(mktemp -d); trap "rm -rf $$folder" EXIT; \
	$(PYTHON) -m venv $$folder; \
	$$folder/bin/python -m pip install --quiet --upgrade pip; \
	$$folder/bin/python -m pip install --quiet '.[test]'; \
	echo "# Versions that all tests passed with. Written by make lock." > $$folder/constraints.txt; \
	$$folder/bin/python -m pip freeze --all --exclude dmmd_jax >> $$folder/constraints.txt; \
	cp $$folder/constraints.txt constraints.txt

peers: $(VENV)/ready  ## install the peers (torch, torchmetrics, transformers) and compare with them
	$(INSTALL) --editable '.[peers]'
	$(RUN) tests.mmd.make_golden_kid
	$(RUN) tests.networks.make_golden_gpt2
	$(RUN) tests.networks.make_golden_inception
	$(RUN) pytest tests/mmd/test_kernels.py tests/networks/test_gpt2.py \
	  tests/networks/test_inception.py tests/metrics/test_frechet.py
	$(RUN) benchmarks.mmd
	$(RUN) benchmarks.torch_dit

plan:  ## install the TPU compiler beside jax, in .venv-plan, for benchmarks.scaling
	$(MAKE) VENV=.venv-plan EXTRAS=test,plan .venv-plan/ready

mutants: $(VENV)/ready  ## how many of 200 mistakes made on purpose the tests see; an hour
	$(INSTALL) --editable '.[mutants]'
	$(RUN) benchmarks.mutation

fuzz: $(VENV)/ready  ## 500 wrong configs, wrong files and damaged workdirs; a quarter of an hour
	$(RUN) tests.fuzz --cases=500 --seed=0

kills: $(VENV)/ready  ## kill runs of all phases at 100 random moments; half an hour
	$(RUN) tests.kills --kills=100 --seed=0

clean:  ## remove the virtual environments; runs/ stays
	rm -rf $(VENV) .venv-plan

$(VENV)/ready: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --build-constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
