"""Packed documents on CUDA: the denoiser gives each what it gets alone, by every backend that keeps them apart."""

from __future__ import annotations

import pytest
import torch

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model import Denoiser
from diffuapriel.ops.document_ids import make_document_ids
from diffuapriel.ops.ssd import unsupported_reason

LENGTHS = (1, 200, 1, 54, 2, 300, 42)  # in a row of 600; mamba_ssm's chunks end at 256 and 512


@pytest.mark.parametrize("backend", ["mamba_ssm", "chunked"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_documents_get_what_each_gets_alone(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, backend: str, architecture: str, dtype: torch.dtype
) -> None:
    if reason := unsupported_reason(backend, torch.empty(0, device=device, dtype=dtype), 64, 64, packed=True):
        pytest.skip(reason)
    monkeypatch.setenv("DIFFUAPRIEL_SSD", backend)
    torch.manual_seed(0)
    shape = {"d_model": 128, "depth": 3, "d_state": 64, "headdim": 64, "attention_headdim": 64, "cond_dim": 8}
    model = Denoiser(ModelConfig(architecture, attention_every=2, vocab_size=20, **shape))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    model, sigma = model.to(device), torch.tensor([0.7], device=device)
    ids = torch.randint(0, 18, (1, sum(LENGTHS)), device=device)
    ids[0, torch.tensor(LENGTHS, device=device).cumsum(0) - 1] = 18
    document_ids = make_document_ids(ids, eos_id=18)
    with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
        together = model(ids, sigma, document_ids=document_ids).float()
        alone = torch.cat([model(part, sigma) for part in ids.split(LENGTHS, dim=1)], dim=1).float()
        joined = model(ids, sigma).float()
    close = 0.05 if dtype == torch.bfloat16 else 1e-3
    assert (together - alone).norm() < close * alone.norm()
    assert (joined - alone).norm() > 2 * close * alone.norm(), "or the test could not fail"
    weight = torch.randn_like(together)
    gradients = (torch.autograd.grad(y, tuple(model.parameters()), weight) for y in (together, alone))
    got, expected = (torch.cat([g.flatten().float() for g in grads]) for grads in gradients)
    assert (got - expected).norm() < close * expected.norm()
