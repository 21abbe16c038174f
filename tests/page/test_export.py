"""The exported graph computes what PyTorch computes, at every length, also from block to block with its cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache as kept
from pathlib import Path

import numpy as np
import pytest
import torch

from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.ops.short_pass import ShortPass
from diffuapriel.page.export import (
    SMALLEST_MATRIX,
    WEIGHTS_FILE,
    _pack_weights,
    cache_tensors,
    export_onnx,
    path_inputs,
    share_weights,
    to_onnx,
)

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install onnx onnxscript onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install onnx onnxscript onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnx onnxscript onnxruntime")

# One Mamba block and one attention block: the two mixers that the three architectures consist of.
HYBRID = ModelConfig(
    "diffuapriel-h", 32, 2, vocab_size=300, d_state=8, headdim=16, attention_headdim=16, cond_dim=8, edge_embedding=True
)


def randomized(config: ModelConfig) -> Denoiser:
    """An untrained model whose gates are open."""
    torch.manual_seed(0)
    denoiser = Denoiser(config).eval()
    for parameter in denoiser.modulation.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser


def session(model) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString())


@kept
def with_graph(config: ModelConfig, drafts: bool) -> tuple:
    """The randomized model of blocks and its graph, which takes 20 seconds, once for all tests."""
    denoiser = randomized(config)
    return denoiser, to_onnx(denoiser, drafts=drafts)


@pytest.fixture(scope="module")
def hybrid() -> Iterator[tuple]:
    denoiser = randomized(HYBRID)
    with torch.no_grad():
        yield denoiser, to_onnx(denoiser)


def call(denoiser: Denoiser, run, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the graph and of PyTorch for random ids, noise levels and positions."""
    ids, sigma = torch.randint(0, denoiser.config.vocab_size, (1, length)), 5 * torch.rand(1)
    positions = torch.randperm(length)[: torch.randint(1, length + 1, ())]
    (got,) = run.run(None, {"ids": ids.numpy(), "sigma": sigma.numpy(), "positions": positions.numpy()})
    return got, denoiser(ids, sigma, positions).numpy()


def test_the_graph_computes_the_logits_at_every_length(hybrid) -> None:
    denoiser, model = hybrid
    run = session(model)
    for length in (*range(1, 129), 300):
        got, expected = call(denoiser, run, length)
        assert got.shape == expected.shape == (len(expected), 300)
        assert np.abs(got - expected).max() < 1e-4, length


@pytest.mark.parametrize(("weights", "share", "error"), [("float16", 0.6, 2e-3), ("int8", 0.5, 5e-2)])
def test_smaller_weights_make_a_smaller_file_and_almost_the_same_logits(hybrid, weights, share, error) -> None:
    denoiser, model = hybrid
    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    _pack_weights(packed, weights)
    whole, small = (
        sum(np.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in m.graph.initializer)
        for m in (model, packed)
    )
    assert small < share * whole
    got, expected = call(denoiser, session(packed), 40)
    assert 0 < np.abs(got - expected).max() < error * np.abs(expected).max()


def test_every_matrix_has_one_scale_per_output_channel(hybrid) -> None:
    packed = onnx.ModelProto()
    packed.CopyFrom(hybrid[1])
    _pack_weights(packed, "int8")
    scales = {t.name.removesuffix(".scale"): list(t.dims) for t in packed.graph.initializer if "scale" in t.name}
    large = [p for p in hybrid[0].parameters() if p.ndim == 2 and p.numel() >= SMALLEST_MATRIX]
    channels = sorted(max(scale) for scale in scales.values())
    assert channels == sorted(p.shape[0] for p in large), "rows of nn.Linear and of the embedding"
    assert all(min(scale) == 1 for scale in scales.values())


