"""Compile the kernels of a recorded step for GPUs that are not there: see tests/ops/triton/compile_offline.py.

    python tests/sampling/graphs/compiling.py

A process of its own, without TRITON_INTERPRET. Prints a line for each kernel but scores_kernel.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.ops.triton.compile_offline import compiled  # noqa: I001  (it clears TRITON_INTERPRET first)

import torch

from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.graphs import kernels
from diffuapriel.sampling.graphs.plain import Rule, Texts
from diffuapriel.sampling.head import kernel as head_kernel

WIDTH, TOKENS, PADDED, BLOCK = 2048, 50_257, 50_304, 256  # the 1.3b preset
TILES = {90: (("bfloat16", "HOPPER"), ("float32", "EXACT")), 80: (("bfloat16", "AMPERE"),)}


def step(dtype: torch.dtype, tile: str, strategy: str, temperature: float) -> None:
    whole = partial(torch.zeros, dtype=torch.int64)
    uniform, on = torch.zeros(1, BLOCK, dtype=torch.float64), torch.zeros((), dtype=torch.bool)
    texts = Texts(whole(1, 4 * BLOCK), whole(2, 1), whole(1), uniform, whole(()), on)
    config = SamplerConfig(strategy, block_length=BLOCK, temperature=temperature)
    rule = Rule(config, TOKENS, 64, strategy != "threshold")
    x, weight = torch.zeros(BLOCK, WIDTH, dtype=dtype), torch.zeros(PADDED, WIDTH, dtype=dtype)
    active = kernels.begin(texts, rule, True)
    kernels.reveal(texts, rule, active, x, weight, getattr(head_kernel, tile))


def main() -> None:
    for capability, cases in TILES.items():
        for dtype, tile in cases:
            ways = (("low_confidence", 1.0), ("threshold", 0.0)) if tile == "HOPPER" else (("low_confidence", 1.0),)
            for way in ways:
                for name, takes in compiled(partial(step, getattr(torch, dtype), tile, *way), capability):
                    if name != "scores_kernel":
                        numbers = " ".join(f"{key} {value}" for key, value in takes.items())
                        print(f"sm_{capability} {name}: {dtype} {tile} {way[0]}, {numbers}", flush=True)


if __name__ == "__main__":
    main()
