# `make TARGET` is `python3 start.py TARGET`, which makes .venv and installs what the target needs, once.
#   make PYTHON=python3.12 demo     another Python (3.11 or newer)
#   make bench ARGS=--quick         extra arguments for the target

PYTHON ?= python3
WORKERS ?= 2
GPU_WORKERS ?= 8
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo lab test test-gpu lint bench page gpu lessons lessons-html notebooks install wheels clean

test: DEFAULTS = -n $(WORKERS)
test-gpu: DEFAULTS = -n $(GPU_WORKERS)

help demo lab test test-gpu lint bench page gpu lessons lessons-html notebooks install wheels clean:
	@$(PYTHON) start.py $@ $(DEFAULTS) $(ARGS)
