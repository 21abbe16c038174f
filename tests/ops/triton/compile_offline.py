"""Compile the scan's Triton kernels for GPUs that are not there, through the very calls that launch them.

    python tests/ops/triton/compile_offline.py             every call, for sm_90, and most for sm_80
    python tests/ops/triton/compile_offline.py scan 90     calls whose name holds "scan", for one of them

A script, for a process of its own: a stand-in driver names the target, nothing is launched, and the tensors lie in
main memory, shaped as those of a 1.3b model in bf16. So argument order, types, alignment and options are those of a
real call. Each kernel gives one line: call, kernel, target, registers and bytes of stack a thread, bytes of shared
memory a block. A stack means that registers were spilled.

`CALLS` is the table. What its names begin with, tests/ops/triton/test_compile.py reads: forward or backward.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # takes the compiler time and changes no instruction
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from diffuapriel.ops.triton import chunk, conv
from diffuapriel.ops.triton.attention import attend, project
from diffuapriel.ops.triton.autograd import mixer_gradients
from diffuapriel.ops.triton.block import Weights, mix_blocks
from diffuapriel.ops.triton.gate import gate
from diffuapriel.ops.triton.residual import add_norm
from diffuapriel.ops.triton.scan import prepare, scan_chunks

CAPABILITIES = (90, 80)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
D_MODEL, HEADS, HEADDIM, GROUPS, STATE, TAPS, LENGTH = 2048, 64, 64, 1, 128, 4, 640
INNER, CHANNELS = HEADS * HEADDIM, HEADS * HEADDIM + 2 * GROUPS * STATE
BOTH = (False, True)


def wide(*shape: int) -> Tensor:
    return torch.zeros(shape)


def half(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def forward_mixer(keep: bool) -> None:
    projected = half(1, LENGTH, 2, INNER + CHANNELS + HEADS)
    weight, bias, A = wide(2, TAPS, CHANNELS), wide(2, CHANNELS), wide(2, HEADS)
    B, C, dt = prepare(projected, weight, bias, A, HEADS, HEADDIM, GROUPS, STATE)
    z, x = (projected[..., i * INNER : (i + 1) * INNER].unflatten(3, (HEADS, HEADDIM)) for i in (0, 1))
    norm_weight = wide(2, INNER) if keep else None  # an engine has it in out_proj
    scan_chunks(x, B, C, dt, A, A, BOTH, conv=(weight, bias), gate=(z, norm_weight), want_y=keep)


def forward_scan() -> None:
    x, B, A = half(1, LENGTH, 2, HEADS, HEADDIM), half(1, LENGTH, 2, GROUPS, STATE), wide(2, HEADS)
    start = wide(1, 2, HEADS, HEADDIM, STATE)
    scan_chunks(x, B, B, wide(1, 2, HEADS, LENGTH), A, A, BOTH, start=start, want_final=True)


def forward_block(length: int, commit: bool) -> None:
    """One block; it replaces its state in place, as in an engine, or not, and then the norm's weight is kept too."""
    A = wide(2, HEADS)
    norm_weight = None if commit else wide(2, INNER)
    weights = Weights(wide(2, TAPS, CHANNELS), wide(2, CHANNELS), A, A, A, norm_weight)
    history, state = half(1, TAPS - 1, CHANNELS), wide(1, HEADS, HEADDIM, STATE)
    projected, rows = half(1, length, 2, INNER + CHANNELS + HEADS), torch.ones(1, dtype=torch.bool)
    mix_blocks(projected, weights, history, state, length, GROUPS, commit=rows if commit else None)


def forward_prompt() -> None:
    A = wide(2, HEADS)
    weights = Weights(wide(2, TAPS, CHANNELS), wide(2, CHANNELS), A, A, A, None)
    history, state = half(1, TAPS - 1, CHANNELS), wide(1, HEADS, HEADDIM, STATE)
    mix_blocks(half(1, 2 * LENGTH, 2, INNER + CHANNELS + HEADS), weights, history, state, 256, GROUPS)


def forward_text(length: int) -> None:
    x, B, A = half(1, length, 2, HEADS, HEADDIM), half(1, length, 2, GROUPS, STATE), wide(2, HEADS)
    z = half(1, length, 2, INNER + CHANNELS + HEADS)[..., :INNER]
    chunk.text_forward(z, (x, B, B, wide(1, 2, HEADS, length), A, A), wide(2, INNER), want_y=True)


