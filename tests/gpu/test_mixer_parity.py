"""The mixer of every backend, in_proj's output to out_proj's input, agrees with the plain one on the recurrence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from diffuapriel.config import ModelConfig
from diffuapriel.model import layers
from diffuapriel.model.layers import EPS
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops.hopper import scan as hopper
from diffuapriel.ops.ssd import unsupported_reason
from diffuapriel.ops.triton.mixer import mixer as fused_mixer
from tests.gpu.parity import TOLERANCE, outer_gradient, poison, relative_error

BACKENDS = ("mamba_ssm", "triton")
# In bf16 what is convolved and what is scanned are rounded as well, and behind the norm, which takes out every
# common factor, gradients of weights are small differences of large sums. Places and signs are float32's business.
ROUGHER = {torch.float32: (1, 1), torch.bfloat16: (3, 5)}  # allowance for y and its input, and for weights
# (batch, length, d_model, headdim, state, groups, taps). Many heads: a gradient is held against the largest of its
# kind, and of few that sum over all tokens all may come out small by chance.
CASES = [
    (1, 1, 512, 64, 128, 1, 4),
    (3, 5, 256, 32, 16, 2, 4),
    *((2, length, 512, 64, 128, 1, 4) for length in (3, 63, 64, 65, 128)),  # short texts: one tile of tokens, or two
    *((3, length, 256, 32, 16, 2, 4) for length in (16, 100)),
    (1, 129, 480, 64, 128, 1, 4),  # 15 heads: no row of the projection starts at a multiple of 16 bytes
    (3, 200, 512, 64, 64, 2, 4),
    (1, 255, 2048, 64, 128, 1, 4),  # the large preset's 64 heads
    (1, 300, 1024, 128, 128, 1, 2),
    (1, 1025, 512, 64, 128, 1, 4),
]


def mixer(case: tuple[int, ...]) -> BidirectionalMamba2:
    """A module without its two products, every weight random: what starts as ones or zeros hides a wrong place."""
    _, _, d_model, headdim, state, groups, taps = case
    config = ModelConfig("diffuapriel", d_model, depth=1, headdim=headdim, d_state=state, n_groups=groups, d_conv=taps)
    module = BidirectionalMamba2(config)
    module.in_proj = module.out_proj = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        for weight in (module.D, module.norm_weight, module.conv_bias):
            weight.normal_()
    return module


def run(module: BidirectionalMamba2, projected: Tensor) -> Tensor:
    """What out_proj takes. Our mixer leaves the division by the norm until after out_proj: here it comes at once."""
    if module.backend != "triton":
        return module(projected)
    g, squares = fused_mixer(projected, *module._mixer_parameters(), groups=module.config.n_groups)
    y = g.float() * torch.rsqrt(squares / module.config.d_inner + EPS)[..., None]
    return y.permute(1, 2, 0, 3).flatten(2).to(projected.dtype)


def results(module: BidirectionalMamba2, projected: Tensor, outer: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and the gradients of the input and of every weight; `outer` is made from the output if missing."""
    inputs = {"projected": projected.requires_grad_(), **dict(module.named_parameters())}
    y = run(module, projected)
    outer = outer_gradient(y.detach(), torch.bfloat16) if outer is None else outer
    grads = torch.autograd.grad(y, list(inputs.values()), outer.to(y.dtype))
    named = {f"gradient of {name}": grad for name, grad in zip(inputs, grads, strict=True)}
    return outer, {"y": y.detach(), **named}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_mixer_agrees_with_the_plain_one(case: tuple[int, ...], dtype: torch.dtype, device, record) -> None:
    module = mixer(case).to(device)
    c = module.config
    channels = 2 * (2 * c.d_inner + 2 * c.n_groups * c.d_state + c.n_heads)
    projected = torch.randn(*case[:2], channels, device=device).to(dtype)
    exact = copy.deepcopy(module).double()
    exact.backend = "recurrent"
    outer, truth = results(exact, projected.double(), None)
    along, weights = (factor * TOLERANCE[dtype] for factor in ROUGHER[dtype])
    wrong = []
    for backend in BACKENDS:
        if unsupported_reason(backend, projected, c.headdim, c.d_state):
            continue
        module.backend = backend
        poison(list(truth.values()))
        _, got = results(module, projected.clone(), outer)
        errors = {name: relative_error(got[name], truth[name]) for name in truth}
        record(f"{backend} mixer {str(dtype).removeprefix('torch.')}", str(case), errors)
        for name, error in errors.items():
            most = along if name in ("y", "gradient of projected") else weights
            wrong += [f"{backend}: {name} {error:.1e}, at most {most:.0e}"] if not error <= most else []
    assert not wrong, f"{case}: {'; '.join(wrong)}"


# (batch, length, d_model); headdim, state, groups and taps are those that the CUDA scan takes. Shorter texts have a
# kernel of their own.
HOPPER_CASES = [
    (1, 192, 2048),
    (2, 320, 2048),  # more blocks than multiprocessors: one splits no sequence
    (1, 1088, 512),  # splits, in pieces
    (70, 192, 256),  # a block walks several texts
    (1, 2048, 2048),
]
NO_NORM = 2.0**60  # an epsilon beside which the mean square of y vanishes


@pytest.mark.parametrize("steep", [False, True], ids=["", "steep"])
@pytest.mark.parametrize("case", HOPPER_CASES, ids=str)
@torch.no_grad()
def test_the_cuda_scan_agrees_with_the_plain_mixer(case, steep, device, record, monkeypatch) -> None:
    """Forward, in bf16, before the norm: g, and the sums of its squares. Steep: a state lasts a token or two.

    Where all heads come out near zero, the norm would enlarge the rounding of B and C, which they share.
    """
    module = mixer((*case, 64, 128, 1, 4)).to(device)
    module.norm_weight.fill_(1)
    if steep:
        module.A_log.fill_(3)
        module.dt_bias.fill_(4)
    c = module.config
    channels = 2 * (2 * c.d_inner + 2 * c.n_groups * c.d_state + c.n_heads)
    projected = torch.randn(*case[:2], channels, device=device).bfloat16()
    exact = copy.deepcopy(module).double()
    exact.backend = "recurrent"
    monkeypatch.setattr(layers, "EPS", NO_NORM)
    truth = exact(projected.double()).unflatten(2, (2, -1)).permute(2, 0, 1, 3) * NO_NORM**0.5  # (2, b, l, h p)

    calls = []
    monkeypatch.delenv("DIFFUAPRIEL_SCAN", raising=False)
    scan = hopper.scan
    monkeypatch.setattr(hopper, "scan", lambda *inputs: calls.append(len(inputs)) or scan(*inputs))
    poison([projected, truth])
    *weights, _ = module._mixer_parameters()
    results = [fused_mixer(projected, *weights, norm_weight=None, groups=1) for _ in range(2)]
    if not calls:
        pytest.skip("this GPU keeps the Triton scan")
    g, squares = results[0]
    errors = {"g": relative_error(g, truth), "squares": relative_error(squares, truth.square().sum(-1))}
    record("CUDA scan bfloat16", str(case), errors)
    most = ROUGHER[torch.bfloat16][0] * TOLERANCE[torch.bfloat16]
    assert all(error <= most for error in errors.values()), errors  # not of NaN
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), "two runs differ"
