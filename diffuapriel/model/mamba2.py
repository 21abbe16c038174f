"""Bidirectional Mamba-2: a forward and a reverse Mamba-2 with independent parameters, their outputs added.

Written as one packed module (arXiv:2511.15927, section 3.1; the layer itself is arXiv:2405.21060, section 7). Both
directions share each matrix product; the direction is an axis of length two.

    z, x, B, C, dt = in_proj(u)
    x, B, C        = SiLU(conv(x, B, C))                looks back for the forward half, ahead for the reverse half
    y              = ssd(x, softplus(dt), -exp(A_log), B, C, D)      both scans in one call, nothing is flipped
    output         = out_proj(norm(y SiLU(z)))          of [y_forward, y_reverse]: the product adds the directions

    u   input of the block                (batch, length, d_model)
    z   gate                              (batch, length, 2, d_inner)
    x   what is written to the state      (batch, length, 2, n_heads, headdim)
    B   where it is written               (batch, length, 2, n_groups, d_state)
    C   what is read                      (batch, length, 2, n_groups, d_state)
    dt  step size, positive               (batch, length, 2, n_heads)
    A   decay rate, negative              (2, n_heads)

Both scans see the token itself, so the sum counts it twice; the weights and D are trained with that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuapriel.config import ModelConfig
from diffuapriel.model.blocks import BlockPass, MambaCache, place_in_blocks
from diffuapriel.model.layers import EPS, rms_norm
from diffuapriel.ops import block_scan, residual, short_pass
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.ssd import choose_backend, ssd_bidirectional
from diffuapriel.ops.triton import folded
from diffuapriel.ops.triton.mixer import block_mixer, mix_in_place
from diffuapriel.ops.triton.mixer import mixer as fused_mixer

DT_MIN, DT_MAX = 1e-3, 1e-1  # range of the initial step sizes
A_MIN, A_MAX = 1.0, 16.0  # range of the initial decay rates
LONGEST_TOGETHER = 64  # tokens whose products of all pairs take less time than a scan, in a pass of a CPU


class BidirectionalMamba2(nn.Module):
    """The mixer of a DiffuApriel block: (batch, length, d_model) to the same shape.

    `backend` is the SSD backend of the scan, "auto" except in tests and benchmarks. `mamba_ssm` and `triton` have
    mixers of their own, which fuse everything between in_proj and out_proj.
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
        self.norm_is_folded = False  # whether the norm's weight is part of out_proj and itself 1
        self.register_load_state_dict_post_hook(_fold_again)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as the Mamba-2 reference does; out_proj is scaled down by the number of residual additions."""
        nn.init.normal_(self.in_proj.weight, std=self.config.d_model**-0.5 / math.sqrt(3))
        bound = self.config.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
        dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)))
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        self.A_log.uniform_(A_MIN, A_MAX).log_()
        residual_additions = 2 * self.config.depth
        nn.init.normal_(self.out_proj.weight, std=(2 * self.config.d_inner * 3 * residual_additions) ** -0.5)

    def forward(self, u: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """u (batch, length, d_model) to the same shape.

        document_ids (batch, length) int64, each number used by one document of a row only: neither the convolution
        nor the scan then crosses a boundary between documents.
        """
        c, packed = self.config, document_ids is not None
        projected = self.in_proj(u)  # (batch, length, 2 (z x B C dt))
        backend = choose_backend(self.backend, projected, c.headdim, c.d_state, packed=packed)
        if backend == "triton":
            return self._fused(projected)
        if backend == "mamba_ssm" and not packed:
            from diffuapriel.ops import mamba_ssm

            mix = cast(Callable[..., Tensor], mamba_ssm.mixer)  # torch.compiler.disable loses the signature
            y = mix(projected, *self._mixer_parameters(), groups=c.n_groups, eps=EPS)
        else:
            y = self._plain(projected, backend, document_ids)
        return self._project_out(y)

    def forward_blocks(self, u: Tensor, blocks: BlockPass, cache: MambaCache) -> tuple[Tensor, MambaCache]:
        """As `forward` for a pass over blocks (model/blocks.py); also the cache after the committed tokens of u.

        The forward direction continues from the cache, the reverse one is confined to each block.
        """
        S, streams, c = blocks.block_length, blocks.streams, self.config
        projected = self._project_in(u) if streams > 1 else self.in_proj(u)
        trains = streams > 1 or projected.requires_grad or cache.state.requires_grad
        if blocks.verified or blocks.drafted or (not trains and self._is_short(projected, blocks)):
            y, after = self._short_blocks(projected, blocks, cache)
            return y, after if blocks.commit is None else _committed(cache, after, blocks.commit)
        fused = choose_backend(self.backend, projected, c.headdim, c.d_state) == "triton"
        if fused and not trains and blocks.commit is None:
            return self._fused_blocks(projected, blocks, cache)
        z, xBC, dt = self._split(projected)
        fused = fused and streams > 1
        convolution = self.conv_weight, self.conv_bias, cache.history
        if fused:
            history = following(cache.history, xBC[: blocks.texts, :, 0])
            xBC = folded.convolve_blocks(xBC, *convolution, S)
        else:
            options = {"block_length": S, "streams": streams, "committed": blocks.committed}
            xBC, history = block_convolution(xBC, *convolution, **options)
            xBC = F.silu(xBC)
        x, B, C, dt, A = self._scan_inputs(xBC, dt)
        y, states = [], [cache.state]
        for part in blocks.parts:
            inputs = ScanInputs(x, dt, A, B, C, self.D, states[-1])
            if len(blocks.parts) > 1:
                inputs = ScanInputs(x[:, part], dt[:, part], A, B[:, part], C[:, part], self.D, states[-1])
            block_length = min(S, part.stop - part.start)
            out, state = block_scan.scan(
                inputs, block_length=block_length, streams=streams, noisy_only=blocks.noisy_only, backend=self.backend
            )
            y.append(out)
            states.append(state)
        z = z[blocks.texts :] if blocks.noisy_only else z
        y = (torch.cat(y, dim=1) if len(y) > 1 else y[0]).flatten(3)
        after = MambaCache(states[1], history)
        if fused:
            return self._project_gated_out(*folded.gate(y, z, self.norm_weight)), after
        y = rms_norm(y * F.silu(z), self.norm_weight)
        return self._project_out(y), after if blocks.commit is None else _committed(cache, after, blocks.commit)

    def mix_in_place(self, u: Tensor, blocks: BlockPass, cache: MambaCache) -> residual.Added:
        """`forward_blocks` of a pass in place, before the gated norm's division and the sum over the directions."""
        c, weight = self.config, self.out_proj.weight
        projected = self.in_proj(u)
        if choose_backend(self.backend, projected, c.headdim, c.d_state) != "triton":
            return residual.Added(self.forward_blocks(u, blocks, cache)[0][None])
        *parameters, norm_weight = self._mixer_parameters()
        g, squares = mix_in_place(
            projected,
            *parameters,
            norm_weight=None if self.norm_is_folded else norm_weight,
            state=cache.state,
            history=cache.history,
            groups=c.n_groups,
            commit=blocks.commit,
            parts=residual.parts_of(u.shape[0] * u.shape[1], 2 * c.n_heads) // 2 or 1,
        )
        used = len(g) if c.block_reverse else len(g) // 2
        weight = weight.unflatten(1, (len(g), -1)).permute(1, 2, 0)  # (parts, d_inner / parts of a direction, d_model)
        y = torch.bmm(g[:used].flatten(1, 2), weight[:used])
        return residual.Added(y.unflatten(1, u.shape[:2]), squares[: 2 if c.block_reverse else 1], inner=c.d_inner)

    def _is_short(self, projected: Tensor, blocks: BlockPass) -> bool:
        """Whether a pass takes a CPU less time as products along its paths."""
        if projected.is_cuda or blocks.length > LONGEST_TOGETHER or torch.compiler.is_compiling():
            return False
        return choose_backend(self.backend, projected, self.config.headdim, self.config.d_state) == "chunked"

    def _short_blocks(self, projected: Tensor, blocks: BlockPass, cache: MambaCache) -> tuple[Tensor, MambaCache]:
        """`forward_blocks` of a short pass, after in_proj."""
        z, xBC, dt = self._split(projected)
        convolution, S = (self.conv_weight, self.conv_bias), blocks.block_length
        committed, before = blocks.length if blocks.committed is None else blocks.committed, []
        prompt = committed if committed > LONGEST_TOGETHER else 0
        if prompt:
            part, history = block_convolution(xBC[:, :prompt], *convolution, cache.history, block_length=S)
            x, B, C, rate, A = self._scan_inputs(F.silu(part), dt[:, :prompt])
            inputs = ScanInputs(x, rate, A, B, C, self.D, cache.state)
            y, state = block_scan.scan(inputs, block_length=S, backend=self.backend)
            before, cache = [y], MambaCache(state, history)
        paths = blocks.short(prompt)
        xBC, history = short_pass.convolve(xBC[:, prompt:], *convolution, cache.history, paths)
        x, B, C, dt, A = self._scan_inputs(F.silu(xBC), dt[:, prompt:])
        y, state = short_pass.scan(ScanInputs(x, dt, A, B, C, self.D, cache.state), paths)
        y = torch.cat([*before, y], dim=1) if before else y
        y = rms_norm(y.flatten(3) * F.silu(z), self.norm_weight)
        return self._project_out(y), MambaCache(state, history)

    def _fused_blocks(self, projected: Tensor, blocks: BlockPass, cache: MambaCache) -> tuple[Tensor, MambaCache]:
        """`forward_blocks` by our kernels, after in_proj."""
        *parameters, norm_weight = self._mixer_parameters()
        _, xBC, _ = self._split(projected)
        caches, gated, sums = [cache], [], []
        for part in blocks.parts:
            state, history = caches[-1].state, caches[-1].history
            g, squares, state = block_mixer(
                projected[:, part],
                *parameters,
                norm_weight=None if self.norm_is_folded else norm_weight,
                state=state,
                history=history,
                block_length=blocks.block_length,
                groups=self.config.n_groups,
            )
            gated.append(g)
            sums.append(squares)
            history = following(history, xBC[:, part, 0])
            caches.append(MambaCache(state, history))
        g, squares = (torch.cat(v, 2) if len(v) > 1 else v[0] for v in (gated, sums))
        return self._project_gated_out(g, squares), caches[1]

    def _project_in(self, u: Tensor) -> Tensor:
        """in_proj, padded to a multiple of 8 outputs and cut again: aligned products are a GPU's fast ones."""
        weight = self.in_proj.weight
        outputs = weight.shape[0]
        return F.linear(u, F.pad(weight, (0, 0, 0, -outputs % 8)))[..., :outputs]

    def _project_out(self, y: Tensor) -> Tensor:
        """out_proj of y (batch, length, 2, d_inner), or of its forward half where nothing is read in reverse."""
        if self.config.block_reverse:
            return self.out_proj(y.flatten(2))
        return F.linear(y[:, :, 0], self.out_proj.weight[:, : self.config.d_inner])

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Move the norm's weight into out_proj. The function is the same, with one product per channel less."""
        weight = self.out_proj.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(exact) * self.norm_weight.to(exact).flatten())
        self.norm_weight.fill_(1)
        self.norm_is_folded = True

    def _plain(self, projected: Tensor, backend: str, document_ids: Tensor | None) -> Tensor:
        """From in_proj to out_proj, (batch, length, 2, d_inner): what the fused mixers compute, line by line."""
        z, xBC, dt = self._split(projected)
        xBC = two_way_convolution(xBC, self.conv_weight, self.conv_bias, document_ids)
        x, B, C, dt, A = self._scan_inputs(F.silu(xBC), dt)
        y = ssd_bidirectional(x, dt, A, B, C, self.D, document_ids=document_ids, backend=backend)
        assert isinstance(y, Tensor)
        y = y.flatten(3)  # (batch, length, 2, d_inner)
        return rms_norm(y * F.silu(z), self.norm_weight)

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """z, what the convolution reads (x, B and C), and dt, (batch, length, 2, ...) each."""
        c = self.config
        return projected.unflatten(2, (2, -1)).split([c.d_inner, self.conv_bias.shape[1], c.n_heads], dim=-1)

    def _scan_inputs(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x, B, C, dt and A of the scan, in the shapes of the module's docstring."""
        c, keys = self.config, self.config.n_groups * self.config.d_state
        x, B, C = xBC.split([c.d_inner, keys, keys], dim=-1)
        B, C = (v.unflatten(-1, (c.n_groups, c.d_state)) for v in (B, C))
        exact = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(exact) + self.dt_bias)
        return x.unflatten(-1, (c.n_heads, c.headdim)), B, C, dt, -torch.exp(self.A_log.to(exact))

    def _fused(self, projected: Tensor) -> Tensor:
        """Our kernels and out_proj."""
        *parameters, norm_weight = self._mixer_parameters()
        folded = self.norm_is_folded and not torch.is_grad_enabled()
        g, squares = fused_mixer(
            projected, *parameters, norm_weight=None if folded else norm_weight, groups=self.config.n_groups
        )
        return self._project_gated_out(g, squares)

    def _project_gated_out(self, g: Tensor, squares: Tensor) -> Tensor:
        """out_proj of g (2, batch, length, d_inner), then the division by the norm of each token and direction."""
        scale = torch.rsqrt(squares / self.config.d_inner + EPS)  # (2, batch, length)
        weight = self.out_proj.weight.unflatten(1, (2, -1)).permute(1, 2, 0)  # (2, d_inner, d_model)
        halves = torch.bmm(g.flatten(1, 2), weight).unflatten(1, scale.shape[1:])
        read = 2 if self.config.block_reverse else 1
        return (halves * scale[..., None])[:read].sum(0).to(halves.dtype)

    def _mixer_parameters(self) -> tuple[Tensor, ...]:
        return self.conv_weight, self.conv_bias, self.dt_bias, self.A_log, self.D, self.norm_weight


