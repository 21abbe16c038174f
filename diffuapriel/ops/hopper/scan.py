"""The forward scan of a mixer, gate included, by the CUDA C++ kernels of scan.cu.

`scan_chunks` in ops/triton/scan.py calls it where `unsupported_reason` is None; everywhere else, and everywhere with
DIFFUAPRIEL_SCAN=triton in the environment, the Triton kernels do the same. Like them it cuts the sequence into splits
where heads and texts are too few to fill the device: hopper_states computes what all splits but the last add to the
state, in pieces, and hopper_scan carries the state through them.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffuapriel.ops.hopper.nvrtc import Kernels, pointers
from diffuapriel.ops.triton.launch import BOTH, CHUNK, is_hopper, most_splits, multiprocessors

log = logging.getLogger(__name__)

HEADDIM, STATE, TAPS = 64, 128, 4
HEADS, THREADS = 2, 384  # of a block; one block fits on a multiprocessor
SHARED_BYTES = 227 * 1024  # of a block: all there is
TMA_ALIGNMENT = 8  # bfloat16 numbers in 16 bytes


class Data(ctypes.Structure):
    """Pointers; as in scan.cu."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("dt", "A", "D", "weight", "bias", "added", "totals", "squares")]


class Sizes(ctypes.Structure):
    """As in scan.cu."""

    _names = "batch", "length", "heads", "chunks_per_split", "splits", "pieces", "x_direction", "conv_channels", "items"
    _fields_ = [(name, ctypes.c_int) for name in _names]


class Cut(NamedTuple):
    """How a sequence is divided among blocks."""

    splits: int  # of the sequence
    chunks_per_split: int  # the last one may have fewer
    pieces: int  # of every split but the last, in the pass for the states


def cut(walks: int, chunks: int, slots: int) -> Cut:
    """Cut `chunks` so that `walks` blocks per split fill `slots` multiprocessors as well as they can in one round."""
    splits = most_splits(slots, walks, chunks)
    if splits == 1:
        return Cut(1, chunks, 1)
    pieces = most_splits(slots, walks * (splits - 1), math.ceil(chunks / splits))
    chunks_per_split = math.ceil(chunks / (splits * pieces)) * pieces
    splits = math.ceil(chunks / chunks_per_split)
    return Cut(splits, chunks_per_split, pieces if splits > 1 else 1)


@functools.cache
def _kernels() -> Kernels | str:
    """The compiled kernels, or why there are none."""
    try:
        return Kernels(Path(__file__).with_suffix(".cu").read_text(encoding="utf-8"))
    except (OSError, RuntimeError) as error:
        log.warning("the mixer keeps its Triton scan, because the CUDA one cannot be built: %s", error)
        return str(error)


@functools.cache
def _kernel(name: str, device: int) -> ctypes.c_void_p:
    """`hopper_states` or `hopper_scan`."""
    kernels = _kernels()
    assert isinstance(kernels, Kernels)
    return kernels.kernel(name, SHARED_BYTES, device)


def unsupported_reason(
    x: Tensor, B: Tensor, conv_weight: Tensor, norm_weight: Tensor | None, reverse: tuple[bool, ...]
) -> str | None:
    """None when `scan` can take the call, whose arguments have the shapes of `scan_chunks`; else one line."""
    if os.environ.get("DIFFUAPRIEL_SCAN") == "triton":
        return "the environment variable DIFFUAPRIEL_SCAN asks for the Triton scan"
    if not is_hopper(x.device):
        return "the GPU is not a Hopper GPU (compute capability 9.0)"
    if x.dtype != torch.bfloat16:
        return f"the tensors are {str(x.dtype).removeprefix('torch.')}; the CUDA scan takes bfloat16"
    heads, headdim, groups, state = *x.shape[3:], *B.shape[3:]
    taps = conv_weight.shape[1]
    if (headdim, state, groups, taps) != (HEADDIM, STATE, 1, TAPS) or heads % HEADS:
        return (
            f"headdim {headdim}, d_state {state}, n_groups {groups}, d_conv {taps}, {heads} heads; "
            f"the CUDA scan takes {HEADDIM}, {STATE}, 1, {TAPS} and an even number of heads"
        )
    if x.shape[1] % CHUNK or not x.shape[1]:
        return f"the length {x.shape[1]} is not a multiple of {CHUNK}"
    if norm_weight is not None:
        return "the norm's weight is not folded into out_proj"
    if reverse != BOTH:
        return "the directions are not those of a mixer"
    if any(stride % TMA_ALIGNMENT for stride in x.stride()[:3]) or x.data_ptr() % (2 * TMA_ALIGNMENT):
        return "rows of the projection do not start at multiples of 16 bytes"
    kernels = _kernels()
    return kernels if isinstance(kernels, str) else None


def scan(
    x: Tensor, z: Tensor, B: Tensor, C: Tensor, dt: Tensor, A: Tensor, D: Tensor, conv: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """g (2, b, l, h p) and squares (b, 2, h, l) float32; arguments as of `scan_chunks`."""
    batch, length, count, heads, _ = x.shape
    slots, chunks = multiprocessors(x.device), length // CHUNK
    walks = batch * count * heads // HEADS
    splits, chunks_per_split, pieces = cut(walks, chunks, slots)
    gated = x.new_empty((count, batch, length, heads * HEADDIM))
    squares = dt.new_empty((batch, count, heads, length))
    parts = (splits - 1) * pieces
    added = dt.new_empty((batch, count, heads, parts, STATE * HEADDIM))
    totals = dt.new_empty((batch, count, heads, parts))

    kernels = _kernels()
    assert isinstance(kernels, Kernels)
    with torch.cuda.device(x.device):
        channels = x.stride(2) + heads * HEADDIM
        of_x = (batch, length, channels), (x.stride(0), x.stride(1))
        keys = count * STATE
        of_keys = (batch, length, keys), (length * keys, keys)
        of_g = (count * batch, length, heads * HEADDIM), (length * heads * HEADDIM, heads * HEADDIM)
        maps = [
            kernels.tensor_map(x.data_ptr(), *of_x, CHUNK + TAPS - 1),
            kernels.tensor_map(z.data_ptr(), *of_x, CHUNK),
            kernels.tensor_map(B.data_ptr(), *of_keys, CHUNK),
            kernels.tensor_map(C.data_ptr(), *of_keys, CHUNK),
            kernels.tensor_map(gated.data_ptr(), *of_g, CHUNK),
        ]
        data = Data(*pointers(dt, A, D, *conv, added, totals, squares))
        about = batch, length, heads, chunks_per_split, splits, pieces, x.stride(2), conv[1].shape[-1]
        for name, items in (("hopper_states", walks * parts), ("hopper_scan", walks * splits)):
            if items:
                arguments = [*maps, data, Sizes(*about, items)]
                kernels.launch(_kernel(name, x.device.index), min(items, slots), THREADS, SHARED_BYTES, arguments)
    return gated, squares
