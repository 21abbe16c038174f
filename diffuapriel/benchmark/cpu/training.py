"""What the training loop costs: the speed of `train` over that of the same model in a loop as one writes it first.

Both read the same batches of the same corpus, draw the same noise, clip and step AdamW at the same rates, and so end
at the same losses, which is checked. Ours also keeps the average of the weights, logs, looks at the clock and for
signals; the plain one asks for each loss, as such loops do. Start, last save and validation are not in the time.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass

import torch
from torch import nn

from diffuapriel.benchmark.timing import Spread, Timing, paired_ratio, undisturbed
from diffuapriel.data.registry import open_corpus
from diffuapriel.diffusion.objective import nelbo, stratified_t
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import noise_seed, train
from diffuapriel.training.optimizer import learning_rate, make_optimizer

TARGET = 0.95  # of the plain loop's speed
TOLERANCE = 1e-4  # of the losses, relative


@dataclass(frozen=True)
class TrainingResult:
    """Milliseconds an update of both loops, and our speed over the plain one's: median, least and most of the pairs."""

    preset: str
    architecture: str
    batch: int
    length: int
    updates: int
    repeats: int
    ours: Timing
    plain: Timing
    ratio: float
    ratio_min: float
    ratio_max: float
    target: float = TARGET


def compare_training(
    *, preset: str = "nano", batch: int = 8, length: int = 256, updates: int = 5, repeats: int = 7
) -> TrainingResult:
    """Train by both loops in turn, `repeats` times after one untimed run of each.

    Raises ValueError when `repeats` is less than 1, RuntimeError when the two do not end at the same losses.
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
        validation_windows=2,
        save_seconds=1e6,
    )
    ours, plain = [], []
    for turn in range(repeats + 1):
        seconds, losses = _ours(config)
        peer_seconds, peer_losses = _plain(config)
        for loss, peer in zip(losses, peer_losses, strict=True):
            if abs(loss - peer) > TOLERANCE * abs(peer):
                raise RuntimeError(f"the loops do not train the same: losses {losses} and {peer_losses}")
        if turn:
            ours.append(1000 * seconds / updates)
            plain.append(1000 * peer_seconds / updates)
    ratio, least, most = paired_ratio(ours, plain)
    return TrainingResult(
        preset,
        config.architecture,
        batch,
        length,
        updates,
        repeats,
        Timing(*Spread.of(ours)),
        Timing(*Spread.of(plain)),
        ratio,
        least,
        most,
    )


def _ours(config: TrainConfig) -> tuple[float, list[float]]:
    """Seconds in the loop, as `train` counts them, and the losses."""
    with tempfile.TemporaryDirectory() as folder, undisturbed():
        seconds = train(dataclasses.replace(config, folder=folder), progress=False).seconds
        records = read_log(folder)
    return seconds, [record["loss"] for record in records if "loss" in record]


def _plain(config: TrainConfig) -> tuple[float, list[float]]:
    """The loop as one writes it first: seconds and losses."""
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
            ids = corpus.batch(
                step,
                split="train",
                batch_size=config.global_batch_size,
                length=config.length,
                seed=config.seed,
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step,
                    peak=config.peak_learning_rate,
                    warmup_steps=config.warmup_steps,
                    total_steps=config.steps,
                    min_lr_ratio=config.min_lr_ratio,
                )
            generator.manual_seed(noise_seed(config.seed, step))
            t = stratified_t(len(ids), generator)
            loss = nelbo(model, ids, schedule, config.model_config.mask_id, t=t, generator=generator).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            losses.append(loss.item())
        return time.perf_counter() - start, losses
