"""What several commands share of their options; imports no PyTorch, so that `--help` is instant."""

from __future__ import annotations

import argparse

from diffuapriel.config import RENAMED_SCHEDULES
from diffuapriel.sampling.config import DEFAULT_BLOCK_LENGTH

DEFAULT_CHECKPOINT = "tales-diffuapriel"
BLOCK_HELP = (
    "fill blocks of N tokens from left to right, 0: all at once; default: 16 for low_confidence, else 0"
)


def schedule(name: str) -> str:
    """The `type` of --schedule: an old name becomes the present one."""
    return RENAMED_SCHEDULES.get(name, name)


def block_length(args: argparse.Namespace) -> int | None:
    """The sampler's `block_length` of --strategy and --block-length."""
    if args.block_length is None:
        return DEFAULT_BLOCK_LENGTH if args.strategy == "low_confidence" else None
    return args.block_length or None
