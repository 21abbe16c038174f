"""The two scans of block diffusion: forward over the whole text, in reverse inside each block only.

A text is cut into blocks of `block_length` tokens. What a block computes may depend on earlier blocks, through the
state of the forward scan, and never on later ones, so the reverse scan starts from zero at the end of each block.

Training needs each block twice: as it is, to carry the state on, and corrupted, to be denoised. With `streams` = 2 the
first half of the rows are clean texts and the second half their corrupted copies. The corrupted block b starts from the
state that the *clean* blocks before it leave:

    h_i = exp(A dt_i) h_{i-1} + dt_i x_i B_i^T,  y_i = h_i C_i + D x_i      with h_{s-1} from the clean row, s its start

`scan` takes both directions as `ssd_bidirectional` does. For long blocks it runs block after block through `ssd`. For
short ones, where most time would go into starting work, a chunk holds several blocks, and one masked product in it
serves all of them (arXiv:2405.21060, section 6): a corrupted token reads the clean tokens of earlier blocks of its
chunk, the corrupted ones of its own block, and the state that enters the chunk. No state is stored per block.

Axes as in ops/recurrent.py, and:   c chunks   q tokens of a chunk (t reads u)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.ops.ssd import ssd

CHUNK = 64  # tokens of a chunk of short blocks, rounded down to whole blocks
LONGEST_IN_CHUNK = 128  # tokens of a block that is still called short


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    *,
    block_length: int,
    streams: int = 1,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Forward over the text and in reverse inside each block, for all rows.

    Args:
        x, dt, A, B, C, D: as for `ssd_bidirectional`; direction 0 runs forward, direction 1 in reverse. The length is
            a multiple of block_length.
        initial_state: (clean rows, heads, headdim, state), of the forward direction before the first token.
        streams: 1 for clean rows only; 2 if the second half of the rows are corrupted copies of the first half.
        backend: of `ssd`, which runs blocks longer than 128 tokens.

    Returns y, shaped as x, and the forward state after the last token of the clean rows.
    Raises ValueError for a length that is not whole blocks and for rows that are not whole streams.
    """
    rows, length = x.shape[:2]
    if block_length < 1 or length % block_length:
        raise ValueError(f"the length is {length}; it must be a multiple of block_length, {block_length}")
    if streams not in (1, 2) or rows != streams * initial_state.shape[0]:
        raise ValueError(f"{rows} rows are not {streams} streams of {initial_state.shape[0]} texts")
    inputs = (x, dt, A, B, C, D, initial_state)
    if block_length > LONGEST_IN_CHUNK:
        return by_block(*inputs, block_length=block_length, streams=streams, backend=backend)
    return _in_chunks(*inputs, block_length=block_length, streams=streams)


