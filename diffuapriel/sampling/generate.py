"""`generate`: fill many canvases at once, eagerly or as a CUDA graph.

The eager path alternates denoiser calls and `Sampler.step`. On a GPU that makes the device wait for the host at every
step. The fast path never synchronizes: a step reads and writes tensors at fixed addresses, so it is captured once as a
CUDA graph and replayed. No tensor of size batch x length x vocabulary is made: head/scores.py scores the masked
positions tile by tile, and logits are computed for the selected positions only, HEAD_ROWS rows at a time.

What the graph reads is planned on the host before the first denoiser call. Which token is revealed depends on the
denoiser; how many are revealed at each step does not (except for `threshold`, `factor`, `entropy_bound` and
`remdm_conf`, which therefore stay on the eager path), so every noise level is known. For strategies that select
positions at random, the positions are known too:

    FIXED_ORDER    ancestral, random, first_hitting, remdm, remdm_rescale, remdm_loop
                   indices and uniform numbers of every step
    SCORED         low_confidence, entropy, margin
                   the number of positions of every step

The plan runs the sampler's own functions with the same noise and the same rounding. Symbols: S denoiser calls, B texts
of L positions. An *index* is flat, b L + p for position p of text b; index B L, past the end, pads lists of indices.

The eager path is the reference: the same seed gives the same text wherever both paths compute the same logits. They
sum in different orders, so logits may differ in the last bit of the head's dtype. In float32 this decides only ties to
seven digits. In bfloat16 both round float32 sums, so equal logits remain equal, but about one in ten thousand falls on
the other side of a rounding, and a text may change where such a logit is one of the two best at its position.

Without a GPU the steps run uncaptured, which is how they are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from diffuapriel.ops.cudagraph import record
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.head import scores as head_scores
from diffuapriel.sampling.state import State, masked_share
from diffuapriel.sampling.strategies import (
    SELECTORS,
    Selection,
    block_numbers,
    count_by_block,
    first_block,
    gumbel,
    num_transfer_tokens,
)
from diffuapriel.sampling.tokens import Noise, centered, invalid_logits, pick, probability_of, weights_

if TYPE_CHECKING:
    from diffuapriel.sampling.sampler import DenoiserFunction, Sampler

FIXED_ORDER = ("ancestral", "random", "first_hitting", "remdm", "remdm_rescale", "remdm_loop")
SCORED = ("low_confidence", "entropy", "margin")
HEAD_ROWS = 256  # rows of logits at a time: 50 MB in float32, four times that while a token is drawn

Array = NDArray[Any]


@runtime_checkable
class DeviceDenoiser(Protocol):
    """A denoiser that the fast path can capture: the model without its head, and the head.

    `hidden(ids (B, L) int64, sigma (B,) float32)` returns the head's input, (B, L, d_model), after the final norm. It
    must not synchronize with the device (no .item(), no boolean index) nor replay a graph of its own. `head.weight`
    is (vocab_size or more, d_model), without a bias; `config.vocab_size` includes [MASK], the last token.
    """

    config: Any
    head: nn.Linear

    def hidden(self, ids: Tensor, sigma: Tensor) -> Tensor: ...


@runtime_checkable
class BlockFiller(Protocol):
    """A denoiser that fills canvases block after block on the device (`sampling.blocks.CachedDenoiser`)."""

    def unsupported_reason(self, config: SamplerConfig, state: State) -> str | None: ...

    def fill(self, sampler: Sampler, state: State) -> tuple[Tensor, list[int]]: ...


@torch.no_grad()
def generate(
    sampler: Sampler,
    denoiser: DenoiserFunction,
    canvases: Canvas | Sequence[Canvas] | Tensor,
    first_row: int = 0,
) -> Tensor:
    """Fill one canvas, or several of one length in one batch. Returns (batch, length) int64; as `generate_counted`."""
    return generate_counted(sampler, denoiser, canvases, first_row)[0]


@torch.no_grad()
def generate_counted(
    sampler: Sampler,
    denoiser: DenoiserFunction,
    canvases: Canvas | Sequence[Canvas] | Tensor,
    first_row: int = 0,
) -> tuple[Tensor, list[int]]:
    """The filled canvases, (batch, length) int64, and the denoiser calls that each row took part in.

    Args:
        canvases: a canvas, several of one length, or ids (batch, length) int64 in which every [MASK] is a hole and
            every other token is fixed.
        first_row: noise stream of row 0, as in `Sampler.start`.

    Finished rows leave the denoiser's batch. On a GPU, a `DeviceDenoiser` takes the fast path with the strategies of
    FIXED_ORDER and SCORED. Its CUDA graph is kept for the denoiser's next batch of the same size; `clear_cache` drops
    it. A `CachedDenoiser` takes that of graphs/blocks.py, which has a `clear_cache` of its own.
    """
    if isinstance(canvases, Tensor):
        if canvases.dim() != 2:
            raise ValueError(f"sampler: ids have shape {tuple(canvases.shape)}; they must be (batch, length)")
        canvases = [Canvas(ids, ids != sampler.mask_id, sampler.mask_id) for ids in canvases]
    state = sampler.start(canvases, first_row)
    if unsupported_reason(sampler.config, denoiser, state.device) is None:
        filled, calls = fill(sampler, cast(DeviceDenoiser, denoiser), state)
        return filled, [calls] * len(filled)
    if isinstance(denoiser, BlockFiller) and denoiser.unsupported_reason(sampler.config, state) is None:
        return denoiser.fill(sampler, state)
    while not sampler.done(state):
        state = sampler.advance(cast("DenoiserFunction", denoiser), state)
    return torch.from_numpy(state.ids.copy()).to(state.device), state.nfe.tolist()


def unsupported_reason(config: SamplerConfig, denoiser: object, device: torch.device) -> str | None:
    """Why `generate` takes the eager path, in one line; None if it takes the fast one."""
    if device.type != "cuda":
        return f"the canvas is on {device.type}; the fast path is for CUDA devices"
    if config.strategy not in FIXED_ORDER + SCORED:
        return f"the number of tokens that {config.strategy!r} reveals is known only after each step, on the host"
    if config.stop_at_eos:
        return "whether a text has ended is known only after each step, on the host"
    if not isinstance(denoiser, DeviceDenoiser):
        return "the denoiser is a bare function; the fast path needs its `hidden`, `head` and `config`"
    if config.strategy in SCORED:
        return head_scores.unsupported_reason(denoiser.head.weight)
    return None


def fill(sampler: Sampler, denoiser: DeviceDenoiser, state: State) -> tuple[Tensor, int]:
    """The fast path: (batch, length) int64, the canvases of `state`, filled, and the number of denoiser calls.

    Raises as `fill_steps`.
    """
    filled, calls = torch.from_numpy(state.ids.copy()).to(state.device), 0
    for ids in fill_steps(sampler, denoiser, state):
        filled, calls = ids, calls + 1
    return filled.clone(), calls


@torch.no_grad()
def fill_steps(sampler: Sampler, denoiser: DeviceDenoiser, state: State) -> Generator[Tensor, None, None]:
    """`fill`, step by step: yields the canvases (batch, length) int64 after each denoiser call.

    They are the graph's own tensor: it is overwritten by the next step, and nothing has waited for the device yet.

    Raises ValueError for a denoiser with another vocabulary, and for invalid logits as `Sampler.step` does, but only
    at the end: an earlier check would synchronize.
    """
    graph = prepare(sampler, denoiser, state)
    if graph is None:
        return
    try:
        yield from graph.run()
        graph.check()
    finally:
        _cache[denoiser] = graph


# The last graph of each denoiser, for its next batch of that size. `prepare` takes it out while it is in use, so that
# two threads never share one.
_cache: MutableMapping[Any, GenerationGraph] = WeakKeyDictionary()


def clear_cache(denoiser: object) -> None:
    """Release the memory of the graph that is kept for this denoiser, if any."""
    _cache.pop(denoiser, None)


def prepare(sampler: Sampler, denoiser: DeviceDenoiser, state: State) -> GenerationGraph | None:
    """Plan the generation, send the plan to the device and capture a step. None if nothing is masked."""
    if denoiser.config.vocab_size != state.mask_id + 1:
        raise ValueError(
            f"sampler: the denoiser has {denoiser.config.vocab_size} tokens and [MASK] is {state.mask_id}; "
            "[MASK] must be the last one: use one tokenizer for both"
        )
    plan = plan_generation(sampler, state)
    if not plan.steps:
        return None
    graph = _cache.pop(denoiser, None)
    if graph is None or graph.size != _size(sampler.config, denoiser, state, plan):
        graph = None  # releases its memory before the next one is made
        make = FixedOrderGraph if sampler.config.strategy in FIXED_ORDER else ScoredGraph
        graph = make(sampler.config, denoiser, state, plan)
    graph.start(sampler.config, state, plan)
    return graph


@dataclass(frozen=True, eq=False)
class GenerationPlan:
    """All that the device needs to know of a generation in advance.

    Attributes:
        steps: the sampler's step at each of the S calls, which selects its noise.
        tables: the inputs of each call by name, S rows each:
            sigma (S, B) float32, the noise level;
            num_transfer_tokens (S, B) int64, how many positions to reveal in each text [SCORED];
            first_block (S, B) int64, where the first block begins, the same at each call [SCORED, with blocks];
            indices (S, k) int64, the positions to reveal, and uniform (S, k) float64, to draw their tokens
            [FIXED_ORDER];
            remasked (S, r) int64, the indices that return to [MASK] before the call [FIXED_ORDER; r is 0 except for
            ReMDM].
        max_masked: the most [MASK]s at any call, all texts together.
        max_revealed: the most positions that one text reveals in a call.

    k, r, max_masked and max_revealed are rounded up, so that generations of similar size share a graph.
    """

    steps: list[int]
    tables: dict[str, Array]
    max_masked: int
    max_revealed: int


def plan_generation(sampler: Sampler, state: State) -> GenerationPlan:
    """The plan of a generation from `state` to its end; no steps if nothing is masked."""
    make = _plan_fixed_order if sampler.config.strategy in FIXED_ORDER else _plan_scored
    return make(sampler, state)


def _plan_scored(sampler: Sampler, state: State) -> GenerationPlan:
    config, (texts, length) = sampler.config, state.ids.shape
    numbers = block_numbers(config, state.fixed)
    masked, free = (count_by_block(where, numbers) for where in (state.masked, ~state.fixed))  # (B, blocks)
    total, steps, levels, counts = int(masked.sum()), [], [], []
    while masked.any():
        steps.append(state.step + len(steps))
        levels.append(masked.sum(1) / np.maximum(1, free.sum(1)))
        counts.append(num_transfer_tokens(masked, free, steps[-1], config.steps))
        masked[np.arange(texts), (masked > 0).argmax(1)] -= counts[-1]
    sigma = sampler.sigma(np.reshape(levels, (-1, texts)), state.fixed)
    table = np.array(counts, dtype=np.int64)
    most = int(table.max(initial=0))
    tables = {"sigma": sigma, "num_transfer_tokens": table}
    if config.block_length is not None:
        tables["first_block"] = np.tile(first_block(config, state.fixed), (len(steps), 1))
    return GenerationPlan(steps, tables, min(rounded(total), texts * length), min(rounded(most), length))


def _plan_fixed_order(sampler: Sampler, state: State) -> GenerationPlan:
    """Calls that would reveal nothing are left out."""
    steps, levels, indices, uniform, remasked = [], [], [], [], []
    pending: list[Array] = []  # indices that returned to [MASK] since the last call
    for now, selection, noise in _follow(sampler, state):
        if selection.reveal.any():
            steps.append(now.step)
            levels.append(sampler.level(now))
            indices.append(np.flatnonzero(selection.reveal))
            uniform.append(noise.for_tokens[selection.reveal])
            remasked.append(np.concatenate(pending) if pending else np.empty(0, dtype=np.int64))
            pending = []
        if selection.remask is not None and selection.remask.any():
            pending.append(np.flatnonzero(selection.remask))
    padding = state.ids.size
    tables = {
        "sigma": sampler.sigma(np.reshape(levels, (-1, len(state.ids))), state.fixed),
        "indices": _table(indices, padding),
        "uniform": _table(uniform, 0.0),
        "remasked": _table(remasked, padding),
    }
    return GenerationPlan(steps, tables, 0, 0)


def _follow(sampler: Sampler, state: State) -> Iterator[tuple[State, Selection, Noise]]:
    """State, selection and noise of every step. Token 0 stands in for every revealed token."""
    select = SELECTORS[sampler.config.strategy]
    no_logits = torch.empty(0, state.mask_id + 1)
    while not sampler.done(state):
        noise = sampler.noise(state)
        selection = select(sampler.strategy_input(state, no_logits, noise.for_positions))
        yield state, selection, noise
        ids = state.ids.copy()
        ids[selection.reveal] = 0
        if selection.remask is not None:
            ids[selection.remask] = state.mask_id
        t = masked_share(ids, state.fixed, state.mask_id) if selection.t is None else selection.t
        state = state.replace(ids=ids, step=state.step + 1, t=t)


def _table(rows: list[Array], padding: float) -> Array:
    """(S, longest row, rounded up)."""
    table = np.full((len(rows), rounded(max(map(len, rows), default=0))), padding)
    for row, values in zip(table, rows):
        row[: len(values)] = values
    return table


def rounded(n: int) -> int:
    """`n` rounded up by at most an eighth, to one of at most eight sizes between a power of two and the next."""
    step = 1 << max(0, n.bit_length() - 4)
    return -(-n // step) * step


def _size(config: SamplerConfig, denoiser: DeviceDenoiser, state: State, plan: GenerationPlan) -> tuple[Any, ...]:
    """Equal for batches that one graph can serve: a graph holds addresses, shapes and options."""
    weight = denoiser.head.weight
    which = (config.strategy, config.block_length, config.draws_first, config.alg_temp > 0)
    options = (*which, config.temperature, config.top_k, config.top_p, config.repetition_penalty)
    shapes = tuple((name, table.shape[1:]) for name, table in plan.tables.items())
    head = (state.device, weight.data_ptr(), weight.dtype)
    return (options, head, state.ids.shape, state.mask_id, shapes, plan.max_masked, plan.max_revealed)


class GenerationGraph:
    """The steps of a generation over tensors at fixed addresses, captured as one CUDA graph on a GPU.

    `canvas` has one element more than there are positions: writes to the padding index go there.
    """

    def __init__(self, config: SamplerConfig, denoiser: DeviceDenoiser, state: State, plan: GenerationPlan) -> None:
        self.size = _size(config, denoiser, state, plan)
        self.config, self.device = config, state.device
        self.denoiser = ref(denoiser)  # the cache must not keep a denoiser alive
        self.weight, self.mask_id = denoiser.head.weight, state.mask_id
        self.batch, self.length = state.ids.shape
        self.padding = state.ids.size
        self.canvas = torch.empty(self.padding + 1, dtype=torch.int64, device=self.device)
        self.ids = self.canvas[:-1].view(self.batch, self.length)
        self.bad_rows = torch.zeros((), dtype=torch.int64, device=self.device)
        self.inputs = {name: self._send(table[0]) for name, table in plan.tables.items()}
        self.noise_buffer: HostBuffer | None = None
        self.replay: Callable[[], None] | None = None

    def start(self, config: SamplerConfig, state: State, plan: GenerationPlan) -> None:
        """Send the plan to the device, and capture the step if that has not been done."""
        self.config, self.state, self.plan = config, state, plan
        self.tables = {name: self._send(table) for name, table in plan.tables.items()}
        self._reset()
        if self.replay is None and self.device.type == "cuda":
            self.replay, _ = record(self.step, self.device)
            self._reset()

    def run(self) -> Iterator[Tensor]:
        """All steps; yields the canvases (batch, length) after each. Nothing here synchronizes with the device."""
        advance = self.replay or self.step
        for call, step in enumerate(self.plan.steps):
            for name, target in self.inputs.items():
                target.copy_(self.tables[name][call])
            if self.noise_buffer:
                noise = Noise.draw(self.config.seed, self.state.first_row, self.batch, step, self.length)
                self.noise_buffer.send(self.numbers(noise))
            advance()
            yield self.ids

    def check(self) -> None:
        """Raises ValueError if the denoiser's logits were not a distribution. Synchronizes."""
        if bad := int(self.bad_rows):
            raise ValueError(invalid_logits(bad, int((self.state.ids == self.mask_id).sum())))

    def step(self) -> None:
        """One denoiser call, and the tokens that it reveals."""
        raise NotImplementedError

    def numbers(self, noise: Noise) -> Array:
        """What the noise buffer is sent before a step."""
        raise NotImplementedError

    def hidden(self, indices: Tensor) -> Tensor:
        """(k, d_model): the head's input at indices (k,)."""
        denoiser = self.denoiser()
        assert denoiser is not None, "the caller of fill() holds the denoiser"
        states = denoiser.hidden(self.ids, self.inputs["sigma"]).flatten(0, 1)  # (batch length, d_model)
        return states.index_select(0, self.in_range(indices)).to(self.weight.dtype)

    def draw(self, rows: Tensor, indices: Tensor, uniform: Tensor) -> Tensor:
        """(k,) tokens at indices (k,), from the head's inputs (k, d_model) and uniform numbers (k,)."""
        return torch.cat([tokens for tokens, _ in self.parts(rows, indices, uniform)])

    def parts(self, rows: Tensor, indices: Tensor, uniform: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """`draw`, HEAD_ROWS rows at a time, with the weights (HEAD_ROWS, mask_id) of their distributions."""
        present = None
        if self.config.repetition_penalty != 1:
            present = torch.zeros(self.batch, self.mask_id + 1, dtype=torch.bool, device=self.device)
            present.scatter_(1, self.ids, True)
        for row, index, u in zip(rows.split(HEAD_ROWS), indices.split(HEAD_ROWS), uniform.split(HEAD_ROWS)):
            x, top = centered(F.linear(row, self.weight), self.mask_id)  # (HEAD_ROWS, vocabulary)
            self.bad_rows += (~top.squeeze(1).isfinite() & (index < self.padding)).sum()
            seen = None
            if present is not None:
                seen = present.index_select(0, self.in_range(index) // self.length)[:, : self.mask_id]
            if self.config.temperature != 1 or seen is not None:  # `pick` then reads x after the weights
                w = weights_(x.clone())
            else:
                w = weights_(x)
            yield pick(x, w, u, self.config, seen), w

    def in_range(self, indices: Tensor) -> Tensor:
        """Indices that can be read: padding becomes the last position, and what is read there is never written."""
        return indices.clamp(max=self.padding - 1)

    def _reset(self) -> None:
        self.canvas[:-1] = self._send(self.state.ids).flatten()
        self.canvas[-1:].fill_(self.mask_id)
        self.bad_rows.zero_()
        for name, target in self.inputs.items():
            target.copy_(self.tables[name][0])

    def _send(self, array: Any) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


class FixedOrderGraph(GenerationGraph):
    """Positions known in advance: the head runs only on those of the step."""

    def step(self) -> None:
        self.canvas.scatter_(0, self.inputs["remasked"], self.mask_id)
        indices = self.inputs["indices"]
        rows = self.hidden(indices)
        self.canvas.scatter_(0, indices, self.draw(rows, indices, self.inputs["uniform"]))


class ScoredGraph(GenerationGraph):
    """Positions selected on the device, by the denoiser's confidence."""

    def __init__(self, config: SamplerConfig, denoiser: DeviceDenoiser, state: State, plan: GenerationPlan) -> None:
        super().__init__(config, denoiser, state, plan)
        self.max_masked, self.max_revealed = plan.max_masked, plan.max_revealed
        self.all_indices = torch.arange(self.padding, device=self.device)
        self.positions = torch.arange(self.length, device=self.device)
        rows = 2 if config.alg_temp else 1  # to draw tokens; to draw positions
        self.noise = torch.zeros(rows, self.batch, self.length, dtype=torch.float64, device=self.device)
        if config.temperature > 0 or config.alg_temp:
            self.noise_buffer = HostBuffer(self.noise)

    def numbers(self, noise: Noise) -> Array:
        if not self.config.alg_temp:
            return noise.for_tokens[None]
        return np.stack([noise.for_tokens, self.config.alg_temp * gumbel(noise.for_positions)])

    def step(self) -> None:
        masked, slot, count = self.masked()
        rows = self.hidden(masked)
        tokens = None
        if self.config.draws_first:
            tokens, scores = self.draw_all(rows, masked)
        else:
            scores = self.score(rows, count)
        selected = self.select(masked, scores)
        chosen = slot.index_select(0, self.in_range(selected))
        if tokens is None:
            tokens = self.draw(rows.index_select(0, chosen), selected, self.noise_at(selected, 0))
        else:
            tokens = tokens.index_select(0, chosen)
        self.canvas.scatter_(0, selected, tokens)

    def draw_all(self, rows: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """The token drawn at every masked position, and its probability, (max_masked,) each."""
        parts = [
            (tokens, probability_of(tokens, w)) for tokens, w in self.parts(rows, masked, self.noise_at(masked, 0))
        ]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([probability for _, probability in parts])

    def noise_at(self, indices: Tensor, row: int) -> Tensor:
        """(k,) numbers at indices (k,): row 0 draws tokens, row 1 positions."""
        return self.noise[row].flatten().index_select(0, self.in_range(indices))

    def masked(self) -> tuple[Tensor, Tensor, Tensor]:
        """The masked indices (max_masked,), padded; the slot of every index in that list; their count (1,)."""
        masked = self.canvas[:-1] == self.mask_id
        order = masked.cumsum(0)
        slot = torch.where(masked, order - 1, self.max_masked)
        padded = self.all_indices.new_full((self.max_masked + 1,), self.padding)
        indices = padded.scatter_(0, slot, self.all_indices)[:-1]
        return indices, slot.clamp(max=self.max_masked - 1), order[-1:]

    def score(self, rows: Tensor, count: Tensor) -> Tensor:
        """(max_masked,): the strategy's score, highest first."""
        scores = head_scores.head_scores(rows, self.weight, self.mask_id, count)
        if self.config.strategy == "entropy":
            return -scores.entropy
        return scores.margin if self.config.strategy == "margin" else scores.probability

    def select(self, masked: Tensor, scores: Tensor) -> Tensor:
        """(batch max_revealed,): the indices to reveal, padded, as in `strategies._by_score`."""
        if self.config.alg_temp:
            scores = scores.double() + self.noise_at(masked, 1)
        by_index = scores.new_full((self.padding + 1,), -torch.inf).scatter_(0, masked, scores)
        by_index = by_index[:-1].view(self.batch, self.length)
        if self.config.block_length is not None:
            place = (self.positions - self.inputs["first_block"][:, None]).clamp(min=0)
            block = torch.where(self.ids == self.mask_id, place // self.config.block_length, self.length)
            by_index = by_index.masked_fill(block > block.amin(1, keepdim=True), -torch.inf)
        order = by_index.sort(dim=1, descending=True, stable=True).indices
        order = order[:, : self.max_revealed]  # (batch, max_revealed)
        rank = torch.arange(self.max_revealed, device=self.device)
        wanted = rank < self.inputs["num_transfer_tokens"][:, None]
        first = torch.arange(0, self.padding, self.length, device=self.device)  # index of each text's start
        return torch.where(wanted, order + first[:, None], self.padding).flatten()


class HostBuffer:
    """Copies new numbers to `target`, a device tensor at a fixed address, for each step.

    The copy runs on the device's own stream, after the step that still reads the previous numbers, so nothing has to
    wait there. Only the host's buffer must not be overwritten while it is being read: there are two, and each is
    refilled once its own copy, two steps earlier, has finished. This also keeps the host from running far ahead.
    """

    def __init__(self, target: Tensor) -> None:
        self.target = target
        self._sent = 0
        pinned = target.is_cuda  # an asynchronous copy needs page-locked memory
        self._buffers = [torch.empty(target.shape, dtype=target.dtype, pin_memory=pinned) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)] if pinned else []

    def send(self, values: Array) -> None:
        """Make `values`, of the target's shape, visible to everything launched from now on."""
        turn = self._sent % 2
        if self._copied:
            self._copied[turn].synchronize()
        np.copyto(self._buffers[turn].numpy(), values)
        self.target.copy_(self._buffers[turn], non_blocking=True)
        if self._copied:
            self._copied[turn].record(torch.cuda.current_stream(self.target.device))
        self._sent += 1
