"""mamba_ssm 2.3 (github.com/state-spaces/mamba) as far as the `mamba_ssm` backend uses it: found, loaded, explained.

Only its Triton kernels are imported, and causal_conv1d where it is installed with its CUDA extension. `make gpu`
installs both.

The `mamba_ssm` backend: the kernels of mamba_ssm 2.3 (github.com/state-spaces/mamba), NVIDIA only.

`scan` is the plain scan behind the interface of the other backends. `mixer` is all of a Mamba-2 layer between
in_proj and out_proj with the best that the libraries offer: causal_conv1d with its SiLU (where it is installed),
softplus inside the scan, the gated RMSNorm kernel. It is the peer that our own kernels are timed against.

The library scans forward only, so the reverse direction is flipped, scanned and flipped back. Each direction is a
call of its own. One call with 2h heads and 2g groups would save five launches, some 10 us per layer, but the library
wants one stride over all heads, which no layout of in_proj gives: both directions would have to be copied side by
side, at 64 heads of 64 in bf16 17 KB read and as much written a token, instead of 9 KB each for the flip of one. By
this arithmetic the two meet near 2K tokens, and one direction alone (64 heads x 8 chunks there, times the tiles of
each) fills the 132 multiprocessors of an H200 by then.

    b batch  l length  k directions  h heads  p headdim  g groups  n state  taps of the convolution

The mixer of Mamba-2 with the kernels of mamba_ssm and causal_conv1d, both directions, forward and backward.

    x, B, C = SiLU(causal convolution of the x, B, C channels)
    y       = scan(x, softplus(dt + dt_bias), A, B, C) + D x
    out     = RMSNorm(y SiLU(z)) norm_weight

Plain twin: `BidirectionalMamba2.forward` in model/mamba2.py. It is the peer that our own kernels are timed against,
so it spends nothing that the library does not force: only what the scan of the reverse direction reads is flipped
(z is not), and every kernel writes where its result is wanted, both directions of `out` and of the gradient.

    b batch  l length  k directions  h heads  p headdim  g groups  n state  taps of the convolution
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
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffuapriel.ops.document_ids import number_runs
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton.launch import interpreted

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


def unsupported_reason(x: Tensor) -> str | None:
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
        raise ValueError(f"SSD backend 'mamba_ssm' cannot run: {found}")
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


__all__ = ["convolution_kernel", "mixer", "scan", "unsupported_reason"]


@torch.compiler.disable
def scan(
    inputs: ScanInputs, reverse: tuple[bool, ...], document_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One call of the library per direction; shapes in `ScanInputs`. Raises ValueError if the library is missing."""
    x, dt, A, B, C, D, initial_state = inputs
    scan_forward, chunk = library().scan, chunk_length(x.shape[1])
    keep_float32_exact(x)
    dt, A, D, initial_state = (v.float() for v in (dt, A, D, initial_state))
    outputs, states = [], []
    for k, backwards in enumerate(reverse):
        x_, dt_, B_, C_ = (
            v[:, :, k].flip(1) if backwards else v[:, :, k] for v in (x, dt, B.to(x.dtype), C.to(x.dtype))
        )
        apart = {}
        if (
            document_ids is not None
        ):  # counted from 0 in scan order: the library's initial state enters sequence 0
            apart["seq_idx"] = number_runs(document_ids.flip(1) if backwards else document_ids).int()
        with torch.cuda.device_of(x):
            y, state = scan_forward(
                x_,
                dt_,
                A[k],
                B_,
                C_,
                chunk,
                D=D[k],
                initial_states=initial_state[:, k],
                return_final_states=True,
                **apart,
            )
        outputs.append(y.flip(1) if backwards else y)
        states.append(state)
    return torch.stack(outputs, dim=2), torch.stack(states, dim=1)


MOST_ELEMENTS = 2**31 - 1  # the library's kernels compute offsets in 32 bits


