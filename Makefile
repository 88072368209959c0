# Needs python3 (3.10 or newer) with pip and venv; everything else is installed into $(VENV).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint bench coverage-report clean

# Takes two fifths of the time of a trained model, with its own samples, and prints what it cost. One thread: what a
# network of 0.1 ms takes with more changes from run to run.
demo: $(STAMP)
	mkdir -p demo
	$(BIN)/onnxmerge sample_models/vgg_bn.onnx demo/vgg_bn_faster.onnx --of latency --ratio 0.4 --threads 1 \
	  --calib sample_models/fashion_mnist_calibration.npz --data sample_models/fashion_mnist_test.npz

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Speed is measured here and never asserted in a test.
bench: $(STAMP)
	set -e; for script in benchmarks/bench_*.py; do $(BIN)/python "$$script"; done

# What share of real networks can be cut, and what holds the rest; of a folder of models: MODELS=FOLDER.
coverage-report: $(STAMP)
	$(BIN)/python benchmarks/coverage_report.py $(if $(MODELS),--models "$(MODELS)")

# A stamp file, not the folder: an interrupted install is tried again, a change of dependencies installs anew.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "onnxmerge needs Python 3.10 or newer, got " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,images]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
