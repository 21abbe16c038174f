"""Logits of the exported graph beside PyTorch's: `python -m tools.page.logits tales-diffuapriel`.

Exports each checkpoint in float32 and prints the largest difference over random canvases of every length, and how far
each of the two is from PyTorch in float64. A model of blocks denoises a block of every length behind a committed one as
long.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.model.blocks import Cache
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
            difference, of_graph, of_torch = largest_differences(model, graph, range(1, options.longest + 1))
        print(
            f"{name}: {difference:.1e} over the lengths 1 to {options.longest}; "
            f"from float64 the graph is {of_graph:.1e}, PyTorch {of_torch:.1e}",
            flush=True,
        )
        if options.save:
            found = {"largest_difference": difference, "graph_to_float64": of_graph, "torch_to_float64": of_torch}
            rounded = {key: float(f"{value:.1e}") for key, value in found.items()}
            save("logits", name, {**rounded, "longest": options.longest})
        worst = max(worst, difference)
    return int(not worst < CLOSE)


@torch.no_grad()
def largest_differences(model: Denoiser, graph: Path, lengths: Iterable[int]) -> tuple[float, float, float]:
    """The largest differences of a logit, over partly masked canvases of these lengths; [MASK]'s own has no meaning.

    Of the graph and the model, of the graph and the model in float64, and of the model and itself in float64.
    """
    import onnxruntime

    session, exact, largest = onnxruntime.InferenceSession(graph), copy.deepcopy(model).double(), [0.0] * 3
    generator, mask_id = torch.Generator().manual_seed(0), model.config.vocab_size - 1
    for length in lengths:
        share = torch.rand(1, generator=generator)
        text, ids = torch.randint(0, mask_id, (2, 1, length), generator=generator)
        ids = ids.masked_fill(torch.rand(1, length, generator=generator) < share, mask_id)
        sigma, positions = -torch.log1p(-share), np.arange(length)
        feeds = {"ids": ids.numpy(), "sigma": sigma.numpy(), "positions": positions}
        past: dict[Denoiser, Cache] = {}
        if model.config.block_lengths:
            given = {f"cache.{i}": tensor.numpy() for i, tensor in enumerate(cache_tensors(model.empty_cache(1)))}
            finished = {"ids": text.numpy(), "sigma": np.zeros(1, np.float32), "positions": positions[:1]}
            _, *after = session.run(None, {**finished, "finished": np.zeros(1, np.int64), **given})
            feeds |= {f"cache.{i}": tensor for i, tensor in enumerate(after)} | {"finished": np.array([length])}
            past = {network: network.commit(text, network.empty_cache(1), length) for network in (model, exact)}
        got = torch.from_numpy(session.run(["logits"], feeds)[0])
        expected, truth = (network(ids, sigma, cache=past.get(network))[0] for network in (model, exact))
        pairs = (got, expected), (got, truth), (expected, truth)
        found = [float((a - b).abs()[..., :mask_id].max()) for a, b in pairs]
        largest = [max(pair) for pair in zip(largest, found)]
    return largest[0], largest[1], largest[2]


if __name__ == "__main__":
    sys.exit(main())
