"""Attention over a cache whose length is a tensor is the softmax over the keys that a row has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.config import ModelConfig
from diffuapriel.model.attention import Attention, rotary_angles
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.layers import EPS
from diffuapriel.ops import cached_attention, residual
from diffuapriel.ops.triton import attention

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter's NumPy speaks up at exp2(-inf)
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: tests/gpu runs the full grid"),
]


def exact(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    read = torch.arange(k.shape[2]) < lengths[:, None] + q.shape[2]
    q, k, v = (x.double() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=read[:, None, None]).transpose(1, 2)


@pytest.mark.parametrize(
    "queries, capacity, room, lengths",
    [
        (1, 64, 64, (0, 63)),  # one key; all keys
        (16, 200, 200, (0, 150)),
        (17, 300, 240, (64, 47)),  # the first keys of a longer cache; ends at a tile's edge
        (40, 520, 520, (1, 480)),  # two tiles of queries
    ],
)
@pytest.mark.parametrize("splits", [1, 5])  # of 5 some have no key
def test_equals_the_softmax_over_the_keys_of_a_row(queries, capacity, room, lengths, splits, monkeypatch) -> None:
    monkeypatch.setattr(attention, "multiprocessors", lambda device: splits * 2 * 3 * -(-queries // 32))
    torch.manual_seed(queries)
    q = torch.randn(2, queries, 3, 16).transpose(1, 2)  # as projected: heads within a token
    k, v = (torch.randn(2, 3, capacity, 16)[:, :, :room] for _ in range(2))
    ages = torch.tensor(lengths)
    for row, age in enumerate(lengths):  # what lies beyond a row's keys must not be read
        k[row, :, age + queries :] = v[row, :, age + queries :] = torch.nan
    found = cached_attention.attend(q, k, v, ages)
    expected = exact(q, k.nan_to_num(), v.nan_to_num(), ages)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_queries_keys_and_values_are_normalized_rotated_and_written_behind_those_of_each_row() -> None:
    torch.manual_seed(0)
    layer = Attention(ModelConfig("diffutran", d_model=48, depth=1, attention_headdim=16, vocab_size=20))
    for weight in (layer.q_norm_weight, layer.k_norm_weight):
        torch.nn.init.normal_(weight)
    lengths, u = torch.tensor([0, 101]), torch.randn(2, 70, 48)
    rotary = rotary_angles(lengths[:, None] + torch.arange(70), 16, u.device)
    (keys, values), (expected_keys, expected_values) = torch.zeros(2, 2, 2, 3, 200, 16)
    room = (v[:, :, :180] for v in (keys, values))
    weights = layer.q_norm_weight, layer.k_norm_weight
    with torch.no_grad():
        q, k, v = layer._project(u, rotary)
        found = cached_attention.project(layer.in_proj(u), *weights, *rotary, *room, lengths, EPS)
    cached_attention.append(expected_keys, expected_values, k, v, lengths)
    for row, age in enumerate(lengths.tolist()):
        assert torch.equal(expected_keys[row, :, age : age + 70], k[row])
        assert int((expected_values[row] != 0).any(2).any(0).sum()) == 70
    for one, plain in ((found, q), (keys, expected_keys), (values, expected_values)):
        torch.testing.assert_close(one, plain, rtol=0, atol=1e-5)


def test_a_pass_in_place_runs_it(monkeypatch) -> None:
    """Rows of different age, against a pass with the cache of each."""
    shape = {"d_model": 32, "depth": 2, "headdim": 16, "d_state": 16, "attention_headdim": 16, "cond_dim": 8}
    torch.manual_seed(0)
    model = Denoiser(ModelConfig("diffutran", vocab_size=20, block_lengths=(4,), edge_embedding=True, **shape)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ids, sigma = torch.randint(19, (2, 4)), torch.zeros(2)
    with torch.no_grad():
        short, long = model.empty_cache(1), model.commit(torch.randint(19, (1, 8)), model.empty_cache(1), 4)
        into = model.empty_cache(2, 16)
        into.set_rows(torch.tensor([0]), short)
        into.set_rows(torch.tensor([1]), long)
        expected = [model(ids[r : r + 1], sigma[r : r + 1], cache=c) for r, c in ((0, short), (1, long))]
        monkeypatch.setattr(residual, "takes", lambda weight: True)
        calls, ours = [], attention.attend
        monkeypatch.setattr(attention, "attend", lambda *given: calls.append(1) or ours(*given))
        found = model.head(model.hidden_in_place(ids, sigma, into, torch.zeros(2, dtype=torch.bool), 16))
    assert len(calls) == 2  # one for each layer
    torch.testing.assert_close(found[..., :20], torch.cat(expected), rtol=0, atol=1e-5)
