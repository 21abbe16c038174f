"""Denoisers that cost a known time and know nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from diffuapriel.benchmark.entry import Entry
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")


class Sleeper:
    """Takes `seconds(length)` for a call and keeps when each call began and ended."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.calls: list[tuple[float, float]] = []

    def __call__(self, ids, sigma, positions):
        began = time.perf_counter()
        time.sleep(self.seconds(ids.shape[1]))
        logits = torch.zeros(int(positions.sum()), TOKENIZER.vocab_size)
        self.calls.append((began, time.perf_counter()))
        return logits


def sleeping_entry(name: str, seconds: Callable[[int], float], **fields) -> Entry:
    """An entry that sleeps; its `denoiser.calls` tells when."""
    about = {"architecture": "diffuapriel", "parameters": 1000} | fields
    return Entry(name=name, denoiser=Sleeper(seconds), tokenizer=TOKENIZER, **about)
