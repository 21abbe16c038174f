"""Every Triton kernel of the scan compiles for Hopper and Ampere on a machine without a GPU, and fits there."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import diffuapriel.ops
from tests.ops.triton.offline import printed

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")
SOURCES = sorted((Path(diffuapriel.ops.__file__).parent / "triton").glob("*.py"))
SHARED = {90: 227 * 1024, 80: 163 * 1024}  # bytes that a block may have

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton's assembler for NVIDIA is an x86-64 program"),
]


@pytest.fixture(scope="module")
def lines() -> list[tuple[str, str, int, int, int, int]]:
    """(call, kernel, target, registers, stack, shared) of every kernel, from a process without the interpreter."""
    found = printed(Path(__file__).parent / "compile_offline.py")
    pattern = r"(.+): (\w+), sm_(\d+): (\d+) registers, (\d+) stack, (\d+) shared"
    return [(*m.groups()[:2], *map(int, m.groups()[2:])) for m in re.finditer(pattern, found)]


def test_no_kernel_is_forgotten(lines: list[tuple]) -> None:
    written = {name for path in SOURCES for name in re.findall(r"def (\w+_kernel)\(", path.read_text())}
    for capability in SHARED:
        assert {kernel for _, kernel, target, *_ in lines if target == capability} == written


def test_every_kernel_fits_a_multiprocessor(lines: list[tuple], record_property: Callable[[str, object], None]) -> None:
    for call, kernel, target, registers, stack, shared in lines:
        taken = f"{registers:3} registers, {stack:3} bytes spilled, {shared:6} bytes shared"
        record_property("shown", f"sm_{target}  {kernel:22} {taken}  ({call})")
        assert shared <= SHARED[target], f"{kernel}, sm_{target}: {shared} bytes of shared memory"


def test_no_forward_kernel_but_the_scans_spills_on_hopper(lines: list[tuple]) -> None:
    """They may, a few dozen numbers: measured there, the tuning that spills is more than twice as fast."""
    most = {"scan_kernel": 192, "text_kernel": 128}
    spills = [
        line for line in lines if line[0].startswith("forward") and line[2] == 90 and line[4] > most.get(line[1], 0)
    ]
    assert not spills


def test_the_backward_kernels_spill_next_to_nothing_on_hopper(lines: list[tuple]) -> None:
    """A few registers, by one compiler and not by another: what a program of 255 registers costs to reload. That of
    short texts spills more, nearly all of it behind its walk over the heads, once."""
    most = {"text_backward_kernel": 704}
    spills = [
        line for line in lines if line[0].startswith("backward") and line[2] == 90 and line[4] > most.get(line[1], 64)
    ]
    assert not spills