@torch.compiler.disable
def mixer(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    *,
    groups: int = 1,
    eps: float = 1e-5,
    chunk_size: int | None = None,
) -> Tensor:
    """What stands between in_proj and out_proj of `BidirectionalMamba2`, forward and backward.

    projected (batch, length, 2 * (z x B C dt)), what in_proj gives; conv_weight (2, taps, channels of x B C),
    conv_bias (2, the same channels), dt_bias, A_log and D (2, heads), norm_weight (2, d_inner). Returns
    (batch, length, 2, d_inner), what out_proj takes. Plain twin: `BidirectionalMamba2.forward`.
    Raises ValueError when the library is missing or a text is too long for its 32-bit offsets.
    """
    library()
    keep_float32_exact(projected)
    pieces = max(1, -(-projected.numel() // MOST_ELEMENTS))
    if pieces > projected.shape[0]:
        raise ValueError(
            f"a text of {projected.shape[1]} tokens x {projected.shape[2]} channels is beyond mamba_ssm's "
            f"32-bit offsets ({MOST_ELEMENTS} elements); permitted: {MOST_ELEMENTS // projected.shape[2]} tokens"
        )
    A, chunk = -torch.exp(A_log.float()), chunk_size or chunk_length(projected.shape[1])
    weights = conv_weight, conv_bias, dt_bias, A, D.float(), norm_weight
    with torch.cuda.device_of(projected):
        y = [
            _Mixer.apply(part.contiguous(), *weights, groups, eps, chunk)
            for part in projected.split(-(-projected.shape[0] // pieces))
        ]
    return y[0] if len(y) == 1 else torch.cat(y)


class _Mixer(torch.autograd.Function):
    """Both directions in turn; every kernel writes where the result is wanted, so nothing is put together after.

    The library's own `MambaSplitConv1dScanCombinedFn` does the same for one direction. Unlike it, this keeps the
    convolved channels for the backward pass: speed is what it is measured by.
    """

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        norm_weight: Tensor,
        groups: int,
        eps: float,
        chunk: int,
    ) -> Tensor:
        kernels, d_inner = library(), norm_weight.shape[1]
        both = projected.unflatten(2, (2, -1))  # (b, l, k, z x B C dt)
        y = projected.new_empty(*both.shape[:3], d_inner)
        kept: list[Tensor] = []
        for k in (0, 1):
            z, channels = both[:, :, k, :d_inner], both[:, :, k, d_inner:]
            channels = _flip(channels) if k else channels  # (b, l, x B C dt) in scan order
            xBC, dt = channels[..., : -A.shape[1]], channels[..., -A.shape[1] :]
            convolved = _convolve(xBC, conv_weight[k], conv_bias[k])
            x, B, C = _parts(convolved, A.shape[1], d_inner, groups)
            out = kernels.scan_forward(
                x, dt, A[k], B, C, chunk, D=D[k], dt_bias=dt_bias[k], dt_softplus=True
            )[0].flatten(2)  # (b, l, d_inner)
            out = _flip(out) if k else out
            rstd = kernels.norm_forward(
                _rows(out),
                norm_weight[k],
                None,
                eps,
                _rows(z),
                out=_rows(y[:, :, k]),
                norm_before_gate=False,
                is_rms_norm=True,
            )[2]
            kept += [channels, convolved, out, rstd]
        ctx.save_for_backward(projected, conv_weight, conv_bias, dt_bias, A, D, norm_weight, *kept)
        ctx.options = groups, eps, chunk
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        projected, conv_weight, conv_bias, dt_bias, A, D, norm_weight, *kept = ctx.saved_tensors
        groups, eps, chunk = ctx.options
        kernels, d_inner = library(), norm_weight.shape[1]
        both, dy = projected.unflatten(2, (2, -1)), dy.contiguous()
        dboth = torch.empty_like(both)
        grads: list[list[Tensor]] = []
        for k in (0, 1):
            channels, convolved, out, rstd = kept[4 * k : 4 * k + 4]
            dout, dnorm, _, _ = kernels.norm_backward(
                _rows(dy[:, :, k]),
                _rows(out),
                norm_weight[k],
                None,
                eps,
                None,
                rstd,
                _rows(both[:, :, k, :d_inner]),
                norm_before_gate=False,
                is_rms_norm=True,
                dz=_rows(dboth[:, :, k, :d_inner]),
            )
            dout = dout.view_as(out)
            dout = (_flip(dout) if k else dout).unflatten(2, (A.shape[1], -1))
            dchannels = torch.empty_like(channels) if k else dboth[:, :, k, d_inner:]
            dconvolved = torch.empty_like(convolved)
            x, B, C = _parts(convolved, A.shape[1], d_inner, groups)
            dx, dB, dC = _parts(dconvolved, A.shape[1], d_inner, groups)
            xBC, dt = channels[..., : -A.shape[1]], channels[..., -A.shape[1] :]
            dxBC, ddt = dchannels[..., : -A.shape[1]], dchannels[..., -A.shape[1] :]
            # The library reads `out` for its gate alone, which is not used: x has the shape that it checks.
            _, _, dA, _, _, dD, _, ddt_bias, _ = kernels.scan_backward(
                dout,
                x,
                dt,
                A[k],
                B,
                C,
                x,
                chunk,
                D=D[k],
                dt_bias=dt_bias[k],
                dt_softplus=True,
                dx=dx,
                ddt=ddt,
                dB=dB,
                dC=dC,
            )
            dweight, dbias = _convolve_backward(xBC, conv_weight[k], conv_bias[k], dconvolved, dxBC)
            if k:
                dboth[:, :, k, d_inner:].copy_(_flip(dchannels))
            grads.append([dweight, dbias, ddt_bias, dA, dD, dnorm])
        return dboth.flatten(2), *(torch.stack(pair) for pair in zip(*grads)), None, None, None


def _parts(xBC: Tensor, heads: int, d_inner: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of x (b, l, h, p), B and C (b, l, g, n)."""
    x, B, C = xBC.split([d_inner, (xBC.shape[2] - d_inner) // 2, (xBC.shape[2] - d_inner) // 2], dim=2)
    return x.unflatten(2, (heads, -1)), B.unflatten(2, (groups, -1)), C.unflatten(2, (groups, -1))


def _rows(v: Tensor) -> Tensor:
    """(b, l, channels) as (b l, channels), always a view: the library reads and writes through it."""
    return v.view(-1, v.shape[2])


def _flip(v: Tensor) -> Tensor:
    """A copy with the tokens (axis 1) the other way round, eight bytes at a time: torch.flip moves elements singly."""
    wide = 8 // v.element_size()
    if v.shape[-1] % wide or any(n % wide for n in (v.storage_offset(), *v.stride()[:-1])):
        return v.flip(1)
    return v.view(torch.int64).flip(1).view(v.dtype)


def _convolve(xBC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal convolution. xBC (b, l, channels), weight (taps, channels), bias (channels,)."""
    if _convolves(xBC, weight):
        forward = library().conv_forward
        assert forward is not None
        return forward(_aligned(xBC).transpose(1, 2), weight.t(), bias, None, None, None, True).transpose(
            1, 2
        )
    return _plain_convolution(xBC.device.type)(xBC, weight, bias)


def _convolve_backward(
    xBC: Tensor, weight: Tensor, bias: Tensor, dout: Tensor, dxBC: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias; the gradient of xBC is written to `dxBC`, the shape of xBC."""
    if _convolves(xBC, weight):
        backward = library().conv_backward
        assert backward is not None
        x, dx = _aligned(xBC).transpose(1, 2), _aligned(dxBC).transpose(1, 2)
        dx, dweight, dbias, _ = backward(
            x, weight.t(), bias, dout.transpose(1, 2), None, None, None, dx, False, True
        )
        if dx.data_ptr() != dxBC.data_ptr():
            dxBC.copy_(dx.transpose(1, 2))
        return dweight.t(), dbias
    with torch.enable_grad():
        inputs = [v.detach().requires_grad_() for v in (xBC, weight, bias)]
        dx, dweight, dbias = torch.autograd.grad(
            _plain_convolution(xBC.device.type)(*inputs), inputs, grad_outputs=dout
        )
    dxBC.copy_(dx)
    return dweight, dbias


def _convolves(xBC: Tensor, weight: Tensor) -> bool:
    """Whether causal_conv1d is there and takes these shapes."""
    return library().conv_forward is not None and 2 <= weight.shape[0] <= 4 and xBC.shape[2] % 8 == 0


def _aligned(v: Tensor) -> Tensor:
    """v, or a copy where causal_conv1d could not load eight channels at once: it checks strides, not the start."""
    return v.contiguous() if any(n % 8 for n in (v.storage_offset(), *v.stride()[:-1])) else v


@functools.cache
def _plain_convolution(device_type: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The convolution where causal_conv1d is missing: shifted copies, on CUDA compiled into one kernel."""
    return torch.compile(_shifted_sum, dynamic=True) if device_type == "cuda" else _shifted_sum


def _shifted_sum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    length, taps = x.shape[1], weight.shape[0]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    y = bias.float()
    for j in range(taps):
        y = y + padded[:, j : j + length].float() * weight[j].float()
    return F.silu(y).to(x.dtype)
