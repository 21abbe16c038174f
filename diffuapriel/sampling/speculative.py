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

With `drafts` above 1 a text has several drafts, verified side by side as rows of a batch, and goes on with the one of
which most is accepted. The further drafts are made of other tokens of the same block, those most likely to be drawn
whatever the uniform numbers: what verifies them knows the tokens before and has another distribution.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffuapriel.sampling.config import DRAFT_BEHIND, SamplerConfig
from diffuapriel.sampling.state import Floats, Ints, State, masked_share
from diffuapriel.sampling.strategies import ended
from diffuapriel.sampling.tokens import block_uniforms, draw_tokens, likely_tokens, sample_tokens, token_rank

NO_TOKEN = -1  # where a state has no draft


def with_drafts(state: State, block_length: int) -> tuple[Ints, Ints]:
    """Canvases (n, L) with tokens to verify in place of their [MASK]s, and the row (n,) of the state that each is of.

    A row has one canvas for each of its drafts, with the draft and one token more. The logits at a token do not depend
    on it, only on those before it. So the position behind the draft is verified with any token there, and is accepted
    too if the whole draft is.
    """
    canvases, rows = [], []
    for row, masked in enumerate(state.masked):
        verified = _places(state, row, block_length)[0] if masked.any() else masked
        for draft in _drafts(state, row):
            canvas = state.ids[row].copy()
            canvas[verified] = np.maximum(draft[verified], 0)
            canvases.append(canvas)
            rows.append(row)
    return np.stack(canvases), np.array(rows)


class VerifiedDraft(NamedTuple):
    """A draft of one row, and what a pass computes for it."""

    row: int
    tokens: Ints  # (L,)
    first: int  # of its logits, in their order: those of `places`
    places: tuple[Ints, ...]  # the positions that are verified, and the [MASK]s of each block that is drafted

    @property
    def sizes(self) -> list[int]:
        return [len(at) for at in self.places]

    def accepted(self, drawn: Ints) -> int:
        """How many tokens are accepted, the right one in place of the first wrong one among them."""
        verified = self.places[0]
        wrong = self.tokens[verified] != drawn[self.first : self.first + len(verified)]
        return int(wrong.argmax()) + 1 if wrong.any() else len(verified)

    def block(self, number: int) -> slice:
        """Where the logits of this drafted block are."""
        first = self.first + sum(self.sizes[: 1 + number])
        return slice(first, first + self.sizes[1 + number])


def _drafts(state: State, row: int) -> Ints:
    """(1 or more, L): the drafts of a row; one without a token if there is none."""
    drafts = state.drafts[row]
    return drafts[: max(1, int((drafts != NO_TOKEN).any(1).sum()))]


def _verified_drafts(config: SamplerConfig, state: State) -> list[VerifiedDraft]:
    """Those of every row with [MASK]s."""
    passes, first = [], 0
    for row in np.flatnonzero(state.masked.any(1)).tolist():
        places = _places(state, row, config.block_length or 1, config.draft_behind)
        for draft in _drafts(state, row):
            passes.append(VerifiedDraft(row, draft, first, places))
            first += sum(passes[-1].sizes)
    return passes


def accept(config: SamplerConfig, state: State, logits: Tensor) -> State:
    """The state after a pass.

    logits: for each row with [MASK]s and each of its drafts, those of the positions that `with_drafts` filled, and then
    those of the [MASK]s of each drafted block (blocks.SpeculativeDenoiser). Raises ValueError for another number.
    """
    passes = _verified_drafts(config, state)
    count = passes[-1].first + sum(passes[-1].sizes)
    if tuple(logits.shape) != (count, state.mask_id + 1):
        raise ValueError(f"sampler: logits have shape {tuple(logits.shape)}; they must be {(count, state.mask_id + 1)}")
    places = {one.row: np.concatenate(one.places) for one in passes}  # those of all drafts of a row are the same
    of_row = {row: _uniforms(config, state, row, at) for row, at in places.items()}
    uniform = torch.from_numpy(np.concatenate([of_row[one.row] for one in passes])).to(logits.device)
    tokens = draw_tokens(logits, state.mask_id, uniform, config)[0].cpu().numpy()

    best: dict[int, tuple[int, VerifiedDraft]] = {}  # row -> the first of its drafts of which most is accepted
    for one in passes:
        count = one.accepted(tokens)
        if one.row not in best or count > best[one.row][0]:
            best[one.row] = count, one
    ids, revealed, rows = state.ids.copy(), np.zeros_like(state.fixed), []
    drafts = np.full((len(ids), config.drafts, ids.shape[1]), NO_TOKEN)
    ahead = {}
    for count, one in best.values():
        accepted = one.places[0][:count]
        ids[one.row, accepted] = tokens[one.first : one.first + count]
        revealed[one.row, accepted] = True
        drafts[one.row, 0], ahead[one.row] = _next_draft(one, count, tokens)
        rows += range(one.first, one.first + count)
    if config.drafts > 1:
        _add_drafts(config, drafts, ahead, logits)

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
        drafts=drafts,
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


