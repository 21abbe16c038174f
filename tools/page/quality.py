"""Grammatical stories by the weights of the page: `python -m tools.page.quality tales-diffuapriel`.

Writes stories with the options that the page opens with, once with float32 weights and once with 8-bit ones, from the
same noise, and prints both rates with 95 % intervals. The page's twins of sampler and checker are held to the package's
by tests/browser/live, so PyTorch writes, in batches: with the weights that the 8-bit graph computes with, which is
checked against onnxruntime first. `speculative` is measured as what it writes, blocks of one token.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffuapriel.checkpoint import fetch_checkpoint, load_checkpoint
from diffuapriel.evaluation.tales import evaluate_tales
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.page.build import LENGTH, default_options
from diffuapriel.page.export import SMALLEST_MATRIX, export_onnx
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.config import SPECULATIVE, SamplerConfig
from diffuapriel.tales.language import level_of
from tools.page.logits import largest_differences
from tools.page.results import save

CLOSE = 1e-3  # of logits: the rounding of float32 only


def main(arguments: list[str] | None = None) -> int:
    """Print the rates. Returns 1 if the weights are not those of the graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", help="a checkpoint of tales")
    parser.add_argument("--weights", nargs="+", choices=("float32", "int8"), default=["float32", "int8"])
    parser.add_argument("--stories", type=int, default=500)
    parser.add_argument("--batch", type=int, default=20, help="canvases per pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", action="store_true", help="into assets/results/page.json")
    options = parser.parse_args(arguments)
    info = fetch_checkpoint(options.model)
    level = level_of(info.corpus)
    if level is None:
        parser.error(f"{options.model} has read {info.corpus or 'an unknown corpus'}; give a checkpoint of tales")
    model, tokenizer = load_checkpoint(options.model)
    config, found = default_options(info), {}
    for weights in options.weights:
        denoiser = model
        if weights == "int8":
            denoiser = in_8_bits(model)
            with tempfile.TemporaryDirectory() as folder:
                graph = export_onnx(model, Path(folder) / "model.onnx", "int8")
                difference, *_ = largest_differences(denoiser, graph, [LENGTH])
            print(f"int8: logits of PyTorch and of the graph differ by up to {difference:.1e}", flush=True)
            if not difference < CLOSE:
                return 1
        report = evaluate_tales(
            denoiser_for(copy.deepcopy(denoiser).to(options.device), as_single_tokens(config)),
            tokenizer,
            level=level,
            stories=options.stories,
            length=LENGTH,
            sampler=as_single_tokens(config),
            batch_size=options.batch,
            on_batch=lambda stories: print(f"{stories} stories", file=sys.stderr, flush=True),
        )
        print(f"{options.model}, weights in {weights}, canvases of {LENGTH} tokens\n{report.table()}", flush=True)
        names = "stories", "grammatical", "grammatical_ci95", "consistent", "consistent_ci95", "length", "temperature"
        found[weights] = {name: getattr(report, name) for name in names}
    if options.save:
        rule = {"strategy": config.strategy, "block_length": config.block_length, "top_p": config.top_p}
        save("quality", options.model, {**rule, **found})
    return 0


def as_single_tokens(config: SamplerConfig) -> SamplerConfig:
    """Options that write the same text in batches of one shape: `speculative` writes that of blocks of one token."""
    if config.strategy != SPECULATIVE:
        return config
    return replace(config, strategy="low_confidence", block_length=1, steps=LENGTH)


def in_8_bits(model: Denoiser) -> Denoiser:
    """The model with the weights that its 8-bit graph computes with."""
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.numel() >= SMALLEST_MATRIX:
            values = module.weight.detach().numpy()
            scale = np.abs(values).max(axis=1, keepdims=True) / 127
            integers = np.rint(values / np.where(scale == 0, 1, scale))
            module.weight.data = torch.from_numpy((integers * scale).astype(np.float32))
    return rounded


if __name__ == "__main__":
    sys.exit(main())
