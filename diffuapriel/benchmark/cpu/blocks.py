"""The cost of training a model of blocks: forward and backward of a folded pass, and of a plain pass of the same model.

A folded pass sends every token through the model twice, clean and corrupted (model/blocks.py); a plain one, of full
sequences, sends it through once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from diffuapriel.benchmark.plan import Bench
from diffuapriel.benchmark.report import TrainingRow
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.config import ARCHITECTURES
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import backward

PLAIN = "plain"
LENGTHS = (1, 4, 16, 64)


def measure_blocks(bench: Bench) -> Iterator[list[TrainingRow]]:
    for architecture in ARCHITECTURES:
        bench.say(f"blocks: a folded pass against a plain one, {architecture} {bench.plan.preset}")
        yield compare_passes(architecture, preset=bench.plan.preset, repeats=bench.plan.repeats)


def compare_passes(
    architecture: str, *, preset: str = "nano", batch: int = 8, length: int = 128, repeats: int = 7
) -> list[TrainingRow]:
    """Milliseconds of forward and backward, interleaved: PLAIN, then every block length of LENGTHS."""
    lengths = ",".join(map(str, LENGTHS))
    config = TrainConfig(
        architecture, preset=preset, block_lengths=lengths, length=length, batch_size=batch, steps=1, device="cpu"
    )
    model, generator = Denoiser(config.model_config), torch.Generator()
    ids = torch.randint(config.model_config.eos_id, (batch, length), generator=generator)
    calls = {
        name: partial(backward, model, ids, config, generator, block_length=block_length)
        for name, block_length in ((PLAIN, None), *((f"S = {S}", S) for S in LENGTHS))
    }
    for call in calls.values():
        call()
    timed = time_interleaved(calls, repeats=repeats)
    return [TrainingRow(f"{architecture} {preset}, {name}", length, batch, ms) for name, ms in timed.items()]
