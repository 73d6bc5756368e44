# The two commands of the README, and what developers need besides. Every step does only what is missing.
PYTHON ?= python3
PROFILE ?= smoke
BIN := .venv/bin
# reproduce also takes ON (laptop, node or slurm: through Snakemake, which is then installed), TABLES (as 5,6) and JOBS.
OPTIONS := $(if $(ON),--on $(ON)) $(if $(TABLES),--tables $(TABLES)) $(if $(JOBS),--jobs $(JOBS))
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(shell test -t 2 || echo --quiet)
# Two processes of one thread each, which share the tests as tests/conftest.py says.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Notebooks write beside the user's own results here; where they write is left out of what is compared. A notebook has
# one kernel, so one process executes all of it.
NBVAL := MIXSTE_OUT=$(CURDIR)/.cache/nbval $(PYTEST) --dist loadfile --nbval --nbval-sanitize-with tests/nbval.cfg

.PHONY: reproduce test test-older-processor freeze docs clean

# Set everything up and run the study: trains what the store lacks, executes the notebooks that are out of date.
reproduce: .venv/.installed $(if $(ON),.venv/.batch)
	$(BIN)/mixste reproduce --profile $(PROFILE) $(OPTIONS)

# Lint, then the package's tests, then every notebook against its stored output.
test: .venv/.installed .venv/.batch
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mixste train --profile smoke
	$(PYTEST) tests
	$(NBVAL) notebooks
	@echo "Passed: lint, the tests, and every notebook against its stored output. Look first at what make reproduce made, runs/results/README.md, then at the notebooks: $(BIN)/jupyter lab notebooks"

# What depends on trained digits, once more with the instructions of an older processor: the tests that compute, then a
# store made so, before the tests that compare. Its digits differ from those that are stored, as any other processor's do.
OLDER := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
DIGITS := $(foreach name,test_model test_losses test_metrics test_predict test_evaluate test_train networks/test_baselines \
	accel/test_accelerate accel/test_cpu wild/test_export wild/test_lift,tests/$(name).py)
OTHER := MIXSTE_RUNS=$(CURDIR)/.cache/older-processor
test-older-processor: .venv/.installed
	$(OLDER) $(PYTEST) $(DIGITS) -m "not slow"
	$(OTHER) $(OLDER) $(BIN)/mixste reproduce --tables 2
	$(OTHER) $(PYTEST) tests/study/test_notebooks.py tests/study/test_results.py
	$(OTHER) $(NBVAL) notebooks/03_*.ipynb

# Make the study in a profile and publish it: its tables, figures and notebooks become the repository's.
freeze: .venv/.installed
	$(BIN)/mixste reproduce --profile $(PROFILE)
	$(BIN)/python tools/publish.py $(PROFILE)

# The site: the guides, the results, the notebooks as executed, the API reference.
docs: .venv/.installed
	rm -rf site
	$(BIN)/python docs/build.py site

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the packages of constraints.txt into .venv: some 2 GB and a few minutes, more with CUDA"
	$(PIP) -c constraints.txt -e ".[test,docs,human36m,mpi-inf-3dhp,onnx]"
	touch $@

.venv/.batch: .venv/.installed
	$(PIP) -c constraints.txt -e ".[batch]"
	touch $@

# All but the trained runs, which may have taken days: remove runs/ yourself.
clean:
	rm -rf .venv site .cache .pytest_cache .hypothesis .ruff_cache
