"""One denoiser for several runs at once: calls that wait together are answered by one pass.

    shared = SharedDenoiser(denoiser, most=16)
    with shared.seat() as seat:                    # in one thread per run
        frame = run.advance(seat)                  # a seat is a `DenoiserFunction` of one text

Runs join and leave between two steps, each with a sampler of its own. There is no thread of the denoiser's own: one of
the callers makes the pass for all. It waits until every seat calls or a short time has passed. Calls of one length
share a pass, oldest first; of a model of blocks, those with as many tokens to commit and to denoise (`share`). Several
drafts of one text (speculative.py) are a batch already and have a pass of their own.

A text is the same as alone, bit for bit. Noise never depends on the batch (tokens.py); logits would, because a matrix
product sums in another order for another number of rows. `RowByRow` therefore multiplies each row of the batch by
itself, and the end of a vectorized loop at an odd length. What it cannot fix is found by a test: the first pass of a
size is made both ways, and where the two differ, calls of that size are answered one by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffuapriel.sampling.sampler import DenoiserFunction

MOST_TOKENS = 16_384  # in one pass, as a bound on memory
POLL_SECONDS = 0.1  # how soon a caller that waits sees its flag
GRACE = 0.25  # of a pass: how long a pass waits for a seat that does not call yet
LEAST_GRACE, MOST_GRACE = 0.01, 0.25  # seconds


# Computed in vectors, and by another formula where a tensor ends within one: there a row's bits depend on the others.
VECTORIZED = (F.softplus, F.silu, torch.Tensor.exp, torch.exp)
VECTOR = 64  # numbers; a multiple of those of any vector
PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


class Stopped(Exception):
    """The flag of a seat was set while it waited for a pass."""


class RowByRow(TorchFunctionMode):
    """Inside this context layers, attention and the products of scans compute every row of a batch as they would alone.

    counts: how many positions of each row reach the head.
    """

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and (mask := (kwargs or {}).get("attn_mask")) is not None:
            rows = zip(*(v.split(1) for v in args), mask.expand(len(args[0]), -1, -1, -1).split(1), strict=True)
            return torch.cat([_attend(func, *row) for row in rows])
        if func in VECTORIZED and args[0].ndim > 2 and args[0][0].numel() % VECTOR:
            return torch.cat([func(row, *args[1:], **(kwargs or {})) for row in args[0].split(1)])
        if func in PRODUCTS and args[0].ndim > 3:  # of a scan; how a row is summed may depend on the batch
            return torch.cat([func(*row) for row in zip(*(v.split(1) for v in args), strict=True)])
        if func is torch.einsum:  # its last operand holds the rows
            return torch.cat([func(*args[:-1], row) for row in args[-1].split(1)])
        if func is not F.linear or kwargs:
            return func(*args, **(kwargs or {}))
        x, weight = args[:2]
        if x.ndim == 3:  # (batch, length, features)
            y = torch.bmm(x, weight.t().expand(x.shape[0], -1, -1))
            return y if len(args) < 3 or args[2] is None else y + args[2]
        sizes = 1 if len(x) == len(self.counts) else self.counts  # (batch, features) or (chosen positions, features)
        return torch.cat([func(row, *args[1:]) for row in x.split(sizes)])


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of one row to the keys that it may read at all: others come from rows with a longer text."""
    read = mask[0, 0].any(0)
    k, v, mask = k[:, :, read], v[:, :, read], mask[..., read]
    return attention(q, k, v, attn_mask=None if mask.all() else mask)


@dataclass(eq=False)
class _Call:
    """One call of a seat: a canvas, or one for each of its drafts, and the logits or the error that answer it."""

    ids: Tensor
    sigma: Tensor
    positions: Tensor
    since: float = field(default_factory=time.monotonic)
    taken: bool = False  # by a pass
    logits: Tensor | None = None
    error: BaseException | None = None

    @property
    def answered(self) -> bool:
        return self.logits is not None or self.error is not None


