"""Export a denoiser to ONNX, for onnxruntime and for a page that runs it (build.py).

    export_onnx(denoiser, "denoise.onnx", weights="int8")

A model of full sequences is one graph:

    ids (1, length) int64, sigma (1,) float32, positions (chosen,) int64  ->  logits (chosen, vocab_size) float32

`positions` are those whose logits are wanted, e.g. of the [MASK]s. A model of blocks is a pass over the next blocks of
a text, with the cache of the finished ones (model/blocks.py) as tensors:

    ids (blocks, block length), sigma, positions, finished (1,) int64, cache.0 ...   ->   logits, next.0 ...

`finished` counts the tokens before. To denoise, give one block and take the logits. To commit finished blocks, a prompt
for example, give them as they are, with sigma 0, and give next.0, next.1, ... as the next cache. `empty_cache` has
their first shapes. With `drafts` the graph is the pass that commits, verifies a draft and drafts (`path_inputs`):

    ids (1, tokens), positions, finished, cache.0 ..., and the paths of the tokens   ->   logits, next.0 ...

The graph consists of plain tensor operations of opset 18, and the scan of matrix products (ops/minimal.py), so that one
graph serves every length and onnxruntime-web runs it. Weights are float32, or matrices are float16 or 8-bit integers
with one scale per output channel; the graph turns these into float32, which onnxruntime does once when it loads them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffuapriel.model.blocks import AttentionCache, BlockPass, Cache, LayerCache, MambaCache, PathPass
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops.minimal import CHUNK
from diffuapriel.ops.short_pass import GivenPaths, ShortPass

WEIGHTS = ("float32", "float16", "int8")
OPSET = 18
GRAPH = "2"  # raised when exported graphs change, so that older ones in a cache are not used
SMALLEST_MATRIX = 1024  # entries; smaller tensors stay float32
WEIGHTS_FILE = "weights"  # of graphs that share them, as worker.js names it
EXTERNAL_BYTES = 2**31 - 2**24  # a file of protocol buffers holds less than 2 GiB


def export_onnx(denoiser: Denoiser, path: str | Path, weights: str = "float32", *, drafts: bool = False) -> Path:
    """Write the graph of a denoiser, and return the path.

    drafts: that of a model of blocks of one token which verifies a draft and drafts.
    Raises ValueError for another `weights`, and ImportError, with the command to install it, without onnx.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights are {weights!r}; permitted: {', '.join(WEIGHTS)}")
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise ImportError("the export needs onnx and onnxscript: pip install 'diffuapriel[onnx]'") from error
    model = to_onnx(denoiser, drafts)
    if weights != "float32":
        _pack_weights(model, weights)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    large = model.ByteSize() > EXTERNAL_BYTES
    onnx.save_model(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)
    return path


def to_onnx(denoiser: Denoiser, drafts: bool = False) -> Any:
    """The graph of a denoiser, an `onnx.ModelProto` with float32 weights."""
    denoiser = copy.deepcopy(denoiser).float().cpu().eval()
    for module in denoiser.modules():
        if isinstance(module, BidirectionalMamba2):
            module.backend = "minimal"
    # Traced with several chunks or blocks, since tracing would take the size 1 for a constant. The graph does not
    # depend on it.
    chosen = torch.export.Dim("chosen", min=2, max=2**20)
    told = () if drafts else (torch.ones(1),)  # of the noise level
    names, outputs = ["ids", *["sigma" for _ in told], "positions"], ["logits"]
    if denoiser.config.block_lengths:
        past = torch.export.Dim("past", min=2, max=2**20)
        empty = cache_tensors(denoiser.empty_cache(1))
        cache = [_with_past(state) for state in empty]
        more: tuple[Any, ...] = (torch.full((1,), 5), cache)
        shapes: tuple[Any, ...] = ({}, [{2: past} if grows(state) else {} for state in empty])
        names += ["finished", *(f"cache.{i}" for i in range(len(cache)))]
        outputs += [f"next.{i}" for i in range(len(cache))]
    if drafts:
        module: nn.Module = _PathPass(denoiser)
        paths = path_inputs(ShortPass(3, 4, (5,)), denoiser.config.d_conv)
        tokens, kept = (torch.export.Dim(name, min=2, max=2**20) for name in ("tokens", "kept"))
        ids, size = torch.zeros(1, len(paths["places"]), dtype=torch.int64), {1: tokens}
        more = (*more, *paths.values())
        shapes = (*shapes, {1: tokens, 2: tokens}, {2: tokens}, {0: kept}, {}, {0: tokens}, {0: tokens})
        names += list(paths)
    elif denoiser.config.block_lengths:
        module = _BlockPass(denoiser)
        ids = torch.zeros(3, 5, dtype=torch.int64)
        size = {0: torch.export.Dim("blocks", min=2, max=2**20), 1: torch.export.Dim("size", min=2, max=2**20)}
    else:
        module, more, shapes = denoiser, (), ()
        ids = torch.zeros(1, 2 * CHUNK + 2, dtype=torch.int64)
        size = {1: torch.export.Dim("length", min=CHUNK + 1, max=2**20)}
    arguments = (ids, *told, torch.arange(3), *more)
    shapes = (size, *({} for _ in told), {0: chosen}, *shapes)
    with torch.no_grad():
        traced = torch.export.export(
            module, arguments, dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        program = torch.onnx.export(
            traced, dynamo=True, input_names=names, output_names=outputs, opset_version=OPSET, verbose=False
        )
    assert program is not None
    return program.model_proto


class _BlockPass(nn.Module):
    """`Denoiser.block_pass` with tensors in place of a `Cache`."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, ids: Tensor, sigma: Tensor, positions: Tensor, finished: Tensor, cache: list[Tensor]
    ) -> tuple[Tensor, ...]:
        given = Cache(_layers(self.denoiser, cache), finished)
        logits, after = self.denoiser.block_pass(ids, sigma, positions, given)
        return logits, *cache_tensors(after)


class _PathPass(nn.Module):
    """`Denoiser.path_pass` with tensors in place of a `Cache` and a `PathPass`."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        finished: Tensor,
        cache: list[Tensor],
        paths: Tensor,
        neighbors: Tensor,
        kept: Tensor,
        history: Tensor,
        places: Tensor,
        ends: Tensor,
    ) -> tuple[Tensor, ...]:
        over = PathPass.of(ids, finished, GivenPaths(paths, neighbors, kept, history), places, ends)
        logits, after = self.denoiser.path_pass(ids, positions, over, Cache(_layers(self.denoiser, cache), finished))
        return logits, *cache_tensors(after)


