"""The names that `--help` lists, written out so that help needs no import of PyTorch.

A test holds each to the package's own.
"""

from __future__ import annotations

import argparse

PRESETS = ("nano", "tiny", "small", "240m", "0.5b", "1.3b")
ARCHITECTURES = ("diffuapriel", "diffuapriel-h", "diffutran")
STRATEGIES = (
    "ancestral",
    "confidence",
    "entropy",
    "margin",
    "random",
    "threshold",
    "remask",
    "first_hitting",
)
TOKENIZERS = ("gpt2", "gpt2-4k")
SCHEDULES = ("log-linear", "cosine", "polynomial", "squared")
DEFAULT_CHECKPOINT = "tales-diffuapriel"
BLOCK_HELP = (
    "fill blocks of N tokens from left to right, 0: all at once; default: 16 for confidence, else all at once"
)


def block_length(args: argparse.Namespace) -> int | None:
    """The sampler's `block_length` of --strategy and --block-length."""
    from diffuapriel.sampling.config import BLOCK

    if args.block_length is None:
        return BLOCK if args.strategy == "confidence" else None
    return args.block_length or None
