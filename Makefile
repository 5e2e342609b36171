# make quickstart: from text to a served model. make test: the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed again when what is asked for changes.
READY := $(VENV)/.ready

.PHONY: help env quickstart test test-slow lint benchmarks clean

help:
	@echo "make quickstart   train a small model on real text, export, check and serve it"
	@echo "make test         the tests (some minutes)"
	@echo "make test-slow    the slow tests"
	@echo "make lint         ruff and mypy"
	@echo "make benchmarks   speed and memory beside KerasHub and stock TensorFlow"
	@echo "make clean        remove the virtual environment and what the commands made"

env: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "tfllm needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

quickstart: $(READY)
	@$(BIN)/python examples/quickstart.py

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: $(READY)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
