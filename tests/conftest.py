"""Without a CUDA device the Triton kernels run in Triton's interpreter, on the CPU.

Triton decides when it is first imported, so the variable is set before any test module is. Only float32 means
anything there, unless tests/ops/triton/interpreter.py corrects it; tests/ops/triton/quick.py takes two thirds off its
time. A subprocess that compiles kernels must drop the variable.

What importing all tests has made is there to stay: the garbage collector need not look at it again and again.

jsonschema, which Gradio and nbformat import, would compile 38 grammars of URIs for three seconds; without the package
of the grammars it leaves those formats unchecked, which no test asks for.

A test of properties has no deadline: on a busy machine it would fail for being slow.

What a test records as "shown" is printed at the end of the run: the registers of compiled kernels.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

sys.modules.setdefault("rfc3987_syntax", None)  # as if it were not installed

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    known = find_spec("triton") and version("triton").startswith("3.9.")  # quick.py changes the insides of this one
    if known and os.environ["TRITON_INTERPRET"] == "1":
        from tests.ops.triton.quick import quicken

        quicken()


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    properties = [p for report in reports for p in getattr(report, "user_properties", ())]
    lines = [line for name, line in properties if name == "shown"]
    if lines:
        terminalreporter.section("compiled for GPUs")
        for line in lines:
            terminalreporter.write_line(line)
