"""The two scans of block diffusion: forward over the whole text, in reverse inside each block only.

A text is cut into blocks of `block_length` tokens. What a block computes may depend on earlier blocks, through the
state of the forward scan, and never on later ones, so the reverse scan starts from zero at the end of each block.

Training needs each block twice: as it is, to carry the state on, and corrupted, to be denoised. With `streams` = 2 the
first half of the rows are clean texts and the second half their corrupted copies. The corrupted block b starts from the
state that the *clean* blocks before it leave:

    h_i = exp(A dt_i) h_{i-1} + dt_i x_i B_i^T,  y_i = h_i C_i + D x_i      with h_{s-1} from the clean row, s its start

`scan` takes both directions as `ssd_bidirectional` does. For long blocks the state before each one is carried over
the text first; then every block, clean or corrupted, is a row of one call of `ssd_bidirectional`. For short ones, where
most time would go into states, a chunk holds several blocks, and one masked product in it serves all of them
(arXiv:2405.21060, section 6): a corrupted token reads the clean tokens of earlier blocks of its chunk and the state
that enters the chunk. What tokens read in their own block is a masked product too, in smaller chunks.

Axes as in ops/recurrent.py, and:   c chunks   q tokens of a chunk (t reads u)   r heads of a group
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuapriel.ops import minimal
from diffuapriel.ops.chunked import chunk_length
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.ssd import choose_backend, ssd, ssd_bidirectional
from diffuapriel.ops.triton.masked_product import LONGEST, masked_product

LONGEST_IN_CHUNK = 128  # tokens of a block that is still called short
Product = Callable[..., Tensor]  # `_weigh` or `masked_product`
LEAST_STEP = 1e-30  # of dt, where its logarithm is taken
IN_BLOCK = 16  # tokens of a chunk of short blocks, rounded down to whole ones, where tokens read their own block only


def scan(
    inputs: ScanInputs, *, block_length: int, streams: int = 1, noisy_only: bool = False, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Forward over the text and in reverse inside each block, for all rows.

    Args:
        inputs: with directions 0, which runs forward, and 1, in reverse. The length is a multiple of block_length.
            initial_state: (clean rows, heads, headdim, state), of the forward direction before the first token.
        streams: 1 for clean rows only; 2 if the second half of the rows are corrupted copies of the first half.
        noisy_only: leave out what the clean ones of 2 streams read, and return y of the corrupted rows alone.
        backend: of `ssd`, which runs blocks longer than 128 tokens; with "triton" its kernels also compute the masked
            products of blocks of up to 64. "minimal" runs blocks of any length.

    Returns y, shaped as x, and the forward state after the last token of the clean rows.
    Raises ValueError for a length that is not whole blocks and for rows that are not whole streams.
    """
    rows, length = inputs.x.shape[:2]
    if block_length < 1 or length % block_length:
        raise ValueError(f"the length is {length}; it must be a multiple of block_length, {block_length}")
    if streams not in (1, 2) or rows != streams * inputs.initial_state.shape[0]:
        raise ValueError(f"{rows} rows are not {streams} streams of {inputs.initial_state.shape[0]} texts")
    if backend == "minimal":
        states = torch.stack([inputs.initial_state, torch.zeros_like(inputs.initial_state)], dim=1)
        y, final = minimal.scan(ScanInputs(*inputs[:-1], states), (False, True), block_length=block_length)
        return y, final[:, 0]
    if block_length > LONGEST_IN_CHUNK:
        return _in_rows(inputs, block_length, streams, noisy_only, backend)
    headdim, state = inputs.initial_state.shape[2:]
    fused = block_length <= LONGEST and choose_backend(backend, inputs.x, headdim, state) == "triton"
    return _in_chunks(inputs, block_length, noisy_only, masked_product if fused else _weigh)


