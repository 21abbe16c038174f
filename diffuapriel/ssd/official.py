"""The `official` backend: the kernels of mamba_ssm 2.3 (github.com/state-spaces/mamba), NVIDIA only.

`scan` is the plain scan behind the interface of the other backends. `mixer` is all of a Mamba-2 layer between
in_proj and out_proj with the best that the libraries offer: causal_conv1d with its SiLU (where it is installed),
softplus inside the scan, the gated RMSNorm kernel. It is the peer that our own kernels are timed against.

The library scans forward only, so the reverse direction is flipped, scanned and flipped back. Each direction is a
call of its own. One call with 2h heads and 2g groups would save five launches, some 10 us a layer, but the library
wants one stride over all heads, which no layout of in_proj gives: both directions would have to be copied side by
side, at 64 heads of 64 in bf16 17 KB read and as much written a token, instead of 9 KB each for the flip of one. By
this arithmetic the two meet near 2K tokens, and one direction alone (64 heads x 8 chunks there, times the tiles of
each) fills the 132 multiprocessors of an H200 by then.

    b batch  l length  k directions  h heads  p headdim  g groups  n state  taps of the convolution
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffuapriel.ssd.official_library import (
    chunk_length,
    convolution_kernel,
    keep_float32_exact,
    library,
    why_not,
)
from diffuapriel.ssd.official_mixer import mixer
from diffuapriel.ssd.segments import number_runs

__all__ = ["convolution_kernel", "mixer", "scan", "why_not"]


@torch.compiler.disable
def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    reverse: tuple[bool, ...],
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One scan for each direction; shapes as in `recurrent.scan`. Raises ValueError when the library is missing."""
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
            segments is not None
        ):  # counted from 0 in scan order: the library's initial state enters sequence 0
            apart["seq_idx"] = number_runs(segments.flip(1) if backwards else segments).int()
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
