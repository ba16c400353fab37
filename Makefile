# make demo   environment, install, phantom videos, shards, training with DALI, evaluation, where to look
# make test   environment, install, the tests
# make test-all   the tests that make test leaves out: those that take long, or need FFCV, FFmpeg, Chromium or Swift
# make check  formatter, linter, type checker

PYTHON ?= python3
COMMA := ,
VENV := .venv
BIN := $(VENV)/bin
# FFCV is built at installation: with it where OpenCV and TurboJPEG have their headers.
FFCV := $(shell pkg-config --exists opencv4 libturbojpeg 2>/dev/null && echo ffcv)
READY := $(VENV)/ready$(FFCV)

.PHONY: demo test test-all check clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "usucl_fast needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[baselines,bench,dali,dev,excel,imagenet,onnx,parquet,ray,s3,tensorboard,timm$(addprefix $(COMMA),$(FFCV))]'
	touch $(READY)

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" tools/demo.sh demo

# A process a core, and each computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

test: $(READY)
	$(PYTEST) -m "not slow and not system"

test-all: $(READY)
	$(PYTEST) -m "slow or system"

check: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" tools/check.sh

clean:
	rm -rf $(VENV) demo build *.egg-info
