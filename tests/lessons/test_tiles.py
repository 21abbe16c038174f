"""The small interpreter of lesson 12 computes what Triton computes, counts bytes, and refuses what Triton refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from diffuapriel.lessons import tiles
from diffuapriel.lessons.tiles import ChipTile, Pointer, Traffic, counted
from diffuapriel.lessons.tiles import language as tl

ROOT = Path(__file__).resolve().parents[2]


def scaled(x, out, length, factor, CHUNK: tl.constexpr):
    """A program that both interpreters run: it loads backwards, and stores the running sums."""
    rows = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    inside = rows < length
    numbers = tl.load(x + (length - 1) - rows, mask=inside, other=0.0)
    matrix = tl.dot(numbers[:, None] * tl.zeros((CHUNK, CHUNK), tl.float32) + 1.0, numbers[:, None] + numbers[None, :])
    signs = tl.where(numbers > 0, tl.exp(-numbers), factor)
    tl.store(out + rows, tl.cumsum(signs, 0) + tl.sum(tl.trans(matrix), 1) / length, mask=inside)


def test_it_computes_what_triton_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("a CUDA device is there: Triton compiles")
    x = torch.randn(21, generator=torch.Generator().manual_seed(0))
    small, theirs = torch.zeros(2, 21)
    moved = counted(scaled, (3,), x, small, 21, 0.5, CHUNK=8)
    assert moved == Traffic(4 * 21, 4 * 21)
    monkeypatch.setitem(scaled.__globals__, "tl", triton.language)
    triton.jit(scaled)[(3,)](x, theirs, 21, 0.5, CHUNK=8)
    torch.testing.assert_close(small, theirs)


def test_a_load_outside_the_memory_is_an_error() -> None:
    at = tiles.pointer(torch.arange(12.0).view(3, 4)[1:])
    assert tl.load(at + ChipTile(torch.tensor([0, -4]))).value.tolist() == [
        4.0,
        0.0,
    ]  # the rows around share the memory
    for far in (8, -5):
        with pytest.raises(IndexError, match="is a mask missing"):
            tl.load(at + far)
    masked = tl.load(at + tl.arange(0, 16), mask=tl.arange(0, 16) < 8, other=-1.0).value
    assert masked.tolist() == [*range(4, 12), *[-1.0] * 8]


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        (lambda: tl.arange(0, 12), ValueError, "12 numbers"),
        (lambda: tl.arange(0, 8)[0], TypeError, "no index 0"),
        (lambda: bool(tl.arange(0, 8) > 3), TypeError, "neither true nor false"),
        (lambda: tl.arange(0, 8).sort(), AttributeError, "no 'sort'"),
        (lambda: tl.arange(0, 8) + "1", TypeError, "unsupported operand"),
    ],
)
def test_what_triton_does_not_know_is_refused(mistake, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mistake()


def test_strides_may_lead_backwards_over_a_view() -> None:
    last = tiles.pointer(torch.arange(6.0)[2:]) + 3
    assert isinstance(last, Pointer)
    assert tl.load(last + ChipTile(torch.arange(4)) * -1).value.tolist() == [5, 4, 3, 2]


# The start


def test_without_triton_the_small_interpreter_takes_its_place(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    triton, language, device = tiles.start()
    assert language is tl and device == "cpu" and triton.cdiv(7, 2) == 4
    assert "Triton is not installed" in capsys.readouterr().out
    out = torch.zeros(3)
    triton.jit(lambda out: tl.store(out + tl.program_id(0), 1.0))[(3,)](out)
    assert out.tolist() == [1, 1, 1]


def test_triton_that_was_loaded_to_compile_cannot_change(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "triton", tiles)
    with pytest.raises(RuntimeError, match="restart the kernel"):
        tiles.start()


# The lesson itself, elsewhere

CELLS = """
    import json, os, re, sys
    lesson = json.load(open("notebooks/solutions/12_a_kernel_by_hand.ipynb", encoding="utf-8"))
    cells = [cell for cell in lesson["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    space = {"__name__": "__main__"}
    def run(cell, number):
        path = os.path.join(os.environ["CELLS"], f"{number}.py")
        open(path, "w").write(cell["source"])
        exec(compile(cell["source"], path, "exec"), space)
"""
ANYWHERE = """
    sys.modules["triton"] = None  # as on Windows and macOS
    for number, cell in enumerate(cells):
        run(cell, number)
"""
FOR_A_GPU = """
    import torch
    import triton
    from tests.ops.triton.compile_offline import compiled
    space |= {"triton": triton, "tl": triton.language, "torch": torch, "use": lambda check, ours: ours}
    space["check"] = type("Any", (), {"__getattr__": lambda self, name: None})()
    jitted = tuple(f"{name} = triton.jit" for name in ("load", "scan", "direct", "gate"))
    for number, cell in enumerate(cells):
        if "solution" in cell["metadata"].get("tags", []) or cell["source"].startswith(jitted):
            cell["source"] = re.split(r"^texts = ", cell["source"], flags=re.M)[0]  # definitions alone
            run(cell, number)
    x, z, dt, A, B, C, D = (torch.zeros(shape) for shape in (
        (1, 64, 2, 4, 64), (1, 64, 2, 4, 64), (1, 2, 4, 64), (2, 4), (1, 64, 2, 64), (1, 64, 2, 64), (2, 4)))
    call = lambda: space["fused_kernel"][(4, 1, 2)](x, z, dt, A, B, C, D, x, 64, 4, P=64, N=64, CHUNK=32)
    for name, taken in compiled(call, 90):
        print(name, taken)
"""


def in_a_process_of_its_own(script: str, folder: Path, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables |= {"CELLS": str(folder), "DIFFUAPRIEL_QUICK": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, "-c", textwrap.dedent(CELLS) + textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_lesson_runs_where_triton_is_not_installed(tmp_path: Path) -> None:
    for package in ("plotly", "ipywidgets"):
        pytest.importorskip(package, reason=f"needs {package}: pip install {package}")
    printed = in_a_process_of_its_own(ANYWHERE, tmp_path)
    assert "Triton is not installed" in printed and "needs Triton itself" in printed
    assert printed.count("From here on your ") == 5


@pytest.mark.slow
def test_the_lesson_s_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")
    assert "fused_kernel {'registers'" in in_a_process_of_its_own(FOR_A_GPU, tmp_path, TRITON_F32_DEFAULT="ieee")
