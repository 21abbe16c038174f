"""Puts the page together: sources, models, tables and onnxruntime-web become one HTML file, without a network.

Large parts are gzip in base64, each in a <script type="text/plain"> at the end of the file, behind the script of the
page: the recorded opening plays while the browser still reads them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffuapriel import assets
from diffuapriel.checkpoint import CheckpointInfo, fetch_checkpoint, load_weights
from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.page import read_source, runtime
from diffuapriel.page.export import GRAPH, cache_tensors, export_onnx, share_weights
from diffuapriel.page.grammar import grammar_values
from diffuapriel.page.scripts import script
from diffuapriel.sampling.config import SPECULATIVE, STRATEGIES, TEXT_TEMPERATURE, SamplerConfig, resolve_options
from diffuapriel.tales import language as tales
from diffuapriel.tales.language import level_of
from diffuapriel.tokenizer import VOCABULARIES, Tokenizer, get_tokenizer
from diffuapriel.trace.player import read_source as read_player
from diffuapriel.trace.trace import embeddable

LABELS = {"diffuapriel": "DiffuApriel", "diffuapriel-h": "DiffuApriel-H", "diffutran": "DiffuTran"}
LENGTH = 96  # tokens of a story, at first
TOP_P = 0.9
BLOCK_LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64)  # of the slider, for models of full sequences; 0: the whole canvas at once
OPENING = "opening.json"  # the recording that plays first
RUNTIME_BYTES = 10_700_000  # of a page without a model
BYTES_PER_PARAMETER = 1.23  # in base64 of gzip


def build_page(
    path: Path,
    *,
    models: Sequence[str],
    weights: str = "int8",
    runtime_folder: Path | None = None,
    opening: str | None = None,
    text: str | None = None,
) -> Path:
    """Write the page and return its path.

    models: checkpoints with one tokenizer and the same block lengths; the first one writes.
    weights: as of `export_onnx`.
    runtime_folder: with the files of onnxruntime-web; by default the cache, filled from the registry if need be.
    opening: the trace that plays first, as JSON, and text: what the text box holds; by default the page's own.
    Raises ValueError for models that the page cannot run, and as `fetch_runtime` does.
    """
    folder = runtime.find_runtime(runtime_folder) if runtime_folder else runtime.fetch_runtime()
    if folder is None:
        names = ", ".join(name for build in runtime.BUILDS.values() for name in build)
        raise ValueError(f"{runtime_folder} lacks files of onnxruntime-web {runtime.VERSION}; it must hold {names}")
    infos = [fetch_checkpoint(name) for name in models]
    packed, tokenizer = _models(infos, weights)
    level = level_of(infos[0].corpus)
    parts = {
        "tokenizer": pack_json(tokenizer_values(tokenizer)),
        "grammar": "" if level is None else pack_json(grammar_values(tales.grammar(level))),
        **{f"{kind}-{i}": pack(part) for i, (_, found) in enumerate(packed) for kind, part in found.items()},
        **{
            f"{backend}-{kind}": pack((folder / name).read_bytes())
            for backend, build in runtime.BUILDS.items()
            for kind, name in zip(("script", "binary"), build)
        },
    }
    defaults = default_options(infos[0])
    settings = {
        "models": [values for values, _ in packed],
        "runtimes": list(runtime.BUILDS),
        "defaults": asdict(defaults),
        "blocks": sorted(infos[0].config.block_lengths or {*BLOCK_LENGTHS, defaults.block_length or 0}),
        "strategies": (*STRATEGIES, SPECULATIVE) if drafts(infos[0].config) else STRATEGIES,
        "length": LENGTH,
        "text": "Mia found a" if text is None and infos[0].config.block_lengths else text,  # it reads to the left
    }
    recorded = assets.root() / OPENING
    if opening is None and recorded.exists():
        opening = recorded.read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(settings, parts, opening or "null"), encoding="utf-8")
    return path


def size_of_page(parameters: int) -> int:
    """About how many bytes the page of one model has, with weights in 8 bits."""
    return RUNTIME_BYTES + round(BYTES_PER_PARAMETER * parameters)


def page(settings: dict[str, Any], parts: dict[str, str], opening: str) -> str:
    """The HTML of the page. parts: base64 by name. opening: JSON."""
    pieces = {
        "STYLE": read_player("player.css") + read_source("page.css"),
        "LICENSE": html.escape(runtime.LICENSE),
        "OPENING": embeddable(opening),
        "SETTINGS": embeddable(json.dumps(settings)),
        "WORKER": embeddable(json.dumps(script("worker"))),
        "SCRIPT": script("page"),
        "PARTS": "\n".join(
            f'<script type="text/plain" id="part-{name}">{text}</script>' for name, text in parts.items()
        ),
    }
    return re.sub("<!--([A-Z]+)-->", lambda hole: pieces[hole[1]], read_source("page.html"))


def pack(data: bytes) -> str:
    """Bytes as base64 of gzip; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode()


