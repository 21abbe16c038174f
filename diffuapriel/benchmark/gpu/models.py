"""The entries of a GPU bench: one preset in each architecture with random weights, and how they are timed.

All run in the same engine (model/engine.py): matrices in bfloat16, compiled blocks, one CUDA graph per shape. Nothing
is timed on zeros: AdaLN's weights are random too, and half of the tokens are masked, the others random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend

from diffuapriel.benchmark.entry import count_bytes, random_denoiser
from diffuapriel.benchmark.memory import out_of_memory
from diffuapriel.benchmark.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, Bench
from diffuapriel.benchmark.report import Problem
from diffuapriel.benchmark.timing import MIN_ROUNDS, time_interleaved
from diffuapriel.config import ModelConfig, preset
from diffuapriel.model.attention import Attention
from diffuapriel.model.engine import Engine, compile_denoiser
from diffuapriel.sampling import generate as recordings

COMPILATIONS = 64  # that one process may keep: four entries, two kinds of block, batch 1 and more

# A part of a kernel's name, and its name in the report. The first match counts.
KERNELS = (
    ("cudnn", "cuDNN attention"),
    ("flashattnfwdsm90", "FlashAttention-3"),
    ("pytorch_flash", "FlashAttention-2"),
    ("flash_fwd", "FlashAttention-2"),
    ("fmha_cutlass", "memory-efficient attention"),
    ("flash_attention_for_cpu", "CPU flash attention"),
    ("_chunk_scan_fwd_kernel", "mamba_ssm scan"),
    ("causal_conv1d", "causal_conv1d"),
    ("hopper_scan", "CUDA scan"),
    ("scan_kernel", "triton scan"),
)


@dataclass(frozen=True)
class EngineEntry:
    """A model in its engine."""

    name: str
    engine: Engine
    config: ModelConfig
    weight_bytes: int

    def clear_cache(self) -> None:
        """Release the memory of the CUDA graphs recorded so far."""
        self.engine.clear_cache()
        recordings.clear_cache(self.engine)


def build_entry(name: str, bench: Bench, **changes: Any) -> EngineEntry:
    """The entry of a name in plan.ENTRIES; DIFFUTRAN_FLASH_2 has the weights of DIFFUTRAN. changes: of the preset."""
    architecture = DIFFUTRAN if name == DIFFUTRAN_FLASH_2 else name
    model = random_denoiser(preset(bench.plan.preset, architecture, **changes), device=bench.device)
    if name == DIFFUTRAN_FLASH_2:
        for module in model.modules():
            if isinstance(module, Attention):
                module.kernels = (SDPBackend.FLASH_ATTENTION,)  # type: ignore[assignment]
    engine = compile_denoiser(model, dtype=bench.plan.torch_dtype)
    return EngineEntry(name, engine, engine.config, count_bytes(model))


@contextmanager
def strict_compilation() -> Iterator[None]:
    """Make a block that cannot be compiled an error: uncompiled, it would be slow without anybody noticing."""
    import torch._dynamo.config as settings

    before = settings.recompile_limit, settings.fail_on_recompile_limit_hit
    settings.recompile_limit, settings.fail_on_recompile_limit_hit = COMPILATIONS, True
    try:
        yield
    finally:
        settings.recompile_limit, settings.fail_on_recompile_limit_hit = before


class Timed(Protocol):
    """Something to be timed: `warm_up` once, then `run` in each round."""

    def warm_up(self) -> object: ...

    def run(self) -> object: ...


def warm_up_all(
    warm_ups: Mapping[str, Callable[[], object]], about: Problem, device: torch.device
) -> tuple[list[str], list[Problem]]:
    """Call each warm-up. Returns the names of those that succeeded, and what stopped the others.

    Any exception of a kernel or a compiler counts: an entry that fails must not cost the others their figures. `about`
    is the problem without its entry and message.
    """
    ready: list[str] = []
    problems: list[Problem] = []
    for name, warm_up in warm_ups.items():
        try:
            warm_up()
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # a kernel's fault is raised when something waits for it
            ready.append(name)
        except Exception as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if isinstance(error, torch.OutOfMemoryError):
                message = out_of_memory(device, "it")
            problems.append(replace(about, entry=name, message=message))
    return ready, problems


def time_entries(
    entries: Mapping[str, Timed],
    about: Problem,
    bench: Bench,
    *,
    repeats: int | None = None,
    min_rounds: int = MIN_ROUNDS,
    settle: bool = False,
) -> tuple[dict[str, tuple[float, ...]], list[Problem]]:
    """Warm up all entries and time those that succeed, interleaved: milliseconds per round by name, and the problems.

    settle: run each once more, untimed, after all have warmed up.
    """
    ready, problems = warm_up_all({name: entry.warm_up for name, entry in entries.items()}, about, bench.device)
    calls = {name: entries[name].run for name in ready}
    if settle:
        for run in calls.values():
            run()
    ms = time_interleaved(
        calls,
        repeats=repeats or bench.plan.repeats,
        seconds=bench.plan.seconds,
        min_rounds=min_rounds,
        device=bench.device,
    )
    return ms, problems


def kernels_of(call: Callable[[], object], config: ModelConfig, device: torch.device | str) -> tuple[str, ...]:
    """The attention and scan kernels that one `call` runs, as the profiler sees them, by their names in KERNELS.

    The plain scan consists of matrix products without names of their own, so it is what ran if no other scan did.
    """
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
    kernels = named_kernels(event.key for event in seen.key_averages())
    if "mamba" in config.layer_kinds and not any("scan" in kernel for kernel in kernels):
        return (*kernels, "plain scan (chunked)")
    return kernels


def named_kernels(names: Iterable[str]) -> tuple[str, ...]:
    """The known kernels among `names`, by their names in KERNELS, sorted."""
    found = {next((label for part, label in KERNELS if part in name.lower()), "") for name in names}
    return tuple(sorted(found - {""}))
