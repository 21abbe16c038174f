"""The `mamba_ssm` backend: the kernels of mamba_ssm 2.3 (github.com/state-spaces/mamba), NVIDIA only.

    x, B, C = SiLU(causal convolution of the x, B, C channels)
    y       = scan(x, softplus(dt + dt_bias), A, B, C) + D x
    out     = RMSNorm(y SiLU(z)) norm_weight

`scan` is the plain scan, behind the interface of every backend. `mixer` is all three lines, forward and backward, with
the best kernels that the libraries offer: causal_conv1d where it is installed, softplus inside the scan, the gated
RMSNorm. It is the baseline that our own kernels are timed against, so it does nothing that the library does not force:
only what the reverse scan reads is flipped (z is not), and every kernel writes straight into the result.
Plain twin of `mixer`: `BidirectionalMamba2._plain` in model/mamba2.py.

The library scans forward only, so each direction is a separate call, and the reverse one is flipped, scanned and
flipped back. A single call with 2h heads and 2g groups would save five launches, about 10 us per layer, but the library
requires one stride over all heads, which in_proj's layout does not have. Both directions would have to be copied: at
64 heads of 64 in bf16, 17 KB per token read and written, against 9 KB to flip one. The two break even near 2K tokens,
where one direction alone (64 heads x 8 chunks x tiles) already fills the 132 multiprocessors of an H100.

Only the library's Triton kernels are imported, and causal_conv1d if it has its CUDA extension; `make gpu` installs
both. Axes as in ops/recurrent.py.
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
from diffuapriel.ops.triton.launch import unsupported_tensor

MAX_CHUNK, MIN_CHUNK = 256, 64  # tokens; the library's default, and the least for a short text
MAX_ELEMENTS = 2**31 - 1  # of one tensor: the library's kernels compute offsets in 32 bits
GATED_RMS = {"norm_before_gate": False, "is_rms_norm": True}


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
    """None when the backend can run a call with `x`; else one line: the reason, and the fix."""
    if reason := unsupported_tensor(x, "mamba_ssm's kernels"):
        return reason
    found = _load()
    return found if isinstance(found, str) else None


def convolution_kernel() -> str:
    """The convolution of `mixer`: 'causal_conv1d' or 'PyTorch'. Raises ValueError without mamba_ssm."""
    return "causal_conv1d" if library().conv_forward else "PyTorch"


def library() -> Library:
    """The library's functions. Raises ValueError, with the reason and the fix, if it cannot be used."""
    found = _load()
    if isinstance(found, str):
        raise ValueError(f"SSD backend 'mamba_ssm' cannot run: {found}")
    return found


def chunk_length(length: int) -> int:
    """The chunk for a text: a power of two that a short text does not leave half empty."""
    return min(MAX_CHUNK, max(MIN_CHUNK, 1 << (length - 1).bit_length()))


def keep_float32_exact(x: Tensor) -> None:
    """Run the library's float32 products as three TF32 ones: Triton's default would round to ten bits.

    A setting of the user, in Triton's variable or as PyTorch's float32 precision, takes precedence.
    """
    if x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        os.environ.setdefault("TRITON_F32_DEFAULT", "tf32x3")


@functools.cache
def _load() -> Library | str:
    """The library, or one line that says why it cannot be used."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba_ssm is not installed (`make gpu` installs it on a machine with an NVIDIA GPU)"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # the default; Triton 3.9 warns if it is unset
    try:
        with _without_its_init("mamba_ssm"):
            from mamba_ssm.ops.triton.layernorm_gated import _layer_norm_bwd, _layer_norm_fwd
            from mamba_ssm.ops.triton.ssd_combined import (
                _mamba_chunk_scan_combined_bwd,
                _mamba_chunk_scan_combined_fwd,
                mamba_chunk_scan_combined,
            )
    except Exception as problem:  # third-party code may raise anything; another backend runs the call
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
    """Allow imports of the package's modules without running its __init__, which a later import still runs.

    mamba_ssm's __init__ needs the CUDA extension of Mamba-1 and transformers, neither of which is used here.
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