def _fold_again(mixer: BidirectionalMamba2, _: object) -> None:
    """Fold a newly loaded norm weight too: recorded graphs and the kernels rely on its being 1."""
    if mixer.norm_is_folded:
        mixer.fold_norm()


def two_way_convolution(x: Tensor, weight: Tensor, bias: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """Short depthwise convolution, causal for direction 0 and anti-causal for direction 1.

        y[t, 0] = bias[0] + sum_j weight[0, j] x[t - (taps - 1) + j, 0]
        y[t, 1] = bias[1] + sum_j weight[1, j] x[t + (taps - 1) - j, 1]

    x (batch, length, 2, channels), weight (2, taps, channels), bias (2, channels). Positions outside the text, and
    those of another document where document_ids (batch, length) are given, read as zero. A sum of shifted copies is
    faster on a CPU than a library convolution, which wants channels first, and compiles into one kernel.
    """
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, taps - 1, taps - 1))
    back, ahead = padded[:, :, 0], padded[:, :, 1]
    if document_ids is not None:
        padded_ids = F.pad(document_ids, (taps - 1, taps - 1), value=-1)
    y = [bias[0].to(x.dtype), bias[1].to(x.dtype)]
    for j in range(taps):
        for k, (source, start) in enumerate(((back, j), (ahead, 2 * (taps - 1) - j))):
            read = source[:, start : start + length]
            if document_ids is not None:
                read = read * (padded_ids[:, start : start + length] == document_ids)[..., None]
            y[k] = torch.addcmul(y[k], read, weight[k, j].to(x.dtype))
    return torch.stack(y, dim=2)


