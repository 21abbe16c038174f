"""Numbers from the host for the next step, sent while the device is busy with this one.

The copy runs on the device's own stream, behind the step that still reads the numbers before, so nothing has to be
awaited there. Only the buffer on the host must not be written while it is being read: there are two, and each is
filled again when its copy, two steps ago, is over. That also keeps the host from running far ahead.

What is known of a generation before its first denoiser call, so that nobody has to ask the device on the way.

Which token goes in depends on the denoiser. How many go in at each step does not, for any strategy but `threshold`,
and so every noise level is known. For the strategies that draw their positions at random it is known *where*, too:

    blind    ancestral, random, remask, first_hitting    places and uniform numbers of every step
    scored   confidence, entropy, margin                 the number of places of every step

The plan is the plain sampler's own run as far as masks go: same functions, same noise, same rounding.
Symbols: S denoiser calls, B texts of L positions; a *place* is b L + p, position p of text b, and B L is none.

Generation that never waits for the device: the fast path of `generate` on a GPU.

A step reads and writes tensors that stay where they are, so it is recorded once as a CUDA graph and replayed. What
it needs to know beforehand is planned on the host (plan.py); uniform numbers arrive while the step before is running
(feed.py); no tensor of batch x length x vocabulary is ever made: positions are scored tile by tile (head_kernel.py),
and logits are written out for the chosen ones only, DRAWN rows at a time.

Oracle: the plain path in sampler.py, with the same noise and the same functions of draw.py. The same seed gives the
same text wherever both paths compute the same logits. They add products up in different orders, so logits may differ
in the last bit of the head's dtype. In float32 that decides nothing but ties to seven digits. In bfloat16 both round
sums of float32, so that equal logits stay equal; about one in ten thousand falls on the other side of a rounding, and
a text may turn where it is one of the two best at its place.

Without a GPU the step runs as it stands: so it is tested. `threshold` stays on the plain path: how many tokens it
reveals, and so when it ends, the device alone knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from diffuapriel.ops.cudagraph import record
from diffuapriel.sampling import scores as head_scores
from diffuapriel.sampling import tokens as draw
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.state import State, masked_share
from diffuapriel.sampling.strategies import CHOOSERS, Choice, quota
from diffuapriel.sampling.tokens import Noise

if TYPE_CHECKING:
    from diffuapriel.sampling.sampler import DenoiserLike, Sampler


class Feed:
    """Fills `target`, a tensor that stays where it is, with new numbers for each step."""

    def __init__(self, target: Tensor) -> None:
        self.target = target
        self._sent = 0
        pinned = target.is_cuda  # an asynchronous copy needs memory that the system cannot move
        self._buffers = [torch.empty(target.shape, dtype=target.dtype, pin_memory=pinned) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)] if pinned else []

    def send(self, values: NDArray[np.float64]) -> None:
        """`values`, shaped as the target, will be there for all that is launched from now on."""
        turn = self._sent % 2
        if self._copied:
            self._copied[turn].synchronize()
        np.copyto(self._buffers[turn].numpy(), values)
        self.target.copy_(self._buffers[turn], non_blocking=True)
        if self._copied:
            self._copied[turn].record(torch.cuda.current_stream(self.target.device))
        self._sent += 1


BLIND = ("ancestral", "random", "remask", "first_hitting")
SCORED = ("confidence", "entropy", "margin")

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the host tells the device of a generation.

    Attributes:
        steps: the sampler's step of each call, S of them, which names its noise.
        tables: what each call needs, by name, S rows each:
            sigma (S, B) float32, the noise level to tell;
            quota (S, B) int64, how many places to reveal in each text [scored];
            places (S, k) int64, which to reveal, and uniform (S, k) float64, to draw their tokens with [blind];
            cleared (S, r) int64, which go back to [MASK] before the call [blind; r is 0 but for `remask`].
        holes: the most [MASK]s at any call, all texts together. most: the most places one text reveals in a call.
    k, holes and most are rounded up a little, so that generations of about one size are of one size.
    """

    steps: list[int]
    tables: dict[str, Array]
    holes: int
    most: int


