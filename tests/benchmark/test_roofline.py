"""The roofline: arithmetic that reproduces the figures the targets were set by."""

from __future__ import annotations

import pytest

from diffuapriel.benchmark.roofline import (
    FLASH_ATTENTION_2,
    Peaks,
    backbone_work,
    block_roofline_seconds,
    mixer_bytes,
    roofline_seconds,
)
from diffuapriel.config import ARCHITECTURES, ModelConfig, preset

H200 = Peaks(flops=790e12, bandwidth=4.3e12)
TRAN = ModelConfig("diffutran", 2048, 24, attention_headdim=128)
PURE = ModelConfig("diffuapriel", 2048, 18)
HYBRID = ModelConfig("diffuapriel-h", 2048, 20, attention_every=4)


def weights(config: ModelConfig) -> float:
    return backbone_work(config, 1).weight_bytes / 2


def ratio(config: ModelConfig, length: int, share: float | None = None) -> float:
    """DiffuTran's time over that of `config`, both divided by their parameters."""
    options = {} if share is None else {"attention_share": share}
    tran = roofline_seconds(TRAN, length, 4, H200, **options) / weights(TRAN)
    return tran / (roofline_seconds(config, length, 4, H200) / weights(config))


def test_the_three_backbones_of_the_promise_have_equal_parameters() -> None:
    assert weights(PURE) == pytest.approx(weights(TRAN), rel=0.02)
    assert weights(HYBRID) == pytest.approx(weights(TRAN), rel=0.02)


@pytest.mark.parametrize(
    ("length", "promised", "with_flash_2"),
    [
        (1024, 1.07, 1.1),
        (2048, 1.15, 1.3),
        (4096, 1.32, 1.6),
        (8192, 1.66, 2.2),
        (16_384, 2.34, 3.3),
        (32_768, 3.70, 5.7),
        (65_536, 6.4, 10.4),
    ],
)
def test_pure_over_diffutran_is_what_the_targets_were_set_by(length: int, promised: float, with_flash_2: float) -> None:
    assert ratio(PURE, length) == pytest.approx(promised, rel=0.02)
    assert ratio(PURE, length, FLASH_ATTENTION_2) == pytest.approx(with_flash_2, rel=0.04)


def test_a_block_costs_the_same_after_any_context_without_attention() -> None:
    """The figures of the 1.3b presets on an H200: weights, matrices, states and, with attention, keys and values."""
    peaks = Peaks(774e12, 4.25e12)
    pure, hybrid, tran = (preset("1.3b", architecture) for architecture in ARCHITECTURES)
    after = {c.architecture: [block_roofline_seconds(c, 256, n, 1, peaks) for n in (0, 65_536)] for c in (pure, tran)}
    states = 4 * pure.d_inner * pure.d_state * pure.depth / peaks.bandwidth
    assert after["diffuapriel"][0] == after["diffuapriel"][1]
    assert after["diffuapriel"][0] == pytest.approx(roofline_seconds(pure, 256, 1, peaks) + states)
    assert after["diffutran"][0] == pytest.approx(roofline_seconds(tran, 256, 1, peaks))
    one = [block_roofline_seconds(c, 1, 65_536, 1, peaks) for c in (hybrid, tran)]
    keys = 2 * 2 * tran.d_model * tran.depth * 65_536 / peaks.bandwidth
    assert one[1] == pytest.approx(roofline_seconds(tran, 1, 1, peaks) + keys, rel=0.01), "bound by reading them"
    assert one[0] < one[1]


def test_the_hybrid_too() -> None:
    assert ratio(HYBRID, 65_536) == pytest.approx(3.4, rel=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_two_flops_a_weight_and_token(architecture: str) -> None:
    config = preset("1.3b", architecture)
    work = backbone_work(config, 512, batch=3)
    assert work.product_flops == 2 * weights(config) * 3 * 512
    assert weights(config) == pytest.approx(1.1e9, rel=0.03)


def test_attention_alone_grows_with_the_square_of_the_length() -> None:
    short, long = (backbone_work(TRAN, n) for n in (1024, 2048))
    assert long.attention_flops == 4 * short.attention_flops == 4 * 24 * 4 * 1024**2 * 2048
    assert (long.product_flops, long.pass_bytes) == (2 * short.product_flops, 2 * short.pass_bytes)
    assert backbone_work(PURE, 1024).attention_flops == 0


def test_a_short_text_waits_for_the_weights_to_be_read() -> None:
    one_token = roofline_seconds(PURE, 1, 1, H200)
    assert one_token >= 2 * weights(PURE) / H200.bandwidth


def test_the_mixer_reads_its_input_once_and_writes_its_output_once() -> None:
    projected, y = 2 * (2 * 4096 + 2 * 128 + 64), 2 * 4096
    assert mixer_bytes(PURE, 1024, 2) == 2 * (projected + y) * 2048
    assert mixer_bytes(PURE, 1024, 2, backward=True) == 2 * (3 * projected + 2 * y) * 2048


def test_peaks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Peaks(0, 4e12)
