# Every target makes its own virtual environment in .venv when there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Names, plans, sampling, the schedulers' base, the pages: what most changes touch.
QUICK := tests/test_catalog.py tests/test_docstrings.py tests/test_imports.py tests/test_lab.py tests/test_noise.py \
	tests/test_plan.py tests/test_run.py tests/test_sample.py tests/test_solvers.py tests/test_spacing.py

.PHONY: demo test check lint docs bench mutants attack sanitize clean

demo: $(VENV)/.cli
	$(BIN)/diffusolve sample --model emoji --sampler "DPM++ 2M Karras" --steps 20 --num 64 --guidance 2 --out samples.png

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto

# A minute: the linters, and the tests that walk over everything once
check: lint
	$(BIN)/python -m pytest -n auto $(QUICK)

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/user_code.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# The documentation as a site in build/site. Its search needs a server: python3 -m http.server -d build/site
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A first look: make bench BENCH=--quick
bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.suite $(BENCH) --json benchmarks/results
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.convergence

# The share of random faults that the tests catch: make mutants MUTANTS="--count 10"
mutants: $(VENV)/.test
	$(BIN)/python -m benchmarks.mutants $(MUTANTS)

# Attacks that take minutes; short ones are among the tests. What they are: docs/reliability.md
attack: $(VENV)/.test
	$(BIN)/python -m tests.attack.plans --count 100000
	$(BIN)/python -m tests.attack.configurations --count 12500
	$(BIN)/python -m tests.attack.soak --runs 200000 --requests 50000
	$(BIN)/python -m tests.attack.threads

# The compiled modules under gcc's sanitizers: make sanitize SANITIZE="--count 10000"
sanitize: $(VENV)/.test
	$(BIN)/python -m tests.attack.sanitize $(SANITIZE)

clean:
	rm -rf build
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cli: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable ".[cli]"
	touch $@

# k-diffusion is compared with in the tests; its own dependencies (training tools, several GB) are not needed for that.
$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable ".[test]"
	$(PIP_INSTALL) --no-deps "k-diffusion==0.1.1.post1"
	touch $@

$(VENV)/.lint: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable ".[lint]"
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable ".[docs]"
	touch $@
