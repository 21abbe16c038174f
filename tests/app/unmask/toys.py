"""A model that is no model: it knows one tale by heart, and a test decides when it may write.

So every token, probability and step of a run is known in advance, and nothing waits for a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from app.server.limits import Refused, Setting, choice
from app.server.models import ModelEntry
from diffuapriel.sampling.shared import Stopped
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
TALE = "Ruth had five nuts, ate three and kept two."
IDS = [*TOKENIZER.encode(TALE), TOKENIZER.eos_id]
LENGTH = len(IDS)
OTHERS = [TOKENIZER.encode(word)[0] for word in (" red", " box", " cat", " dog")]
LABEL = "by-heart"


def sure(position: int) -> float:
    """Probability of the right token at a position: another one at each, and so high that top-p 0.9 leaves no other."""
    return round(0.91 + 0.08 * ((position * 5 + 3) % LENGTH) / LENGTH, 4)


class ByHeart:
    """Denoiser: the tale's token first, four others behind it; where a red thing stands, a cat is the best of all."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.permits = threading.Semaphore(0)
        self.calls = 0

    def hold(self) -> None:
        """From now on every call needs a permit."""
        self.permits = threading.Semaphore(0)
        self.open.clear()

    def permit(self, calls: int) -> None:
        """Let so many calls through."""
        for _ in range(calls):
            self.permits.release()

    def release(self) -> None:
        """No permit is needed any more."""
        self.open.set()

    def __call__(self, ids: torch.Tensor, sigma: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        while not self.open.is_set() and not self.permits.acquire(timeout=0.05):
            pass
        self.calls += 1
        red = bool((ids == OTHERS[0]).any())
        logits = torch.full((int(positions.sum()), TOKENIZER.vocab_size), -30.0)
        for row, p in zip(logits, positions[0].nonzero().flatten().tolist(), strict=True):
            first = sure(p)
            row[IDS[p % LENGTH]] = torch.tensor(first).log()
            for n, other in enumerate(OTHERS):
                row[other] = torch.tensor((1 - first) * (0.4, 0.3, 0.2, 0.1)[n]).log()
            if red:
                row[OTHERS[2]] = 3.0
        return logits


class HeartModels:
    """Stands in for `app.server.models.Models`: one model_entry, which says that it writes tales of level 1."""

    def __init__(self) -> None:
        self.device = "cpu"
        self.denoiser = ByHeart()
        self._entry = ModelEntry(LABEL, LABEL, True, "gpt2-4k", corpus="tales:1", architecture="diffuapriel")
        self._turn = threading.Lock()

    @property
    def default(self) -> str:
        return LABEL

    @property
    def trained(self) -> list[str]:
        return [LABEL]

    def choices(self, labels: list[str]) -> list[tuple[str, str]]:
        return [(label, label) for label in labels]

    @property
    def busy(self) -> bool:
        return self._turn.locked()

    def find(self, label: Any, permitted: Any = None) -> ModelEntry:
        choice("model", label, [LABEL])
        return self._entry

    def setting(self, permitted: Any = None) -> Setting:
        return Setting(self.find)

    def tokenizer(self, model_entry: ModelEntry):
        return TOKENIZER

    def load(self, model_entry: ModelEntry) -> SimpleNamespace:
        return SimpleNamespace(denoiser=self.denoiser)

    @contextmanager
    def turn(self, stopped: threading.Event | None = None) -> Iterator[None]:
        if (stopped and stopped.is_set()) or not self._turn.acquire(timeout=20):
            raise Stopped if stopped else Refused("the model was busy")
        try:
            yield
        finally:
            self._turn.release()
