"""The sampler: denoiser calls alternate with pure steps until no [MASK] is left.

    state = sampler.start(canvas)
    while not sampler.done(state):
        logits = denoiser(*sampler.model_inputs(state))              # only rows that are still masked
        state = sampler.step(state, logits, sampler.noise(state))

`step` is a pure function: same state, same logits, same noise, same new state; nothing is changed in place.
`stream` yields this loop as immutable frames; generate.py runs it for many canvases at once. The sampler does not
depend on the denoiser's architecture: `denoiser(ids, sigma, positions)` is any callable.

The noise level passed to the denoiser. In training, a share 1 - alpha(t) of each sequence is masked, and the denoiser
receives sigma = -log alpha(t). The sampler therefore passes the sigma whose masked share equals that of the whole
canvas, given text counted as unmasked: sigma = -log(1 - share). On an all-mask canvas, the strategies on the schedule
pass exactly schedule.sigma(t) on a grid from t = 1 (uniform, except for `remdm_loop`); with a prompt, the share is that
of the free positions times the fraction of positions that are free. The strategies that fill by count, and all of them
with blocks, pass the share that is actually masked; without blocks, `first_hitting` passes the one expected at the
hitting time that the call decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffuapriel.diffusion.schedule import Schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import ON_SCHEDULE, REMDM, SPECULATIVE, SamplerConfig
from diffuapriel.sampling.frames import StepFrame, frame_of
from diffuapriel.sampling.speculative import accept, with_drafts
from diffuapriel.sampling.state import Bools, Floats, State, masked_share
from diffuapriel.sampling.strategies import (
    SELECTORS,
    StrategyInput,
    block_numbers,
    block_on_grid,
    count_by_block,
    ended,
    hitting_time,
    uncertain,
)
from diffuapriel.sampling.tokens import Noise, draw_tokens, sample_tokens, token_rank

# (ids (B, L) int64, sigma (B,) float32, positions (B, L) bool) -> logits (positions.sum(), mask_id + 1)
DenoiserFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


class Sampler:
    """Fills canvases with one strategy.

    Args:
        config: strategy and options.
        schedule: the forward process (diffuapriel.diffusion.schedule.get_schedule).
        mask_id: id of [MASK]; logits have mask_id + 1 columns.
    """

    def __init__(self, config: SamplerConfig, schedule: Schedule, mask_id: int) -> None:
        if not isinstance(config, SamplerConfig):
            raise TypeError(f"sampler: config must be a SamplerConfig, not {type(config).__name__}")
        if isinstance(mask_id, bool) or not isinstance(mask_id, int) or mask_id < 1:
            raise ValueError(f"sampler: mask_id is {mask_id!r}; it must be a whole number, 1 or more")
        self.config = config
        self.schedule = schedule
        self.mask_id = mask_id
        self._loop = _loop_time(config, schedule)
        self._least_alpha = float(schedule.alpha(torch.ones(1, dtype=torch.float64)))
        if not 0 < self._least_alpha < 1:
            raise ValueError(f"sampler: the schedule's alpha(1) is {self._least_alpha}; it must lie between 0 and 1")

    def start(self, canvas: Canvas | Sequence[Canvas], first_row: int = 0) -> State:
        """The state before the first step; several canvases of one length make one batch.

        Row r draws its noise from stream first_row + r, so samples 32 to 63 of a seed are the same whether they are
        drawn together with 0 to 31 or in a batch of their own.
        """
        canvases = [canvas] if isinstance(canvas, Canvas) else list(canvas)
        if not canvases:
            raise ValueError("sampler: there is no canvas; give at least one")
        lengths = sorted({len(c) for c in canvases})
        if len(lengths) > 1:
            raise ValueError(f"sampler: canvases of {lengths} tokens; all canvases of a batch must have one length")
        for c in canvases:
            if c.mask_id != self.mask_id:
                raise ValueError(
                    f"sampler: [MASK] is {c.mask_id} on the canvas and {self.mask_id} in the sampler; "
                    "use one tokenizer for both"
                )
        if isinstance(first_row, bool) or not isinstance(first_row, int) or not 0 <= first_row < 2**63:
            raise ValueError(f"sampler: first_row is {first_row!r}; permitted: 0 to 2^63 - 1")
        ids = torch.stack([c.ids for c in canvases])
        fixed = torch.stack([c.fixed for c in canvases]).cpu().numpy()
        state = State.initial(ids.cpu().numpy(), fixed, self.mask_id, ids.device, first_row)
        if self._is_timed:
            return state
        return state.replace(t=masked_share(state.ids, state.fixed, self.mask_id))

    def done(self, state: State) -> bool:
        """True when no step is left. ReMDM may fill the canvas early and then return tokens to [MASK]."""
        if state.masked.any():
            return False
        return self.config.strategy not in REMDM or state.step >= self.config.steps or bool(state.fixed.all())

    def model_inputs(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of the next denoiser call: ids (B, L) int64, sigma (B,) float32, positions (B, L) bool.

        They are copies: a denoiser may write to them. The module's docstring explains sigma. With `speculative` a row
        of the state has one here for each of its drafts.
        """
        arrays = state.ids.copy(), self.sigma(self.level(state), state.fixed), state.masked
        if self.config.strategy == SPECULATIVE:
            ids, rows = with_drafts(state, self.config.block_length or 1)
            arrays = ids, *(a[rows] for a in arrays[1:])
        ids, sigmas, positions = (torch.from_numpy(a).to(state.device) for a in arrays)
        return ids, sigmas, positions

    def level(self, state: State) -> Floats:
        """(B,) the masked share of the free positions that the next step assumes."""
        if self._is_timed:
            return 1 - self._on_grid(state)[1][0][:, 0]
        if self.config.strategy == "first_hitting" and not self.config.block_length:
            return hitting_time(state.t, state.masked, self.noise(state).for_positions)
        return state.t

    def sigma(self, level: Floats, fixed: Bools) -> NDArray[np.float32]:
        """(..., B) sigma for masked shares `level` (..., B) of the free positions; `fixed` (B, L) marks given ones."""
        share = np.minimum(level * (~fixed).mean(1), 1 - self._least_alpha)  # at most that of training
        return -np.log1p(-share).astype(np.float32)

    def noise(self, state: State) -> Noise:
        """The uniform numbers of the next step of `state`: a function of seed, row and step alone."""
        return Noise.draw(self.config.seed, state.first_row, len(state.ids), state.step, state.ids.shape[1])

    def strategy_input(self, state: State, logits: Tensor, u: Floats, drawn: Tensor | None = None) -> StrategyInput:
        """The input of a strategy at the next step of `state`; u (B, L): uniform numbers that select positions."""
        s, alphas, active = self._on_grid(state)
        return StrategyInput(state, state.masked, logits, u, self.config, s, alphas, drawn, active)

    def step(self, state: State, logits: Tensor, noise: Noise) -> State:
        """One pure step.

        Args:
            state: from `start` or an earlier `step`.
            logits: (state.masked.sum(), mask_id + 1), the rows of the masked positions in row-major order; with
                `speculative` those that `speculative.accept` takes.
            noise: uniform numbers for (B, L) positions; `speculative` has its own.

        Raises ValueError for a wrong shape, and for logits that hold NaN or +inf or permit no token.
        """
        if self.config.strategy == SPECULATIVE:
            return accept(self.config, state, logits)
        masked = state.masked
        self._check(state, masked, logits, noise)
        drawn = probability = None
        if self.config.draws_first:
            drawn, probability = draw_tokens(logits, self.mask_id, *self._for_draw(state, masked, noise, logits.device))
        strategy_input = self.strategy_input(state, logits, noise.for_positions, probability)
        selection = SELECTORS[self.config.strategy](strategy_input)
        reveal = selection.reveal
        rows = torch.from_numpy(np.flatnonzero(reveal[masked])).to(logits.device)
        chosen = logits.index_select(0, rows)
        drawn = None if drawn is None else drawn.index_select(0, rows)
        how = self._for_draw(state, reveal, noise, logits.device)
        tokens, why = sample_tokens(chosen, self.mask_id, *how, drawn)
        rank = token_rank(chosen, self.mask_id, tokens)
        probability, entropy, top_ids, top_probs, rank = (a.cpu().numpy() for a in (*why, rank))
        # On the schedule, positions do not compete: each is revealed independently.
        passed_over = masked & ~reveal & (self.config.strategy not in ON_SCHEDULE)
        if selection.candidates is not None:
            passed_over &= selection.candidates
        best_left = np.where(passed_over, selection.scores, -np.inf).max(1)

        ids, confidences, entropies = state.ids.copy(), state.confidence.copy(), state.entropy.copy()
        ids[reveal], confidences[reveal], entropies[reveal] = tokens.cpu().numpy(), probability, entropy
        remask = selection.remask
        if remask is None:
            remask = uncertain(self.config, state, ids, confidences, reveal)
        ids[remask], confidences[remask], entropies[remask] = self.mask_id, np.nan, np.nan
        kept = np.ones(int(reveal.sum()), dtype=bool)
        if self.config.stop_at_eos:
            cut = ended(self.config, ids, state.fixed, self.mask_id)
            ids[cut], confidences[cut], entropies[cut] = self.mask_id - 1, np.nan, np.nan
            kept, reveal = ~cut[reveal], reveal & ~cut
        return state.replace(
            ids=ids,
            step=state.step + 1,
            t=masked_share(ids, state.fixed, self.mask_id) if selection.t is None else selection.t,
            nfe=state.nfe + (masked.sum(1) > 0),
            confidence=confidences,
            entropy=entropies,
            revealed=reveal,
            remasked=remask,
            mended=state.mended | remask,
            top_ids=top_ids[kept],
            top_probs=top_probs[kept].astype(np.float64),
            rank=rank[kept],
            score=np.abs(selection.scores[reveal]).astype(np.float64),
            runner_up=np.where(np.isfinite(best_left), np.abs(best_left), np.nan),
            threshold=selection.threshold,
        )

    def advance(self, denoiser: DenoiserFunction, state: State) -> State:
        """One denoiser call and one step."""
        return self.advance_timed(denoiser, state)[0]

    @torch.no_grad()  # not around a yield, which would disable the caller's own gradients
    def advance_with_frame(self, denoiser: DenoiserFunction, state: State) -> tuple[State, StepFrame]:
        """`advance`, and the step as a frame."""
        began = time.perf_counter()
        state, denoiser_ms = self.advance_timed(denoiser, state)
        return state, frame_of(state, began, denoiser_ms)

    def stream(self, denoiser: DenoiserFunction, canvas: Canvas | State) -> Iterator[StepFrame]:
        """Yield the start as frame 0, then one frame per step, until no [MASK] is left.

        Takes a canvas, or a state of one row to continue from. Nothing is computed ahead: the generator may be paused
        between frames, and closing or dropping it releases the denoiser and its tensors.
        """
        state = canvas if isinstance(canvas, State) else self.start(canvas)
        if len(state.ids) != 1:
            raise ValueError(f"sampler: stream shows one canvas, not {len(state.ids)}; generate() runs a batch")
        return self._frames(denoiser, state)

    def _frames(self, denoiser: DenoiserFunction, state: State) -> Iterator[StepFrame]:
        try:
            yield frame_of(state)
            while not self.done(state):
                state, frame = self.advance_with_frame(denoiser, state)
                yield frame
        finally:
            del denoiser, state

    @torch.no_grad()
    def advance_timed(self, denoiser: DenoiserFunction, state: State) -> tuple[State, float]:
        """`advance`, and the milliseconds spent in the denoiser."""
        noise = self.noise(state)
        ids, sigma, positions = self.model_inputs(state)
        if not state.masked.any():  # `remdm`, before it returns tokens to [MASK]: no logits needed
            return self.step(state, torch.empty(0, self.mask_id + 1), noise), 0.0
        if not state.masked.any(1).all():  # rows without a [MASK] stay out of it
            rows = positions.any(1).nonzero()[:, 0]
            ids, sigma, positions = (a.index_select(0, rows) for a in (ids, sigma, positions))
        began = time.perf_counter()
        logits = denoiser(ids, sigma, positions)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)  # or the clock would stop before the GPU has finished
        denoiser_ms = (time.perf_counter() - began) * 1e3
        return self.step(state, logits, noise), denoiser_ms

    @property
    def _is_timed(self) -> bool:
        """Whether the time of a state is that of the schedule; with blocks, each has its own."""
        return self.config.strategy in ON_SCHEDULE and not self.config.block_length

    def _on_grid(self, state: State) -> tuple[Floats, tuple[Floats, Floats], Bools | None]:
        """s (B,), a_t and a_s (B, 1) of the next step on the grid of times, and its block (B, L)."""
        steps, rows = self.config.steps, len(state.ids)
        # Steps left, including the next one; also 1 for a canvas edited after its last step.
        left = np.full(rows, max(1, steps - state.step))
        total, active = np.full(rows, max(steps, left[0])), None
        if self.config.block_length and self.config.strategy in ON_SCHEDULE:
            numbers = block_numbers(self.config, state.fixed)
            masked, free = (count_by_block(where, numbers) for where in (state.masked, ~state.fixed))
            current, left, total = block_on_grid(masked, free, state.step, steps)
            active = numbers == current[:, None]
        t, s = left / total, (left - 1) / total
        if self._loop is not None:
            shares, times = self._loop
            t, s = (np.interp(v, shares, times) for v in (t, s))
        a_t, a_s = (self.schedule.alpha(torch.from_numpy(v)).numpy() for v in (t, s))
        # Nothing is masked at t = 0, whatever the rounding: the last step reveals all.
        return s, (a_t[:, None], np.where(left == 1, 1.0, a_s)[:, None]), active

    def _for_draw(
        self, state: State, at: Bools, noise: Noise, device: torch.device
    ) -> tuple[Tensor, SamplerConfig, Tensor | None]:
        """The arguments of `draw_tokens` at the positions `at` (B, L): uniform numbers, options, and tokens seen."""
        uniform = torch.from_numpy(noise.for_tokens[at]).to(device)
        if self.config.repetition_penalty == 1:
            return uniform, self.config, None
        present = np.zeros((len(state.ids), self.mask_id + 1), dtype=bool)
        np.put_along_axis(present, state.ids, True, axis=1)
        seen = torch.from_numpy(present[np.nonzero(at)[0], : self.mask_id]).to(device)
        return uniform, self.config, seen

    def _check(self, state: State, masked: Bools, logits: Tensor, noise: Noise) -> None:
        expected = (int(masked.sum()), self.mask_id + 1)
        if tuple(logits.shape) != expected or not logits.is_floating_point():
            raise ValueError(
                f"sampler: logits have shape {tuple(logits.shape)} and dtype {logits.dtype}; they must be {expected} "
                "(masked positions, vocabulary with [MASK]) and floating point"
            )
        if noise.for_positions.shape != state.ids.shape:
            raise ValueError(
                f"sampler: noise is for shape {noise.for_positions.shape}; the state has {state.ids.shape}"
            )


def _loop_time(config: SamplerConfig, schedule: Schedule) -> tuple[list[float], list[float]] | None:
    """For `remdm_loop`, time over the share of the steps left: it stays at alpha_on from t_on to t_off."""
    if config.strategy != "remdm_loop":
        return None
    low, high = 0.0, 1.0  # bisection: alpha falls
    for _ in range(60):
        middle = (low + high) / 2
        above = float(schedule.alpha(torch.tensor(middle, dtype=torch.float64))) > config.alpha_on
        low, high = (middle, high) if above else (low, middle)
    return [0, config.t_off, config.t_on, 1], [0, low, low, 1]