def by_block(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    *,
    block_length: int,
    streams: int = 1,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`scan` as a loop over blocks, which defines it. Arguments and result as for `scan`."""

    def part(rows: slice, block: slice, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return x[rows, block, k], dt[rows, block, k], A[k], B[rows, block, k], C[rows, block, k], D[k]

    state, texts, every_row = initial_state, initial_state.shape[0], slice(None)
    outputs = []
    for start in range(0, x.shape[1], block_length):
        block = slice(start, start + block_length)
        reverse = ssd(*part(every_row, block, 1), reverse=True, backend=backend)
        assert isinstance(reverse, Tensor)
        options = {"initial_state": state, "return_final_state": True, "backend": backend}
        forward, state = ssd(*part(slice(0, texts), block, 0), **options)
        if streams == 2:
            noisy, _ = ssd(*part(slice(texts, 2 * texts), block, 0), **options)
            forward = torch.cat([forward, noisy])
        outputs.append(torch.stack([forward, reverse], dim=2))
    return torch.cat(outputs, dim=1), state


def _in_chunks(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    *,
    block_length: int,
    streams: int,
) -> tuple[Tensor, Tensor]:
    """`scan` for blocks of which a chunk holds one or more. Decays in float32 or float64, products in x's dtype."""
    length, groups = x.shape[1], B.shape[3]
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    q = block_length * max(1, min(CHUNK, length) // block_length)
    by_group = (groups, x.shape[3] // groups)
    write = _into_chunks((x * dt.to(x.dtype)[..., None]).unflatten(3, by_group), q, -2)  # dt x: (b, c, k, g, r, q, p)
    log_decay = _into_chunks((dt.to(exact) * A.to(exact)).unflatten(3, by_group), q, -1)  # dt A: (b, c, k, g, r, q)
    B, C = _into_chunks(B, q, -2), _into_chunks(C, q, -2)  # (b, c, k, g, q, n)
    # Inclusive sums from the block's start. Sums of another block never enter: changing it changes no bit here.
    local = log_decay.unflatten(-1, (-1, block_length)).cumsum(-1).flatten(-2)
    block = torch.arange(q, device=x.device) // block_length
    own, past = block[:, None] == block, block[:, None] > block  # u in t's block; u in an earlier one
    not_later = torch.ones(q, q, dtype=torch.bool, device=x.device).tril()  # u no later than t

    # Reverse: no state leaves a block. What u writes is decayed by the tokens from t to u - 1.
    ahead = (local - log_decay)[:, :, 1]
    decay = _exp(ahead[..., None, :] - ahead[..., :, None], own & not_later.mT)
    reverse = _weigh(decay, C[:, :, 1], B[:, :, 1], write[:, :, 1])

    # Forward, clean rows: every earlier token of the chunk, and the state that enters it.
    texts = initial_state.shape[0]
    clean = slice(0, texts)
    keys, values, s = B[clean, :, 0], write[clean, :, 0], log_decay[clean, :, 0].cumsum(-1)
    entering, final = _carry(values, keys, s, initial_state.to(exact).unflatten(1, by_group))
    decay = _exp(s[..., :, None] - s[..., None, :], not_later)
    y = _weigh(decay, C[clean, :, 0], keys, values)
    forward = [y + s.exp().to(x.dtype)[..., None] * _read(C[clean, :, 0], entering)]

    if streams == 2:  # corrupted rows: clean tokens of earlier blocks, corrupted ones of the own block
        noisy, first = slice(texts, 2 * texts), block * block_length
        local = local[noisy, :, 0]
        s_noisy = (s - log_decay[clean, :, 0])[..., first] + local  # from the chunk's start, clean and then corrupted
        queries = C[noisy, :, 0]
        y = _weigh(_exp(s_noisy[..., :, None] - s[..., None, :], past), queries, keys, values)
        decay = _exp(local[..., :, None] - local[..., None, :], own & not_later)
        y = y + _weigh(decay, queries, B[noisy, :, 0], write[noisy, :, 0])
        forward.append(y + s_noisy.exp().to(x.dtype)[..., None] * _read(queries, entering))

    y = torch.stack([torch.cat(forward), reverse], dim=2)  # (b, c, k, g, r, q, p)
    y = y.permute(0, 1, 5, 2, 3, 4, 6).flatten(1, 2)[:, :length].flatten(3, 4)
    return torch.addcmul(y, x, D.to(x.dtype)[..., None]), final.flatten(1, 2)


def _into_chunks(v: Tensor, q: int, axis: int) -> Tensor:
    """(b, l, k, ...) to (b, c, k, ...) with the q tokens of a chunk at `axis`; the last chunk is filled with zeros.

    dt = 0 beyond the end: such a token neither decays the state nor adds to it.
    """
    v = F.pad(v, (0, 0) * (v.ndim - 2) + (0, -v.shape[1] % q))
    return v.unflatten(1, (-1, q)).movedim(2, axis)


def _exp(exponent: Tensor, where: Tensor) -> Tensor:
    """exp(exponent) where the mask (q, q) allows, 0 elsewhere; minus infinity first, so that nothing overflows."""
    return exponent.masked_fill(~where, float("-inf")).exp()


def _weigh(decay: Tensor, C: Tensor, B: Tensor, write: Tensor) -> Tensor:
    """sum_u decay_tu (C_t . B_u) write_u: (b, c, g, r, q, p). C B^T is computed once for the heads of a group."""
    scores = (C @ B.mT)[:, :, :, None]  # (b, c, g, 1, q, q)
    return (decay.to(write.dtype) * scores) @ write


def _read(C: Tensor, state: Tensor) -> Tensor:
    """C_t h: (b, c, g, q, n) and (b, c, g, r, p, n) to (b, c, g, r, q, p), all heads of a group in one product."""
    heads = state.shape[3:5]
    y = C @ state.to(C.dtype).flatten(3, 4).mT  # (b, c, g, q, r p)
    return y.unflatten(-1, heads).transpose(3, 4)


def _carry(write: Tensor, B: Tensor, s: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The state that enters each chunk, (b, c, g, r, p, n), and the one after the last, (b, g, r, p, n).

    write (b, c, g, r, q, p), B (b, c, g, q, n), s (b, c, g, r, q) inclusive sums of dt A, start (b, g, r, p, n).
    """
    end = s[..., -1:]
    left = write * (end - s).exp().to(write.dtype)[..., None]
    added = (left.mT.flatten(3, 4) @ B).unflatten(3, (write.shape[3], -1))  # (b, c, g, r, p, n)
    state, entering, kept = start, [], end.exp()[..., None]
    for c in range(write.shape[1]):
        entering.append(state)
        state = torch.addcmul(added[:, c].to(state.dtype), kept[:, c], state)
    return torch.stack(entering, dim=1), state
