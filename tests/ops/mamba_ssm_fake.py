"""mamba_ssm's and causal_conv1d's functions as `mamba_ssm` calls them, by the recurrence and PyTorch's autograd.

They assert what the real ones assume of shapes and strides, and return and write what the real ones do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.ops import recurrent
from diffuapriel.ops.mamba_ssm import Library
from diffuapriel.ops.recurrent import ScanInputs


def scan(x, dt, A, B, C, chunk_size, D=None, initial_states=None, return_final_states=False, seq_idx=None):
    assert return_final_states and A.dtype == D.dtype == dt.dtype == initial_states.dtype == torch.float32
    _check_layout(x, dt, A, B, C, chunk_size)
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32 and not seq_idx[:, 0].any(), "the initial state enters sequence 0"
    return _recurrence(x, dt, A, B, C, D, initial_states, seq_idx)


def scan_forward(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
    assert z is None and dt_softplus
    _check_layout(x, dt, A, B, C, chunk_size)
    out, final = _recurrence(x, F.softplus(dt.float() + dt_bias), A, B, C, D, None)
    return out.contiguous(), None, None, None, None, final


def scan_backward(dout, x, dt, A, B, C, out, chunk_size, D, dt_bias, dt_softplus, dx, ddt, dB, dC):
    assert dt_softplus and out.shape == dout.shape == x.shape and dout.stride(-1) == 1
    _check_layout(x, dt, A, B, C, chunk_size)
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in (x, dt, A, B, C, D, dt_bias)]
        x, dt, A, B, C, D, dt_bias = leaves
        y, _ = _recurrence(x, F.softplus(dt.float() + dt_bias), A, B, C, D, None)
    grads = torch.autograd.grad(y, leaves, dout)
    for given, grad in zip((dx, ddt, dB, dC), (grads[0], grads[1], grads[3], grads[4])):
        assert given.shape == grad.shape and given.stride(-1) == 1
        given.copy_(grad)
    return dx, ddt, grads[2], dB, dC, grads[5], None, grads[6], None


def norm_forward(x, weight, bias, eps, z, out, norm_before_gate, is_rms_norm):
    assert bias is None and is_rms_norm and not norm_before_gate and out.shape == z.shape == x.shape
    assert x.stride(-1) == z.stride(-1) == out.stride(-1) == weight.stride(-1) == 1
    gated = x.float() * F.silu(z.float())
    rstd = torch.rsqrt(gated.square().mean(1) + eps)
    out.copy_(gated * rstd[:, None] * weight)
    return out, None, rstd


def norm_backward(dy, x, weight, bias, eps, mean, rstd, z, norm_before_gate, is_rms_norm, dz):
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in (x, weight, z)]
        y = norm_forward(*leaves[:2], None, eps, leaves[2], torch.empty_like(x), norm_before_gate, is_rms_norm)[0]
    dx, dweight, gate = torch.autograd.grad(y, leaves, dy)
    return dx, dweight, None, dz.copy_(gate)


def conv_forward(x, weight, bias, seq_idx, initial_states, final_states_out, silu_activation):
    assert silu_activation and bias.dtype == weight.dtype and bias.stride(-1) == 1
    _check_convolution(x, weight)
    y = F.conv1d(x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=x.shape[1])
    return torch.empty_like(x).copy_(F.silu(y[..., : x.shape[2]]))


def conv_backward(
    x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, return_dinitial_states, silu_activation
):
    _check_convolution(dout, weight)
    _check_convolution(dx, weight)
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in (x, weight, bias)]
        y = conv_forward(*leaves, None, None, None, silu_activation)
    grad_x, dweight, dbias = torch.autograd.grad(y, leaves, dout)
    return dx.copy_(grad_x), dweight, dbias, None


def fake_library(with_causal_conv1d: bool) -> Library:
    convolution = (conv_forward, conv_backward) if with_causal_conv1d else (None, None)
    return Library(scan, scan_forward, scan_backward, norm_forward, norm_backward, *convolution)


def _recurrence(x, dt, A, B, C, D, initial, seq_idx=None) -> tuple[Tensor, Tensor]:
    batch, _, heads, headdim = x.shape
    if initial is None:
        initial = x.new_zeros(batch, heads, headdim, B.shape[3])
    along = (v[:, :, None] for v in (x, dt))
    inputs = ScanInputs(*along, A[None], B[:, :, None], C[:, :, None], D[None], initial[:, None])
    y, final = recurrent.scan(inputs, (False,), seq_idx)
    return y[:, :, 0], final[:, 0]


def _check_layout(x, dt, A, B, C, chunk_size) -> None:
    batch, length, heads, _ = x.shape
    assert dt.shape == (batch, length, heads) and A.shape == (heads,)
    assert B.shape == C.shape and B.shape[:2] == (batch, length) and heads % B.shape[2] == 0
    assert x.dtype == B.dtype == C.dtype
    assert x.stride(-1) == B.stride(-1) == C.stride(-1) == 1, "or the library makes copies"
    assert chunk_size & (chunk_size - 1) == 0


def _check_convolution(x, weight) -> None:
    assert weight.shape[0] == x.shape[1] and 2 <= weight.shape[1] <= 4
    assert x.stride(1) == 1 and x.stride(2) > 1, "channels last"
    assert all(n % 8 == 0 for n in (x.shape[1], x.stride(0), x.stride(2), x.storage_offset()))
