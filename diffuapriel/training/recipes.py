"""The committed recipes: those of the bundled checkpoints, one for a laptop, and the paper's model sizes.

    diffuapriel train --recipe tales-gpu --architecture diffuapriel --out my-checkpoint

`run_recipe` trains, rounds the matrices to bfloat16, measures the rounded file, and writes it with its model card. A
recipe is the same for the three architectures: the same data in the same order, the same number of tokens, and presets
with matching parameter counts; only the peak learning rate differs (config.py). AdamW with betas (0.9, 0.95) and weight
decay 0.1 on matrices, a linear warm-up and a cosine are the defaults of `TrainConfig`.

    tales-laptop                `nano`, two CPU cores
    tales-gpu                   the three bundled `tiny` models, one GPU
    tales-blocks                `tiny` models of blocks of 1, 4, 16, 64 and all 128 tokens, one GPU
    small-tales, small-stdlib   `small`, one GPU
    small-tales-long            the bundled `small`, several GPUs
    stories-tiny, stories-small children's stories in real English, one GPU
    stories-blocks              the bundled `small` of them, adapted to blocks, one GPU
    dclm-240m, -0.5b, -1.3b     the paper's presets on DCLM, streamed from the Hub, GPT-2's tokenizer, 1,024 tokens

The paper (arXiv:2511.15927) gives corpus, tokenizer and length. Its token budget does not transfer to other machines,
so these recipes use 20 tokens per parameter, embeddings counted (Chinchilla's compute-optimal rule of thumb,
arXiv:2203.15556), and half a million tokens per step; `--tokens` sets another budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint, refuse_to_replace, save_checkpoint
from diffuapriel.data.registry import open_corpus
from diffuapriel.evaluation.nelbo import evaluate_nelbo, evaluate_parts, parts_table
from diffuapriel.evaluation.samples import default_sampler
from diffuapriel.evaluation.tales import evaluate_tales
from diffuapriel.model_card import write_card
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import DenoiserFunction
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import is_main_process
from diffuapriel.training.logging import progress_bar
from diffuapriel.training.loop import train

LIMITS = (
    "Knows only the words and plots of this project's tales grammar.",
    "Trained on sequences of whole stories; canvases shorter than a story are out of distribution.",
)
WEB_LIMITS = (
    "Trained on filtered web text: it repeats what people write there, including false and harmful statements.",
    "A base model: it does not follow instructions.",
)
CODE_LIMITS = ("Trained on the Python standard library only: no other code, little English.",)
STORY_LIMITS = (
    "Has read simple stories for children and nothing else: it knows no facts, answers no questions and follows no "
    "instructions. Sentences mostly follow one another; plots often do not.",
    "A text that is longer or shorter than 256 tokens is out of distribution. The end of a canvas cuts the story.",
    "The texts are partly a century old, and so are some of the attitudes in them.",
)
TALES = {"corpus": "tales:3", "length": 128}
GPU = {"precision": "bf16", "compile": True}
# With 64 validation sequences, the fixed noise biases the loss by up to 0.03 nats/token.
SMALL = {
    "preset": "small",
    "warmup_steps": 300,
    "validate_every": 1000,
    "num_validation_sequences": 512,
    **GPU,
}
# Windows of a mix that `--corpus` may replace. Its small parts are read dozens of times.
STORIES = {
    "corpus": "mix:stories/mix.yaml",
    "tokenizer": "gpt2-4k",
    "length": 256,
    "batch_size": 128,
    "warmup_steps": 200,
    "min_lr_ratio": 0.0,
    "ema_decay": 0.999,
    "validate_every": 500,
    "num_validation_sequences": 512,
    **GPU,
}
LONG = {"schedule": "quadratic", "min_lr_ratio": 0.0, "validate_every": 4000, "num_validation_sequences": 512}


@dataclass(frozen=True)
class Recipe:
    """Options of `TrainConfig` that a recipe sets, and how its result is measured."""

    about: str
    options: dict[str, Any]
    level: int | None = 3  # of the tales; None for other text, whose samples cannot be judged
    num_sequences: int = 1024  # validation sequences for the NELBO
    num_mc_samples: int = 8  # random masks per sequence
    stories: int = 500  # minimum number of samples
    batch_size: int = 256  # of the measurements
    limits: tuple[str, ...] = LIMITS
    learning_rates: dict[str, float] = field(default_factory=dict)  # by architecture, where not the preset's


def _dclm(preset: str, parameters: float, *, batch_size: int) -> Recipe:
    """20 tokens per parameter, in steps of 512 rows over all ranks, at most batch_size of them at once on each rank."""
    tokens = round(20 * parameters)
    return Recipe(
        about=f"{preset} on DCLM, {tokens / 1e9:,.1f} billion tokens, for several GPUs (torchrun); never run in full",
        options={
            "preset": preset,
            "corpus": "hf:mlfoundations/dclm-baseline-1.0",
            "length": 1024,
            "batch_size": batch_size,
            "gradient_accumulation_steps": 512 // batch_size,
            "tokens": tokens,
            "warmup_steps": 1000,
            "validate_every": 1000,
            "save_seconds": 900.0,
            "checkpoint_activations": True,
            **GPU,
        },
        level=None,
        batch_size=16,
        limits=WEB_LIMITS,
    )


RECIPES = {
    "tales-laptop": Recipe(
        about="nano on full tales, about an hour per architecture on 2 cores",
        options={
            "preset": "nano",
            "batch_size": 32,
            "tokens": 20_000_000,
            "warmup_steps": 200,
            "compile": True,  # without a C++ compiler, the run says so and continues uncompiled
            **TALES,
        },
        num_sequences=512,
        stories=200,
        batch_size=16,
    ),
    "tales-gpu": Recipe(
        about="tiny on full tales, one story per sequence, about 18 minutes per architecture on one H100",
        options={
            "preset": "tiny",
            "batch_size": 256,
            "tokens": 42_000 * 256 * 128,
            "warmup_steps": 300,
            **TALES,
            **LONG,
            **GPU,
        },
        num_mc_samples=16,
    ),
    # Most steps go to the block lengths that people sample with. Recall of names comes late, so steps are short.
    "tales-blocks": Recipe(
        about="tiny on full tales in blocks of 1, 4, 16, 64 and 128 tokens, 262 million tokens, one GPU",
        options={
            "preset": "tiny",
            "block_lengths": "1,4,16,64,0",
            "block_length_weights": "2,1,3,1,1",
            "batch_size": 128,
            "tokens": 16_000 * 128 * 128,
            "warmup_steps": 300,
            **TALES,
            **LONG,
            **GPU,
        },
        num_mc_samples=16,
        learning_rates={"diffuapriel": 5e-3, "diffuapriel-h": 5e-3, "diffutran": 3e-3},
    ),
    "small-tales": Recipe(
        about="small on tales:3, 330 million tokens, about 10 minutes on one H100",
        options={**SMALL, **TALES, "batch_size": 128, "tokens": 330_000_000},
        num_mc_samples=16,
    ),
    # The bundled `small`. With several GPUs (torchrun) each takes its share of the 512 rows.
    "small-tales-long": Recipe(
        about="small on tales:3, 3,768 million tokens, about 85 minutes on one H100",
        options={
            **SMALL,
            **TALES,
            **LONG,
            "batch_size": 512,
            "tokens": 57_500 * 512 * 128,
            "save_seconds": 300.0,
        },
        num_mc_samples=16,
    ),
    # 190 million tokens overfit: the library is then read forty times, and validation modules cost 2.49 nats/token
    # after a third of the run, 2.48 after two thirds and 2.53 at the end.
    "small-stdlib": Recipe(
        about="small on stdlib, 80 million tokens, about 3 minutes on one H100",
        options={**SMALL, "corpus": "stdlib", "length": 1024, "batch_size": 32, "tokens": 80_000_000},
        level=None,
        batch_size=64,
        limits=CODE_LIMITS,
    ),
    "stories-tiny": Recipe(
        about="tiny on a mix of children's stories in real English, 197 million tokens, about 3 minutes on one H200",
        options={"preset": "tiny", "tokens": 6000 * 128 * 256, **STORIES},
        level=None,
        limits=STORY_LIMITS,
        learning_rates={"diffuapriel": 6e-3, "diffuapriel-h": 6e-3, "diffutran": 4e-3},
    ),
    "stories-small": Recipe(
        about="small on the same mix, 328 million tokens, about 7 minutes on one H200",
        options={"preset": "small", "tokens": 10_000 * 128 * 256, **STORIES},
        level=None,
        limits=STORY_LIMITS,
        learning_rates={"diffutran": 1e-3},
    ),
    # Drafts are blocks without a known token, verified in blocks of one token: hence the weights and the mask rates.
    "stories-blocks": Recipe(
        about="stories-diffuapriel-small adapted to blocks, 24 million tokens, a minute on one H200 once compiled",
        options={
            **STORIES,
            "preset": "small",
            "init_from": "stories-diffuapriel-small",
            "block_lengths": "1,4,16,0",
            "block_length_weights": "4,2,3,1",
            "mask_rates": "0.5,1",
            "tokens": 728 * 128 * 256,
            "validate_every": 1000,
        },
        level=None,
        limits=STORY_LIMITS,
        learning_rates={"diffuapriel": 1e-3},
    ),
    "dclm-240m": _dclm("240m", 240e6, batch_size=64),
    "dclm-0.5b": _dclm("0.5b", 0.5e9, batch_size=32),
    "dclm-1.3b": _dclm("1.3b", 1.3e9, batch_size=16),
}


def recipe_config(name: str, architecture: str, **changes: Any) -> TrainConfig:
    """The options of a recipe for one architecture. Raises ValueError for an unknown recipe."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; permitted: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    options = {
        **recipe.options,
        "learning_rate": recipe.learning_rates.get(architecture),
        "architecture": architecture,
        "folder": f"runs/{name}-{architecture}",
        **changes,
    }
    return TrainConfig(**options)


