# Only python3, pip and make are assumed. `make demo` predicts, `make test` tests, `make test-slow` runs the few tests
# that take long, `make check` lints and types, `make bench` measures.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VIDEO ?=
CLIPS ?= ../shared/clips

.PHONY: demo test test-slow check format bench clean

demo: $(VENV)/.core
	$(BIN)/videoswin demo $(if $(VIDEO),--video "$(VIDEO)")

# Each process starts with half of the tests in their order, so that a module's fixtures are made once, and takes
# tests from the other when it has finished.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" tests

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow tests

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# docs/performance.md and its plots are made from what it finds.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/model_cpu.py --output benchmarks/results/model_cpu.json
	$(BIN)/python benchmarks/attention_cpu.py --output benchmarks/results/attention_cpu.json
	$(BIN)/python benchmarks/scaling_cpu.py --output benchmarks/results/scaling_cpu.json
	test -d $(CLIPS) || echo "no $(CLIPS): int8 and fewer views are not measured"
	test ! -d $(CLIPS) || $(BIN)/python benchmarks/int8_agreement.py --clips $(CLIPS) --output benchmarks/results/int8_agreement.json
	$(BIN)/python benchmarks/file_to_prediction.py --output benchmarks/results/file_to_prediction.json
	rm -f runs/approximate_views.jsonl
	test ! -d $(CLIPS) || $(BIN)/python benchmarks/approximate_views.py --clips $(CLIPS) --output benchmarks/results/approximate_views.json
	$(BIN)/python benchmarks/training.py --output benchmarks/results/training_cpu.json
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One pip call: with torch pinned, pip takes a CPU build where one is offered locally and the ordinary one elsewhere.
$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install -q -e '.[train,camera-motion,scale,export,openvino,triton,dev,parity]'
	$(BIN)/python -m pip check
	touch $@ $(VENV)/.core
