"""Every option out of range is refused with its value and the permitted range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuapriel.sampling.config import (
    MAX_SEED,
    MAX_STEPS,
    ON_SCHEDULE,
    STRATEGIES,
    SamplerConfig,
    resolve_blocks,
    resolve_options,
)
from diffuapriel.sampling.strategies import SELECTORS

WHOLE = {"steps": (1, MAX_STEPS), "block_length": (1, MAX_STEPS), "seed": (0, MAX_SEED), "top_k": (1, None)}
NUMBERS = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "repetition_penalty": (0.1, 10),
    "alg_temp": (0, 100),
    "threshold": (0, 1),
    "factor": (0, 100),
    "entropy_bound": (0, 100),
    "remask_below": (0, 1),
    "remask_cap": (0, 1),
    "remask_rescale": (0, 1),
    "t_on": (0, 1),
    "t_off": (0, 1),
    "alpha_on": (0.001, 0.999),
}


def test_every_named_strategy_exists():
    assert set(SELECTORS) == set(STRATEGIES) and set(ON_SCHEDULE) < set(STRATEGIES)


@given(st.sampled_from(sorted(WHOLE)), st.integers())
def test_whole_numbers_are_taken_in_their_range_and_refused_outside(name, value):
    low, high = WHOLE[name]
    if value >= low and (high is None or value <= high):
        assert getattr(SamplerConfig(**{name: value}), name) == value
    else:
        with pytest.raises(ValueError, match=f"{name} is .*; it must be a whole number(,| from) {low}"):
            SamplerConfig(**{name: value})


@given(st.sampled_from(sorted(NUMBERS)), st.floats() | st.integers() | st.just(10**400))
def test_numbers_are_taken_in_their_range_and_refused_outside(name, value):
    low, high = NUMBERS[name]
    if low <= value <= high and not (name == "top_p" and value == 0):
        assert getattr(SamplerConfig(**{name: value}), name) == value
    else:
        with pytest.raises(ValueError, match=f"{name} is .*; it must be a number .*{high}"):
            SamplerConfig(**{name: value})


@pytest.mark.parametrize("name", [*WHOLE, *NUMBERS])
@pytest.mark.parametrize("value", [True, "1", [1], 1j])
def test_other_types_are_refused(name, value):
    with pytest.raises(TypeError, match=name):
        SamplerConfig(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_fraction_is_no_whole_number(name):
    with pytest.raises(TypeError, match="whole number"):
        SamplerConfig(**{name: 2.0})


@pytest.mark.parametrize("value", ["", "greedy", "Confidence", None, 3])
def test_an_unknown_strategy_is_refused_with_the_known_ones(value):
    with pytest.raises(ValueError, match="permitted: ancestral, low_confidence"):
        SamplerConfig(strategy=value)


@pytest.mark.parametrize("old, new", [("confidence", "low_confidence"), ("remask", "remdm")])
def test_the_old_name_of_a_strategy_is_accepted(old, new):
    assert SamplerConfig(old) == SamplerConfig(new) and SamplerConfig(old).strategy == new
    assert SamplerConfig("confidence", block_length=4).block_length == 4


def test_a_loop_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match=r"t_off is 0\.6; it must be a number from 0 to 0\.5, which is t_on"):
        SamplerConfig("remdm_loop", t_on=0.5, t_off=0.6)


def test_a_stop_needs_blocks():
    with pytest.raises(ValueError, match="stop_at_eos is True, but without block_length the whole canvas is filled"):
        SamplerConfig(stop_at_eos=True)
    assert SamplerConfig("ancestral", stop_at_eos=True, block_length=4).stop_at_eos


def test_blocks_as_a_user_gives_them():
    assert resolve_blocks("low_confidence", None) == {"block_length": 16, "block_start": "prompt"}
    assert resolve_blocks("ancestral", None, "zero") == {"block_length": None, "block_start": "zero"}
    assert resolve_blocks("confidence", 0)["block_length"] is None
    known = (1, 4, 16, 64, 0)
    assert resolve_blocks("ancestral", None, known=known) == {"block_length": 16, "block_start": "zero"}
    assert resolve_blocks("threshold", None, known=(1, 8))["block_length"] == 8
    assert resolve_blocks("threshold", 0, known=known)["block_length"] is None
    with pytest.raises(ValueError, match=r"block_length is 8; this model was trained for 1, 4, 16, 64, 0 \(the whole"):
        resolve_blocks("threshold", 8, known=known)


def test_numpy_values_become_plain_ones():
    config = SamplerConfig(steps=np.int64(4), temperature=np.float32(0.5))
    assert type(config.steps) is int and type(config.temperature) is float


def test_a_huge_number_is_refused_without_printing_it():
    with pytest.raises(ValueError) as error:
        SamplerConfig(steps=10**5000)
    assert len(str(error.value)) < 200


def test_the_bound_on_denoiser_calls():
    assert SamplerConfig("low_confidence", steps=8).max_calls(100) == 8
    assert SamplerConfig("low_confidence", steps=8).max_calls(3) == 3
    assert SamplerConfig("ancestral", steps=8).max_calls(3) == 8
    assert SamplerConfig("threshold", steps=8).max_calls(100) == 100
    assert SamplerConfig("factor", steps=8).max_calls(100) == 100
    assert SamplerConfig("entropy_bound", steps=8).max_calls(100) == 100
    assert SamplerConfig("first_hitting", steps=8).max_calls(100) == 100
    assert all(SamplerConfig(s, steps=8).max_calls(3) == 8 for s in ON_SCHEDULE)
    assert all(SamplerConfig(s).max_calls(0) == 0 for s in STRATEGIES)
    assert all(SamplerConfig(s, steps=2, block_length=4).max_calls(20) == 5 for s in ("ancestral", "entropy"))


def test_the_rule_of_a_checkpoint_holds_until_another_strategy_is_named():
    rule = {"strategy": "factor", "factor": 0.5, "block_length": 8}
    at_prompt = {"block_start": "prompt"}
    assert resolve_options({"strategy": None, "factor": None}, generation=rule) == rule | at_prompt
    assert resolve_options({"factor": 2.0, "block_length": 0}, generation=rule)["block_length"] is None
    assert resolve_options({"strategy": "factor", "factor": 2.0}, generation=rule) == rule | {"factor": 2.0} | at_prompt
    blocks = {"block_length": 16, **at_prompt}
    assert resolve_options({"strategy": "confidence"}, generation=rule) == {"strategy": "confidence", **blocks}
    assert resolve_options({}) == {"strategy": "low_confidence", **blocks}
    assert resolve_options({}, (1, 8), rule)["block_start"] == "zero"
    stops = rule | {"stop_at_eos": True}
    assert resolve_options({}, generation=stops)["stop_at_eos"]
    assert not resolve_options({"stop_at_eos": False}, generation=stops)["stop_at_eos"]
    assert "stop_at_eos" not in resolve_options({"block_length": 0}, generation=stops), "one block has no end before"
    assert "stop_at_eos" not in resolve_options({"strategy": "random"}, generation=stops)
