"""The path of FlashAttention-3, with a stand-in that has its interface: (batch, length, heads, headdim)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from diffuapriel.benchmark.entry import attention_kernel
from diffuapriel.config import ModelConfig
from diffuapriel.model.attention import Attention, rotary_angles
from diffuapriel.ops import flash_attention

CONFIG = ModelConfig("diffutran", d_model=32, depth=1, vocab_size=20, attention_headdim=16, cond_dim=8)


@pytest.fixture(params=["output", "output and log-sum-exp"])
def shapes(request, monkeypatch) -> list[tuple[int, ...]]:
    """Installs the stand-in, of a newer or an older version; the shapes it was given."""
    seen = []

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        seen.append(tuple(q.shape))
        y = F.scaled_dot_product_attention(*(w.transpose(1, 2) for w in (q, k, v))).transpose(1, 2)
        return y if request.param == "output" else (y, y.new_zeros(len(q), q.shape[2], q.shape[1]))

    monkeypatch.setattr(flash_attention, "flash_attn_func", flash_attn_func)
    monkeypatch.setattr(flash_attention, "is_hopper", lambda device: True)
    return seen


def outcome(dtype: torch.dtype, *, masked: bool = False, kernels: object = None) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    attention = Attention(CONFIG).to(dtype)
    if kernels:
        attention.kernels = kernels
    u = torch.randn(2, 5, 32, dtype=dtype, requires_grad=True)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool) if masked else None
    y = attention(u, rotary_angles(5, 16, torch.device("cpu")), mask)
    (gradient,) = torch.autograd.grad(y.float().square().sum(), u)
    return y, gradient


def test_it_computes_what_pytorch_s_attention_computes(shapes, monkeypatch) -> None:
    y, gradient = outcome(torch.bfloat16)
    assert shapes == [(2, 5, 2, 16)]
    monkeypatch.setattr(flash_attention, "flash_attn_func", None)
    plain, plain_gradient = outcome(torch.bfloat16)
    assert torch.allclose(y, plain, atol=1e-3) and torch.allclose(gradient, plain_gradient, atol=1e-2)
    assert len(shapes) == 1


def test_it_is_left_out_where_it_cannot_run_and_where_another_kernel_is_asked_for(shapes, monkeypatch) -> None:
    outcome(torch.float32)
    outcome(torch.bfloat16, masked=True)
    outcome(torch.bfloat16, kernels=(SDPBackend.FLASH_ATTENTION,))
    monkeypatch.undo()
    outcome(torch.bfloat16)
    assert shapes == []


def test_the_bench_names_it(shapes) -> None:
    cpu = torch.device("cpu")
    assert attention_kernel(CONFIG, cpu, torch.bfloat16) == "flash attention 3"
    assert attention_kernel(CONFIG, cpu, torch.float32) != "flash attention 3"


def test_a_cpu_is_no_hopper() -> None:
    assert not flash_attention.is_hopper(torch.device("cpu"))
