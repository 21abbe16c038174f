"""A recipe run from its first update to a measured checkpoint with a card (the recipes are in recipe_book.py).

    python -m diffuapriel.training.recipes tales-gpu --architecture diffuapriel --out my-checkpoint

trains, rounds the matrices to bfloat16, measures that very file, and writes it with its model card. A recipe
is the same for the three architectures: same data in the same order, same number of tokens, and presets that
match in parameters; only the learning rate is each one's own. `--minutes` is a hard stop of the clock for
training: what is not finished is kept, and the same command goes on. Under torchrun all processes train, and the
first measures and writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffuapriel.card import write_card
from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from diffuapriel.config import ARCHITECTURES, preset
from diffuapriel.evaluation.perplexity import evaluate_nelbo
from diffuapriel.evaluation.tales import default_sampler, evaluate_tales
from diffuapriel.sampling import SamplerConfig
from diffuapriel.text.corpus import open_corpus
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train
from diffuapriel.training.progress import progress_bar
from diffuapriel.training.ranks import is_first
from diffuapriel.training.recipe_book import RECIPES, Recipe

UNFINISHED = 3  # exit code of a run that was stopped by the clock or by Ctrl-C


def recipe_config(name: str, architecture: str, **changes: Any) -> TrainConfig:
    """The options of a recipe for one architecture. Raises ValueError for an unknown recipe."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; permitted: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    options = {
        **recipe.options,
        "architecture": architecture,
        "folder": f"runs/{name}-{architecture}",
        **changes,
    }
    if recipe.tokenizer and options.get("model") is None:
        options["model"] = preset(options["preset"], architecture, tokenizer=recipe.tokenizer)
    return TrainConfig(**options)


def run_recipe(
    name: str, architecture: str, out: str | Path, *, progress: bool = True, **changes: Any
) -> Path | None:
    """Train by a recipe, measure, and write the checkpoint `out`; returns it.

    changes: fields of `TrainConfig` that differ (folder, device, tokens, stop_after_minutes, ...). Returns None
    when training was stopped before its end: the same call goes on. Of several processes the first writes.
    """
    config = recipe_config(name, architecture, **changes)
    result = train(config, progress=progress)
    if not result.finished:
        return None
    if not is_first():
        return Path(out)
    source = inspect_checkpoint(result.checkpoint)
    facts = {"recipe": name, **source.extra["recipe"], "storage": "matrices in bfloat16, the rest in float32"}
    model, _ = load_checkpoint(result.checkpoint)
    pictures = {"loss.png": (result.checkpoint / "loss.png").read_bytes()}
    command = (
        f"python -m diffuapriel.training.recipes {name} --architecture {architecture} --out {Path(out).name}"
    )

    def write(measured: dict[str, Any]) -> None:
        card = write_card(
            name=Path(out).resolve().name,
            config=model.config,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            recipe=facts,
            command=command,
            limits=RECIPES[name].limits,
            picture="loss.png",
            **measured,
        )
        extra = {**source.extra, "recipe": facts, **measured}
        save_checkpoint(out, model, card=card, extra=extra, storage="bfloat16", pictures=pictures)

    write({})
    write(
        measure(out, RECIPES[name], config, progress=progress)
    )  # of the rounded weights as they were written
    return Path(out)


def measure(
    checkpoint: str | Path, recipe: Recipe, config: TrainConfig, *, progress: bool = True
) -> dict[str, Any]:
    """What `write_card` takes of a checkpoint on disk: its NELBO, and on tales samples drawn in two ways."""
    model, tokenizer = load_checkpoint(checkpoint, device=config.torch_device)
    with progress_bar("held-out text", recipe.windows, unit="window", enabled=progress) as bar:
        evaluation = evaluate_nelbo(
            model,
            open_corpus(config.corpus, tokenizer),
            length=config.length,
            windows=recipe.windows,
            draws=recipe.draws,
            batch_size=recipe.batch_size,
            on_batch=lambda done: bar.update(done - bar.n),
        )
    print(evaluation.table(), flush=True)
    reports = {"evaluation": evaluation.to_dict()}
    if recipe.level is None:
        return reports
    samplers = {
        "samples": default_sampler(config.length),
        "ancestral": SamplerConfig(strategy="ancestral", steps=config.length),
    }
    for name, sampler in samplers.items():
        with progress_bar(name, recipe.stories, unit="story", enabled=progress) as bar:
            samples = evaluate_tales(
                model,
                tokenizer,
                level=recipe.level,
                stories=recipe.stories,
                length=config.length,
                sampler=sampler,
                batch_size=recipe.batch_size,
                on_batch=lambda done, bar=bar: bar.update(min(done, recipe.stories) - bar.n),
            )
        print(samples.table(), flush=True)
        reports[name] = samples.to_dict()
    return reports


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the recipes; returns the exit code (3: stopped before the end, run again to go on)."""
    parser = argparse.ArgumentParser(
        prog="python -m diffuapriel.training.recipes",
        description="Train, measure and write a checkpoint by a committed recipe.",
        epilog="; ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items()),
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--architecture", required=True, choices=ARCHITECTURES)
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--folder", help="folder of the run (runs/RECIPE-ARCHITECTURE)")
    parser.add_argument(
        "--minutes", type=float, help="stop training after so many minutes; run again to go on"
    )
    parser.add_argument("--tokens", type=int, help="train on so many tokens instead of the recipe's number")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    changes = {
        "folder": given.folder,
        "stop_after_minutes": given.minutes,
        "tokens": given.tokens,
        "device": given.device,
    }
    try:
        written = run_recipe(
            given.recipe,
            given.architecture,
            given.out,
            progress=not given.quiet,
            **{key: value for key, value in changes.items() if value is not None},
        )
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not is_first():
        return 0
    if written is None:
        print("stopped before the end; run the same command again to go on", file=sys.stderr)
        return UNFINISHED
    print(f"written to {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