def path_inputs(row: ShortPass, taps: int) -> dict[str, Tensor]:
    """What the graph with drafts is told of the paths of a pass over [committed | draft | its [MASK]s | a block].

    paths (2, tokens, tokens) bool, neighbors (2, taps, tokens) int64, kept (committed,) int64, history (taps - 1,)
    int64, places (tokens,) int64 and ends (tokens,) bool, as `GivenPaths` and `PathPass` have them. With nothing to
    commit, `kept` is one token all the same, since onnxruntime-web has no product over none: the cache is then that of
    before, not what the graph returns.
    """
    device, none = torch.device("cpu"), torch.zeros(1, dtype=torch.int64)
    length = row.committed + 2 * row.verified + sum(row.drafted)
    over = BlockPass(1, length, none, True, 1, row.committed, verified=row.verified, drafted=row.drafted)
    return {
        "paths": row.on_path(device),
        "neighbors": row.neighbors(taps, device),
        "kept": torch.arange(max(1, row.committed)),
        "history": torch.arange(row.committed, row.committed + taps - 1),
        "places": over.positions()[0],
        "ends": over.edges()[1][0],
    }


def _layers(denoiser: Denoiser, cache: list[Tensor]) -> tuple[LayerCache, ...]:
    pairs = zip(denoiser.config.layer_kinds, cache[::2], cache[1::2], strict=True)
    return tuple(MambaCache(one, two) if kind == "mamba" else AttentionCache(one, two) for kind, one, two in pairs)


def cache_tensors(cache: Cache) -> list[Tensor]:
    """The tensors of a cache in the order of the graph's inputs: two of each layer."""
    return [tensor for layer in cache.layers for tensor in vars(layer).values()]


def grows(state: Tensor) -> bool:
    """Whether a tensor of an empty cache grows with the text: keys and values do."""
    return state.ndim == 4 and state.shape[2] == 0


def _with_past(state: Tensor) -> Tensor:
    """A tensor of an empty cache; keys and values with room for 5 tokens, since tracing would take 0 for a constant."""
    return state.new_zeros(*state.shape[:2], 5, state.shape[3]) if grows(state) else state


def share_weights(files: Sequence[Path]) -> tuple[list[bytes], bytes]:
    """The graphs in these files without their large tensors, and these, each once, for a file named WEIGHTS_FILE."""
    import onnx

    weights, places = bytearray(), {}
    graphs = []
    for file in files:
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(values) < SMALLEST_MATRIX:
                continue
            if values not in places:
                places[values] = len(weights)
                weights += values
            del tensor.external_data[:]
            tensor.ClearField("raw_data")
            where = {"location": WEIGHTS_FILE, "offset": places[values], "length": len(values)}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
            tensor.data_location = onnx.TensorProto.EXTERNAL
        graphs.append(model.SerializeToString())
    return graphs, bytes(weights)


def _pack_weights(model: Any, weights: str) -> None:
    """Replace the matrices of a graph by float16 ones or 8-bit integers, and add what turns them into float32."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    axes = _channel_axes(graph)
    kept, added = [], []
    for tensor in graph.initializer:
        matrix = tensor.data_type == TensorProto.FLOAT and tensor.name in axes
        if not matrix or np.prod(tensor.dims) < SMALLEST_MATRIX:
            kept.append(tensor)
            continue
        values, packed = numpy_helper.to_array(tensor), f"{tensor.name}.packed"
        if weights == "float16":
            kept.append(numpy_helper.from_array(values.astype(np.float16), packed))
            added.append(helper.make_node("Cast", [packed], [tensor.name], to=TensorProto.FLOAT))
            continue
        scale = np.abs(values).max(axis=1 - axes[tensor.name], keepdims=True) / 127
        integers = np.rint(values / np.where(scale == 0, 1, scale)).astype(np.int8)
        kept += [numpy_helper.from_array(integers, packed), numpy_helper.from_array(scale, f"{tensor.name}.scale")]
        added.append(helper.make_node("Cast", [packed], [f"{tensor.name}.wide"], to=TensorProto.FLOAT))
        added.append(helper.make_node("Mul", [f"{tensor.name}.wide", f"{tensor.name}.scale"], [tensor.name]))
    nodes: Sequence[Any] = [*added, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _channel_axes(graph: Any) -> dict[str, int]:
    """The axis of the output channels of every matrix: the rows of an embedding, the columns of a product's factor."""
    axes: dict[str, int] = {}
    for node in graph.node:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type == "Gather":
            axes[node.input[0]] = 0
        elif node.op_type in ("MatMul", "Gemm"):
            axes[node.input[1]] = 0 if transposed else 1
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return {name: axis for name, axis in axes.items() if name in matrices}
