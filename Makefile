# Everything here makes .venv by itself; nothing is needed but make and Python 3.11 or newer.
.DEFAULT_GOAL := help
.PHONY: help demo test test-quick corpora keras-next check lint types docs bench clean

# The first interpreter that runs and is new enough.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 2
# The tests start many processes, each of which would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# pip compiles 12,000 modules one after the other; here are those that are used, on all cores.
COMPILED := tensorflow keras jax numpy scipy sklearn
$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found on PATH. Install it, or say which: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing into .venv ($(PYTHON)); about two minutes, once."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements.lock --group dev -e '.[examples]'
	@cd .venv/lib/python3*/site-packages && ../../../bin/python -m compileall -qq -j 0 $(COMPILED) || true
	@touch $@

demo: $(READY) ## the main job from diagnosis to serving, on scikit-learn's digits; pictures in demo/
	@$(BIN)/python examples/end_to_end.py --output demo

# Two processes on two cores: threads inside each would only wait for one another.
test test-quick corpora keras-next: export TF_NUM_INTRAOP_THREADS ?= 1
test test-quick corpora keras-next: export TF_NUM_INTEROP_THREADS ?= 1
test test-quick corpora keras-next: export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
ON_JAX := -m 'not tensorflow'

test: $(READY) ## all tests, on TensorFlow and then on JAX
	$(PYTEST) --durations 15
	KERAS_BACKEND=jax $(PYTEST) tests --durations 15 $(ON_JAX)

test-quick: $(READY) ## a few tests of every file, on TensorFlow: for the edit loop
	$(PYTEST) tests --quick

# Only what `make test` takes a sample of: every model of the zoo with every procedure, long fuzzing.
corpora: $(READY) ## the long corpora, on both backends; results in benchmarks/results/
	status=0; \
	$(PYTEST) tests --corpora --results benchmarks/results/corpora_tensorflow.txt || status=1; \
	KERAS_BACKEND=jax $(PYTEST) tests --corpora --results benchmarks/results/corpora_jax.txt $(ON_JAX) || status=1; \
	$(BIN)/python benchmarks/diagnosis/run.py || status=1; \
	exit $$status

# A checkout of Keras stands before the installed one: make keras-next KERAS=/path/to/keras
keras-next: $(READY) ## all tests on another Keras, such as its master: KERAS=/path/to/keras
	@test -d "$(KERAS)/keras/src" || { echo "Say where Keras is unpacked: make keras-next KERAS=/path/to/keras"; exit 1; }
	@PYTHONPATH=$(KERAS) $(BIN)/python -c 'import keras; print("Keras", keras.version(), "of", keras.__file__)'
	PYTHONPATH=$(KERAS) $(PYTEST); status=$$?; \
	KERAS_BACKEND=jax PYTHONPATH=$(KERAS) $(PYTEST) tests $(ON_JAX) && exit $$status

check: lint types ## format, lint, docstrings, types, architecture, reference

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

types: $(READY)
	$(BIN)/mypy

docs: $(READY) ## the site: overview and the reference from the docstrings, in site/
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

bench: $(READY) ## the figures: ratios side by side, one script each
	@for script in benchmarks/*.py benchmarks/*/run.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove .venv and every cache
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis site
