"""The quickened interpreter computes what Triton's own does, bit for bit, and refuses what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")
import triton
import triton.language as tl
from triton.runtime import interpreter

from diffuapriel.ops.triton.mixer import mixer

pytestmark = [
    pytest.mark.skipif(
        interpreter.interpreter_builder.options.sanitize_overflow, reason="this version of Triton is not quickened"
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: nothing is interpreted"),
]


def gradients() -> list[torch.Tensor]:
    """Of the mixer's kernels: products, sums, broadcasts, masks, loops and device functions within each other."""
    generator, (length, heads, headdim, state) = torch.Generator().manual_seed(0), (20, 2, 16, 16)
    inner, channels = heads * headdim, heads * headdim + 2 * state
    shapes = (1, length, 2 * (inner + channels + heads)), (2, 4, channels), (2, channels), *[(2, heads)] * 3, (2, inner)
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    y, squares = mixer(*given)
    return [y, squares, *torch.autograd.grad([y.square().sum() + squares.sum()], given)]


def test_results_are_those_of_triton_s_own_interpreter(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from tests.ops.triton.test_quick import gradients; torch.save(gradients(), sys.argv[1])"
    )
    root, file = Path(__file__).parents[3], tmp_path / "own.pt"
    environment = {**os.environ, "PYTHONPATH": str(root), "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", program, str(file)], cwd=root, env=environment, check=True)
    assert interpreter.interpreter_builder.options.sanitize_overflow is False, "here it is quickened"
    for own, quick in zip(torch.load(file), gradients(), strict=True):
        assert torch.equal(own, quick)


@triton.jit
def sums(x, y, n: tl.constexpr, m: tl.constexpr):
    total = tl.arange(0, n)[:, None] + tl.arange(0, m)
    tl.store(x + tl.arange(0, n)[:, None] * m + tl.arange(0, m), total)
    tl.store(y, tl.sum(tl.arange(0, n) + tl.arange(0, m)))


@triton.jit
def doubled(x):
    value = tl.load(x)
    tl.store(x, value + value)


def test_shapes_that_do_not_fit_and_sizes_that_no_block_has_are_refused() -> None:
    out = torch.zeros(64, dtype=torch.int32)
    sums[(1,)](out, out, 8, 8)
    for n, m, words in ((8, 4, "incompatible dimensions"), (3, 3, "power of 2")):
        with pytest.raises(interpreter.InterpreterError, match=words):
            sums[(1,)](out, out, n, m)
    with pytest.raises(TypeError, match="0d block_type is forbidden"):
        tl.block_type(tl.int32, [])


def test_an_integer_wraps_as_on_a_gpu() -> None:
    x = torch.tensor([2**31 - 1], dtype=torch.int32)
    doubled[(1,)](x)
    assert x.item() == -2
