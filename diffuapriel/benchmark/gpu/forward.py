"""The forward pass of the backbone over length, and its peak memory: three architectures and FlashAttention-2.

One call is `Engine.replay`: hidden states at every position, no head, as the bound counts them (embedding and final
norm are in the time, not in the bound). The first call of a shape compiles, warms up and records; memory is read
over it, because a recording that is replayed allocates nothing. Then the racers take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.gpu.models import Racer, build_racer, kernels_of, survivors
from diffuapriel.benchmark.gpu.plan import DIFFUTRAN_FLASH_2, RACERS, GpuPlan
from diffuapriel.benchmark.gpu.results import ForwardRow, MemoryRow, Problem, Row
from diffuapriel.benchmark.memory import PeakMemory
from diffuapriel.benchmark.roofline import BEST_ATTENTION, FLASH_ATTENTION_2, Rates, bound_seconds
from diffuapriel.benchmark.timing import time_interleaved

Device = torch.device | str
Say = Callable[[str], None]


def measure_forward(plan: GpuPlan, device: Device, rates: Rates, say: Say) -> Iterator[list[Row | Problem]]:
    """The rows of one shape after the other, shortest first. FlashAttention-2 runs at batch 1 alone, to save time."""
    racers = [build_racer(name, plan, device) for name in RACERS]
    for length, batch in plan.shapes():
        say(f"forward: {batch} x {length:,} tokens")
        running = [racer for racer in racers if batch == 1 or racer.name != DIFFUTRAN_FLASH_2]
        yield _one_shape(running, length, batch, plan, device, rates)


def _one_shape(
    racers: list[Racer], length: int, batch: int, plan: GpuPlan, device: Device, rates: Rates
) -> list[Row | Problem]:
    found = {racer.name: _Ready(racer, length, batch, device) for racer in racers}
    warm_ups = {name: ready.warm_up for name, ready in found.items()}
    names, problems = survivors(warm_ups, Problem("forward", length, batch), device)
    calls = {name: found[name].call for name in names}
    ms = time_interleaved(calls, repeats=plan.repeats, seconds=plan.seconds, device=device)
    rows = [
        ForwardRow(
            racer=name,
            length=length,
            batch=batch,
            ms=ms[name],
            peak_bytes=found[name].peak_bytes,
            kernels=found[name].kernels,
            bound_ms=1000 * _bound(found[name].racer, length, batch, rates),
        )
        for name in names
    ]
    for racer in racers:
        racer.forget()
    return [*rows, *problems]


def _bound(racer: Racer, length: int, batch: int, rates: Rates) -> float:
    share = FLASH_ATTENTION_2 if racer.name == DIFFUTRAN_FLASH_2 else BEST_ATTENTION
    return bound_seconds(racer.config, length, batch, rates, attention_share=share)


class _Ready:
    """A racer at one shape: `warm_up` once, then `call` to be timed."""

    def __init__(self, racer: Racer, length: int, batch: int, device: Device) -> None:
        self.racer, self.device = racer, device
        ids, sigma, _ = half_masked(racer.config, length, batch, device)
        self.call = partial(racer.engine.replay, ids, sigma)
        self.peak_bytes = 0
        self.kernels: tuple[str, ...] = ()

    def warm_up(self) -> None:
        """Everything that happens once, with memory and kernels read on the way."""
        with PeakMemory(self.device) as memory:
            self.call()
        self.peak_bytes = memory.peak + self.racer.weight_bytes
        self.kernels = kernels_of(self.call, self.racer.config, self.device)


def measure_memory(plan: GpuPlan, device: Device, say: Say) -> Iterator[list[Row | Problem]]:
    """Peak memory of a first pass at the longest length, batch 1, each racer alone on the device."""
    for name in RACERS:
        if name != DIFFUTRAN_FLASH_2:  # the same model as DiffuTran
            say(f"memory: {name}, {max(plan.lengths):,} tokens")
            yield [_memory_of(name, plan, device)]


def _memory_of(name: str, plan: GpuPlan, device: Device) -> Row | Problem:
    length = max(plan.lengths)
    racer = build_racer(name, plan, device)
    short, ready = _Ready(racer, min(plan.lengths), 1, device), _Ready(racer, length, 1, device)

    def measure() -> None:
        short.call()  # what compiling allocates is not the pass's
        racer.forget()
        ready.warm_up()

    _, problems = survivors({name: measure}, Problem("memory", length, 1), device)
    return problems[0] if problems else MemoryRow(name, length, 1, (), ready.peak_bytes, racer.weight_bytes)
