# make demo   environment, install, phantom videos, shards, training with DALI, evaluation, where to look
# make test   environment, install, the whole test suite
# make check  formatter, linter, type checker

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# FFCV is built at installation: with it where OpenCV and TurboJPEG have their headers.
FFCV := $(shell pkg-config --exists opencv4 libturbojpeg 2>/dev/null && echo ,ffcv)

.PHONY: demo test check clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "usucl_fast needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[baselines,bench,dali,dev,onnx,parquet,tensorboard,timm$(FFCV)]'
	touch $(READY)

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" tools/demo.sh demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" tools/check.sh

clean:
	rm -rf $(VENV) demo build *.egg-info
