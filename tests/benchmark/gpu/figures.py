"""GPU figures that were never measured: each racer a known factor slower than its bound on a known card."""

from __future__ import annotations

from diffuapriel.benchmark.gpu.plan import (
    BACKENDS,
    DIFFUTRAN,
    DIFFUTRAN_FLASH_2,
    HYBRID,
    LENGTHS,
    PURE,
    RACERS,
)
from diffuapriel.benchmark.gpu.results import (
    Ceilings,
    ForwardRow,
    GenerationRow,
    GpuReport,
    Machine,
    Measured,
    MemoryRow,
    MixerRow,
    SamplerRow,
    TrainingRow,
)
from diffuapriel.benchmark.roofline import (
    BEST_ATTENTION,
    FLASH_ATTENTION_2,
    Rates,
    bound_seconds,
    mixer_bytes,
)
from diffuapriel.config import preset

CARD = Machine("NVIDIA H200", 141 * 10**9, "2.11.0", "13.0", "91000", "3.6.0", "2.3.2", "1.7.0", "3.12.3")
RATES = Rates(790e12, 4.3e12)
SLOWER = {PURE: 1.1, HYBRID: 1.1, DIFFUTRAN: 1.0, DIFFUTRAN_FLASH_2: 1.0}


def rounds(ms: float) -> tuple[float, ...]:
    return (ms, 1.02 * ms, 0.99 * ms)


def bound_ms(racer: str, length: int, batch: int) -> float:
    config = preset("1.3b", DIFFUTRAN if racer == DIFFUTRAN_FLASH_2 else racer)
    share = FLASH_ATTENTION_2 if racer == DIFFUTRAN_FLASH_2 else BEST_ATTENTION
    return 1000 * bound_seconds(config, length, batch, RATES, attention_share=share)


def figures(slower: dict[str, float] = SLOWER, others: float = 2.0, launches: float = 1.0) -> GpuReport:
    """A whole report. `slower`: than the bound; `others`: mamba_ssm and chunked over ours; `launches`: ms per step."""
    shapes = [(n, batch) for n in LENGTHS for batch in sorted({1, 65_536 // n})]
    forward, generation, mixer, sampler = [], [], [], []
    for length, batch in shapes:
        for racer in RACERS:
            bound = bound_ms(racer, length, batch)
            ms = rounds(bound * slower[racer])
            forward.append(ForwardRow(racer, length, batch, ms, 5 * 10**9, ("triton scan",), bound))
        for racer in (PURE, DIFFUTRAN):
            whole = rounds(8 * (bound_ms(racer, length, batch) * slower[racer] + launches))
            generation.append(GenerationRow(racer, length, batch, whole, 8))
        if length in (1024, 65_536):
            passes = rounds(8 * bound_ms(PURE, length, batch) * slower[PURE])
            sampler.append(SamplerRow(PURE, length, batch, generation[-2].ms, 8, passes))
        floor = 1000 * mixer_bytes(preset("1.3b", PURE), length, batch) / RATES.bandwidth
        for backend, factor in zip(BACKENDS, (1.5, 1.5 * others, 4.5 * others), strict=True):
            mixer.append(MixerRow(backend, length, batch, rounds(factor * floor), False, floor, 0.004))
    training = [
        TrainingRow(backend, 1024, 8, rounds(ms), backend != "mamba_ssm")
        for backend, ms in zip(BACKENDS, (100.0, 100.0 * others, 300.0), strict=True)
    ]
    memory = [
        MemoryRow(racer, 65_536, 1, (), size, 26 * 10**8)
        for racer, size in ((PURE, 5 * 10**9), (HYBRID, 55 * 10**8), (DIFFUTRAN, 6 * 10**9))
    ]
    return GpuReport(
        CARD,
        "1.3b",
        "bfloat16",
        Ceilings((788e12, 790e12, 791e12), (4.3e12, 4.31e12, 4.29e12), 8192, 4 * 2**30),
        tuple(forward),
        tuple(generation),
        tuple(mixer),
        tuple(training),
        tuple(sampler),
        tuple(memory),
        measured={"forward": Measured(200.0, "a" * 12), "mixer": Measured(30.0, "a" * 12)},
    )
