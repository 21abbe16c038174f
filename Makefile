# DiffuApriel from a clone: every target makes .venv and installs what it needs, once.
#   make PYTHON=python3.12 demo     another Python (3.11 or newer)
#   make bench ARGS=--quick         extra arguments for demo, lab, lessons, bench, test and test-gpu

PYTHON ?= python3
WORKERS ?= 2
GPU_WORKERS ?= 8
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
GPU_TRIED := $(VENV)/.gpu-tried
SUBMAKE = $(MAKE) --no-print-directory  # by another name, so that make -n only prints the line it stands in
TORCH := $(shell grep -E '^torch==' requirements.txt)

.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE  # where it is set, every start would compile PyTorch again
.PHONY: help demo test test-gpu lint lab notebooks lessons lessons-html bench gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

demo: $(STAMP)  ## open the app on a bundled checkpoint
	@if [ ! -e $(GPU_TRIED) ] && nvidia-smi >/dev/null 2>&1; then \
		echo "make demo: adding the CUDA kernels for the GPU of this machine, once; it may take ten minutes."; \
		$(SUBMAKE) gpu || echo "make demo: going on without the CUDA kernels; make gpu tries again." >&2; \
		touch $(GPU_TRIED); \
	fi
	$(PY) app/main.py $(ARGS)

test: $(STAMP) lint  ## lint, then run every test that this machine can run
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-gpu: $(STAMP)  ## the tests that need a GPU, after make gpu
	$(call need_cuda,test-gpu)
	$(PY) -m pytest tests/gpu -m gpu -n $(GPU_WORKERS) --dist loadgroup $(ARGS)

lint: $(STAMP)  ## ruff (check and format) and pyright
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

# A lesson may load PyTorch before this package, which would have said how long idle threads spin.
lab: $(STAMP)  ## open the lessons in JupyterLab
	GOMP_SPINCOUNT=20000 $(PY) -m jupyter lab notebooks $(ARGS)

notebooks: $(STAMP)  ## make the notebooks again from their sources in notebooks/src
	$(PY) notebooks/build.py

lessons: $(STAMP)  ## run the lessons whole and measure the minutes (ARGS="01 04": only these)
	$(PY) notebooks/execute.py $(ARGS)

lessons-html: $(STAMP)  ## the lessons, run, as web pages that open offline
	$(PY) notebooks/export.py $(ARGS)

bench: $(STAMP)  ## print the speed and memory tables of this machine
	$(PY) -m diffuapriel bench $(ARGS)

# mamba-ssm goes in as pure Python: its Triton kernels need no build.
gpu: $(STAMP)  ## add the CUDA kernels (NVIDIA only)
	$(call need_cuda,gpu)
	grep -vE '^(mamba-ssm|causal-conv1d)' requirements-gpu.txt | $(PY) -m pip install -r /dev/stdin
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(PY) -m pip install --no-deps --no-build-isolation "$$(grep '^mamba-ssm' requirements-gpu.txt)"
	@$(build_causal_conv1d) || echo "make gpu: causal-conv1d was not built; the short convolution of the mamba_ssm backend stays in PyTorch." >&2
	@$(PY) -c '$(REPORT)'
	@touch $(GPU_TRIED)

define need_cuda
@nvidia-smi >/dev/null 2>&1 || { echo "make $(1): nvidia-smi does not answer, so there is no NVIDIA GPU to use. Everything else runs on the CPU." >&2; exit 1; }
@$(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "make $(1): the torch in $(VENV) sees no CUDA device: a CPU build, or the driver is too old for it. Remove $(VENV), install a CUDA build of $(TORCH) and try again." >&2; exit 1; }
endef

# Its setup.py names seven architectures, five minutes of nvcc each. Without them torch names the cards that it sees.
define build_causal_conv1d
{ $(PY) -c 'import sys; from torch.utils.cpp_extension import CUDA_HOME; sys.exit(CUDA_HOME is None)' || { echo "make gpu: there is no nvcc (the CUDA toolkit) to compile causal-conv1d with." >&2; false; } && \
echo "make gpu: compiling causal-conv1d for this GPU, about five minutes." && \
folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && \
CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE $(PY) -m pip download -q --no-deps --no-build-isolation --no-binary :all: -d $$folder "$$(grep '^causal-conv1d' requirements-gpu.txt)" && \
tar xzf $$folder/*.tar.gz -C $$folder && \
sed -i 's/cc_flag\.append(.*)/pass/' $$folder/*/setup.py && \
CAUSAL_CONV1D_FORCE_BUILD=TRUE $(PY) -m pip install -q --no-deps --no-build-isolation $$folder/*/; }
endef

REPORT := import torch; from diffuapriel.ops.ssd import report; print(*report(torch.empty(0, device="cuda", dtype=torch.bfloat16)), sep="\n")

clean:  ## remove .venv and everything that was made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis test-artifacts lessons-html

# torch first and alone: a resolver that sees it among the rest may fetch another version, with gigabytes of CUDA.
# A .venv that works is kept; only a broken or missing one is made anew. Python compiles what it imports, and keeps it; to
# compile all 16,000 modules beforehand would take longer than the rest.
$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; Python 3.11 or newer is needed (make PYTHON=/path/to/python3 ...)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed (make PYTHON=python3.12 ...)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --no-compile $(TORCH)
	$(PY) -m pip install --no-compile -r requirements.txt
	$(PY) -m pip install --no-deps -e .
	@touch $@
