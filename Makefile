# DiffuApriel from a clone: every target makes .venv and installs what it needs, once.
#   make PYTHON=python3.12 demo     another Python (3.11 or newer)
#   make bench ARGS=--quick         extra arguments for demo, lab, bench and test

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TORCH := $(shell grep -E '^torch==' requirements.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test lint lab notebooks bench gpu clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

demo: $(STAMP)  ## open the app on a bundled checkpoint
	$(PY) app/main.py $(ARGS)

test: $(STAMP) lint  ## lint, then run every test that this machine can run
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) $(ARGS)

lint: $(STAMP)  ## ruff (check and format) and pyright
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

lab: $(STAMP)  ## open the lessons in JupyterLab
	$(PY) -m jupyter lab notebooks $(ARGS)

notebooks: $(STAMP)  ## make the notebooks again from their sources in notebooks/src
	$(PY) notebooks/build.py

bench: $(STAMP)  ## print the speed and memory tables of this machine
	$(PY) -m diffuapriel bench $(ARGS)

# mamba-ssm goes in as pure Python (its Triton kernels need no build); causal-conv1d is compiled by nvcc.
gpu: $(STAMP)  ## add the CUDA kernels (NVIDIA only)
	@nvidia-smi >/dev/null 2>&1 || { echo "make gpu: nvidia-smi does not answer, so there is no NVIDIA GPU to install for. Everything else runs on the CPU." >&2; exit 1; }
	@$(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "make gpu: the torch in $(VENV) is a CPU build. Remove $(VENV), install a CUDA build of $(TORCH) and try again." >&2; exit 1; }
	grep -vE '^(mamba-ssm|causal-conv1d)' requirements-gpu.txt | $(PY) -m pip install -r /dev/stdin
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(PY) -m pip install --no-deps --no-build-isolation "$$(grep '^mamba-ssm' requirements-gpu.txt)"
	$(PY) -m pip install --no-deps --no-build-isolation "$$(grep '^causal-conv1d' requirements-gpu.txt)" \
		|| echo "make gpu: causal-conv1d could not be built (it needs nvcc); the short convolution stays in PyTorch." >&2

clean:  ## remove .venv and everything that was made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis test-artifacts

# torch first and alone: a resolver that sees it among the rest may fetch another version, with gigabytes of CUDA.
# A .venv that works is kept; only a broken or missing one is made anew.
$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; Python 3.11 or newer is needed (make PYTHON=/path/to/python3 ...)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed (make PYTHON=python3.12 ...)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install $(TORCH)
	$(PY) -m pip install -r requirements.txt
	$(PY) -m pip install --no-deps -e .
	@touch $@