def run_recipe(name: str, architecture: str, out: str | Path, *, progress: bool = True, **changes: Any) -> Path | None:
    """Train by a recipe, measure, and write the checkpoint `out`; returns it.

    changes: fields of `TrainConfig` to replace (folder, device, tokens, stop_after_minutes, ...). Returns None when
    training was stopped before its end: the same call continues it. Of several processes the main one writes.
    """
    config = recipe_config(name, architecture, **changes)
    refuse_to_replace(Path(out))
    result = train(config, progress=progress)
    if not result.finished:
        return None
    if is_main_process():
        write_measured(name, result.checkpoint, out, config, progress=progress)
    return Path(out)


def write_measured(
    name: str, checkpoint: str | Path, out: str | Path, config: TrainConfig, *, progress: bool = True
) -> None:
    """Write the checkpoint of a finished run to `out`, in bfloat16, then measure that and complete its card.

    name: of the recipe. config: that of the run; its device and corpus are used.
    """
    source, recipe = inspect_checkpoint(checkpoint), RECIPES[name]
    facts = {"recipe": name, **source.extra["recipe"], "storage": "matrices in bfloat16, the rest in float32"}
    model, _ = load_checkpoint(checkpoint)
    pictures = {"loss.png": (source.folder / "loss.png").read_bytes()}
    command = f"diffuapriel train --recipe {name} --architecture {config.architecture} --out {Path(out).name}"

    def write(measured: dict[str, Any]) -> None:
        if parts := measured.get("parts"):  # what was read of each is known from training
            read = source.extra["parts"]
            measured = {**measured, "parts": {name: {**read[name], **part} for name, part in parts.items()}}
        card = write_card(
            name=Path(out).resolve().name,
            config=model.config,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            recipe=facts,
            command=command,
            limits=recipe.limits,
            picture="loss.png",
            **measured,
        )
        extra = {**source.extra, "recipe": facts, **measured}
        save_checkpoint(out, model, card=card, extra=extra, storage="bfloat16", pictures=pictures)

    write({})
    write(measure(out, recipe, config, progress=progress))  # the rounded weights, as written


