# The two commands of the README, and what developers need besides. Every step does only what is missing.
PYTHON ?= python3
PROFILE ?= smoke
BIN := .venv/bin
# reproduce also takes ON (laptop, node or slurm: through Snakemake, which is then installed), TABLES (as 5,6) and JOBS.
OPTIONS := $(if $(ON),--on $(ON)) $(if $(TABLES),--tables $(TABLES)) $(if $(JOBS),--jobs $(JOBS))

.PHONY: reproduce test freeze docs clean

# Set everything up and run the study: trains what the store lacks, executes the notebooks that are out of date.
reproduce: .venv/.installed $(if $(ON),.venv/.batch)
	$(BIN)/mixste reproduce --profile $(PROFILE) $(OPTIONS)

# Lint, then the package's tests, then every notebook against its stored output.
test: .venv/.installed .venv/.batch
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mixste train --profile smoke
	$(BIN)/python -m pytest -n 2 --dist loadfile tests
	MIXSTE_OUT=$(CURDIR)/.cache/nbval $(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval.cfg -n 2 --dist loadfile notebooks

# Make the study in a profile and publish it: its tables, figures and notebooks become the repository's.
freeze: .venv/.installed
	$(BIN)/mixste reproduce --profile $(PROFILE)
	$(BIN)/python -m mixste.study.publish $(PROFILE)

# The reference of the package, from its docstrings.
docs: .venv/.installed
	$(BIN)/python docs/api.py site

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test,docs,human36m,mpi-inf-3dhp,onnx]"
	touch $@

.venv/.batch: .venv/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[batch]"
	touch $@

clean:
	rm -rf .venv runs site .cache .pytest_cache .hypothesis .ruff_cache