def _next_draft(one: VerifiedDraft, count: int, drawn: Ints) -> tuple[Ints, tuple[Ints, Ints]]:
    """The first draft (L,) of a row after `count` tokens of `one` were accepted, and where its block goes on.

    drawn: (n,), the tokens of the whole pass. The latter: positions behind what was accepted, and of their logits.
    """
    draft = np.full(len(one.tokens), NO_TOKEN)
    verified, *blocks = one.places
    now, accepted = drawn[one.first : one.first + len(verified)], verified[:count]
    newest = min(int(accepted[-1] - verified[0]), len(blocks) - 1)
    at, block = blocks[newest], one.block(newest)
    draft[at] = found = drawn[block]
    known = now[:count][accepted >= at[0]]
    if (found[: len(known)] != known).any():
        draft[verified] = now
    draft[: accepted[-1] + 1] = NO_TOKEN
    ahead = at > accepted[-1]
    return draft, (at[ahead], block.start + np.flatnonzero(ahead))


def _add_drafts(config: SamplerConfig, drafts: Ints, ahead: dict[int, tuple[Ints, Ints]], logits: Tensor) -> None:
    """Fill the further drafts in `drafts` (B, D, L); ahead: row -> as `_next_draft` returns it; logits of the pass."""
    chosen = torch.from_numpy(np.concatenate([of_logits for _, of_logits in ahead.values()])).to(logits.device)
    if not len(chosen):
        return
    found = likely_tokens(logits.index_select(0, chosen), logits.shape[1] - 1, config, config.drafts)
    ends = np.cumsum([len(at) for at, _ in ahead.values()])[:-1]
    for (row, (at, _)), *likely in zip(ahead.items(), *(np.split(part, ends) for part in found), strict=True):
        first, *others = drafts[row]
        sequences = (tokens for tokens in _likeliest(*likely) if (tokens != first[at]).any())
        for other, tokens in zip(others, sequences):
            other[:] = first
            other[at] = tokens


def _likeliest(tokens: Ints, share: Floats) -> Iterator[Ints]:
    """Sequences (n,) of one token per position, the likeliest first: tokens (n, k) with descending shares (n, k)."""
    cost = -np.log(np.maximum(share, np.finfo(np.float64).tiny))
    positions = np.arange(len(tokens))
    waiting: list[tuple[float, tuple[int, ...]]] = [(float(cost[:, 0].sum()), (0,) * len(tokens))]
    seen = {waiting[0][1]}
    while waiting:
        total, ranks = heapq.heappop(waiting)
        yield tokens[positions, ranks]
        for i, rank in enumerate(ranks):
            following = (*ranks[:i], rank + 1, *ranks[i + 1 :])
            if rank + 1 < tokens.shape[1] and share[i, rank + 1] > 0 and following not in seen:
                seen.add(following)
                heapq.heappush(waiting, (total + float(cost[i, rank + 1] - cost[i, rank]), following))


def _places(state: State, row: int, block_length: int, behind: str = DRAFT_BEHIND[0]) -> tuple[Ints, ...]:
    """The positions of a row to verify, and the [MASK]s of each block to draft."""
    first = int(state.masked[row].argmax())
    free = first + np.flatnonzero(state.masked[row, first:])
    drafted = free[free < first + block_length]
    known = np.append(state.drafts[row, 0, drafted] != NO_TOKEN, False)
    verified = drafted[: int(known.argmin()) + 1]
    blocks = drafted_blocks(int(verified[-1]) + 1 - first, block_length, behind)
    return verified, *(free[(free >= first + b.start) & (free < first + b.stop)] for b in blocks)


@lru_cache(maxsize=2**16)
def _uniform(seed: int, length: int, row: int, step: int, position: int) -> float:
    return float(block_uniforms(seed, length, row, step, position, 1)[0])


def _uniforms(config: SamplerConfig, state: State, row: int, positions: Ints) -> Floats:
    """The numbers that blocks of one token would draw with there: each free position has the step of its turn."""
    turns = (~state.fixed[row]).cumsum() - 1
    key = config.seed, state.ids.shape[1], state.first_row + row
    return np.array([_uniform(*key, int(turns[p]), int(p)) for p in positions], dtype=np.float64)
