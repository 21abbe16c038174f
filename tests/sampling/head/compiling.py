"""Compile the head-and-score kernel for GPUs that are not there: see tests/ops/triton/compile_offline.py.

    python tests/sampling/head/compiling.py

A process of its own, without TRITON_INTERPRET. Prints a line a kernel: target, dtype, tile, kernel, registers per
thread, bytes of stack a thread (spills), bytes of shared memory a block.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.ops.triton.compile_offline import compiled  # noqa: I001  (it clears TRITON_INTERPRET first)

import torch

from diffuapriel.sampling.head import kernel as head_kernel

WIDTH, TOKENS, PADDED = 2048, 50_257, 50_304  # the 1.3b preset
TILES = {
    90: (("bfloat16", "HOPPER"), ("bfloat16", "FEW"), ("float32", "EXACT")),
    80: (("bfloat16", "AMPERE"), ("bfloat16", "FEW"), ("float32", "EXACT")),
}


def main() -> None:
    for capability, cases in TILES.items():
        for dtype, tile in cases:
            rows, weight = (torch.zeros(n, WIDTH, dtype=getattr(torch, dtype)) for n in (1024, PADDED))
            count = torch.zeros(1, dtype=torch.int64)
            call = partial(head_kernel.kernel_scores, rows, weight, TOKENS, count, getattr(head_kernel, tile))
            for name, takes in compiled(call, capability):
                numbers = " ".join(f"{key} {value}" for key, value in takes.items())
                print(f"sm_{capability} {dtype} {tile} {name}: {numbers}")


if __name__ == "__main__":
    main()