def test_the_graph_of_a_model_of_blocks_denoises_and_commits() -> None:
    denoiser = randomized(ModelConfig.from_dict({**HYBRID.to_dict(), "block_lengths": [16, 0]}))
    run, cache, finished = session(to_onnx(denoiser)), denoiser.empty_cache(1), 0
    given = {f"cache.{i}": tensor.numpy() for i, tensor in enumerate(cache_tensors(cache))}
    with torch.no_grad():
        for blocks, size in ((1, 16), (1, 16), (3, 16), (1, 1), (7, 1), (1, 70), (2, 16)):
            ids, sigma = torch.randint(0, 300, (blocks, size)), torch.rand(1)
            feeds = {"ids": ids.numpy(), "finished": np.array([finished]), **given}
            last = np.arange(size)
            logits, *_ = run.run(None, {**feeds, "ids": ids[-1:].numpy(), "sigma": sigma.numpy(), "positions": last})
            assert np.abs(logits - denoiser(ids[-1:], sigma, cache=cache)[0].numpy()).max() < 1e-4
            _, *after = run.run(None, {**feeds, "sigma": np.zeros(1, np.float32), "positions": last[:0]})
            cache, finished = denoiser.commit(ids.flatten()[None], cache, size), finished + blocks * size
            for mine, theirs in zip(after, cache_tensors(cache), strict=True):
                assert np.abs(mine - theirs.numpy()).max() < 1e-4
            cache = cache.last(40)  # the window of an endless text
            given = {f"cache.{i}": state.numpy() for i, state in enumerate(cache_tensors(cache))}


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h", "diffutran"])
def test_the_graph_with_drafts_commits_verifies_and_drafts_in_one_pass(architecture: str) -> None:
    config = {**HYBRID.to_dict(), "architecture": architecture, "block_lengths": [1, 16], "time_conditioning": False}
    denoiser, graph = with_graph(ModelConfig.from_dict(config), drafts=True)
    run, cache, finished = session(graph), denoiser.empty_cache(1), 0
    torch.manual_seed(0)
    given = {f"cache.{i}": tensor.numpy() for i, tensor in enumerate(cache_tensors(cache))}
    with torch.no_grad():
        for sizes in ((0, 1, 16), (1, 1, 16), (7, 12, 16), (0, 3, 0), (1, 1, 1), (130, 9, 40), (2, 40, 5)):
            text, draft, block = (torch.randint(0, 299, (1, n)) for n in sizes)
            row = torch.cat([text, draft, torch.full_like(draft, 299), block], dim=1)
            blocks = [block] if sizes[2] else []
            sized = ShortPass(*sizes[:2], tuple(block.shape[1] for block in blocks))
            places = {name: tensor.numpy() for name, tensor in path_inputs(sized, HYBRID.d_conv).items()}
            feeds = {"ids": row.numpy(), "finished": np.array([finished]), **places, **given}
            logits, *after = run.run(None, {**feeds, "positions": np.arange(sizes[0] + sizes[1], row.shape[1])})
            verified, drafted, cache = denoiser.verify_and_draft(text, draft, blocks, cache=cache)
            assert np.abs(logits - torch.cat([verified, *drafted], dim=1)[0].numpy()).max() < 1e-4
            if not sizes[0]:
                continue
            for mine, theirs in zip(after, cache_tensors(cache), strict=True):
                assert mine.shape == theirs.shape and np.abs(mine - theirs.numpy()).max() < 1e-4
            cache, finished = cache.last(40), finished + sizes[0]
            given = {f"cache.{i}": state.numpy() for i, state in enumerate(cache_tensors(cache))}


def test_graphs_that_share_their_weights_compute_the_same(tmp_path: Path, monkeypatch) -> None:
    config = ModelConfig.from_dict({**HYBRID.to_dict(), "block_lengths": [1, 16], "time_conditioning": False})
    denoiser, _ = with_graph(config, drafts=True)

    def known(given: Denoiser, drafts: bool) -> onnx.ModelProto:
        assert given is denoiser
        copied = onnx.ModelProto()
        copied.CopyFrom(with_graph(config, drafts=drafts)[1])
        return copied

    monkeypatch.setattr("diffuapriel.page.export.to_onnx", known)
    torch.manual_seed(0)
    files = [export_onnx(denoiser, tmp_path / f"{drafts}.onnx", "int8", drafts=drafts) for drafts in (False, True)]
    graphs, weights = share_weights(files)
    sizes = [file.stat().st_size for file in files]
    stored = [sizes[i] - len(graph) for i, graph in enumerate(graphs)]  # of the tensors that are not in the graphs
    assert len(weights) < 0.7 * sum(stored), "most tensors are in both graphs"
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    feeds = {f"cache.{i}": tensor.numpy() for i, tensor in enumerate(cache_tensors(denoiser.empty_cache(1)))}
    feeds |= {
        "ids": torch.randint(0, 300, (1, 18)).numpy(),
        "finished": np.zeros(1, np.int64),
        "positions": np.arange(5),
    }
    paths = {name: tensor.numpy() for name, tensor in path_inputs(ShortPass(0, 1, (16,)), HYBRID.d_conv).items()}
    for file, graph, more in zip(files, graphs, ({"sigma": np.zeros(1, np.float32)}, paths), strict=True):
        expected = onnxruntime.InferenceSession(file).run(None, {**feeds, **more})
        file.write_bytes(graph)
        got = onnxruntime.InferenceSession(file).run(None, {**feeds, **more})
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_an_unknown_kind_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'int4'; permitted: float32, float16, int8"):
        export_onnx(randomized(HYBRID), tmp_path / "model.onnx", "int4")
