"""What of the CUDA C++ scan can be held to without its GPU; tests/gpu/test_mixer_parity.py runs it."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffuapriel.ops.hopper import nvrtc, scan
from diffuapriel.ops.triton.launch import BOTH

SOURCE = Path(scan.__file__).with_suffix(".cu")


@pytest.mark.parametrize("slots", [1, 78, 132])
@pytest.mark.parametrize("walks", [1, 3, 16, 64, 66, 67, 4096])
def test_a_cut_covers_every_chunk_once_in_one_round(walks: int, slots: int) -> None:
    for chunks in (*range(1, 70), 512, 1023, 1024):
        splits, chunks_per_split, pieces = scan.cut(walks, chunks, slots)
        assert (splits - 1) * chunks_per_split < chunks <= splits * chunks_per_split
        assert chunks_per_split % pieces == 0
        assert splits == 1 or walks * splits <= slots
        assert pieces == 1 or walks * (splits - 1) * pieces <= slots


def test_other_devices_keep_the_triton_scan(monkeypatch) -> None:
    x, B = torch.empty(1, 64, 2, 2, 64, dtype=torch.bfloat16), torch.empty(1, 64, 2, 1, 128, dtype=torch.bfloat16)
    call = x, B, torch.empty(2, 4, 384), None, BOTH
    monkeypatch.delenv("DIFFUAPRIEL_SCAN", raising=False)
    assert scan.unsupported_reason(*call) == "the GPU is not a Hopper GPU (compute capability 9.0)"
    monkeypatch.setenv("DIFFUAPRIEL_SCAN", "triton")
    assert "asks for the Triton scan" in str(scan.unsupported_reason(*call))


@pytest.mark.parametrize(
    ("length", "heads", "taps", "dtype", "normed", "reason"),
    [
        (64, 2, 4, torch.bfloat16, False, None),
        (100, 2, 4, torch.bfloat16, False, "the length 100 is not a multiple of 64"),
        (64, 2, 4, torch.float32, False, "the tensors are float32; the CUDA scan takes bfloat16"),
        (64, 3, 4, torch.bfloat16, False, "d_conv 4, 3 heads"),
        (64, 2, 2, torch.bfloat16, False, "d_conv 2, 2 heads"),
        (64, 2, 4, torch.bfloat16, True, "the norm's weight is not folded into out_proj"),
    ],
)
def test_a_call_that_is_not_for_the_kernels_has_a_reason(
    length, heads, taps, dtype, normed, reason, monkeypatch
) -> None:
    monkeypatch.delenv("DIFFUAPRIEL_SCAN", raising=False)
    monkeypatch.setattr(scan, "is_hopper", lambda device: True)
    monkeypatch.setattr(scan, "_kernels", lambda: None)
    x, B = torch.empty(1, length, 2, heads, 64, dtype=dtype), torch.empty(1, length, 2, 1, 128, dtype=dtype)
    weight = torch.empty(2, taps, heads * 64 + 256)
    got = scan.unsupported_reason(x, B, weight, torch.empty(2, heads * 64) if normed else None, BOTH)
    assert got is None if reason is None else reason in got


def test_without_nvrtc_the_triton_scan_stays_and_a_log_line_says_so(monkeypatch, caplog) -> None:
    def fails(*_: object) -> None:
        raise OSError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(scan, "Kernels", fails)
    scan._kernels.cache_clear()
    try:
        assert scan._kernels() == scan._kernels() == "libnvrtc.so.13: cannot open shared object file"
    finally:
        scan._kernels.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "the mixer keeps its Triton scan, because the CUDA one cannot be built: "
        "libnvrtc.so.13: cannot open shared object file"
    ]


@pytest.mark.parametrize("structure", [scan.Data, scan.Sizes])
def test_the_structures_are_those_of_the_source(structure: type[ctypes.Structure]) -> None:
    found = re.search(rf"struct {structure.__name__} {{(.*?)}};", SOURCE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    body = re.sub(r"//.*", "", found[1])
    assert re.findall(r"\w+(?=[,;])", body) == [name for name, *_ in structure._fields_]


@pytest.fixture(scope="module")
def emulate(tmp_path_factory) -> Path:
    """The kernels as a program for this CPU: scan.cu with emulator.h in place of its instructions."""
    compiler, folder = shutil.which("g++"), tmp_path_factory.mktemp("emulator")
    if sys.platform != "linux" or not compiler:
        pytest.skip("the emulator needs Linux and g++")
    heading = r"^// -{20,} (?:one instruction each|what a block does)$"
    before, _, after = re.split(heading, SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    kernels = f'#include "emulator.h"\n{before}{after.partition("#define ARGUMENTS")[0]}'
    (folder / "kernels.inc").write_text(kernels, encoding="utf-8")
    here, program = Path(__file__).parent, folder / "emulate"
    build = [compiler, "-O2", "-std=c++17", "-w", f"-I{here}", f"-I{folder}", "-o", program, here / "emulate.cpp"]
    subprocess.run(build, check=True)
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "length", "heads", "slots", "largest_dt"),
    [
        (1, 64, 2, 1, 0.1),
        (1, 320, 4, 3, 0.1),  # a block walks one item after another
        (1, 512, 2, 4, 0.1),  # two splits, the first in two pieces
        (1, 1088, 4, 13, 0.1),
        (3, 192, 6, 5, 0.1),
        (1, 768, 2, 4, 4.0),  # a state is forgotten within a token
        (1, 768, 2, 4, 2e-3),  # and hardly at all
    ],
)
def test_the_kernels_agree_with_the_recurrence_on_a_cpu(emulate, batch, length, heads, slots, largest_dt) -> None:
    """Relative norm of g and of the squares; bfloat16 operands alone leave 3e-3."""
    splits, chunks_per_split, pieces = scan.cut(batch * heads, length // 64, slots)
    sizes = (batch, length, heads, splits, chunks_per_split, pieces, slots, largest_dt)
    done = subprocess.run([emulate, *map(str, sizes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    g, squares = map(float, done.stdout.split())
    print(f"{splits} splits of {chunks_per_split} chunks, {pieces} pieces: g {g:.1e}, squares {squares:.1e}")
    assert g < 4e-3
    assert squares < 6e-3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no nvcc to compile the CUDA scan with")
def test_the_kernels_spill_next_to_nothing_and_their_products_overlap(tmp_path) -> None:
    """ptxas reports C75xx where it waits for a product earlier than the source says."""
    code = ("-gencode=arch=compute_90a,code=sm_90a", "-std=c++17", "-cubin", "-Xptxas=-v")
    done = subprocess.run(["nvcc", *code, "-o", tmp_path / "scan.cubin", SOURCE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spilled = [int(bytes_) for bytes_ in re.findall(r"(\d+) bytes spill stores", done.stderr)]
    assert len(spilled) == 2 and max(spilled) <= 16, done.stderr
    assert "C75" not in done.stderr, done.stderr


def test_nvrtc_is_looked_for_beside_pytorch(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(OSError, match=r"libnvrtc\.so\.0"):
        nvrtc.find_nvrtc()