def plan(sampler: Sampler, state: State) -> Plan:
    """The plan of a run from `state` to its end; no calls when nothing is masked."""
    make = _blind if sampler.config.strategy in BLIND else _scored
    return make(sampler, state)


def _scored(sampler: Sampler, state: State) -> Plan:
    """Counting is enough: which of the masks go plays no part in how many."""
    texts, positions = state.ids.shape
    masks, free = state.masked.sum(1), np.maximum(1, (~state.fixed).sum(1))
    holes, steps, levels, quotas = int(masks.sum()), [], [], []
    while masks.any():
        steps.append(state.step + len(steps))
        levels.append(masks / free)
        quotas.append(quota(masks, max(1, sampler.config.steps - steps[-1])))
        masks = masks - quotas[-1]
    sigma = sampler.sigma(np.reshape(levels, (-1, texts)), state.fixed)
    table = np.array(quotas, dtype=np.int64)
    most = int(table.max(initial=0))
    tables = {"sigma": sigma, "quota": table}
    return Plan(steps, tables, min(rounded(holes), texts * positions), min(rounded(most), positions))


def _blind(sampler: Sampler, state: State) -> Plan:
    """A call that would reveal nothing is not made: nobody would read its answer."""
    steps, levels, places, uniform, cleared = [], [], [], [], []
    waiting: list[Array] = []  # places that went back to [MASK] since the last call
    for now, choice, noise in _follow(sampler, state):
        if choice.reveal.any():
            steps.append(now.step)
            levels.append(sampler.level(now))
            places.append(np.flatnonzero(choice.reveal))
            uniform.append(noise.token[choice.reveal])
            cleared.append(np.concatenate(waiting) if waiting else np.empty(0, dtype=np.int64))
            waiting = []
        if choice.remask is not None and choice.remask.any():
            waiting.append(np.flatnonzero(choice.remask))
    none = state.ids.size
    tables = {
        "sigma": sampler.sigma(np.reshape(levels, (-1, len(state.ids))), state.fixed),
        "places": _table(places, none),
        "uniform": _table(uniform, 0.0),
        "cleared": _table(cleared, none),
    }
    return Plan(steps, tables, 0, 0)


def _follow(sampler: Sampler, state: State) -> Iterator[tuple[State, Choice, Noise]]:
    """The run as far as masks go: state, choice and noise of every step. Token 0 stands for whatever goes in."""
    choose = CHOOSERS[sampler.config.strategy]
    unseen = torch.empty(0, state.mask_id + 1)
    while not sampler.done(state):
        noise = sampler.noise(state)
        choice = choose(sampler.moment(state, unseen, noise.where))
        yield state, choice, noise
        ids = state.ids.copy()
        ids[choice.reveal] = 0
        if choice.remask is not None:
            ids[choice.remask] = state.mask_id
        t = masked_share(ids, state.fixed, state.mask_id) if choice.t is None else choice.t
        state = state.but(ids=ids, step=state.step + 1, t=t)


def _table(rows: list[Array], padding: float) -> Array:
    """(S, longest row, rounded up)."""
    table = np.full((len(rows), rounded(max(map(len, rows), default=0))), padding)
    for row, values in zip(table, rows):
        row[: len(values)] = values
    return table


