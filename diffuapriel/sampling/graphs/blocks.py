"""Block after block on the device: one recorded step, replayed until every text is full.

A step is a pass over the active block of each row, in place (`Denoiser.hidden_in_place`), and everything the sampler
does with it. Its kind is decided per row and on the device:

    the block has masks     reveal what the strategy selects
    the block is full       commit: its states, keys and values join the cache, and the next block is active

so rows need not keep step, and the host launches passes without looking at what the last one did. For a strategy whose
counts are known in advance it never looks. For `threshold` it reads how many masks are left while the next pass is
already running; where that turns out to be the commit, nothing is lost, and after the last block of all one pass is.

One graph serves every block: a Mamba layer's state has a fixed size, and our attention kernel reads the number of keys
from the device. Where PyTorch's kernels run instead, a pass reads the first `room` keys and values, a mask hides those
that a row does not have yet, and there is a graph per room, at most an eighth larger than needed on average. Passes
that certainly commit nothing have a graph of their own. What the model computes of the noise level alone is kept for
every number of masks. What surrounds the pass is done by a few kernels on a GPU (kernels.py), and elsewhere by
PyTorch (plain.py).

A row's text is the one that `CachedDenoiser` and the sampler give it on the host, with the same seed: its own step and
block select its noise. Without a GPU the steps run unrecorded, which is how they are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, MutableMapping
from functools import partial
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffuapriel.diffusion.schedule import EPS
from diffuapriel.ops import cached_attention
from diffuapriel.ops.cudagraph import record
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import SCORED, HostBuffer, plan_generation, rounded
from diffuapriel.sampling.graphs import plain
from diffuapriel.sampling.graphs.plain import Rule, Texts
from diffuapriel.sampling.head import scores as head_scores
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.state import State
from diffuapriel.sampling.tokens import block_uniforms, invalid_logits

STRATEGIES = (*SCORED, "threshold")
MOST_LEVELS = 1_024  # masks of a block for which what depends on the noise level is kept: 400 MB with preset 1.3b


class InPlaceModel(Protocol):
    """A model of blocks whose passes can be recorded (`model.denoiser.Denoiser`, `model.engine.Engine`)."""

    config: Any
    head: nn.Linear

    def empty_cache(self, batch: int, capacity: int = 0) -> Any: ...

    def commit(self, ids: Tensor, cache: Any, block_length: int | None = None) -> Any: ...

    def levels(self, sigma: Tensor) -> Tensor: ...

    def hidden_in_place(
        self,
        ids: Tensor,
        sigma: Tensor,
        cache: Any,
        commit: Tensor | None,
        capacity: int | None = None,
        *,
        level: Tensor | None = None,
    ) -> Tensor: ...


def unsupported_reason(config: SamplerConfig, model: object, state: State, block_length: int) -> str | None:
    """Why these texts cannot be written on the device alone, in one line; None if they can."""
    length = state.ids.shape[1]
    if config.strategy not in STRATEGIES:
        return f"the strategy is {config.strategy!r}; on the device there are {', '.join(STRATEGIES)}"
    if length % block_length:
        return f"the canvas has {length} tokens, which are not whole blocks of {block_length}"
    for name, off in (("stop_at_eos", False), ("confidence", "top"), ("alg_temp", 0), ("repetition_penalty", 1)):
        if (value := getattr(config, name)) != off:
            return f"{name} is {value!r}; on the device it must be {off!r}"
    if config.mends:
        return f"remask_below is {config.remask_below}; on the device it must be 0"
    if not hasattr(model, "hidden_in_place"):
        return "the model has no hidden_in_place, the pass that is recorded"
    return head_scores.unsupported_reason(model.head.weight)  # type: ignore[attr-defined]


class Progress(NamedTuple):
    """The active block of each row and its masks, (B,) int64 each."""

    block: NDArray[np.int64]
    left: NDArray[np.int64]


# The last graph of each model, for its next batch of that size; taken out while it is in use.
_kept: MutableMapping[Any, BlockGraph] = WeakKeyDictionary()


def clear_cache(model: object) -> None:
    """Release the memory of the graph that is kept for this model, if any."""
    _kept.pop(model, None)


def fill(sampler: Sampler, model: InPlaceModel, state: State, block_length: int) -> BlockGraph:
    """The graph that has filled the canvases of `state`. Arguments and errors as for `fill_steps`."""
    steps = fill_steps(sampler, model, state, block_length)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@torch.no_grad()
def fill_steps(
    sampler: Sampler, model: InPlaceModel, state: State, block_length: int
) -> Generator[Tensor, None, BlockGraph]:
    """Fill the canvases of `state`; yields them, (batch, length) int64, after each pass, and returns the graph.

    They are the graph's own tensor: it is overwritten by the next pass, and need not be complete yet.
    Arguments as for `unsupported_reason`. Raises ValueError for logits that are not a distribution, at the end.
    """
    counts = None  # (calls, B): to reveal at each call, if that is known
    if sampler.config.strategy in SCORED:
        counts = plan_generation(sampler, state).tables["num_transfer_tokens"]
    most = block_length if counts is None else min(block_length, rounded(int(counts.max(initial=1))))
    config, weight = sampler.config, model.head.weight
    options = (config.strategy, config.threshold, config.temperature, config.top_k, config.top_p)
    size = (*options, state.ids.shape, state.mask_id, block_length, most, state.device, weight.data_ptr(), weight.dtype)
    graph = _kept.pop(model, None)
    if graph is None or graph.size != size:
        graph = None  # releases its memory before the next one is made
        graph = BlockGraph(config, model, state, block_length, most, size)
    graph.start(config, model, state, counts)
    try:
        yield from graph.run(model)
    finally:
        _kept[model] = graph
    return graph


class BlockGraph:
    """The steps of a generation, over tensors at fixed addresses. Make one with `fill`.

    Attributes:
        texts: what the steps read and change. cache: the model's. passes: how many this generation has launched.
        calls: of the denoiser, (B,) int64, commits not counted.
    """

    def __init__(
        self, config: SamplerConfig, model: InPlaceModel, state: State, block_length: int, most: int, size: tuple
    ) -> None:
        self.config, self.block_length, self.size = config, block_length, size
        self.weight, self.device = model.head.weight, state.device
        self.records = self.device.type == "cuda"
        self.batch, length = state.ids.shape
        self.blocks = length // block_length
        self.capacity = length if "attention" in model.config.layer_kinds else 0
        like = self.weight.new_empty(1, 1, 1, model.config.attention_headdim)
        self.has_rooms = bool(self.capacity) and not cached_attention.takes(like)
        self.cache = model.empty_cache(self.batch, self.capacity)
        new = partial(torch.zeros, device=self.device, dtype=torch.int64)
        self.texts = Texts(
            new(self.batch, length),
            new(2, self.batch),
            new(self.batch),
            new(self.batch, block_length, dtype=torch.float64),
            new(()),
            torch.ones((), dtype=torch.bool, device=self.device),
        )
        self.rule = Rule(config, state.mask_id, most, config.strategy in SCORED)
        self.around: Any = plain
        if self.weight.is_cuda:
            from diffuapriel.sampling.graphs import kernels

            self.around = kernels
        self.buffers = HostBuffer(self.texts.count), HostBuffer(self.texts.uniform)
        pinned = self.device.type == "cuda"
        self.read = [torch.empty(2, self.batch, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        self.copied = [torch.cuda.Event() for _ in range(2)] if pinned else []
        self.graphs: dict[tuple[int, bool], Callable[[], None]] = {}  # by room, and whether rows may commit
        self.sigmas = _sigmas(block_length).to(self.device)
        self.levels: Tensor | None = None  # of the model, by number of masks

    @torch.no_grad()
    def start(self, config: SamplerConfig, model: InPlaceModel, state: State, counts: NDArray[np.int64] | None) -> None:
        """Send the canvas, and commit the full blocks before each row's first one with masks."""
        self.config, self.state, self.counts, self.passes = config, state, counts, 0
        self.calls = np.zeros(self.batch, dtype=np.int64)
        self.masks = state.masked.reshape(self.batch, self.blocks, self.block_length).sum(2)  # (B, blocks)
        self.texts.canvas.copy_(torch.from_numpy(state.ids.copy()))
        self.texts.bad_rows.zero_()
        self.cache.set_rows(torch.arange(self.batch, device=self.device), model.empty_cache(self.batch))
        empty = self.masks.sum(1) == 0
        block = np.where(empty, self.blocks - 1, (self.masks > 0).argmax(1))
        self.first = Progress(block, self.masks[np.arange(self.batch), block])
        for number in np.unique(block[~empty & (block > 0)]).tolist():
            rows = torch.from_numpy(np.flatnonzero(~empty & (block == number))).to(self.device)
            text = self.texts.canvas[rows, : number * self.block_length]
            prompt = model.commit(text, model.empty_cache(len(rows)), self.block_length)
            self.cache.set_rows(rows, prompt)
        self.texts.status.copy_(torch.from_numpy(np.stack(self.first)))
        if self.block_length <= MOST_LEVELS:
            levels = model.levels(self.sigmas)
            self.levels = levels if self.levels is None else self.levels.copy_(levels)

    def run(self, model: InPlaceModel) -> Iterator[Tensor]:
        """Every pass; yields the canvas after each."""
        coming = self.first
        while not self._done(coming):
            before = coming
            self._launch(model, coming)
            yield self.texts.canvas
            if self.counts is None and self.passes > 1:
                before = self._read(self.passes - 1)  # while this pass runs
                if self._done(before):
                    break
            coming = self._after(before)
            self.calls += before.left > 0
        if bad := int(self.texts.bad_rows):
            raise ValueError(invalid_logits(bad, int(self.state.masked.sum())))

    def _done(self, progress: Progress) -> bool:
        return bool(((progress.block == self.blocks - 1) & (progress.left == 0)).all())

    def _after(self, before: Progress) -> Progress:
        """After one more pass. Where the count is not known, one mask less: then `left` is what is left at most."""
        rows, busy = np.arange(self.batch), before.left > 0
        count = 1 if self.counts is None else self.counts[np.minimum(self.calls, len(self.counts) - 1), rows]
        block = np.where(busy, before.block, np.minimum(before.block + 1, self.blocks - 1))
        moved = block > before.block
        return Progress(block, np.where(busy, before.left - count, np.where(moved, self.masks[rows, block], 0)))

    def _launch(self, model: InPlaceModel, progress: Progress) -> None:
        """Send the inputs of the next pass and launch it. It may commit a row of which a mask was expected."""
        rows, S, calls = range(self.batch), self.block_length, self.calls
        count, uniform = self.buffers
        if self.counts is not None:
            count.send(self.counts[np.minimum(calls, len(self.counts) - 1), rows])
        if self.config.temperature > 0:
            which = (self.config.seed, self.texts.canvas.shape[1])
            first = self.state.first_row
            starts = (progress.block * S).tolist()
            uniform.send(np.stack([block_uniforms(*which, first + r, calls[r], starts[r], S) for r in rows]))
        room = _room((int(progress.block.max()) + 1) * S, self.capacity) if self.has_rooms else self.capacity
        full = (progress.left == 0) & (progress.block < self.blocks - 1)
        kind = room, self.counts is None or bool(full.any())
        if not self.records:
            self.step(model, *kind)
        else:
            if kind not in self.graphs:
                self.graphs[kind] = self._record(model, *kind)
            self.graphs[kind]()
        if self.counts is None:
            turn = self.passes % 2
            self.read[turn].copy_(self.texts.status, non_blocking=True)
            if self.copied:
                self.copied[turn].record(torch.cuda.current_stream(self.device))
        self.passes += 1

    def _read(self, number: int) -> Progress:
        """After pass `number`, counted from 1; waits for it."""
        turn = (number - 1) % 2
        if self.copied:
            self.copied[turn].synchronize()
        block, left = self.read[turn].numpy().copy()
        return Progress(block, left)

    def _record(self, model: InPlaceModel, room: int, commits: bool) -> Callable[[], None]:
        """The step as a CUDA graph. Its warm-ups commit nothing, and what they write on the canvas is taken back."""
        texts = self.texts
        kept = [(v, v.clone()) for v in (texts.canvas, texts.status, texts.bad_rows)]
        texts.enabled.fill_(False)
        replay, _ = record(partial(self.step, model, room, commits), self.device)
        texts.enabled.fill_(True)
        for tensor, before in kept:
            tensor.copy_(before)
        return replay

    def step(self, model: InPlaceModel, room: int, commits: bool) -> None:
        """One pass over the active blocks. commits: whether rows may commit theirs."""
        active = self.around.begin(self.texts, self.rule, commits)
        masks = self.texts.status[1]
        sigma = self.sigmas.index_select(0, masks)
        level = None if self.levels is None else self.levels.index_select(0, masks)
        x = model.hidden_in_place(active.ids, sigma, self.cache, active.commit, room, level=level)
        self.around.reveal(self.texts, self.rule, active, x.flatten(0, 1).to(self.weight.dtype), self.weight)


def _sigmas(block_length: int) -> Tensor:
    """The noise level by number of masks, in float32 as in sampling/blocks.py; the model may ignore it."""
    return -torch.log((1 - torch.arange(block_length + 1) / block_length).clamp_min(EPS))


def _room(tokens: int, most: int) -> int:
    """`tokens` rounded up to a quarter of a power of two, at most `most`."""
    step = 1 << max(0, tokens.bit_length() - 3)
    return min(most, -(-tokens // step) * step)