class Seat:
    """A run's place in a SharedDenoiser: its denoiser. `stopped` ends a call that waits, with `Stopped`."""

    def __init__(self, shared: SharedDenoiser, stopped: threading.Event) -> None:
        self.shared, self._stopped = shared, stopped

    def __call__(self, ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        return self.shared._answer(_Call(ids, sigma, positions), self._stopped)


class SharedDenoiser:
    """Answers the calls of several threads.

    Args:
        denoiser: of one batch, as `Sampler` calls it.
        most: rows in one pass; with 1 every call is answered by itself.
        turn: gives the exclusive use of the machine for one pass; may raise `Stopped` if the flag is set before.

    Attributes: `denoiser`; `seats`, the runs that take part; `seconds`, those of the last pass, 0 before any.
    """

    def __init__(
        self,
        denoiser: DenoiserFunction,
        most: int = 16,
        turn: Callable[[threading.Event], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.most, self.seats, self.seconds = most, 0, 0.0
        self.denoiser, self._turn = denoiser, turn
        self._changed = threading.Condition()
        self._calls: list[_Call] = []
        self._led = False  # somebody makes a pass
        self._ended = 0.0  # when the last pass ended
        self._exact: dict[tuple[Any, int], bool] = {}  # (kind, rows): whether a batch gives the bits of its rows

    @contextmanager
    def seat(self, stopped: threading.Event | None = None) -> Iterator[Seat]:
        """A place for a run, for as long as the block lasts. It may be used by one thread at a time."""
        with self._changed:
            self.seats += 1
        try:
            yield Seat(self, stopped or threading.Event())
        finally:
            with self._changed:
                self.seats -= 1
                self._changed.notify_all()

    def _answer(self, call: _Call, stopped: threading.Event) -> Tensor:
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
        try:
            while self._waits(call, stopped):
                self._lead(stopped)
        finally:
            with self._changed:
                if call in self._calls:
                    self._calls.remove(call)
        if call.error is not None:
            raise call.error
        assert call.logits is not None, "a call is answered by logits or by an error"
        return call.logits

    def _waits(self, call: _Call, stopped: threading.Event) -> bool:
        """Wait; True where the caller is to make a pass, False where its call is answered. Raises Stopped."""
        with self._changed:
            while not call.answered:
                if stopped.is_set() and not call.taken:
                    raise Stopped
                left = POLL_SECONDS if self._led or call.taken else min(self._grace(), POLL_SECONDS)
                if left <= 0:
                    self._led = True
                    return True
                self._changed.wait(left)
        return False

    def _grace(self) -> float:
        """Seconds until a pass may begin: none where every seat calls."""
        if len(self._calls) >= min(self.seats, self.most):
            return 0.0
        grace = min(max(GRACE * self.seconds, LEAST_GRACE), MOST_GRACE)
        return max(self._calls[0].since, self._ended) + grace - time.monotonic()

    def _lead(self, stopped: threading.Event) -> None:
        """Make one pass, for the oldest call and those of its length."""
        try:
            with self._turn(stopped):
                with self._changed:
                    taken = self._take()
                began = time.monotonic()
                self._pass(*taken)
                self._ended = time.monotonic()
                self.seconds = self._ended - began
        finally:
            with self._changed:
                self._led = False
                self._changed.notify_all()

    def _take(self) -> tuple[Any, list[_Call], list[int]]:
        """What calls that share a pass have in common, these calls, and how many positions of each reach the head."""
        share = getattr(self.denoiser, "share", lambda ids, positions: (ids.shape[1], int(positions.sum())))
        found = []
        for call in self._calls:
            kind, count = share(call.ids, call.positions) if len(call.ids) == 1 else (id(call), 0)
            found.append((call, kind, count))
        kind, rows = found[0][1], max(1, min(self.most, MOST_TOKENS // found[0][0].ids.shape[1]))
        chosen = [(call, count) for call, of, count in found if of == kind][:rows]
        batch, counts = [call for call, _ in chosen], [count for _, count in chosen]
        for call in batch:
            call.taken = True
            self._calls.remove(call)
        return kind, batch, counts

    @torch.no_grad()
    def _pass(self, kind: Any, batch: list[_Call], counts: list[int]) -> None:
        size = kind, len(batch)
        together = None
        if len(batch) > 1 and self._exact.get(size, True):
            compared = size not in self._exact  # the rows are then to find the caches that the batch has found
            try:
                with getattr(self.denoiser, "trial", nullcontext)() if compared else nullcontext():
                    together = self._together(batch, counts)
            except Exception:  # e.g. not enough memory: the rows may fit one by one
                self._exact[size] = False
        if together is not None and size in self._exact:
            for call, logits in zip(batch, together, strict=True):
                call.logits = logits
            return
        for call in batch:
            try:
                call.logits = self.denoiser(call.ids, call.sigma, call.positions)
            except BaseException as error:
                call.error = error
        if together is not None:
            pairs = zip(batch, together, strict=True)
            self._exact[size] = all(one.logits is not None and torch.equal(one.logits, row) for one, row in pairs)

    def _together(self, batch: list[_Call], counts: list[int]) -> list[Tensor]:
        ids, sigma, positions = (torch.cat([getattr(call, name) for call in batch]) for name in _INPUTS)
        with RowByRow(counts):
            logits = self.denoiser(ids, sigma, positions)
        every = len(logits) > sum(counts)  # also positions that do not reach the head
        return list(logits.split(positions.sum(1).tolist() if every else counts))


_INPUTS = ("ids", "sigma", "positions")
