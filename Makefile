# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo    the whole path on an embedded model and data set, ends with a report
#   make test    the whole test suite
# LOCKED=1, as in CI, installs every package by its hash (requirements/), into environments of its own.
PYTHON ?= python3
VENV ?= .venv$(if $(LOCKED),-locked)
BIN := $(VENV)/bin
TOOLS := .venv-tools
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-eval test-deep test-extras test-versions bench check format docs lock release clean

demo: $(VENV)/.installed
	$(BIN)/seal demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2

# The tests of the extra `eval` (lm-eval, inspect-ai), which `make test` skips: it does not install it.
test-eval: $(VENV)-eval/.installed-eval
	$(VENV)-eval/bin/python -m pytest tests/tasks/test_harness.py tests/test_inspect_tasks.py

# What takes too long for `make test`: twenty kills of each stage, and ten times the fuzzing.
test-deep: $(VENV)/.installed-dev
	SEAL_DEEP_FAULTS=1 SEAL_DEEP_FUZZ=1 $(BIN)/python -m pytest -n 2 tests/fuzz tests/faults

# Each extra alone in an empty environment, and what it is for imported there.
test-extras:
	cd tests && $(PYTHON) -m extras.install_each

# The libraries that we train with, at the oldest versions that pyproject.toml allows and at the newest.
test-versions:
	cd tests && $(PYTHON) -m extras.install_versions floor
	cd tests && $(PYTHON) -m extras.install_versions ceiling

# Speed and memory beside the alternatives, on the CPU (docs/benchmarks.md).
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

# Every gate that is not a test: style, types, layers, documentation.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs serve

# The lock files, after a change of pyproject.toml or constraints.txt. UPGRADE=--upgrade also moves what
# neither of the two names.
lock: $(TOOLS)/.installed
	UV=$(TOOLS)/bin/uv requirements/lock.sh $(UPGRADE)

# What would be published, into dist/: sdist, wheel, SBOM, sums. Nothing is uploaded.
release: $(TOOLS)/.installed
	PYTHON=$(PYTHON) TOOLS=$(TOOLS) requirements/release.sh

clean:
	rm -rf $(VENV) $(VENV)-eval .venv-locked .venv-locked-eval $(TOOLS) build dist site

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "seal needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $*

$(TOOLS)/.installed: requirements/tools.txt requirements/build.txt $(TOOLS)/bin/python
	requirements/install.sh $(TOOLS) tools
	touch $@

ifdef LOCKED

LOCKS := pyproject.toml requirements/install.sh requirements/build.txt $(wildcard requirements/torch-*.txt)

$(VENV)/.installed: requirements/core.txt $(LOCKS) $(VENV)/bin/python
	requirements/install.sh $(VENV) core
	touch $@

$(VENV)/.installed-dev: requirements/ci.txt $(LOCKS) $(VENV)/bin/python
	requirements/install.sh $(VENV) ci
	touch $@

$(VENV)-eval/.installed-eval: requirements/ci-eval.txt $(LOCKS) $(VENV)-eval/bin/python
	requirements/install.sh $(VENV)-eval ci-eval
	touch $@

else

# torch first and alone: with it in place nothing else pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/bin/python
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@

$(VENV)-eval/.installed-eval: pyproject.toml constraints.txt
	$(MAKE) VENV=$(VENV)-eval $(VENV)-eval/.installed-dev
	$(VENV)-eval/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[dev,eval]'
	touch $@

endif
