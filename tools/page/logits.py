"""Logits of the exported graph beside PyTorch's: `python -m tools.page.logits tales-diffuapriel`.

Exports each checkpoint in float32 and prints the largest difference over random canvases of every length. A model of
blocks denoises a block of every length behind a committed one as long.
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
from diffuapriel.page.export import cache_tensors, export_onnx
from tools.page.results import save

CLOSE = 1e-4


def main(arguments: list[str] | None = None) -> int:
    """Print a line per model. Returns 1 if a difference is 1e-4 or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="+", help="checkpoints")
    parser.add_argument("--longest", type=int, default=128, help="lengths from 1 to this one")
    parser.add_argument("--save", action="store_true", help="into assets/results/page.json")
    options = parser.parse_args(arguments)
    worst = 0.0
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            model, _ = load_checkpoint(name)
            graph = export_onnx(model, Path(folder) / "model.onnx")
            difference = largest_difference(model, graph, range(1, options.longest + 1))
        print(f"{name}: {difference:.1e} over the lengths 1 to {options.longest}", flush=True)
        if options.save:
            save("logits", name, {"largest_difference": float(f"{difference:.1e}"), "longest": options.longest})
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
        text, ids = torch.randint(0, mask_id, (2, 1, length), generator=generator)
        ids = ids.masked_fill(torch.rand(1, length, generator=generator) < share, mask_id)
        sigma, positions = -torch.log1p(-share), np.arange(length)
        feeds = {"ids": ids.numpy(), "sigma": sigma.numpy(), "positions": positions}
        past = None
        if model.config.block_lengths:
            past = model.empty_cache(1)
            given = {f"cache.{i}": tensor.numpy() for i, tensor in enumerate(cache_tensors(past))}
            finished = {"ids": text.numpy(), "sigma": np.zeros(1, np.float32), "positions": positions[:1]}
            _, *after = session.run(None, {**finished, "finished": np.zeros(1, np.int64), **given})
            feeds |= {f"cache.{i}": tensor for i, tensor in enumerate(after)} | {"finished": np.array([length])}
            past = model.commit(text, past, length)
        got = np.asarray(session.run(["logits"], feeds)[0])
        expected = (model(ids, sigma) if past is None else model(ids, sigma, cache=past))[0].numpy()
        largest = max(largest, float(np.abs(got - expected)[..., :mask_id].max()))
    return largest


if __name__ == "__main__":
    sys.exit(main())
