"""Options out of range are refused, naming the option, its value and what is permitted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuapriel.config import preset
from diffuapriel.options import options_of
from diffuapriel.training.config import TrainConfig

AMOUNTS = ("steps", "tokens", "minutes")
NUMBERS = {name: declared for name, declared in options_of(TrainConfig).items() if declared.kind in (int, float)}


def with_option(name: str, value: object) -> TrainConfig:
    return TrainConfig(**({name: value} if name in AMOUNTS else {"steps": 1, name: value}))


@given(name=st.sampled_from(sorted(NUMBERS)), data=st.data())
def test_every_number_out_of_range_is_refused_by_name(name, data):
    least, most = NUMBERS[name].least, NUMBERS[name].most
    if NUMBERS[name].kind is int:
        value = data.draw(st.integers(max_value=int(least) - 1) | st.integers(min_value=int(most) + 1))
    else:
        below = st.floats(max_value=least, exclude_max=True, allow_nan=False)
        value = data.draw(below | st.floats(min_value=most, exclude_min=True) | st.just(math.nan))
    with pytest.raises(ValueError, match=rf"{name} is .*; it must be a (whole )?number from .* to "):
        with_option(name, value)


@given(name=st.sampled_from(sorted(NUMBERS)), value=st.sampled_from(["3", True, b"1", [1], 1j]))
def test_every_number_of_another_type_is_refused_by_name(name, value):
    with pytest.raises(TypeError, match=rf"{name} is .*; it must be a "):
        with_option(name, value)


@pytest.mark.parametrize(
    "changes, reason",
    [
        (
            {"architecture": "rwkv"},
            "architecture is 'rwkv'; permitted: diffuapriel, diffuapriel-h, diffutran",
        ),
        ({"precision": "fp8"}, "precision is 'fp8'; permitted: float32, bf16"),
        ({"preset": "huge"}, "preset is 'huge'; permitted: nano"),
        ({"schedule": "linear"}, "schedule is 'linear'; permitted: log-linear"),
        ({"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\)"),
        ({"steps": None}, "exactly one way, steps, tokens or minutes"),
        ({"tokens": 5}, "exactly one way, steps, tokens or minutes"),
        ({"length": 1025}, "length is 1025; the model's context is 1024"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        TrainConfig(**{"steps": 1, **changes})


def test_a_model_of_another_architecture_is_refused(tiny_model):
    with pytest.raises(ValueError, match="architecture is 'diffuapriel', the model's is 'diffutran'"):
        TrainConfig(steps=1, model=tiny_model("diffutran"), length=24)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device is 'toaster', which cannot be used here"):
        _ = TrainConfig(steps=1, device="toaster").torch_device


def test_tokens_are_rounded_up_to_whole_steps():
    config = TrainConfig(tokens=1001, batch_size=2, gradient_accumulation_steps=5, length=10)
    assert config.tokens_per_step == 100 and config.planned_steps == 11
    assert TrainConfig(minutes=1).planned_steps is None


def test_the_learning_rate_is_the_architecture_s_own_unless_given():
    assert TrainConfig(steps=1).peak_learning_rate == 3e-3
    assert TrainConfig(steps=1, architecture="diffutran").peak_learning_rate < 3e-3
    assert TrainConfig(steps=1, learning_rate=1e-4).peak_learning_rate == 1e-4


def test_a_model_of_tales_has_whole_words_and_every_new_model_a_sense_of_place():
    tales, other = TrainConfig(steps=1, corpus="tales:1"), TrainConfig(steps=1, corpus="stdlib")
    assert (tales.model_config.tokenizer, other.model_config.tokenizer) == ("tales-words", "gpt2-4k")
    assert tales.model_config.edge_embedding
    chosen = TrainConfig(steps=1, corpus="tales:1", tokenizer="gpt2-4k", edge_embedding=False)
    assert (chosen.model_config.tokenizer, chosen.model_config.edge_embedding) == ("gpt2-4k", False)
    own = TrainConfig(steps=1, model=preset("nano", "diffuapriel", edge_embedding=False))
    assert (own.tokenizer, own.edge_embedding) == ("gpt2-4k", False)


def test_a_run_from_before_these_options_differs_by_name():
    saved = TrainConfig(steps=1).to_dict()
    del saved["tokenizer"], saved["edge_embedding"]
    assert TrainConfig(steps=1).differences(saved) == {
        "tokenizer": ("gpt2-4k", "tales-words"),
        "edge_embedding": (False, True),
    }
    assert not TrainConfig(steps=1, tokenizer="gpt2-4k", edge_embedding=False).differences(saved)


def test_document_boundaries_are_part_of_the_model_whoever_asks_for_them():
    asked = TrainConfig(steps=1, document_boundaries=True)
    assert asked.model_config.document_boundaries and not TrainConfig(steps=1).model_config.document_boundaries
    for told in (
        TrainConfig(steps=1, model=asked.model_config),
        TrainConfig(steps=1, model=TrainConfig(steps=1).model_config, document_boundaries=True),
    ):
        assert told.document_boundaries and told.model_config == asked.model_config


def test_a_model_of_blocks_knows_its_block_lengths_and_is_not_told_the_noise_level():
    config = TrainConfig(steps=1, length=128, block_lengths="1,4,16,64,0")
    assert config.model_config.block_lengths == (1, 4, 16, 64, 0)
    assert not config.model_config.time_conditioning
    assert TrainConfig(steps=1, model=config.model_config).block_lengths == "1,4,16,64,0"


@pytest.mark.parametrize(
    "given, reason",
    [
        ("4,x", "block_lengths are '4,x'; give numbers such as"),
        ("3,0", "block_lengths are 3,0; 3 does not divide length, 128"),
        ("4,4", r"block_lengths is \(4, 4\); permitted: different whole numbers"),
        ("-1", r"block_lengths is \(-1,\)"),
    ],
)
def test_block_lengths_that_do_not_fit_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        TrainConfig(steps=1, length=128, block_lengths=given)
    with pytest.raises(ValueError, match="exclude each other"):
        TrainConfig(steps=1, length=128, block_lengths="4", document_boundaries=True)


def test_block_lengths_may_have_weights():
    config = TrainConfig(steps=1, block_lengths="1,4,0", block_length_weights="2,1,1")
    assert config.block_length_shares == (0.5, 0.25, 0.25)
    assert TrainConfig(steps=1, block_lengths="1,4").block_length_shares == (0.5, 0.5)
    assert TrainConfig(steps=1).block_length_shares == ()
    for weights in ("2,1", "2,1,0", "2,1,-1", "2,1,inf", "2,1,x"):
        with pytest.raises(ValueError, match="block_length_weights are"):
            TrainConfig(steps=1, block_lengths="1,4,0", block_length_weights=weights)
    with pytest.raises(ValueError, match="for each of the 0 block_lengths"):
        TrainConfig(steps=1, block_length_weights="1")


def test_mask_rates_are_two_rising_numbers_of_a_model_of_blocks():
    assert TrainConfig(steps=1).mask_rate_range == (0, 1)
    assert TrainConfig(steps=1, block_lengths="4", mask_rates="0.45,0.95").mask_rate_range == (0.45, 0.95)
    for rates in ("0.8,0.3", "0.5", "0,1.5", "x,1"):
        with pytest.raises(ValueError, match="mask_rates are"):
            TrainConfig(steps=1, block_lengths="4", mask_rates=rates)
    with pytest.raises(ValueError, match="they go with block_lengths"):
        TrainConfig(steps=1, mask_rates="0.3,0.8")
