"""The committed recipes: what the bundled checkpoints were trained by, and what the paper's budgets are trained by.

A recipe is the same for the three architectures; only the learning rate is each one's own (optimizer.py). AdamW with
betas (0.9, 0.95) and weight decay 0.1 on matrices, a linear warm-up and a cosine are `TrainConfig`'s own.

    tales-laptop, tales-gpu     the bundled checkpoints
    small-tales, small-stdlib   `small`, one GPU; small-tales-long, the bundled one, on several
    dclm-240m, -0.5b, -1.3b     the paper's presets on DCLM, streamed from the Hub, GPT-2's tokenizer, 1,024 tokens

The paper (arXiv:2511.15927) names the corpus, the tokenizer and the length; its number of tokens is not ours to copy
onto other machines, so these take 20 tokens per parameter, embeddings counted (the compute-optimal rule of thumb of
Chinchilla, arXiv:2203.15556), and half a million tokens per update. More is said with `--tokens`.

A recipe run from its first update to a measured checkpoint with a card (the recipes are in recipe_book.py).

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from diffuapriel.config import ARCHITECTURES, preset
from diffuapriel.data.registry import open_corpus
from diffuapriel.evaluation.nelbo import evaluate_nelbo
from diffuapriel.evaluation.tales import default_sampler, evaluate_tales
from diffuapriel.model_card import write_card
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import is_first
from diffuapriel.training.logging import progress_bar
from diffuapriel.training.loop import train

LIMITS = (
    "Knows the words and plots of this project's tales grammar, nothing else.",
    "Trained on windows of whole stories; shorter canvases than a story are strange to it.",
)
WEB_LIMITS = (
    "Trained on filtered web text: it repeats what people write there, the wrong and the hurtful too.",
    "A base model: it follows no instructions.",
)
CODE_LIMITS = ("Trained on the Python standard library alone: no other code, little English.",)
TOKENS_A_PARAMETER = 20


@dataclass(frozen=True)
class Recipe:
    """Options of `TrainConfig` that a recipe fixes, and how its result is measured."""

    about: str
    options: dict[str, Any]
    level: int | None = 3  # of the tales; None for other text, where no samples are judged
    windows: int = 512  # held-out windows for the NELBO
    draws: int = 8  # noise levels for each
    stories: int = 400  # sampled, at least
    batch_size: int = 16  # of the measurements
    tokenizer: str | None = None  # another than the preset's
    limits: tuple[str, ...] = LIMITS


def _small(corpus: str, *, tokens: int, minutes: int, options: dict[str, Any], **measured: Any) -> Recipe:
    return Recipe(
        about=f"small on {corpus}, {tokens / 1e6:,.0f} million tokens, about {minutes} minutes on one H100",
        options={
            "preset": "small",
            "corpus": corpus,
            "tokens": tokens,
            "warmup_steps": 300,
            "validate_every": 1000,
            "validation_windows": 512,  # of 64 the same noise every time tells 0.03 nats too much or too little
            "precision": "bf16",
            "compile": True,
            **options,
        },
        windows=1024,
        stories=500,
        **measured,
    )


def _dclm(preset: str, parameters: float, *, batch_size: int) -> Recipe:
    """512 rows of 1,024 tokens per update over all ranks, at most batch_size of them at once on each."""
    tokens = round(TOKENS_A_PARAMETER * parameters)
    return Recipe(
        about=f"{preset} on DCLM, {tokens / 1e9:,.1f} billion tokens, for several GPUs (torchrun); not run by us",
        options={
            "preset": preset,
            "corpus": "hf:mlfoundations/dclm-baseline-1.0",
            "length": 1024,
            "batch_size": batch_size,
            "accumulate": 512 // batch_size,
            "tokens": tokens,
            "warmup_steps": 1000,
            "validate_every": 1000,
            "save_seconds": 900.0,
            "precision": "bf16",
            "compile": True,
            "checkpoint_activations": True,
        },
        level=None,
        windows=1024,
        batch_size=16,
        limits=WEB_LIMITS,
    )


RECIPES = {
    "tales-laptop": Recipe(
        about="nano on full tales, about an hour an architecture on 2 cores",
        options={
            "preset": "nano",
            "corpus": "tales:3",
            "length": 128,
            "batch_size": 32,
            "tokens": 20_000_000,
            "warmup_steps": 200,
            "validate_every": 500,
            "compile": True,  # where there is no C++ compiler, the run says so and goes on without
        },
        stories=200,
    ),
    "tales-gpu": Recipe(
        about="tiny on full tales, one story per window, about 18 minutes per architecture on one H100",
        options={
            "preset": "tiny",
            "corpus": "tales:3",
            "length": 128,
            "batch_size": 256,
            "tokens": 42_000 * 256 * 128,
            "warmup_steps": 300,
            "schedule": "quadratic",
            "final_rate": 0.0,
            "validate_every": 4000,
            "validation_windows": 512,
            "precision": "bf16",
            "compile": True,
        },
        windows=1024,
        draws=16,
        batch_size=256,
        stories=500,
    ),
    # The tales' 300 words need no vocabulary of 50,000, which would be half of the model. Without it the three
    # are 2.01 % apart in parameters.
    "small-tales": _small(
        "tales:3",
        tokens=330_000_000,
        minutes=10,
        options={"length": 128, "batch_size": 128},
        tokenizer="gpt2-4k",
        draws=16,
        batch_size=256,
    ),
    # The bundled `small`. Of several GPUs (torchrun) each takes its share of the 512 rows.
    "small-tales-long": _small(
        "tales:3",
        tokens=57_500 * 512 * 128,
        minutes=85,
        options={
            "length": 128,
            "batch_size": 512,
            "schedule": "quadratic",
            "final_rate": 0.0,
            "validate_every": 4000,
            "save_seconds": 300.0,
        },
        tokenizer="gpt2-4k",
        draws=16,
        batch_size=256,
    ),
    # 190 million were too many: the library is read forty times by then, and held-out modules cost 2.49 nats/token
    # after a third of it, 2.48 after two thirds, 2.53 in the end.
    "small-stdlib": _small(
        "stdlib",
        tokens=80_000_000,
        minutes=3,
        options={"length": 1024, "batch_size": 32},
        level=None,
        batch_size=64,
        limits=CODE_LIMITS,
    ),
    "dclm-240m": _dclm("240m", 240e6, batch_size=64),
    "dclm-0.5b": _dclm("0.5b", 0.5e9, batch_size=32),
    "dclm-1.3b": _dclm("1.3b", 1.3e9, batch_size=16),
}


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