def rounded(n: int) -> int:
    """`n`, up to an eighth more: at most eight sizes between a power of two and the next."""
    step = 1 << max(0, n.bit_length() - 4)
    return -(-n // step) * step


DRAWN = 256  # rows of logits written out at a time: 50 MB in float32, four times that while a token is drawn


@runtime_checkable
class DeviceDenoiser(Protocol):
    """What the fast path asks of a denoiser: the model without its head, and the head.

    `hidden(ids (B, L) int64, sigma (B,) float32)` is what the head reads, (B, L, d_model), the final norm included.
    It must not wait for the device (no .item(), no boolean index) nor replay a graph of its own: it is recorded.
    `head.weight` (vocab_size or more, d_model) has no bias beside it; `config.vocab_size` counts [MASK], the last.
    """

    config: Any
    head: nn.Linear

    def hidden(self, ids: Tensor, sigma: Tensor) -> Tensor: ...


def unsupported_reason(config: SamplerConfig, denoiser: object, device: torch.device) -> str | None:
    """None when `generate` takes the fast path; else one line: why it takes the plain one."""
    if device.type != "cuda":
        return f"the canvas is on {device.type}; the fast path is for CUDA devices"
    if config.strategy not in BLIND + SCORED:
        return f"how many tokens {config.strategy!r} reveals is known after each step only, on the host"
    if not isinstance(denoiser, DeviceDenoiser):
        return "the denoiser is a bare function; the fast path needs its `hidden`, `head` and `config`"
    if config.strategy in SCORED:
        return head_scores.unsupported_reason(denoiser.head.weight)
    return None


@torch.no_grad()
def generate(
    sampler: Sampler, denoiser: DenoiserLike, canvases: Canvas | Sequence[Canvas] | Tensor, first_row: int = 0
) -> Tensor:
    """Fill one canvas, or many of one length in one batch. Returns (batch, length) int64.

    Args:
        canvases: a canvas, several of one length, or ids (batch, length) int64 in which every [MASK] is a hole and
            every other token is fixed.
        first_row: noise stream of row 0, as in `Sampler.start`.

    Finished rows leave the denoiser's batch. On a GPU, a `DeviceDenoiser` runs as a CUDA graph that never waits for
    the host (every strategy but `threshold`). The graph is kept for the denoiser's next batch of the same size;
    `clear_cache` drops it.
    """
    if isinstance(canvases, Tensor):
        if canvases.dim() != 2:
            raise ValueError(f"sampler: ids have shape {tuple(canvases.shape)}; they must be (batch, length)")
        canvases = [Canvas(ids, ids != sampler.mask_id, sampler.mask_id) for ids in canvases]
    state = sampler.start(canvases, first_row)
    if unsupported_reason(sampler.config, denoiser, state.device) is None:
        return fill(sampler, cast(DeviceDenoiser, denoiser), state)
    while not sampler.done(state):
        state = sampler.advance(denoiser, state)
    return torch.from_numpy(state.ids.copy()).to(state.device)


@torch.no_grad()
def fill(sampler: Sampler, denoiser: DeviceDenoiser, state: State) -> Tensor:
    """(batch, length) int64: the canvases of `state`, filled.

    Raises ValueError for a denoiser of another vocabulary, and for broken logits as `Sampler.step` does, but only
    when all is done: to look earlier would be to wait.
    """
    loop = prepare(sampler, denoiser, state)
    if loop is None:
        return torch.from_numpy(state.ids.copy()).to(state.device)
    loop.go()
    filled = loop.result()
    _kept[denoiser] = loop
    return filled


# The last recording made with each denoiser, for its next batch of that size. In use it is taken out, so that two
# threads never share one.
_kept: MutableMapping[Any, Loop] = WeakKeyDictionary()


def clear_cache(denoiser: object) -> None:
    """Gives back the memory of the recording that is kept for this denoiser, if there is one."""
    _kept.pop(denoiser, None)


def prepare(sampler: Sampler, denoiser: DeviceDenoiser, state: State) -> Loop | None:
    """Everything but the steps: what is planned and sent, and the step recorded. None if nothing is masked."""
    if denoiser.config.vocab_size != state.mask_id + 1:
        raise ValueError(
            f"sampler: the denoiser has {denoiser.config.vocab_size} tokens and [MASK] is {state.mask_id}; "
            "[MASK] must be the last one: use one tokenizer for both"
        )
    ahead = plan(sampler, state)
    if not ahead.steps:
        return None
    loop = _kept.pop(denoiser, None)
    if loop is None or loop.size != _size(sampler.config, denoiser, state, ahead):
        loop = None  # its memory first
        make = Blind if sampler.config.strategy in BLIND else Scored
        loop = make(sampler.config, denoiser, state, ahead)
    loop.start(sampler.config, state, ahead)
    return loop


def _size(config: SamplerConfig, denoiser: DeviceDenoiser, state: State, ahead: Plan) -> tuple[Any, ...]:
    """Equal for batches that one recording serves: a graph holds addresses, shapes and options."""
    weight = denoiser.head.weight
    how = (config.strategy, config.block_length, config.temperature, config.top_k)
    options = (*how, config.top_p, config.repetition_penalty)
    shapes = tuple((name, table.shape[1:]) for name, table in ahead.tables.items())
    where = (state.device, weight.data_ptr(), weight.dtype)
    return (options, where, state.ids.shape, state.mask_id, shapes, ahead.holes, ahead.most)


class Loop:
    """The steps of a generation, over tensors that stay where they are. A *place* is a flat position; `none`, the
    place behind the last, pads every list of them: what is written there is nowhere on the canvas."""

    def __init__(self, config: SamplerConfig, denoiser: DeviceDenoiser, state: State, ahead: Plan) -> None:
        self.size = _size(config, denoiser, state, ahead)
        self.config, self.device = config, state.device
        self.denoiser = ref(denoiser)  # who lets go of a denoiser lets go of what was recorded with it
        self.weight, self.mask_id = denoiser.head.weight, state.mask_id
        self.batch, self.length = state.ids.shape
        self.none = state.ids.size
        self.canvas = torch.empty(self.none + 1, dtype=torch.int64, device=self.device)
        self.ids = self.canvas[:-1].view(self.batch, self.length)
        self.bad_rows = torch.zeros((), dtype=torch.int64, device=self.device)
        self.inputs = {name: self._send(table[0]) for name, table in ahead.tables.items()}
        self.feed: Feed | None = None
        self.advance: Callable[[], None] | None = None  # `step`, or a recording of it

    def start(self, config: SamplerConfig, state: State, ahead: Plan) -> None:
        """Sends all that is known of the generation, and records the step if that has not been done."""
        self.config, self.state, self.ahead = config, state, ahead
        self.tables = {name: self._send(table) for name, table in ahead.tables.items()}
        self._reset()
        if self.advance is None and self.device.type == "cuda":
            self.advance, _ = record(self.step, self.device)
            self._reset()

    def go(self) -> None:
        """All steps, one after the other. Nothing here waits for the device."""
        advance = self.advance or self.step
        for call, step in enumerate(self.ahead.steps):
            for name, target in self.inputs.items():
                target.copy_(self.tables[name][call])
            if self.feed:
                seed, first_row = self.config.seed, self.state.first_row
                self.feed.send(Noise.draw(seed, first_row, self.batch, step, self.length).token)
            advance()

    def result(self) -> Tensor:
        """(batch, length): waits for the device. Raises ValueError if the denoiser's logits were no distribution."""
        bad = int(self.bad_rows)
        if bad:
            holes = int((self.state.ids == self.mask_id).sum())
            raise ValueError(draw.no_distribution(bad, holes))
        return self.ids.clone()

    def step(self) -> None:
        """One denoiser call, and the tokens that it puts on the canvas."""
        raise NotImplementedError

    def read(self, places: Tensor) -> Tensor:
        """(k, d_model): what the head reads at places (k,)."""
        denoiser = self.denoiser()
        assert denoiser is not None, "whoever calls fill() holds the denoiser"
        states = denoiser.hidden(self.ids, self.inputs["sigma"]).flatten(0, 1)  # (batch length, d_model)
        return states.index_select(0, self.inside(places)).to(self.weight.dtype)

    def draw(self, rows: Tensor, places: Tensor, uniform: Tensor) -> Tensor:
        """(k,) tokens for places (k,), from what the head reads there (k, d_model) and numbers (k,) in [0, 1)."""
        present = None
        if self.config.repetition_penalty != 1:
            present = torch.zeros(self.batch, self.mask_id + 1, dtype=torch.bool, device=self.device)
            present.scatter_(1, self.ids, True)
        tokens = []
        for row, place, u in zip(rows.split(DRAWN), places.split(DRAWN), uniform.split(DRAWN)):
            x, top = draw.centered(F.linear(row, self.weight), self.mask_id)  # (DRAWN, tokens)
            self.bad_rows += (~top.squeeze(1).isfinite() & (place < self.none)).sum()
            seen = None
            if present is not None:
                seen = present.index_select(0, self.inside(place) // self.length)[:, : self.mask_id]
            kept = (
                x if self.config.temperature == 1 and seen is None else x.clone()
            )  # else x is asked for again
            tokens.append(draw.pick(x, draw.weights_(kept), u, self.config, seen))
        return torch.cat(tokens)

    def write(self, places: Tensor, tokens: Tensor | int) -> None:
        """Puts tokens (k,), or one for all, on the canvas."""
        self.canvas.scatter_(0, places, tokens)

    def inside(self, places: Tensor) -> Tensor:
        """Places that can be read: padding becomes the last one, whose value then goes nowhere."""
        return places.clamp(max=self.none - 1)

    def _reset(self) -> None:
        self.canvas[:-1] = self._send(self.state.ids).flatten()
        self.canvas[-1:].fill_(self.mask_id)
        self.bad_rows.zero_()
        for name, target in self.inputs.items():
            target.copy_(self.tables[name][0])

    def _send(self, array: Any) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


class Blind(Loop):
    """Places known beforehand: the head runs on those of the step and on no others."""

    def step(self) -> None:
        """Clear what goes back to [MASK], ask, draw."""
        self.write(self.inputs["cleared"], self.mask_id)
        places = self.inputs["places"]
        rows = self.read(places)
        self.write(places, self.draw(rows, places, self.inputs["uniform"]))


class Scored(Loop):
    """Places chosen by how sure the denoiser is of them, on the device."""

    def __init__(self, config: SamplerConfig, denoiser: DeviceDenoiser, state: State, ahead: Plan) -> None:
        super().__init__(config, denoiser, state, ahead)
        self.most_holes, self.most = ahead.holes, ahead.most
        self.every = torch.arange(self.none, device=self.device)
        self.column = torch.arange(self.length, device=self.device)
        self.uniform = torch.zeros(self.batch, self.length, dtype=torch.float64, device=self.device)
        if config.temperature > 0:
            self.feed = Feed(self.uniform)

    def step(self) -> None:
        """Find the holes, ask, score, take the best of each text, draw."""
        holes, slot, count = self.holes()
        rows = self.read(holes)
        places = self.best(holes, self.score(rows, count))
        chosen = self.inside(places)
        rows = rows.index_select(0, slot.index_select(0, chosen))
        self.write(places, self.draw(rows, places, self.uniform.flatten().index_select(0, chosen)))

    def holes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The masked places (holes,), padded; of each place its slot in that list; how many there are (1,)."""
        masked = self.canvas[:-1] == self.mask_id
        order = masked.cumsum(0)
        slot = torch.where(masked, order - 1, self.most_holes)
        holes = self.every.new_full((self.most_holes + 1,), self.none).scatter_(0, slot, self.every)[:-1]
        return holes, slot.clamp(max=self.most_holes - 1), order[-1:]

    def score(self, rows: Tensor, count: Tensor) -> Tensor:
        """(holes,): the strategy's score, the greater the sooner."""
        scores = head_scores.head_scores(rows, self.weight, self.mask_id, count)
        if self.config.strategy == "entropy":
            return -scores.entropy
        return scores.margin if self.config.strategy == "margin" else scores.probability

    def best(self, holes: Tensor, scores: Tensor) -> Tensor:
        """(batch most,): of each text its quota, in the first blocks the best places, the leftmost of equals."""
        spread = scores.new_full((self.none + 1,), -torch.inf).scatter_(0, holes, scores)
        spread = spread[:-1].view(self.batch, self.length)
        order = spread.sort(dim=1, descending=True, stable=True).indices
        if self.config.block_length is not None:
            block = torch.where(
                self.ids == self.mask_id, self.column // self.config.block_length, self.length
            )
            order = order.gather(1, block.gather(1, order).sort(dim=1, stable=True).indices)
        order = order[:, : self.most]  # (batch, most)
        wanted = torch.arange(self.most, device=self.device) < self.inputs["quota"][:, None]
        first = torch.arange(0, self.none, self.length, device=self.device)  # places where texts begin
        return torch.where(wanted, order + first[:, None], self.none).flatten()
