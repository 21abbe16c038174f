"""Small untrained checkpoints that say they were trained on tales: all that the app needs to run."""

from __future__ import annotations

from pathlib import Path

import torch

from diffuapriel.checkpoint import inspect_checkpoint, record_frontier, save_checkpoint
from diffuapriel.config import preset
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.frontier import Frontier, Measure, TunePoint
from diffuapriel.training.config import DistillConfig
from diffuapriel.training.distillation import distill


def toy_checkpoints(shelf: Path) -> list[str]:
    """Folders `toy-diffuapriel` and `toy-diffutran` on a shelf; the same weights every time."""
    folders = []
    for architecture in ("diffuapriel", "diffutran"):
        torch.manual_seed(0)
        model = Denoiser(preset("nano", architecture))
        folders.append(str(shelf / f"toy-{architecture}"))
        save_checkpoint(folders[-1], model, card="A test.", extra={"corpus": "tales:1"})
    return folders


def toy_blocks(shelf: Path, block_lengths: tuple[int, ...] = (1, 4, 16, 0)) -> str:
    """The folder `toy-blocks` of a small untrained model of blocks."""
    torch.manual_seed(0)
    model = Denoiser(preset("nano", "diffuapriel", block_lengths=block_lengths, time_conditioning=False))
    save_checkpoint(shelf / "toy-blocks", model, card="A test.", extra={"corpus": "tales:1"})
    return str(shelf / "toy-blocks")


def toy_frontier(*points: tuple[str, float | None, int | None, float, float, bool]) -> Frontier:
    """A frontier with made-up figures: (strategy, value, block length, tokens per pass, consistent, loses) of each
    point but the reference."""
    made = [
        TunePoint(name, value, size, speed, (speed, speed), (Measure("consistent", rate, (rate, 1.0)),), loses)
        for name, value, size, speed, rate, loses in (("low_confidence", None, 16, 0.9, 0.99, False), *points)
    ]
    return Frontier(made[0], tuple(made[1:]), 512, 128, 0.5, 0.9, 0.02, 0)


def toy_tuned(shelf: Path) -> str:
    """The folder `toy-tuned` of a small untrained model with a recorded frontier."""
    torch.manual_seed(0)
    card, extra = "A test.", {"corpus": "tales:1"}
    save_checkpoint(shelf / "toy-tuned", Denoiser(preset("nano", "diffuapriel")), card=card, extra=extra)
    points = ("threshold", 0.9, 32, 1.9, 0.99, False), ("factor", 0.5, 8, 2.34, 0.98, False)
    measured = toy_frontier(*points, ("entropy_bound", 0.4, None, 4.0, 0.5, True))
    record_frontier(inspect_checkpoint(shelf / "toy-tuned"), measured, b"")
    return str(shelf / "toy-tuned")


def toy_student(shelf: Path, teacher: str) -> str:
    """The folder `toy-student` of a model that was distilled from a checkpoint for two steps, with a recorded rule that
    reveals every token of a block of 4 at once."""
    folder = shelf / "toy-student"
    options = {"sequences": 2, "steps": 2, "batch_size": 2, "length": 32}
    distill(DistillConfig(teacher, str(folder), **options), progress=False)
    record_frontier(inspect_checkpoint(folder), toy_frontier(("threshold", 0.0, 4, 4.0, 0.99, False)), b"")
    return str(folder)
