"""mamba_ssm 2.3 (github.com/state-spaces/mamba) as far as the `official` backend uses it: found, loaded, explained.

Only its Triton kernels are imported, and causal_conv1d where it is installed with its CUDA extension. `make gpu`
installs both.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffuapriel.ssd.triton_launch import interpreted

CHUNK = 256  # the library's own default; shorter texts take a shorter chunk
SHORTEST_CHUNK = 64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Library(NamedTuple):
    """The functions of mamba_ssm, and of causal_conv1d where it is installed."""

    scan: Callable[..., Any]
    scan_forward: Callable[..., Any]
    scan_backward: Callable[..., Any]
    norm_forward: Callable[..., Any]
    norm_backward: Callable[..., Any]
    conv_forward: Callable[..., Any] | None
    conv_backward: Callable[..., Any] | None


def why_not(x: Tensor) -> str | None:
    """None when the backend can run a call with `x`; else one line: the reason, and the way out."""
    if x.device.type != "cuda" and not interpreted():
        return f"the tensors are on {x.device.type}; mamba_ssm's kernels need a CUDA device"
    if x.dtype not in DTYPES:
        return f"the tensors are {str(x.dtype).removeprefix('torch.')}; mamba_ssm takes float32, bfloat16, float16"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the GPU is older than compute capability 8.0 (Ampere)"
    found = _load()
    return found if isinstance(found, str) else None


def convolution_kernel() -> str:
    """What `mixer` convolves with: 'causal_conv1d' or 'PyTorch'. Raises ValueError without mamba_ssm."""
    return "causal_conv1d" if library().conv_forward else "PyTorch"


def library() -> Library:
    """The functions. Raises ValueError, with the reason and the way out, where there are none."""
    found = _load()
    if isinstance(found, str):
        raise ValueError(f"SSD backend 'official' cannot run: {found}")
    return found


def chunk_length(length: int) -> int:
    """A chunk that a short text does not leave half empty; a power of two."""
    return min(CHUNK, max(SHORTEST_CHUNK, 1 << (length - 1).bit_length()))


def keep_float32_exact(x: Tensor) -> None:
    """The library leaves its float32 products to Triton's default, tensor cores at ten bits: three such for one.

    What the user has set, in Triton's variable or as PyTorch's float32 precision, stands.
    """
    if x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        os.environ.setdefault("TRITON_F32_DEFAULT", "tf32x3")


@functools.cache
def _load() -> Library | str:
    """The library, or one line that says why there is none."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba_ssm is not installed (`make gpu` installs it on a machine with an NVIDIA GPU)"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as ever; Triton 3.9 warns where it is left open
    try:
        with _without_its_init("mamba_ssm"):
            from mamba_ssm.ops.triton.layernorm_gated import _layer_norm_bwd, _layer_norm_fwd
            from mamba_ssm.ops.triton.ssd_combined import (
                _mamba_chunk_scan_combined_bwd,
                _mamba_chunk_scan_combined_fwd,
                mamba_chunk_scan_combined,
            )
    except Exception as problem:  # foreign code: whatever it raises, another backend can run the call
        return f"mamba_ssm cannot be imported: {problem} (`make gpu` installs what it needs)"
    try:
        from causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function
    except ImportError:  # not installed, or without its CUDA extension
        causal_conv1d_fwd_function = causal_conv1d_bwd_function = None
    return Library(
        mamba_chunk_scan_combined,
        _mamba_chunk_scan_combined_fwd,
        _mamba_chunk_scan_combined_bwd,
        _layer_norm_fwd,
        _layer_norm_bwd,
        causal_conv1d_fwd_function,
        causal_conv1d_bwd_function,
    )


@contextlib.contextmanager
def _without_its_init(name: str) -> Iterator[None]:
    """Modules of package `name` can be imported, its own __init__ stays aside for whoever imports it later.

    That of mamba_ssm wants the CUDA extension of Mamba-1 and transformers, neither of which is used here.
    """
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or spec.submodule_search_locations is None:
        yield
        return
    bare = ModuleType(name)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = bare
    try:
        yield
    finally:
        del sys.modules[name]
