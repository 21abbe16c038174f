"""One update of the training loop, pure DiffuApriel, with each backend of the scan.

The update is the training loop's own (`training/loop.py`): bfloat16 autocast over float32 weights, NELBO, backward,
clipping, AdamW. Blocks are compiled as a training run compiles them, but not around the plain scan: its loop over
chunks would be compiled chunk by chunk, for minutes. A backend whose blocks the compiler refuses runs without, and
its row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from diffuapriel.benchmark.entry import random_denoiser
from diffuapriel.benchmark.gpu.models import survivors
from diffuapriel.benchmark.gpu.plan import PURE, GpuPlan
from diffuapriel.benchmark.gpu.results import Problem, Row, TrainingRow
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.config import preset
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import backward
from diffuapriel.training.optimizer import make_optimizer

WARM_UPS = 2

Device = torch.device | str
Say = Callable[[str], None]


def measure_training(plan: GpuPlan, device: Device, say: Say) -> Iterator[list[Row | Problem]]:
    """The backends in turn, one length after the other."""
    for length in plan.training_lengths:
        batch = max(1, plan.training_tokens // length)
        say(f"training: {batch} x {length:,} tokens")
        yield _one_shape(plan, length, batch, device)


def _one_shape(plan: GpuPlan, length: int, batch: int, device: Device) -> list[Row | Problem]:
    updates = {backend: _Update(plan, backend, length, batch, device) for backend in plan.backends}
    warm_ups = {backend: update.warm_up for backend, update in updates.items()}
    names, problems = survivors(warm_ups, Problem("training", length, batch), device)
    calls = {name: updates[name].run for name in names}
    for run in calls.values():
        run()  # the first one after the others' warm-up takes its memory anew: not a round
    ms = time_interleaved(calls, repeats=plan.repeats, seconds=plan.seconds, device=device)
    rows = [TrainingRow(name, length, batch, ms[name], updates[name].compiled) for name in names]
    return [*rows, *problems]


class _Update:
    """A model of a few layers with its optimizer: `warm_up` makes and compiles it, `run` is one update."""

    def __init__(self, plan: GpuPlan, backend: str, length: int, batch: int, device: Device) -> None:
        self.plan, self.backend, self.device = plan, backend, torch.device(device)
        self.config = TrainConfig(
            model=preset(plan.preset, PURE, context_length=length),
            length=length,
            batch_size=batch,
            steps=1,
            precision="bf16" if plan.dtype == "bfloat16" else "float32",
            device=str(device),
        )
        self.compiled = False

    def warm_up(self) -> None:
        """Build, compile and run a few updates."""
        shape = self.config.model_config
        self.model = random_denoiser(shape, device=self.device).train()
        for module in self.model.modules():
            if isinstance(module, BidirectionalMamba2):
                module.backend = self.backend
        self.optimizer = make_optimizer(
            self.model, learning_rate=1e-5, betas=self.config.betas, weight_decay=self.config.weight_decay
        )
        self.generator = torch.Generator(self.device)
        self.ids = torch.randint(
            shape.eos_id, (self.config.batch_size, self.config.length), device=self.device
        )
        if self.device.type == "cuda" and self.backend != "chunked":
            self._compile()
        for _ in range(WARM_UPS):
            self.run()

    def _compile(self) -> None:
        """Compile the blocks if the compiler takes them."""
        for block in self.model.blocks:
            block.compile(dynamic=False)
        try:
            self.run()
            self.compiled = True
        except Exception:
            for block in self.model.blocks:
                block._compiled_call_impl = None  # as it was before `compile`
            self.optimizer.zero_grad()

    def run(self) -> None:
        """One update."""
        self.generator.manual_seed(0)
        backward(self.model, self.ids, get_schedule("log-linear"), self.config, self.generator)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