def by_block(
    inputs: ScanInputs, *, block_length: int, streams: int = 1, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`scan` as a loop over blocks, which defines it. Arguments and result as for `scan`."""
    x, dt, A, B, C, D, state = inputs

    def part(rows: slice, block: slice, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return x[rows, block, k], dt[rows, block, k], A[k], B[rows, block, k], C[rows, block, k], D[k]

    texts, every_row, outputs = state.shape[0], slice(None), []
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


class _Direction(NamedTuple):
    """What one direction of some rows reads and writes, over tokens or in chunks of them."""

    x: Tensor  # (b, l, g, r, p) or (b, c, g, r, q, p)
    log_decay: Tensor  # dt A, float32 or float64: (b, l, g, r) or (b, c, g, r, q)
    log_step: Tensor  # log dt, as log_decay: what a token writes is dt x
    B: Tensor  # (b, l, g, n) or (b, c, g, q, n)
    C: Tensor  # as B

    def streams(self, texts: int) -> list[_Direction]:
        """The clean rows and, if there are any, the corrupted ones."""
        return [_Direction(*parts) for parts in zip(*(v.split(texts) for v in self), strict=True)]

    def chunks(self, q: int) -> _Direction:
        return _Direction(*(_into_chunks(v, q, axis) for v, axis in zip(self, (-2, -1, -1, -2, -2), strict=True)))


def _directions(inputs: ScanInputs) -> tuple[_Direction, _Direction]:
    """The forward and the reverse direction. Decays in float32 or float64, the rest in x's dtype."""
    x, dt, A, B, C, _, _ = inputs
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    by_group = (B.shape[3], -1)
    dt = dt.to(exact)
    by_head = (v.unflatten(3, by_group) for v in (x, dt * A.to(exact), dt.clamp(LEAST_STEP).log()))
    # unbind and split: the gradient of an index would be a tensor of zeros as large as what is indexed.
    forward, reverse = zip(*(v.unbind(2) for v in (*by_head, B, C)), strict=True)
    return _Direction(*forward), _Direction(*reverse)


def _in_rows(
    inputs: ScanInputs, block_length: int, streams: int, noisy_only: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """`scan` for long blocks: carry the clean state from block to block, then scan all blocks side by side."""
    x, dt, A, B, C, D, start = inputs
    clean = _directions(inputs)[0].streams(start.shape[0])[0].chunks(block_length)
    start = start.to(clean.log_decay.dtype).unflatten(1, (B.shape[3], -1))
    entering, final = _carry(clean, clean.log_decay.cumsum(-1), start)
    if noisy_only:
        x, dt, B, C = (v[-len(start) :] for v in (x, dt, B, C))
        streams = 1
    shape = x.shape
    entering = entering.flatten(2, 3).flatten(0, 1).repeat(streams, 1, 1, 1)  # (rows x blocks, h, p, n)
    states = torch.stack([entering, torch.zeros_like(entering)], dim=1)
    x, dt, B, C = (v.unflatten(1, (-1, block_length)).flatten(0, 1) for v in (x, dt, B, C))
    y = ssd_bidirectional(x, dt, A, B, C, D, initial_state=states, backend=backend)
    assert isinstance(y, Tensor)
    return y.reshape(shape), final.flatten(1, 2)


def _in_chunks(inputs: ScanInputs, block_length: int, noisy_only: bool, weigh: Product) -> tuple[Tensor, Tensor]:
    """`scan` for blocks of which a chunk holds one or more; `weigh` computes the masked products."""
    x, start = inputs.x, inputs.initial_state
    D, D_reverse = inputs.D.unflatten(1, (inputs.B.shape[3], -1)).unbind(0)
    forward, reverse = _directions(inputs)
    clean, *noisy = forward.streams(start.shape[0])
    if noisy_only:
        reverse = reverse.streams(len(start))[1]
    y_reverse = _in_block(reverse, D_reverse, block_length, weigh, backwards=True)

    # Clean rows: every earlier token of the chunk, and the state that enters it.
    length = x.shape[1]
    q = _whole_blocks(chunk_length(x.device), block_length, length)
    clean = clean.chunks(q)
    s = clean.log_decay.cumsum(-1)  # inclusive sums from the chunk's start
    entering, final = _carry(clean, s, start.to(s.dtype).unflatten(1, s.shape[2:4]))
    y_forward = []
    if not noisy_only:
        given = clean.C, clean.B, clean.x, s, s - clean.log_step
        y = weigh(*given, "causal", block_length, D=D, H=entering)
        y_forward.append(_from_chunks(y, length))

    if noisy:  # corrupted rows: clean tokens of earlier blocks, corrupted ones of the own block
        own = noisy[0].chunks(q)
        block = torch.arange(q, device=x.device) // block_length
        before = F.pad(s, (1, 0))[..., block * block_length]  # sums up to the block; no own clean token enters
        s_noisy = before + _sums_in_block(own.log_decay, block_length)
        given = own.C, clean.B, clean.x, s_noisy, s - clean.log_step
        y = weigh(*given, "earlier blocks", block_length, H=entering)
        y_forward.append(_from_chunks(y, length) + _in_block(noisy[0], D, block_length, weigh, backwards=False))

    y = torch.cat(y_forward) if len(y_forward) > 1 else y_forward[0]
    return torch.stack([y, y_reverse], dim=2), final.flatten(1, 2)  # (b, l, k, h, p)


def _in_block(rows: _Direction, D: Tensor, block_length: int, weigh: Product, *, backwards: bool) -> Tensor:
    """What tokens read of their own block, from a state of zero, and D x: (b, l, h, p)."""
    length = rows.x.shape[1]
    rows = rows.chunks(_whole_blocks(IN_BLOCK if weigh is _weigh else LONGEST, block_length, length))
    s = _sums_in_block(rows.log_decay, block_length)
    if backwards:  # what u writes is decayed by the tokens from t to u - 1
        s = rows.log_decay - s
    mask = "ahead in block" if backwards else "causal in block"
    y = weigh(rows.C, rows.B, rows.x, s, s - rows.log_step, mask, block_length, D=D)
    return _from_chunks(y, length)


def _whole_blocks(tokens: int, block_length: int, length: int) -> int:
    """The longest chunk of whole blocks that is at most `tokens` long; one block at least."""
    return block_length * max(1, min(tokens, length) // block_length)


def _sums_in_block(log_decay: Tensor, block_length: int) -> Tensor:
    """Inclusive sums from each block's start. Those of another block never enter: changing it changes no bit here."""
    return log_decay.unflatten(-1, (-1, block_length)).cumsum(-1).flatten(-2)


def _into_chunks(v: Tensor, q: int, axis: int) -> Tensor:
    """(b, l, ...) to (b, c, ...) with the q tokens of a chunk at `axis`; the last chunk is filled with zeros.

    dt = 0 beyond the end: such a token neither decays the state nor adds to it.
    """
    if missing := -v.shape[1] % q:
        v = F.pad(v, (0, 0) * (v.ndim - 2) + (0, missing))
    return v.unflatten(1, (-1, q)).movedim(2, axis)


def _from_chunks(y: Tensor, length: int) -> Tensor:
    """(b, c, g, r, q, p) to (b, l, h, p)."""
    return y.movedim(4, 2).flatten(1, 2)[:, :length].flatten(2, 3)


def _weigh(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    mask: str,
    block_length: int,
    *,
    D: Tensor | None = None,
    H: Tensor | None = None,
) -> Tensor:
    """sum_u m(t, u) exp(r_t - s_u) (C_t . B_u) x_u + D x_t + exp(r_t) H C_t: (b, c, g, h, q, p).

    C B^T is computed once for a group's heads. The plain twin of `masked_product`, which says what the masks m are.
    """
    y = None if H is None else _read(C, H, r)
    if mask != "earlier blocks" or x.shape[4] > block_length:
        at = torch.arange(x.shape[4], device=x.device)
        t, u, same = at[:, None], at, at[:, None] // block_length == at // block_length
        masks = {"causal": u <= t, "causal in block": same & (u <= t)}
        masks |= {"ahead in block": same & (u >= t), "earlier blocks": (u <= t) & ~same}
        exponent = r[..., :, None] - s[..., None, :]
        decay = exponent.masked_fill(~masks[mask], float("-inf")).exp()  # minus infinity first: nothing overflows
        scores = (C @ B.mT)[:, :, :, None]  # (b, c, g, 1, q, q)
        product = (decay.to(x.dtype) * scores) @ x
        y = product if y is None else y + product
    assert y is not None
    return y if D is None else torch.addcmul(y, x, D.to(x.dtype)[..., None, None])


def _read(C: Tensor, state: Tensor, s: Tensor) -> Tensor:
    """exp(s_t) C_t h: (b, c, g, r, q, p) of a state (b, c, g, r, p, n), all heads of a group in one product."""
    y = C @ state.to(C.dtype).flatten(3, 4).mT  # (b, c, g, q, r p)
    return y.unflatten(-1, state.shape[3:5]).transpose(3, 4) * s.exp().to(C.dtype)[..., None]


def _carry(clean: _Direction, s: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The state that enters each chunk, (b, c, g, r, p, n), and the one after the last, (b, g, r, p, n).

    clean: in chunks; s: its inclusive sums of dt A; start (b, g, r, p, n).
    """
    end = s[..., -1:]
    factor = (end - s + clean.log_step).exp().to(clean.x.dtype)  # of dt and what decays up to the end
    left = clean.x.transpose(3, 4) * factor.mT[..., None]  # (b, c, g, q, r, p): tokens stay in their order in memory
    added = (left.flatten(4, 5).mT @ clean.B).unflatten(3, left.shape[4:])  # (b, c, g, r, p, n)
    state, entering = start, []
    for added_by_chunk, kept in zip(added.unbind(1), end.exp()[..., None].unbind(1), strict=True):
        entering.append(state)
        state = torch.addcmul(added_by_chunk.to(state.dtype), kept, state)
    return torch.stack(entering, dim=1), state
