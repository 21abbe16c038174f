"""Logits of the exported graph beside PyTorch's: `python -m tools.page.logits tales-diffuapriel`.

Exports each checkpoint in float32 and prints the largest difference over random canvases of every length.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.page.export import export_onnx

CLOSE = 1e-4


def main(arguments: list[str] | None = None) -> int:
    """Print a line per model. Returns 1 if a difference is 1e-4 or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="+", help="checkpoints of full sequences")
    parser.add_argument("--longest", type=int, default=128, help="lengths from 1 to this one")
    options = parser.parse_args(arguments)
    worst = 0.0
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            model, _ = load_checkpoint(name)
            graph = export_onnx(model, Path(folder) / "model.onnx")
            difference = largest_difference(model, graph, range(1, options.longest + 1))
        print(f"{name}: {difference:.1e} over the lengths 1 to {options.longest}", flush=True)
        worst = max(worst, difference)
    return int(not worst < CLOSE)


@torch.no_grad()
def largest_difference(model: Denoiser, graph: Path, lengths: Iterable[int]) -> float:
    """The largest difference of a logit, over partly masked canvases of these lengths; [MASK]'s own has no meaning."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph)
    generator, mask_id, largest = torch.Generator().manual_seed(0), model.config.vocab_size - 1, 0.0
    for length in lengths:
        share = torch.rand(1, generator=generator)
        ids = torch.randint(0, mask_id, (1, length), generator=generator)
        ids = ids.masked_fill(torch.rand(1, length, generator=generator) < share, mask_id)
        sigma = -torch.log1p(-share)
        feeds = {"ids": ids.numpy(), "sigma": sigma.numpy(), "positions": np.arange(length)}
        (got,) = session.run(None, feeds)
        expected = model(ids, sigma)[0].numpy()
        largest = max(largest, float(np.abs(got - expected)[..., :mask_id].max()))
    return largest


if __name__ == "__main__":
    sys.exit(main())
