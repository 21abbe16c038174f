"""What every Triton kernel of this package shares: when it can run, tile sizes, and how work is split.

A kernel walks tokens in *scan order*: row i of direction k is token i, or token length - 1 - i when the direction
is a reverse one. Rows are reached from the first one in scan order by a signed stride, so one code path serves
both directions and nothing is flipped.

Where a kernel reads rows of `in_proj`'s output, strides are compile-time constants. Of an argument Triton knows at most
that 16 divides it, and a row often has no such number of channels: it would then be loaded a number at a time.

Dot products take their operands in the tensors' own dtype and add in float32. Tensor cores would round float32
operands to ten bits: so each is split in two, and three products give back what was rounded off ("tf32x3").
"""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

# Triton 3.9 warns at every first compilation that this default is going to change; products that add are meant here.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST_TILE = 16  # the least side of a tile in a Triton dot product
SMALLEST_SPLIT = (
    32  # below it Triton 3.6 has split float32 products read memory that is not theirs, on an H100
)
WIDEST = 256  # of headdim and state
LARGEST_STATE = 2**15  # headdim x state: beyond it, what a backward program holds does not fit on chip


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU (TRITON_INTERPRET=1, for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.lru_cache(maxsize=1)
def installed() -> bool:
    """Whether Triton can be imported."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def unsupported_reason(x: Tensor, headdim: int, state: int) -> str | None:
    """None when the kernels can take `x`; else one line: the reason, and the way out."""
    if not installed():
        return (
            "Triton is not installed (pip install triton, Linux only; it comes with a CUDA build of PyTorch)"
        )
    if x.device.type != "cuda" and not interpreted():
        return f"the tensors are on {x.device.type}; the Triton kernels need a CUDA device"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the GPU is older than compute capability 8.0 (Ampere)"
    if x.dtype not in DTYPES:
        dtype = str(x.dtype).removeprefix("torch.")
        return f"the tensors are {dtype}; the Triton kernels take float32, bfloat16, float16"
    for name, size in (("headdim", headdim), ("d_state", state)):
        if size & (size - 1) or not SMALLEST_TILE <= size <= WIDEST:
            return f"{name} is {size}; the Triton kernels take powers of two from {SMALLEST_TILE} to {WIDEST}"
    if headdim * state > LARGEST_STATE:
        return f"headdim x d_state is {headdim * state:,}; the Triton kernels take {LARGEST_STATE:,} at most"
    return None


def precision(dtype: torch.dtype, side: int = SMALLEST_SPLIT) -> str:
    """The `input_precision` of dot products on operands of `dtype`; side: the least of a tile."""
    if dtype != torch.float32:
        return "tf32"  # which has no meaning for 16-bit operands
    return "tf32x3" if side >= SMALLEST_SPLIT else "ieee"


def bits(reverse: tuple[bool, ...]) -> int:
    """The reverse directions as a bit mask, a compile-time constant of the kernels."""
    return sum(1 << k for k, backwards in enumerate(reverse) if backwards)


def choose_splits(device: torch.device, programs: int, chunks: int, least_chunks: int = 4) -> int:
    """Into how many parts to cut the sequence so that `programs` times as many fill the device.

    A program walks its part chunk by chunk, two programs at once on a multiprocessor. With fewer of them the rest
    would idle, so the sequence is cut, at the price of a first pass over every part but the last (see
    triton_states.py): never into so many parts that some would have to wait for a place.
    """
    if device.type != "cuda":
        places = 2 * programs  # the interpreter has nothing to fill, but the split is to be tested
    else:
        places = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(places // programs, chunks // least_chunks))