@torch.compiler.disable
def scan(inputs: ScanInputs, reverse: tuple[bool, ...], document_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One call of the library per direction; shapes in `ScanInputs`. Raises ValueError if the library is missing."""
    x, dt, A, B, C, D, initial_state = inputs
    scan_forward, chunk = library().scan, chunk_length(x.shape[1])
    keep_float32_exact(x)
    dt, A, D, initial_state = (v.float() for v in (dt, A, D, initial_state))
    outputs, states = [], []
    for k, backwards in enumerate(reverse):
        x_, dt_, B_, C_ = (v[:, :, k] for v in (x, dt, B.to(x.dtype), C.to(x.dtype)))
        options = {"D": D[k], "initial_states": initial_state[:, k], "return_final_states": True}
        if document_ids is not None:  # from 0 in scan order, because the initial state enters sequence 0
            options["seq_idx"] = number_runs(document_ids.flip(1) if backwards else document_ids).int()
        if backwards:
            x_, dt_, B_, C_ = (v.flip(1) for v in (x_, dt_, B_, C_))
        with torch.cuda.device_of(x):
            y, state = scan_forward(x_, dt_, A[k], B_, C_, chunk, **options)
        outputs.append(y.flip(1) if backwards else y)
        states.append(state)
    return torch.stack(outputs, dim=2), torch.stack(states, dim=1)


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
    """Everything between in_proj and out_proj of `BidirectionalMamba2`, forward and backward.

    projected (batch, length, 2 (z x B C dt)), the output of in_proj; conv_weight (2, taps, channels of x B C),
    conv_bias (2, channels), dt_bias, A_log and D (2, heads), norm_weight (2, d_inner). Returns
    (batch, length, 2, d_inner), the input of out_proj.
    Raises ValueError if the library is missing or a text is too long for its 32-bit offsets.
    """
    library()
    keep_float32_exact(projected)
    pieces = max(1, -(-projected.numel() // MAX_ELEMENTS))
    if pieces > projected.shape[0]:
        raise ValueError(
            f"a text of {projected.shape[1]} tokens x {projected.shape[2]} channels exceeds mamba_ssm's "
            f"32-bit offsets ({MAX_ELEMENTS} elements); permitted: {MAX_ELEMENTS // projected.shape[2]} tokens"
        )
    A, chunk = -torch.exp(A_log.float()), chunk_size or chunk_length(projected.shape[1])
    weights = conv_weight, conv_bias, dt_bias, A, D.float(), norm_weight
    with torch.cuda.device_of(projected):
        parts = projected.split(-(-projected.shape[0] // pieces))
        y = [_Mixer.apply(groups, eps, chunk, part.contiguous(), *weights) for part in parts]
    return y[0] if len(y) == 1 else torch.cat(y)


class _Mixer(torch.autograd.Function):
    """Both directions in turn, every kernel writing straight into the result.

    Unlike the library's own `MambaSplitConv1dScanCombinedFn`, which does the same for one direction, this keeps the
    convolved channels for the backward pass, because it is a baseline for speed.
    """

    @staticmethod
    def forward(ctx: Any, groups: int, eps: float, chunk: int, *inputs: Tensor) -> Tensor:
        projected, conv_weight, conv_bias, dt_bias, A, D, norm_weight = inputs
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
            step = {"D": D[k], "dt_bias": dt_bias[k], "dt_softplus": True}
            out = kernels.scan_forward(x, dt, A[k], B, C, chunk, **step)[0].flatten(2)  # (b, l, d_inner)
            out = _flip(out) if k else out
            given = _rows(out), norm_weight[k], None, eps, _rows(z)
            rstd = kernels.norm_forward(*given, out=_rows(y[:, :, k]), **GATED_RMS)[2]
            kept += [channels, convolved, out, rstd]
        ctx.save_for_backward(*inputs, *kept)
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
            z, dz = (_rows(v[:, :, k, :d_inner]) for v in (both, dboth))
            given = _rows(dy[:, :, k]), _rows(out), norm_weight[k], None, eps, None, rstd, z
            dout, dnorm, _, _ = kernels.norm_backward(*given, dz=dz, **GATED_RMS)
            dout = dout.view_as(out)
            dout = (_flip(dout) if k else dout).unflatten(2, (A.shape[1], -1))
            dchannels = torch.empty_like(channels) if k else dboth[:, :, k, d_inner:]
            dconvolved = torch.empty_like(convolved)
            x, B, C = _parts(convolved, A.shape[1], d_inner, groups)
            dx, dB, dC = _parts(dconvolved, A.shape[1], d_inner, groups)
            xBC, dt = channels[..., : -A.shape[1]], channels[..., -A.shape[1] :]
            dxBC, ddt = dchannels[..., : -A.shape[1]], dchannels[..., -A.shape[1] :]
            # The library reads `out` only for its own gate, which is not used; x has the shape that it checks.
            step = {"D": D[k], "dt_bias": dt_bias[k], "dt_softplus": True}
            into = {"dx": dx, "ddt": ddt, "dB": dB, "dC": dC}
            got = kernels.scan_backward(dout, x, dt, A[k], B, C, x, chunk, **step, **into)
            _, _, dA, _, _, dD, _, ddt_bias, _ = got
            dweight, dbias = _convolve_backward(xBC, conv_weight[k], conv_bias[k], dconvolved, dxBC)
            if k:
                dboth[:, :, k, d_inner:].copy_(_flip(dchannels))
            grads.append([dweight, dbias, ddt_bias, dA, dD, dnorm])
        return None, None, None, dboth.flatten(2), *(torch.stack(pair) for pair in zip(*grads))


def _parts(xBC: Tensor, heads: int, d_inner: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of x (b, l, h, p), B and C (b, l, g, n)."""
    x, B, C = xBC.split([d_inner, (xBC.shape[2] - d_inner) // 2, (xBC.shape[2] - d_inner) // 2], dim=2)
    return x.unflatten(2, (heads, -1)), B.unflatten(2, (groups, -1)), C.unflatten(2, (groups, -1))


def _rows(v: Tensor) -> Tensor:
    """(b, l, channels) as (b l, channels), always a view, through which the library reads and writes."""
    return v.view(-1, v.shape[2])


def _flip(v: Tensor) -> Tensor:
    """A copy with the tokens (axis 1) reversed, eight bytes at a time; torch.flip moves single elements."""
    wide = 8 // v.element_size()
    if v.shape[-1] % wide or any(n % wide for n in (v.storage_offset(), *v.stride()[:-1])):
        return v.flip(1)
    return v.view(torch.int64).flip(1).view(v.dtype)


def _convolve(xBC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal convolution. xBC (b, l, channels), weight (taps, channels), bias (channels,)."""
    if _convolves(xBC, weight):
        forward = library().conv_forward
        assert forward is not None
        channels_first = _aligned(xBC).transpose(1, 2)
        return forward(channels_first, weight.t(), bias, None, None, None, True).transpose(1, 2)
    return _plain_convolution(xBC.device.type)(xBC, weight, bias)


def _convolve_backward(xBC: Tensor, weight: Tensor, bias: Tensor, dout: Tensor, dxBC: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias; the gradient of xBC is written to `dxBC`, the shape of xBC."""
    if _convolves(xBC, weight):
        backward = library().conv_backward
        assert backward is not None
        x, dx = _aligned(xBC).transpose(1, 2), _aligned(dxBC).transpose(1, 2)
        given = x, weight.t(), bias, dout.transpose(1, 2), None, None, None, dx, False, True
        dx, dweight, dbias, _ = backward(*given)
        if dx.data_ptr() != dxBC.data_ptr():
            dxBC.copy_(dx.transpose(1, 2))
        return dweight.t(), dbias
    with torch.enable_grad():
        inputs = [v.detach().requires_grad_() for v in (xBC, weight, bias)]
        out = _plain_convolution(xBC.device.type)(*inputs)
        dx, dweight, dbias = torch.autograd.grad(out, inputs, grad_outputs=dout)
    dxBC.copy_(dx)
    return dweight, dbias


def _convolves(xBC: Tensor, weight: Tensor) -> bool:
    """Whether causal_conv1d is installed and takes these shapes."""
    return library().conv_forward is not None and 2 <= weight.shape[0] <= 4 and xBC.shape[2] % 8 == 0


def _aligned(v: Tensor) -> Tensor:
    """v, or a copy if causal_conv1d could not load eight channels at once; it checks the strides but not the offset."""
    return v.contiguous() if any(n % 8 for n in (v.storage_offset(), *v.stride()[:-1])) else v


@functools.cache
def _plain_convolution(device_type: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The convolution without causal_conv1d: shifted copies, compiled into one kernel on CUDA."""
    return torch.compile(_shifted_sum, dynamic=True) if device_type == "cuda" else _shifted_sum


def _shifted_sum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    length, taps = x.shape[1], weight.shape[0]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    y = bias.float()
    for j in range(taps):
        y = y + padded[:, j : j + length].float() * weight[j].float()
    return F.silu(y).to(x.dtype)
