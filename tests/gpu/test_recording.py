"""A recorded step is the step itself, on a CUDA device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import Recorded
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.loop import add_gradient, backward
from tests.gpu.recorded import config_of, train_steps


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("architecture", ["diffuapriel", "diffutran"])
def test_a_recorded_update_is_the_update_itself(architecture: str, accumulation: int) -> None:
    shape = ModelConfig(architecture, d_model=128, depth=2, vocab_size=1001, d_state=32, headdim=32)
    config = TrainConfig(
        architecture,
        model=shape,
        length=64,
        batch_size=8,
        gradient_accumulation_steps=accumulation,
        steps=1,
        precision="bf16",
    )
    torch.manual_seed(0)
    model = Denoiser(shape).cuda()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    processes, generator = SingleProcess(torch.device("cuda")), torch.Generator("cuda")
    ids = torch.randint(0, 1000, (2, config.global_batch_size, 64), device="cuda")

    def gradients(add) -> list[tuple[float, torch.Tensor]]:
        found = []
        for step in range(2):
            model.zero_grad(set_to_none=False)
            generator.manual_seed(step)
            loss = backward(model, ids[step], config, generator, processes, add)
            found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
        return found

    plain = partial(add_gradient, model, config, processes)
    expected = gradients(plain)
    got = gradients(Recorded(plain, model, config, processes))
    for (loss, gradient), (other_loss, other) in zip(expected, got, strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-3)
        assert (gradient - other).norm() <= 0.01 * gradient.norm()
    assert not torch.equal(got[0][1], got[1][1])


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Sums in a fixed order, where PyTorch has a kernel that does so."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_steps_of_every_block_length_are_the_eager_ones_bit_for_bit(
    deterministic: None, architecture: str, accumulation: int, precision: str
) -> None:
    config, device = config_of(architecture, accumulation=accumulation, precision=precision), torch.device("cuda")
    losses, weights = train_steps(config, device, recorded=False, kernel=SDPBackend.MATH)
    recorded_losses, recorded_weights = train_steps(config, device, recorded=True, kernel=SDPBackend.MATH)
    assert losses == recorded_losses and all(map(math.isfinite, losses))
    assert torch.equal(weights, recorded_weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_steps_of_blocks_with_the_fastest_attention_are_the_eager_ones(architecture: str) -> None:
    config, device = config_of(architecture, precision="bf16"), torch.device("cuda")
    losses, weights = train_steps(config, device, recorded=False)
    recorded_losses, recorded_weights = train_steps(config, device, recorded=True)
    torch.testing.assert_close(recorded_losses, losses, rtol=1e-2, atol=0)
    assert (weights - recorded_weights).norm() <= 0.01 * weights.norm()
