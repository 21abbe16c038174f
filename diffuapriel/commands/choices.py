"""What several commands share of their options; imports no PyTorch, so that `--help` is instant."""

from __future__ import annotations

import argparse

from diffuapriel.config import RENAMED_SCHEDULES

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
DEFAULT_CHECKPOINT = "tales-diffuapriel"
BLOCK_HELP = (
    "fill blocks of N tokens from left to right, 0: all at once; default: 16 for confidence, else all at once"
)


def schedule(name: str) -> str:
    """The `type` of --schedule: an old name becomes the present one."""
    return RENAMED_SCHEDULES.get(name, name)


def block_length(args: argparse.Namespace) -> int | None:
    """The sampler's `block_length` of --strategy and --block-length."""
    from diffuapriel.sampling.config import BLOCK

    if args.block_length is None:
        return BLOCK if args.strategy == "confidence" else None
    return args.block_length or None
