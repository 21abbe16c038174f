"""The committed recipes: what the bundled checkpoints were trained by, and what the paper's budgets are trained by.

A recipe is the same for the three architectures; only the learning rate is each one's own (optimizer.py). AdamW with
betas (0.9, 0.95) and weight decay 0.1 on matrices, a linear warm-up and a cosine are `TrainConfig`'s own.

    tales-laptop, tales-gpu     the bundled checkpoints
    small-tales, small-stdlib   `small`, one GPU; small-tales-long, the bundled one, on several
    dclm-240m, -0.5b, -1.3b     the paper's presets on DCLM, streamed from the Hub, GPT-2's tokenizer, 1,024 tokens

The paper (arXiv:2511.15927) names the corpus, the tokenizer and the length; its number of tokens is not ours to copy
onto other machines, so these take 20 tokens a parameter, embeddings counted (the compute-optimal rule of thumb of
Chinchilla, arXiv:2203.15556), and half a million tokens an update. More is said with `--tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """512 rows of 1,024 tokens an update over all ranks, at most batch_size of them at once on each."""
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
        about="tiny on full tales, a story a window, about 18 minutes an architecture on one H100",
        options={
            "preset": "tiny",
            "corpus": "tales:3",
            "length": 128,
            "batch_size": 256,
            "tokens": 42_000 * 256 * 128,
            "warmup_steps": 300,
            "schedule": "squared",
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
            "schedule": "squared",
            "final_rate": 0.0,
            "validate_every": 4000,
            "save_seconds": 300.0,
        },
        tokenizer="gpt2-4k",
        draws=16,
        batch_size=256,
    ),
    # 190 million were too many: the library is read forty times by then, and held-out modules cost 2.49 nats a token
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
