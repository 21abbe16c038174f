"""Bidirectional Mamba-2: a forward and a reverse Mamba-2 with independent parameters, outputs added.

Written as one packed module (arXiv:2511.15927, section 3.1; the layer itself is arXiv:2405.21060, section 7).
Both directions share each matrix product; the direction is an axis of length two, so

    in_proj  gives z, x, B, C, dt of both;
    conv     looks back for the forward half, ahead for the reverse half;
    ssd      runs both scans in one call, nothing is flipped;
    out_proj takes [y_forward, y_reverse], so that the addition happens inside the product.

    u   the block's input                 (batch, length, d_model)
    z   gate                              (batch, length, 2, d_inner)
    x   what is written to the state      (batch, length, 2, n_heads, headdim)
    B   where it is written, C read       (batch, length, 2, n_groups, d_state)
    dt  step size, positive               (batch, length, 2, n_heads)
    A   decay rate, negative              (2, n_heads)

Each token is seen by both scans, so the sum counts it twice; D and the two sets of weights are learnt with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuapriel.config import ModelConfig
from diffuapriel.model.layers import EPS, rms_norm
from diffuapriel.ops.ssd import choose_backend, ssd_bidirectional
from diffuapriel.ops.triton.mixer import mixer as fused_mixer

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # range of the initial step sizes
A_MIN, A_MAX = 1.0, 16.0  # range of the initial decay rates


class BidirectionalMamba2(nn.Module):
    """The mixer of a DiffuApriel block: (batch, length, d_model) to the same shape.

    `backend` names the SSD backend of this module's calls ("auto" unless a test or a benchmark sets it). `mamba_ssm`
    and `triton` bring their own mixers, which fuse what stands around the scan.
    """

    def __init__(self, config: ModelConfig, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.backend = backend
        state_channels = 2 * config.n_groups * config.d_state  # B and C
        conv_channels = config.d_inner + state_channels
        per_direction = config.d_inner + conv_channels + config.n_heads  # z, x B C, dt
        self.in_proj = nn.Linear(config.d_model, 2 * per_direction, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(2, config.d_conv, conv_channels))
        self.conv_bias = nn.Parameter(torch.empty(2, conv_channels))
        self.dt_bias = nn.Parameter(torch.empty(2, config.n_heads))
        self.A_log = nn.Parameter(torch.empty(2, config.n_heads))
        self.D = nn.Parameter(torch.ones(2, config.n_heads))
        self.norm_weight = nn.Parameter(torch.ones(2, config.d_inner))
        self.out_proj = nn.Linear(2 * config.d_inner, config.d_model, bias=False)
        self.norm_is_folded = False  # whether out_proj has the norm's weight, which then is one
        self.register_load_state_dict_post_hook(_fold_again)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values of the Mamba-2 reference; out_proj shrunk by the number of residual additions."""
        nn.init.normal_(self.in_proj.weight, std=self.config.d_model**-0.5 / math.sqrt(3))
        bound = self.config.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
        dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp_min(
            DT_FLOOR
        )
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        self.A_log.uniform_(A_MIN, A_MAX).log_()
        residual_additions = 2 * self.config.depth
        nn.init.normal_(self.out_proj.weight, std=(2 * self.config.d_inner * 3 * residual_additions) ** -0.5)

    def forward(self, u: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """u (batch, length, d_model) to the same shape; document_ids (batch, length) int64: documents to keep apart.

        No two documents of a row share a number.
        """
        projected, apart = self.in_proj(u), document_ids is not None
        backend = choose_backend(
            self.backend, projected, self.config.headdim, self.config.d_state, packed=apart
        )
        if backend == "triton":
            return self._fused(projected)
        if backend == "mamba_ssm" and not apart:
            y = self._mamba_ssm(projected)
        else:
            y = self._plain(projected, backend, document_ids)
        return self.out_proj(y.flatten(2))

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Move the norm's weight into out_proj: the same function, and a product a channel less for our kernels."""
        weight = self.out_proj.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(exact) * self.norm_weight.to(exact).flatten())
        self.norm_weight.fill_(1)
        self.norm_is_folded = True

    def _plain(self, projected: Tensor, backend: str, document_ids: Tensor | None) -> Tensor:
        """From in_proj to out_proj, (batch, length, 2, d_inner), line by line: what the fused mixers compute."""
        c = self.config
        z, xBC, dt = projected.unflatten(2, (2, -1)).split(
            [c.d_inner, self.conv_bias.shape[1], c.n_heads], dim=-1
        )
        xBC = F.silu(two_way_convolution(xBC, self.conv_weight, self.conv_bias, document_ids))
        x, B, C = xBC.split([c.d_inner, c.n_groups * c.d_state, c.n_groups * c.d_state], dim=-1)
        y = ssd_bidirectional(
            x.unflatten(-1, (c.n_heads, c.headdim)),
            F.softplus(dt.float() + self.dt_bias),
            -torch.exp(self.A_log.float()),
            B.unflatten(-1, (c.n_groups, c.d_state)),
            C.unflatten(-1, (c.n_groups, c.d_state)),
            self.D,
            document_ids=document_ids,
            backend=backend,
        )
        assert isinstance(y, Tensor)
        y = y.flatten(3)  # (batch, length, 2, d_inner)
        return rms_norm(y * F.silu(z), self.norm_weight)

    def _fused(self, projected: Tensor) -> Tensor:
        """Our kernels, and out_proj: the norm divides after the product, one number per token and direction."""
        *parameters, norm_weight = self._mixer_parameters()
        folded = self.norm_is_folded and not torch.is_grad_enabled()
        g, squares = fused_mixer(
            projected,
            *parameters,
            norm_weight=None if folded else norm_weight,
            groups=self.config.n_groups,
        )
        scale = torch.rsqrt(squares / self.config.d_inner + EPS)  # (2, batch, length)
        weight = self.out_proj.weight.unflatten(1, (2, -1)).permute(1, 2, 0)  # (2, d_inner, d_model)
        halves = torch.bmm(g.flatten(1, 2), weight).unflatten(1, scale.shape[1:])
        return (halves * scale[..., None]).sum(0).to(halves.dtype)

    def _mamba_ssm(self, projected: Tensor) -> Tensor:
        from diffuapriel.ops import mamba_ssm

        mix = cast(Callable[..., Tensor], mamba_ssm.mixer)  # torch.compiler.disable loses the signature
        return mix(projected, *self._mixer_parameters(), groups=self.config.n_groups, eps=EPS)

    def _mixer_parameters(self) -> tuple[Tensor, ...]:
        return self.conv_weight, self.conv_bias, self.dt_bias, self.A_log, self.D, self.norm_weight