def pack_json(values: Any) -> str:
    return pack(json.dumps(values, separators=(",", ":")).encode())


def tokenizer_values(tokenizer: Tokenizer) -> dict[str, Any]:
    """Name and ranks of a tokenizer, as tokenizer.js reads them."""
    ranks = [base64.b64encode(tokenizer.token_bytes(i)).decode() for i in range(VOCABULARIES[tokenizer.name])]
    return {"name": tokenizer.name, "ranks": ranks}


def default_options(info: CheckpointInfo) -> SamplerConfig:
    """The options that the page proposes: the fastest point without loss that the checkpoint records, or its rule.

    Without a record, a model of blocks of one token drafts and verifies.
    """
    own = {"strategy": SPECULATIVE} if drafts(info.config) else {}
    temperature, top_p = 1.0 if level_of(info.corpus) else TEXT_TEMPERATURE, TOP_P
    rule: Mapping[str, Any] = info.generation or own
    if (frontier := info.frontier) and (fastest := frontier.fastest()):
        rule, temperature, top_p = fastest.generation, frontier.temperature, frontier.top_p
    options = resolve_options({}, info.config.block_lengths, rule)
    return SamplerConfig(steps=LENGTH, temperature=temperature, top_p=top_p, **options)


def drafts(config: ModelConfig) -> bool:
    """Whether a model can write by `speculative`: in blocks of one token, without being told the noise level."""
    return 1 in config.block_lengths and not config.time_conditioning


def _models(
    infos: Sequence[CheckpointInfo], weights: str
) -> tuple[list[tuple[dict[str, Any], dict[str, bytes]]], Tokenizer]:
    """What the page is told of each model, with its graphs from the cache and their weights; and their tokenizer."""
    found, tokenizers = [], {}
    for info in infos:
        if info.config.block_lengths != infos[0].config.block_lengths:
            known = " and ".join(str(list(one.config.block_lengths)) for one in (infos[0], info))
            raise ValueError(f"models of the block lengths {known}; give models of the same ones")
        model, tokenizer = Denoiser(info.config), get_tokenizer(info.config.tokenizer)
        load_weights(model, info)
        tokenizers[tokenizer.name] = tokenizer
        digest = hashlib.sha256(GRAPH.encode())
        for tensor in model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        files = {}
        for kind in ("pass", "drafts") if info is infos[0] and drafts(info.config) else ("pass",):  # the others race
            files[kind] = runtime.cache_folder() / f"{info.name}-{kind}-{weights}-{digest.hexdigest()[:16]}.onnx"
            if not files[kind].exists():
                export_onnx(model, files[kind], weights, drafts=kind == "drafts")
        graphs, shared = share_weights(list(files.values()))
        architecture = model.config.architecture
        values: dict[str, Any] = {"name": info.name, "architecture": architecture, "label": LABELS[architecture]}
        values |= {"graphs": list(files), "taps": model.config.d_conv}
        if info.config.block_lengths:
            values["cache"] = [list(state.shape) for state in cache_tensors(model.empty_cache(1))]
            values["window"] = info.config.context_length
        found.append((values, {**dict(zip(files, graphs, strict=True)), "weights": shared}))
    if len(tokenizers) != 1:
        raise ValueError(
            f"models with the tokenizers {', '.join(tokenizers) or 'of none'}; give models of one tokenizer"
        )
    return found, tokenizers.popitem()[1]
