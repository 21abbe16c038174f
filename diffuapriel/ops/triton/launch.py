"""What the Triton kernels share: when they can run, tile sizes, and how work is divided among programs.

Kernels walk tokens in *scan order*: row i of direction k is token i, or token length - 1 - i in a reverse direction.
Rows are addressed from the first one in scan order with a signed stride, so that one code path serves both directions
and nothing is flipped.

Where a kernel reads rows of in_proj's output, strides are compile-time constants. Of a run-time argument Triton only
knows whether it is divisible by 16, which the number of channels in a row often is not; it would then load one number
at a time.

Dot products take their operands in the tensors' own dtype and accumulate in float32. Tensor cores would round float32
operands to ten bits, so each operand is split in two, and three products recover what the rounding lost ("tf32x3").
"""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

# Triton 3.9 warns at each first compilation that this default will change. Fused multiply-adds are intended here.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHUNK = 64  # tokens between two stored states
SHORT, SHORT_HEADDIM, SHORT_STATE = 2 * CHUNK, 64, 128  # the most that the kernels of whole texts take
MIN_CHUNKS = 4  # of a split of the sequence
TILE_ROWS, TILE_CHANNELS = 64, 64  # tokens by channels, of kernels that do not walk
MIN_TILE = 16  # the shortest side of a tile in a Triton dot product
MIN_SPLIT_PRODUCT = 32  # below it Triton 3.6's tf32x3 products have read out of bounds, on an H100
BOTH = (False, True)  # the directions of a mixer: direction 1 is the reverse one
MAX_SIDE = 256  # of headdim and state
MAX_STATE = 2**15  # headdim x state: more does not fit on chip in the backward kernels


def interpreted() -> bool:
    """Whether Triton interprets its kernels on the CPU (TRITON_INTERPRET=1, for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def is_hopper(device: torch.device) -> bool:
    """Whether the device has compute capability 9.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def on_hopper() -> bool:
    """Whether Triton compiles kernels for a Hopper GPU."""
    if interpreted():
        return False
    from triton.runtime import driver

    return getattr(driver.active.get_current_target(), "arch", None) == 90


@functools.lru_cache(maxsize=1)
def installed() -> bool:
    """Whether Triton can be imported."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def unsupported_tensor(x: Tensor, kernels: str) -> str | None:
    """None when `kernels`, written in Triton, can take the device and dtype of `x`; else one line with the reason."""
    if x.device.type != "cuda" and not interpreted():
        return f"the tensors are on {x.device.type}; {kernels} need a CUDA device"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the GPU is older than compute capability 8.0 (Ampere)"
    if x.dtype not in DTYPES:
        dtype = str(x.dtype).removeprefix("torch.")
        return f"the tensors are {dtype}; {kernels} take float32, bfloat16, float16"
    return None


def unsupported_reason(x: Tensor, headdim: int = MIN_TILE, state: int = MIN_TILE) -> str | None:
    """None when our kernels can take `x`; else one line: the reason, and the fix."""
    if not installed():
        return "Triton is not installed (pip install triton, Linux only; it comes with a CUDA build of PyTorch)"
    if reason := unsupported_tensor(x, "the Triton kernels"):
        return reason
    for name, size in (("headdim", headdim), ("d_state", state)):
        if size & (size - 1) or not MIN_TILE <= size <= MAX_SIDE:
            return f"{name} is {size}; the Triton kernels take powers of two from {MIN_TILE} to {MAX_SIDE}"
    if headdim * state > MAX_STATE:
        return f"headdim x d_state is {headdim * state:,}; the Triton kernels take {MAX_STATE:,} at most"
    return None


def is_short(length: int, headdim: int, state: int) -> bool:
    """Whether the mixer of a text takes the kernels of whole texts (`text_forward` in chunk.py): on Hopper alone, since
    compiled for Ampere they spill most of their registers."""
    fits = length <= SHORT and headdim <= SHORT_HEADDIM and state <= SHORT_STATE
    return fits and (interpreted() or on_hopper())


def precision(dtype: torch.dtype, side: int = MIN_SPLIT_PRODUCT) -> str:
    """The `input_precision` of dot products of `dtype` operands; `side` is the shortest one of a tile."""
    if dtype != torch.float32:
        return "tf32"  # has no meaning for 16-bit operands
    return "tf32x3" if side >= MIN_SPLIT_PRODUCT else "ieee"


def directions(reverse: tuple[bool, ...]) -> dict[str, int]:
    """The kernels' compile-time constants REVERSE, a bit mask of the reverse directions, and DIRECTIONS."""
    return {
        "REVERSE": sum(1 << k for k, backwards in enumerate(reverse) if backwards),
        "DIRECTIONS": len(reverse),
    }


def multiprocessors(device: torch.device) -> int:
    """The number of multiprocessors; 1 for Triton's interpreter."""
    return 1 if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count


def choose_splits(device: torch.device, programs: int, chunks: int) -> int:
    """Into how many splits to cut the sequence, so that `programs` programs per split fill the device.

    A program walks its split chunk by chunk; two programs fit on a multiprocessor. With too few of them part of the
    device would idle. Cutting the sequence costs a first pass over every split but the last (`split_states`). The
    number of splits is limited so that no program waits for a multiprocessor.
    """
    # The interpreter has nothing to fill, but the splits should be tested.
    slots = 2 * (multiprocessors(device) if device.type == "cuda" else programs)
    return most_splits(slots, programs, chunks)


def most_splits(slots: int, programs: int, chunks: int) -> int:
    """As many splits of MIN_CHUNKS chunks or more as `slots` places can run at once, with `programs` programs each."""
    return max(1, min(slots // programs, chunks // MIN_CHUNKS))
