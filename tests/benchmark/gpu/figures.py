"""GPU figures that were never measured: each entry a known factor slower than its roofline on a known card."""

from __future__ import annotations

from diffuapriel.benchmark.plan import (
    BACKENDS,
    DIFFUTRAN,
    DIFFUTRAN_FLASH_2,
    ENTRIES,
    HYBRID,
    LENGTHS,
    PURE,
)
from diffuapriel.benchmark.report import (
    BenchReport,
    ForwardRow,
    GenerationRow,
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
    MeasuredPeaks,
    Peaks,
    mixer_bytes,
    roofline_seconds,
)
from diffuapriel.config import preset

CARD = Machine("NVIDIA H200", 141 * 10**9, "2.11.0", "13.0", "91000", "3.6.0", "2.3.2", "1.7.0", "3.12.3")
PEAKS = Peaks(790e12, 4.3e12)
SLOWER = {PURE: 1.1, HYBRID: 1.1, DIFFUTRAN: 1.0, DIFFUTRAN_FLASH_2: 1.0}


def rounds(ms: float) -> tuple[float, ...]:
    return (ms, 1.02 * ms, 0.99 * ms)


def roofline_ms(entry: str, length: int, batch: int) -> float:
    config = preset("1.3b", DIFFUTRAN if entry == DIFFUTRAN_FLASH_2 else entry)
    share = FLASH_ATTENTION_2 if entry == DIFFUTRAN_FLASH_2 else BEST_ATTENTION
    return 1000 * roofline_seconds(config, length, batch, PEAKS, attention_share=share)


def figures(slower: dict[str, float] = SLOWER, others: float = 2.0, launches: float = 1.0) -> BenchReport:
    """A whole report. slower: than the roofline; others: mamba_ssm and chunked over ours; launches: ms per step."""
    shapes = [(n, batch) for n in LENGTHS for batch in sorted({1, 65_536 // n})]
    forward, generation, mixer, sampler = [], [], [], []
    for length, batch in shapes:
        for entry in ENTRIES:
            least = roofline_ms(entry, length, batch)
            ms = rounds(least * slower[entry])
            forward.append(ForwardRow(entry, length, batch, ms, least, 5 * 10**9, ("triton scan",)))
        for entry in (PURE, DIFFUTRAN):
            whole = rounds(8 * (roofline_ms(entry, length, batch) * slower[entry] + launches))
            generation.append(GenerationRow(entry, length, batch, whole, 8))
        if length in (1024, 65_536):
            passes = rounds(8 * roofline_ms(PURE, length, batch) * slower[PURE])
            sampler.append(SamplerRow(PURE, length, batch, generation[-2].ms, 8, passes))
        least = 1000 * mixer_bytes(preset("1.3b", PURE), length, batch) / PEAKS.bandwidth
        for backend, factor in zip(BACKENDS, (1.5, 1.5 * others, 4.5 * others), strict=True):
            mixer.append(MixerRow(backend, length, batch, rounds(factor * least), least, False, 0.004))
    training = [
        TrainingRow(backend, 1024, 8, rounds(ms), backend != "mamba_ssm")
        for backend, ms in zip(BACKENDS, (100.0, 100.0 * others, 300.0), strict=True)
    ]
    memory = [
        MemoryRow(entry, 65_536, 1, (), size, 26 * 10**8)
        for entry, size in ((PURE, 5 * 10**9), (HYBRID, 55 * 10**8), (DIFFUTRAN, 6 * 10**9))
    ]
    return BenchReport(
        CARD,
        "1.3b",
        "bfloat16",
        peaks=MeasuredPeaks((788e12, 790e12, 791e12), (4.3e12, 4.31e12, 4.29e12), 8192, 4 * 2**30),
        forward=tuple(forward),
        generation=tuple(generation),
        mixer=tuple(mixer),
        training=tuple(training),
        sampler=tuple(sampler),
        memory=tuple(memory),
        measured={"forward": Measured(200.0, "a" * 12), "mixer": Measured(30.0, "a" * 12)},
    )