def measure(checkpoint: str | Path, recipe: Recipe, config: TrainConfig, *, progress: bool = True) -> dict[str, Any]:
    """The NELBO of a checkpoint on disk and, for tales, samples of two strategies: arguments of `write_card`.

    Of a model of blocks also both at every block length that it was trained for.
    """
    model, tokenizer = load_checkpoint(checkpoint, device=config.torch_device)
    corpus = open_corpus(config.corpus, tokenizer)
    how: dict[str, Any] = {
        "length": config.length,
        "num_sequences": recipe.num_sequences,
        "num_mc_samples": recipe.num_mc_samples,
        "batch_size": recipe.batch_size,
    }
    block_lengths = model.config.block_lengths
    bounds = []
    for block_length in block_lengths or (None,):
        with progress_bar("validation", recipe.num_sequences, unit="sequence", enabled=progress) as bar:
            advance = lambda done, bar=bar: bar.update(done - bar.n)  # noqa: E731
            evaluation = evaluate_nelbo(model, corpus, block_length=block_length, on_batch=advance, **how)
        print(evaluation.table(), flush=True)
        bounds.append(evaluation.to_dict())
    reports: dict[str, Any] = {"evaluation": bounds[0]}
    if parts := evaluate_parts(model, corpus, **how):
        print(parts_table(parts), flush=True)
        reports["parts"] = {name: {"evaluation": part.to_dict()} for name, part in parts.items()}
    if recipe.level is None:
        return reports

    def sample(name: str, denoiser: DenoiserFunction, sampler: SamplerConfig) -> dict[str, Any]:
        with progress_bar(name, recipe.stories, unit="story", enabled=progress) as bar:
            samples = evaluate_tales(
                denoiser,
                tokenizer,
                level=recipe.level or 3,
                stories=recipe.stories,
                length=config.length,
                sampler=sampler,
                batch_size=recipe.batch_size,
                on_batch=lambda done: bar.update(min(done, recipe.stories) - bar.n),
            )
        print(samples.table(), flush=True)
        return samples.to_dict()

    samplers = {
        "samples": default_sampler(config.length),
        "ancestral": SamplerConfig(strategy="ancestral", steps=config.length),
    }
    if not block_lengths:
        return reports | {name: sample(name, model, sampler) for name, sampler in samplers.items()}
    samplers["ancestral"] = SamplerConfig(strategy="random", steps=config.length)  # also the model's own distribution
    samplers["threshold"] = SamplerConfig(strategy="threshold", steps=config.length, temperature=0.5)
    reports["blocks"] = []
    for block_length, bound in zip(block_lengths, bounds, strict=True):
        denoiser = CachedDenoiser(model, block_length or config.length)
        blocks = {"block_length": block_length or None, "block_start": "zero", "stop_at_eos": bool(block_length)}
        found = {
            sampler.strategy: sample(f"{sampler.strategy}, S = {block_length}", denoiser, replace(sampler, **blocks))
            for sampler in samplers.values()
        }
        reports["blocks"].append({"block_length": block_length, "evaluation": bound, "samples": found})
    return reports


if __name__ == "__main__":  # the command on the cards of older checkpoints
    raise SystemExit("recipes are run by: diffuapriel train --recipe NAME --architecture NAME --out FOLDER")
