"""Small untrained checkpoints that say they were trained on tales: all that the app needs to run."""

from __future__ import annotations

from pathlib import Path

import torch

from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.config import preset
from diffuapriel.model.denoiser import Denoiser


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
