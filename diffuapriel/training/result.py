"""What a run is judged by and what it leaves: held-out text scored, and the averaged weights as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.data.base import Corpus
from diffuapriel.device import machine_name
from diffuapriel.evaluation.nelbo import NelboEstimate, evaluate_nelbo
from diffuapriel.model.denoiser import Denoiser, count_parameters
from diffuapriel.model_card import write_card
from diffuapriel.training.checkpoint import Progress
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import OneProcess, whole
from diffuapriel.training.logging import RunLog
from diffuapriel.training.optimizer import EMA


def validate(
    model: Denoiser, ema: EMA, corpus: Corpus, config: TrainConfig, log: RunLog, at: Progress
) -> NelboEstimate:
    """Score the averaged weights on held-out windows, always the same ones, and redraw the curve.

    Every rank scores all of them: they are few, and so the ranks agree without a word.
    """
    with ema.applied(), torch.compiler.set_stance("force_eager"):
        estimate = evaluate_nelbo(
            model,
            corpus,
            length=config.length,
            windows=config.validation_windows,
            draws=4 if at.finished else 1,
            batch_size=min(config.batch_size, config.validation_windows),
            schedule=config.schedule,
            document_boundaries=config.document_boundaries,
        )
    log.write_validation(at.step, estimate, seconds=at.seconds)
    log.draw(config.tokens_per_step, title=f"{config.architecture} on {config.corpus}")
    return estimate


def save_result(
    ema: EMA, config: TrainConfig, at: Progress, validation: NelboEstimate, ranks: OneProcess
) -> Path:
    """The averaged weights as a checkpoint, whole, with what is known of them so far. All ranks must call it."""
    folder, shape = Path(config.folder), config.model_config
    weights = {name: whole(average).cpu() for name, average in ema.averages.items()}
    if ranks.first:
        with torch.device("meta"):
            model = Denoiser(shape)
        model.load_state_dict(weights, assign=True)
        recipe = _recipe(config, at, ranks)
        card = write_card(
            name=folder.resolve().name,
            config=shape,
            parameters=count_parameters(shape),
            recipe=recipe,
            evaluation=validation.to_dict(),
            picture="loss.png",
        )
        save_checkpoint(
            folder / "checkpoint",
            model,
            card=card,
            extra={"recipe": recipe, "options": config.to_dict(), "evaluation": validation.to_dict()},
            pictures={"loss.png": (folder / "loss.png").read_bytes()},
        )
    ranks.barrier()
    return folder / "checkpoint"


def _recipe(config: TrainConfig, at: Progress, ranks: OneProcess) -> dict[str, object]:
    """How the weights were made, for the card."""
    name = machine_name(ranks.device)
    return {
        "corpus": config.corpus,
        "length": config.length,
        "tokens": at.step * config.tokens_per_step,
        "updates": at.step,
        "finished": at.finished,
        "seconds": round(at.seconds, 1),
        "device": name if ranks.ranks == 1 else f"{ranks.ranks} x {name}",
        "torch": torch.__version__,
        "peak_learning_rate": config.peak_learning_rate,
    }
