"""The cost of the training loop: milliseconds per step of `train`, and of the same model in a plain loop.

Both read the same batches, draw the same noise, clip and step AdamW at the same rates, and so must reach the same
losses. `train` also averages the weights, logs, and checks the clock and signals; the plain loop reads every loss back,
as such loops do. Start, last save and validation are not counted.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator

import torch
from torch import nn

from diffuapriel.benchmark.plan import Bench
from diffuapriel.benchmark.report import TrainingRow
from diffuapriel.benchmark.timing import interleaved, undisturbed
from diffuapriel.data.registry import open_corpus
from diffuapriel.diffusion.objective import nelbo, stratified_t, van_der_corput_order
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import noise_seed, train
from diffuapriel.training.optimizer import learning_rate, make_optimizer

OURS, PLAIN = "train()", "a plain loop"
TOLERANCE = 1e-4  # of the losses, relative


def measure_training(bench: Bench) -> Iterator[list[TrainingRow]]:
    bench.say(f"training: our loop against a plain one, {bench.plan.preset}")
    yield compare_training(preset=bench.plan.preset, repeats=bench.plan.repeats)


def compare_training(
    *, preset: str = "nano", batch: int = 8, length: int = 256, updates: int = 5, repeats: int = 7
) -> list[TrainingRow]:
    """Milliseconds per step of OURS and PLAIN, interleaved, in `repeats` rounds after one untimed round.

    Raises ValueError for `repeats` below 1, and RuntimeError if the two do not reach the same losses.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be 1 or more")
    config = TrainConfig(
        preset=preset,
        length=length,
        batch_size=batch,
        steps=updates,
        device="cpu",
        validate_every=10**9,
        num_validation_sequences=2,
        save_seconds=1e6,
    )
    runs = {OURS: _ours, PLAIN: _plain}
    ms: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, list[float]] = {}
    for turn, name in enumerate(interleaved(list(runs), repeats + 1)):  # the first round is a warm-up
        seconds, losses[name] = runs[name](config)
        if turn >= len(runs):
            ms[name].append(1000 * seconds / updates)
        if turn % len(runs) == 0:
            continue
        for loss, peer in zip(losses[OURS], losses[PLAIN], strict=True):
            if abs(loss - peer) > TOLERANCE * abs(peer):
                raise RuntimeError(f"the loops do not train the same: losses {losses[OURS]} and {losses[PLAIN]}")
    return [TrainingRow(name, length, batch, tuple(ms[name])) for name in runs]


def _ours(config: TrainConfig) -> tuple[float, list[float]]:
    """Seconds in the loop, as `train` counts them, and losses."""
    with tempfile.TemporaryDirectory() as folder, undisturbed():
        seconds = train(dataclasses.replace(config, folder=folder), progress=False).seconds
        records = read_log(folder)
    return seconds, [record["loss"] for record in records if "loss" in record]


def _plain(config: TrainConfig) -> tuple[float, list[float]]:
    """Seconds and losses of a loop without extras."""
    schedule, generator = get_schedule(config.schedule), torch.Generator()
    corpus = open_corpus(config.corpus, get_tokenizer(config.model_config.tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Denoiser(config.model_config)
    optimizer = make_optimizer(
        model, learning_rate=config.peak_learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    losses = []
    with undisturbed():
        start = time.perf_counter()
        for step in range(config.steps or 0):
            batch, length = config.global_batch_size, config.length
            ids = corpus.batch(step, split="train", batch_size=batch, length=length, seed=config.seed)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step,
                    peak=config.peak_learning_rate,
                    warmup_steps=config.warmup_steps,
                    total_steps=config.steps,
                    min_lr_ratio=config.min_lr_ratio,
                )
            generator.manual_seed(noise_seed(config.seed, step))
            t = stratified_t(len(ids), generator)[van_der_corput_order(len(ids))]
            loss = nelbo(model, ids, schedule, config.model_config.mask_id, t=t, generator=generator).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            losses.append(loss.item())
        return time.perf_counter() - start, losses