def _fold_again(mixer: BidirectionalMamba2, _: object) -> None:
    """After loading: what is loaded brings a norm's weight of its own, and a recorded graph must not miss it."""
    if mixer.norm_is_folded:
        mixer.fold_norm()


def two_way_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, document_ids: Tensor | None = None
) -> Tensor:
    """Short depthwise convolution: causal for direction 0, anti-causal for direction 1.

    x (batch, length, 2, channels), weight (2, taps, channels), bias (2, channels). Tap j of direction 0 reads
    the token `taps - 1 - j` places back, tap j of direction 1 as many places ahead; across a boundary of document_ids
    (batch, length) it reads zero. A sum of shifted copies is
    faster on a CPU than a library convolution, which wants channels first, and compiles into one kernel.
    """
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, taps - 1, taps - 1))
    back, ahead = padded[:, :, 0], padded[:, :, 1]
    if document_ids is not None:
        numbers = F.pad(document_ids, (taps - 1, taps - 1), value=-1)
    y = [bias[0].to(x.dtype), bias[1].to(x.dtype)]
    for j in range(taps):
        for k, (source, start) in enumerate(((back, j), (ahead, 2 * (taps - 1) - j))):
            read = source[:, start : start + length]
            if document_ids is not None:
                read = read * (numbers[:, start : start + length] == document_ids)[..., None]
            y[k] = torch.addcmul(y[k], read, weight[k, j].to(x.dtype))
    return torch.stack(y, dim=2)