def _committed(cache: MambaCache, after: MambaCache, commit: Tensor) -> MambaCache:
    """`cache`, changed in place to what is `after` the pass in the rows where commit (batch,) is True."""
    for own, new in ((cache.state, after.state), (cache.history, after.history)):
        own.copy_(torch.where(commit.view(-1, *[1] * (own.ndim - 1)), new, own))
    return cache


def following(history: Tensor, x: Tensor) -> Tensor:
    """The history after x (batch, length, channels), which follow `history` (batch, taps - 1, channels)."""
    taps = history.shape[1]
    return torch.cat([history.to(x.dtype), x[:, max(0, x.shape[1] - taps) :]], dim=1)[:, -taps:] if taps else history


def block_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    history: Tensor,
    *,
    block_length: int,
    streams: int = 1,
    committed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`two_way_convolution` over blocks: the forward half looks back over all, the reverse half ahead in its own.

    history (texts, taps - 1, channels): inputs of the forward half before the first token. With 2 streams the second
    half of the rows of x are corrupted copies, whose look back reads corrupted tokens of the own block and clean ones
    of the blocks before. Returns the result and the history after the `committed` first tokens of the clean rows, by
    default all.
    """
    texts, length, taps = history.shape[0], x.shape[1], weight.shape[1]
    back, ahead = x.unbind(2)
    clean, *corrupted = back.split(texts) if streams == 2 else (back,)
    clean = torch.cat([history.to(x.dtype), clean], dim=1)  # from taps - 1 tokens before
    noisy = F.pad(corrupted[0], (0, 0, taps - 1, 0)) if streams == 2 else None
    ahead = F.pad(ahead, (0, 0, 0, taps - 1))
    _, place, size = place_in_blocks(length, block_length, x.device)
    place = place[:, None]
    bias, weight = bias.to(x.dtype), weight.to(x.dtype)
    y_clean, y_noisy, y_ahead = bias[0], bias[0], bias[1]
    for distance in range(taps):  # of what is read from the token
        j = taps - 1 - distance  # the weight of that token, and where its text begins in the padded one
        inside, outside = weight[0, j] * (place >= distance), weight[0, j] * (place < distance)  # (length, channels)
        read = clean[:, j : j + length]
        y_clean = torch.addcmul(y_clean, read, weight[0, j])
        if noisy is not None:
            y_noisy = torch.addcmul(y_noisy, noisy[:, j : j + length], inside)
            y_noisy = torch.addcmul(y_noisy, read, outside) if distance else y_noisy
        inside = weight[1, j] * (place + distance < size)
        y_ahead = torch.addcmul(y_ahead, ahead[:, distance : distance + length], inside)
    y_back = y_clean if noisy is None else torch.cat([y_clean, y_noisy])
    after = length if committed is None else committed
    return torch.stack([y_back, y_ahead], dim=2), clean[:, after : after + taps - 1]
