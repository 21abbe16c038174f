"""The racers of a GPU bench: one preset in each architecture, random weights, each in its best form.

All go through the same engine (`diffuapriel.model.engine`): matrices in bfloat16, compiled blocks, a CUDA graph a
shape. Nothing is timed on zeros: a fresh AdaLN would gate every block away, so its weights are drawn too, and the
texts are random tokens of which half are masked. Which kernels ran is read from a profile of the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend

from diffuapriel.benchmark.entry import random_denoiser
from diffuapriel.benchmark.gpu.plan import DIFFUTRAN, DIFFUTRAN_FLASH_2, GpuPlan
from diffuapriel.benchmark.gpu.results import Problem, Row
from diffuapriel.benchmark.memory import out_of_memory
from diffuapriel.config import ModelConfig, preset
from diffuapriel.model.attention import Attention
from diffuapriel.model.engine import Engine, compile_denoiser
from diffuapriel.sampling import generate as recordings

COMPILATIONS = 64  # that one process may keep: four racers, two kinds of block, batch 1 and more

# A part of a kernel's name, and what it is called in the report. The first that fits a kernel names it.
KERNELS = (
    ("cudnn", "cuDNN attention"),
    ("pytorch_flash", "FlashAttention-2"),
    ("flash_fwd", "FlashAttention-2"),
    ("fmha_cutlass", "memory-efficient attention"),
    ("flash_attention_for_cpu", "CPU flash attention"),
    ("_chunk_scan_fwd_kernel", "mamba_ssm scan"),
    ("causal_conv1d", "causal_conv1d"),
    ("scan_kernel", "triton scan"),
)


@dataclass(frozen=True)
class Racer:
    """A model in its engine."""

    name: str
    engine: Engine
    weight_bytes: int

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.engine.config

    def forget(self) -> None:
        """Give back the memory of what was recorded for the shapes so far."""
        self.engine.forget()
        recordings.clear_cache(self.engine)


def build_racer(name: str, plan: GpuPlan, device: torch.device | str) -> Racer:
    """The racer of one name (see gpu_plan.RACERS), drawn from the seed that its architecture has."""
    architecture = DIFFUTRAN if name == DIFFUTRAN_FLASH_2 else name
    model = random_denoiser(preset(plan.preset, architecture), device=device)
    if name == DIFFUTRAN_FLASH_2:
        for module in model.modules():
            if isinstance(module, Attention):
                module.kernels = (SDPBackend.FLASH_ATTENTION,)  # type: ignore[assignment]
    engine = compile_denoiser(model, dtype=plan.torch_dtype)
    return Racer(name, engine, sum(p.numel() * p.element_size() for p in model.parameters()))


@contextmanager
def strict_compilation() -> Iterator[None]:
    """Meanwhile a block that cannot be compiled is an error: one that runs uncompiled would lose its race unseen."""
    import torch._dynamo.config as settings

    before = settings.recompile_limit, settings.fail_on_recompile_limit_hit
    settings.recompile_limit, settings.fail_on_recompile_limit_hit = COMPILATIONS, True
    try:
        yield
    finally:
        settings.recompile_limit, settings.fail_on_recompile_limit_hit = before


def survivors(
    warm_ups: Mapping[str, Callable[[], object]], about: Problem, device: torch.device | str
) -> tuple[list[str], list[Row | Problem]]:
    """Call every racer's warm-up. Returns the names of those that came through, and what stopped the others.

    Whatever a kernel or a compiler throws: one racer that fails must not take the others' figures with it. `about`
    is the problem without its racer and message.
    """
    ready: list[str] = []
    problems: list[Row | Problem] = []
    for name, warm_up in warm_ups.items():
        try:
            warm_up()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)  # a kernel's fault shows when somebody waits for it
            ready.append(name)
        except torch.OutOfMemoryError:
            problems.append(replace(about, racer=name, message=out_of_memory(device, "it")))
        except Exception as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            problems.append(replace(about, racer=name, message=message))
    return ready, problems


def kernels_of(
    call: Callable[[], object], config: ModelConfig, device: torch.device | str
) -> tuple[str, ...]:
    """The attention and scan kernels that one `call` runs, as the profiler sees them, in the words of KERNELS.

    The plain scan is made of matrix products that have no name of their own: it is what ran where no other did.
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
    """The known kernels among `names`, in words, in alphabetical order."""
    found = set()
    for name in names:
        known = next((label for part, label in KERNELS if part in name.lower()), None)
        if known:
            found.add(known)
    return tuple(sorted(found))
