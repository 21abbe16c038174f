"""Speculative sampling: a block is drafted at once and verified token by token, in the same pass.

A model of blocks (diffuapriel.sampling.blocks) that was trained for blocks of one token is autoregressive, and one that
was trained for longer blocks can guess many tokens at once. `speculative` lets the one model do both. After the text
that is finished, every pass

    verifies    what the model with blocks of one token writes behind each token of the draft, given those before it
    drafts      what it writes at each [MASK] of a block of `block_length` tokens, given the finished text alone, and
                with `draft_behind` "tokens" of further blocks, given also one, two, ... tokens of the draft

and accepts the draft up to the first token that was verified to be another one, with the right one in its place. So a
pass reveals one token or more, and the text is that of the same options with `block_length` 1 and one token per pass:
only the number of passes changes. This is self-speculative decoding (arXiv:2211.17192 for two models), where a
diffusion model drafts and its own autoregressive case verifies (TiDAR, arXiv:2511.08923).

Draft and verification draw a token from the same uniform number (predictive sampling, arXiv:2002.09928). Where the two
distributions are alike the tokens are the same, also where each is a free choice: a name, a color.

The next draft is the newest block that was drafted, if it begins with the tokens that have been accepted since. Else it
is what verification wrote behind the rejected token, and the block where that ends. Of several blocks the newest is the
one behind the last token but one that was accepted.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffuapriel.sampling.config import DRAFT_BEHIND, SamplerConfig
from diffuapriel.sampling.state import Floats, Ints, State, masked_share
from diffuapriel.sampling.strategies import ended
from diffuapriel.sampling.tokens import block_uniforms, draw_tokens, sample_tokens, token_rank

NO_TOKEN = -1  # where a state has no draft


def with_draft(state: State, block_length: int) -> Ints:
    """The canvases (B, L) with the tokens to verify in place of their [MASK]s: the draft, and one token more.

    The logits at a token do not depend on it, only on those before it. So the position behind the draft is verified
    with any token there, and is accepted too if the whole draft is.
    """
    ids = state.ids.copy()
    for row, masked in enumerate(state.masked):
        if masked.any():
            verified = _places(state, row, block_length)[1]
            ids[row, verified] = np.maximum(state.draft[row, verified], 0)
    return ids


def accept(config: SamplerConfig, state: State, logits: Tensor) -> State:
    """The state after a pass.

    logits: for each row with [MASK]s, those of the positions that `with_draft` filled, and then those of the [MASK]s of
    each drafted block (blocks.SpeculativeDenoiser). Raises ValueError for another number of them.
    """
    how = config.block_length or 1, config.draft_behind
    places = [_places(state, row, *how) for row in np.flatnonzero(state.masked.any(1)).tolist()]
    count = sum(len(at) for _, *every in places for at in every)
    if tuple(logits.shape) != (count, state.mask_id + 1):
        raise ValueError(f"sampler: logits have shape {tuple(logits.shape)}; they must be {(count, state.mask_id + 1)}")
    uniform = np.concatenate([_uniforms(config, state, row, at) for row, *every in places for at in every])
    uniform = torch.from_numpy(uniform).to(logits.device)
    tokens = draw_tokens(logits, state.mask_id, uniform, config)[0].cpu().numpy()

    ids, draft = state.ids.copy(), np.full_like(state.draft, NO_TOKEN)
    revealed, rows, first = np.zeros_like(state.fixed), [], 0
    for row, *every in places:
        ends = first + np.cumsum([len(at) for at in every])
        now, *blocks = np.split(tokens[first : ends[-1]], ends[:-1] - first)
        verified, *drafted = every
        wrong = state.draft[row, verified] != now
        count = int(wrong.argmax()) + 1 if wrong.any() else len(now)
        accepted = verified[:count]
        ids[row, accepted], revealed[row, accepted] = now[:count], True
        newest = min(int(accepted[-1] - verified[0]), len(blocks) - 1)
        at, found = drafted[newest], blocks[newest]
        draft[row, at] = found
        known = now[:count][accepted >= at[0]]
        if (found[: len(known)] != known).any():
            draft[row, verified] = now
        draft[row, : accepted[-1] + 1] = NO_TOKEN
        rows += range(first, first + count)
        first = ends[-1]

    chosen = torch.tensor(rows, device=logits.device)
    kept, how = logits.index_select(0, chosen), (uniform[chosen], config)
    drawn, why = sample_tokens(kept, state.mask_id, *how, drawn=torch.from_numpy(tokens[rows]).to(logits.device))
    probability, entropy, top_ids, top_probs, rank = (
        a.cpu().numpy() for a in (*why, token_rank(kept, state.mask_id, drawn))
    )
    confidences, entropies = state.confidence.copy(), state.entropy.copy()
    confidences[revealed], entropies[revealed] = probability, entropy
    still = np.ones(len(rows), dtype=bool)
    if config.stop_at_eos:
        cut = ended(replace(config, block_length=1), ids, state.fixed, state.mask_id)
        ids[cut], confidences[cut], entropies[cut] = state.mask_id - 1, np.nan, np.nan
        still, revealed = ~cut[revealed], revealed & ~cut
    return state.replace(
        ids=ids,
        draft=draft,
        step=state.step + 1,
        t=masked_share(ids, state.fixed, state.mask_id),
        nfe=state.nfe + state.masked.any(1),
        confidence=confidences,
        entropy=entropies,
        revealed=revealed,
        remasked=np.zeros_like(revealed),
        top_ids=top_ids[still],
        top_probs=top_probs[still].astype(np.float64),
        rank=rank[still],
        score=probability[still].astype(np.float64),
        runner_up=np.full(len(ids), np.nan),
        threshold=None,
    )


def drafted_blocks(verified: int, block_length: int, behind: str) -> list[slice]:
    """The tokens of each block that a pass drafts, counted from the first of the `verified` ones."""
    count = verified if behind == "tokens" else 1
    return [slice(start, start + block_length) for start in range(count)]


def _places(state: State, row: int, block_length: int, behind: str = DRAFT_BEHIND[0]) -> tuple[int, *tuple[Ints, ...]]:
    """The row, its positions to verify, and the [MASK]s of each block to draft."""
    first = int(state.masked[row].argmax())
    free = first + np.flatnonzero(state.masked[row, first:])
    drafted = free[free < first + block_length]
    known = np.append(state.draft[row, drafted] != NO_TOKEN, False)
    verified = drafted[: int(known.argmin()) + 1]
    blocks = drafted_blocks(int(verified[-1]) + 1 - first, block_length, behind)
    return row, verified, *(free[(free >= first + b.start) & (free < first + b.stop)] for b in blocks)


@lru_cache(maxsize=2**13)
def _uniform(seed: int, length: int, row: int, step: int, position: int) -> float:
    return float(block_uniforms(seed, length, row, step, position, 1)[0])


def _uniforms(config: SamplerConfig, state: State, row: int, positions: Ints) -> Floats:
    """The numbers that blocks of one token would draw with there: each free position has the step of its turn."""
    turns = (~state.fixed[row]).cumsum() - 1
    key = config.seed, state.ids.shape[1], state.first_row + row
    return np.array([_uniform(*key, int(turns[p]), int(p)) for p in positions], dtype=np.float64)
