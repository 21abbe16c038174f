"""One step of the training loop: with each backend of the scan, and of models of blocks.

`measure_training` compares backends, pure DiffuApriel. The step is that of the training loop (training/loop.py):
bfloat16 autocast over float32 weights, NELBO, backward, clipping, AdamW. Blocks are compiled as in training, except
around the plain scan, whose loop over chunks would be compiled chunk by chunk, for minutes. A backend whose blocks
cannot be compiled runs without, and its row says so.

`measure_folded` compares a folded pass over blocks with the plain pass of a full sequence, forward and backward, as the
loop records them (training/cudagraph.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from diffuapriel.benchmark.entry import random_denoiser
from diffuapriel.benchmark.gpu.models import time_entries
from diffuapriel.benchmark.plan import PURE, Bench
from diffuapriel.benchmark.report import Problem, Row, TrainingRow
from diffuapriel.benchmark.timing import time_interleaved
from diffuapriel.config import ARCHITECTURES, preset
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import Recorded, can_record
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.loop import add_gradient, backward, step_at_every_block_length
from diffuapriel.training.optimizer import make_optimizer
from diffuapriel.training.parallelize import compiled_blocks

WARM_UPS = 2


def measure_training(bench: Bench) -> Iterator[list[Row | Problem]]:
    """The backends interleaved, one length after the other."""
    for length in bench.plan.training_lengths:
        batch = max(1, bench.plan.training_tokens // length)
        bench.say(f"training: {batch} x {length:,} tokens")
        yield _one_shape(bench, length, batch)


def _one_shape(bench: Bench, length: int, batch: int) -> list[Row | Problem]:
    updates = {backend: _Update(bench, backend, length, batch) for backend in bench.plan.backends}
    # Settled: the first step after the others' warm-up allocates its memory again.
    ms, problems = time_entries(updates, Problem("training", length, batch), bench, settle=True)
    rows = [TrainingRow(name, length, batch, ms[name], updates[name].compiled) for name in ms]
    return [*rows, *problems]


class _Update:
    """A model with its optimizer: `warm_up` makes and compiles it, `run` is one step."""

    def __init__(self, bench: Bench, backend: str, length: int, batch: int) -> None:
        self.backend, self.device = backend, bench.device
        self.config = TrainConfig(
            model=preset(bench.plan.preset, PURE, context_length=length),
            length=length,
            batch_size=batch,
            steps=1,
            precision="bf16" if bench.plan.dtype == "bfloat16" else "float32",
            device=str(bench.device),
        )
        self.compiled = False

    def warm_up(self) -> None:
        """Build, compile and run a few steps."""
        shape = self.config.model_config
        self.model = random_denoiser(shape, device=self.device).train()
        for module in self.model.modules():
            if isinstance(module, BidirectionalMamba2):
                module.backend = self.backend
        self.optimizer = make_optimizer(
            self.model, learning_rate=1e-5, betas=self.config.betas, weight_decay=self.config.weight_decay
        )
        self.generator = torch.Generator(self.device)
        self.ids = torch.randint(shape.eos_id, (self.config.batch_size, self.config.length), device=self.device)
        if self.device.type == "cuda" and self.backend != "chunked":
            self._compile()
        for _ in range(WARM_UPS):
            self.run()

    def _compile(self) -> None:
        """Compile the blocks if the compiler accepts them."""
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
        self.generator.manual_seed(0)
        backward(self.model, self.ids, self.config, self.generator)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_folded(bench: Bench) -> Iterator[list[TrainingRow]]:
    """The block lengths of each architecture, interleaved. That of the whole row is the plain pass."""
    plan, device = bench.plan, bench.device
    for architecture in ARCHITECTURES:
        bench.say(f"folded: training in blocks, {architecture} {plan.folded_preset}")
        config = TrainConfig(
            architecture,
            preset=plan.folded_preset,
            tokenizer="tales-words",
            block_lengths=",".join(map(str, (0, *plan.folded_blocks))),
            length=plan.folded_length,
            batch_size=plan.folded_batch,
            steps=1,
            precision="bf16" if plan.dtype == "bfloat16" else "float32",
            compile=device.type == "cuda",
            device=str(device),
        )
        processes, generator = SingleProcess(device), torch.Generator(device)
        model = random_denoiser(config.model_config, device=device).train()
        ids = torch.randint(config.model_config.eos_id, (config.batch_size, config.length), device=device)
        trial = partial(step_at_every_block_length, model, ids, config, generator)
        calls: dict[str, Callable[[], object]] = {}
        with compiled_blocks(model, trial, processes.any_rank, bench.say) if config.compile else nullcontext():
            recorded = None
            if can_record(config, processes):
                recorded = Recorded(partial(add_gradient, model, config, processes), model, config, processes)
            for S in config.model_config.block_lengths:
                step = partial(backward, model, ids, config, generator, block_length=S)
                name = f"{architecture} {plan.folded_preset}, {f'S = {S}' if S else 'plain'}"
                calls[name] = recorded.graphs[S].replay if recorded else step
            ms = time_interleaved(calls, repeats=plan.repeats, seconds=plan.seconds, device=device)
        yield [TrainingRow(name, config.length, config.batch_size, times, config.compile) for name, times in ms.items()]
