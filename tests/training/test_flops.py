"""Model FLOPs are those that PyTorch counts, and a utilization is their share of what the cards could do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffuapriel.config import ARCHITECTURES, PRESETS, preset
from diffuapriel.model import mamba2
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.training import flops
from diffuapriel.training.flops import forward_flops, peak_flops, training_flops, utilization

LENGTH, TEXTS = 24, 2


def without_a_scan(x, *given, **options):
    """In place of the scan, whose FLOPs depend on how it is computed and are counted by hand."""
    return x


def counted(model: Denoiser, *, backward: bool) -> int:
    ids = torch.randint(4000, (TEXTS, LENGTH))
    # the counter does not know the CPU's own attention kernel; in plain products it sees every one
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids, torch.ones(TEXTS))
        if backward:
            logits.square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_forward_pass_has_the_flops_that_pytorch_counts(monkeypatch, tiny_model, architecture):
    monkeypatch.setattr(mamba2, "ssd_bidirectional", without_a_scan)
    config = tiny_model(architecture)
    scans = config.layer_kinds.count("mamba") * 2 * 4 * config.d_state * config.d_inner
    ours = (forward_flops(config, LENGTH) - scans) * TEXTS * LENGTH
    assert ours == counted(Denoiser(config), backward=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_update_has_three_times_as_many(monkeypatch, tiny_model, architecture):
    """Up to the first product of the noise level's embedding, whose input needs no gradient."""
    monkeypatch.setattr(mamba2, "ssd_bidirectional", without_a_scan)
    model = Denoiser(tiny_model(architecture))
    assert counted(model, backward=True) == pytest.approx(3 * counted(model, backward=False), rel=0.01)
    assert training_flops(model.config, LENGTH) == 3 * forward_flops(model.config, LENGTH)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_are_near_the_rule_of_six_a_parameter_and_token(name, architecture):
    """6 N counts each weight once per token, so not attention and scan, but the embedding, which is no product."""
    config = preset(name, architecture)
    parameters = config.parameters
    assert 0.5 < training_flops(config, 128) / (6 * parameters) < 1.5


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_update_costs_six_a_parameter_and_what_mixes_tokens(name, architecture):
    config, length = preset(name, architecture), 1024
    embedding = config.padded_vocab_size * config.d_model
    modulation = config.cond_dim * (6 * config.depth + 2) * config.d_model  # per text, not per token
    floor = 6 * (config.parameters - embedding - modulation)
    assert 0.97 * floor < training_flops(config, length) < 2.5 * floor
    if architecture == "diffutran":
        mixing = 3 * 4 * length * config.d_model * config.depth
        assert training_flops(config, length) - mixing == pytest.approx(floor, rel=0.03)


def test_only_attention_gets_dearer_with_the_length():
    longer = [training_flops(preset("240m", name), 8192) for name in ARCHITECTURES]
    short = [training_flops(preset("240m", name), 1024) for name in ARCHITECTURES]
    growth = dict(zip(ARCHITECTURES, (a / b for a, b in zip(longer, short))))
    assert growth["diffuapriel"] <= 1.0 < growth["diffuapriel-h"] < growth["diffutran"]


def test_a_utilization_is_the_share_of_the_peak_of_all_cards():
    config = preset("small", "diffuapriel")
    possible = 2 * 989e12 / training_flops(config, 1024)  # tokens per second, on two cards
    assert utilization(config, 1024, 0.4 * possible, 989e12, cards=2) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "card, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some Card 9", None),
    ],
)
def test_a_card_is_known_by_its_name_and_a_cpu_has_no_peak(monkeypatch, card, peak):
    monkeypatch.setattr(flops.torch.cuda, "get_device_name", lambda device: card)
    assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cpu")) is None