def backward_text(length: int) -> None:
    x, B, A = half(1, length, 2, HEADS, HEADDIM), half(1, length, 2, GROUPS, STATE), wide(2, HEADS)
    s = wide(1, 2, HEADS, -(-length // 64), 64)
    chunk.text_backward(x, x, B, B, wide(1, 2, HEADS, length), s, A)


def backward_mixer(length: int) -> None:
    y, B, A = half(1, length, 2, HEADS, HEADDIM), half(1, length, 2, GROUPS, STATE), wide(2, HEADS)
    projected = half(1, length, 2, INNER + CHANNELS + HEADS)
    kept = y, y, B, B, wide(1, 2, HEADS, length)
    parameters = wide(2, TAPS, CHANNELS), wide(2, CHANNELS), A, A, wide(2, INNER)
    mixer_gradients(half(2, 1, length, INNER), wide(2, 1, length), projected, kept, parameters)


def forward_attention(queries: int) -> None:
    keys, projected, angle = half(1, 16, 4096, 128), half(1, queries, 3 * 16 * 128), wide(1, queries, 1, 64)
    lengths = torch.zeros(1, dtype=torch.int64)
    q = project(projected, wide(128), wide(128), angle, angle, keys, keys, lengths, 1e-5)
    attend(q, keys, keys, lengths)


def chunk_products(backward: bool) -> None:
    """One chunk of one group with all its heads, read from rows that hold x, B and C of both directions."""
    rows = half(1, 1, 64, 2, CHANNELS)[:, :, :, 0]
    x, B, C = rows.split([INNER, GROUPS * STATE, GROUPS * STATE], dim=-1)
    B, C = (v.unflatten(-1, (GROUPS, STATE)).movedim(2, 3) for v in (B, C))
    x, r = x.unflatten(-1, (GROUPS, HEADS, HEADDIM)).movedim(2, 4), wide(1, 1, GROUPS, HEADS, 64)
    inputs = C, B, x, r, r, wide(GROUPS, HEADS), half(1, 1, GROUPS, HEADS, HEADDIM, STATE), 1, 16
    if not backward:
        chunk.forward(*inputs)
        return
    chunk.backward(half(1, 1, 64, GROUPS, HEADS, HEADDIM).movedim(2, 4), *inputs)


def folded_convolution(backward: bool) -> None:
    raw = half(2, LENGTH, 2, INNER + CHANNELS + HEADS)[..., INNER : INNER + CHANNELS]
    weight, bias, history = wide(2, TAPS, CHANNELS), wide(2, CHANNELS), half(1, TAPS - 1, CHANNELS)
    if not backward:
        conv.convolve(raw, weight, bias, BOTH, history, 16)
        return
    conv.blocks_backward(half(2, LENGTH, 2, CHANNELS), raw, weight, bias, history, 16)


def residual() -> None:
    """Behind a mixer and behind an MLP."""
    x, weight, modulation = half(1, 256, D_MODEL), wide(D_MODEL), half(1, 1, D_MODEL)
    for parts, squares in ((2, wide(2, 1, 256, HEADS)), (4, None)):
        added = half(parts, 1, 256, D_MODEL), squares, modulation, INNER
        add_norm(x, weight, modulation, modulation, *added, 1e-5)


CALLS: dict[str, Callable[[], None]] = {
    "forward mixer": lambda: forward_mixer(keep=False),
    "forward mixer, kept": lambda: forward_mixer(keep=True),
    "forward scan": forward_scan,
    "forward text, 64": lambda: forward_text(64),
    "forward text, 128": lambda: forward_text(128),
    "forward block, 16": lambda: forward_block(16, commit=True),
    "forward block, 64": lambda: forward_block(64, commit=True),
    "forward block, 64, kept": lambda: forward_block(64, commit=False),
    "forward block, 256": lambda: forward_block(256, commit=True),
    "forward prompt": forward_prompt,
    "forward attention, 16": lambda: forward_attention(16),
    "forward attention, 256": lambda: forward_attention(256),
    "forward residual": lambda: residual(),
    "forward convolution of a folded pass": lambda: folded_convolution(backward=False),
    "backward convolution of a folded pass": lambda: folded_convolution(backward=True),
    "forward gate": lambda: gate(half(2, LENGTH, 2, INNER), half(2, LENGTH, 2, INNER + 8)[..., :INNER], wide(2, INNER)),
    "forward chunk": lambda: chunk_products(backward=False),
    "backward chunk": lambda: chunk_products(backward=True),
    "backward mixer": lambda: backward_mixer(LENGTH),
    "backward text, 64": lambda: backward_text(64),
    "backward text, 128": lambda: backward_text(128),
}


# Calls of kernels that other calls compile for Ampere, too, with as much shared memory or more.
HOPPER_ALONE = (
    *("forward mixer", "forward mixer, kept", "forward scan", "forward attention, 16"),
    *("forward block, 16", "forward block, 64, kept", "forward block, 256"),
)


class Target:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps kernels by device: one device for each target

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(call: Callable[[], object], capability: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Each kernel that `call` would launch on a GPU of `capability`, and what it takes of the GPU."""
    kernels = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *arguments: object, grid: object, warmup: bool, **options: object):
        kernels.append((self.__name__, run(self, *arguments, grid=grid, warmup=True, **options)))

    triton.runtime.driver.set_active(Target(capability))
    JITFunction.run = compile_only
    try:
        call()
    finally:
        JITFunction.run = run
    for name, kernel in kernels:
        yield name, {**resources(kernel.asm["cubin"]), "shared": kernel.metadata.shared}


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of stack a thread, of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report)}
    return {"registers": found["REG"], "stack": found["STACK"] + found["LOCAL"]}


def main(part: str = "", *capabilities: str) -> None:
    """Print a line for every kernel of the calls whose name holds `part`; what was seen before is left out."""
    seen = set()
    for name, call in CALLS.items():
        for capability in map(int, capabilities or CAPABILITIES[: 1 if name in HOPPER_ALONE else 2]):
            for kernel, taken in compiled(call, capability) if part in name else ():
                what = ", ".join(f"{value} {what}" for what, value in taken.items())
                if (kernel, capability, what) not in seen:
                    print(f"{name}: {kernel}, sm_{capability}: {what}", flush=True)
                seen.add((kernel, capability, what))


if __name__ == "__main__":
    main(*sys.argv[1:])
