"""The dial of passes: its stops are the recorded points, and it says where the settings of the page stand."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from app.server.limits import Limits, Refused
from app.server.models import Models
from app.strings.language import texts
from app.ui.events import SKIP
from app.unmask.dial import SETS, Dial, figure, quality
from app.unmask.request import STEPS, THRESHOLD, first_settings, read_request, unmask_settings
from app.unmask.tab import UnmaskTab
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frontier import Measure
from tests.app.toys import toy_frontier, toy_tuned


@pytest.fixture(scope="module")
def dial(checkpoints, tmp_path_factory) -> Dial:
    return Dial(Models([toy_tuned(tmp_path_factory.mktemp("tuned")), *checkpoints]), Limits())


def settings(dial: Dial, label: str = "toy-tuned", **changes: Any) -> list[Any]:
    """The settings that the page opens with."""
    first = first_settings(dial.models.find(label))
    page = {"text": "", "model": label, "length": 96, "steps": STEPS, "top_k": 0, "seed": 0, "block_start": "prompt"}
    return [(page | first | changes)[name] for name in unmask_settings(dial.models, dial.limits)]


def turned(dial: Dial, stop: Any, **changes: Any) -> dict[str, Any]:
    """The settings that a stop sets."""
    found = dial.turn(SimpleNamespace(_data={"stop": stop}), *settings(dial, **changes))  # pyright: ignore[reportArgumentType]
    return {name: value for name, value in zip(SETS, found, strict=True) if value is not SKIP}


def test_the_page_opens_at_the_recorded_choice_and_at_the_temperature_that_was_measured(dial):
    tab = UnmaskTab(dial.models, dial.limits)
    opened = json.loads(tab.dial.arguments(dial.models.find("toy-tuned"))["value"])
    assert opened["at"] == 2 and opened["note"] == "" and json.loads(dial.follow(*settings(dial))) == opened
    assert [stop["rate"] for stop in opened["stops"]] == [
        "0.9 tokens per pass, one at a time",
        "1.9 tokens per pass",
        "2.3 tokens per pass",
        "4.0 tokens per pass",
    ]
    assert [stop["loses"] for stop in opened["stops"]] == [False, False, False, True]
    config = read_request(dial.models, dial.limits, *settings(dial)).config
    how = {"temperature": 0.5, "top_p": 0.9, "threshold": THRESHOLD}
    assert config == SamplerConfig("factor", factor=0.5, steps=STEPS, block_length=8, **how)


@pytest.mark.parametrize("stop", range(4))
def test_each_stop_sets_the_options_that_were_measured_and_the_dial_stays_there(dial, stop):
    model = dial.models.find("toy-tuned")
    values = settings(dial, **turned(dial, stop))
    config = read_request(dial.models, dial.limits, *values).config
    point = (model.frontier.reference, *model.frontier.points)[stop]
    measured = model.frontier.sampler(point)
    for name in ("strategy", "block_length", "temperature", "top_p", *({point.strategy} - {"low_confidence"})):
        assert getattr(config, name) == getattr(measured, name), name
    assert json.loads(dial.follow(*values))["at"] == stop


def test_one_token_per_pass_takes_as_many_steps_as_the_canvas_has_masks(dial):
    assert turned(dial, 0)["steps"] == STEPS and turned(dial, 0, length=200)["steps"] == 200
    assert turned(dial, 0, length=1000)["steps"] == dial.limits.max_steps and "steps" not in turned(dial, 1)
    one = turned(dial, 0)
    assert json.loads(dial.follow(*settings(dial, **one)))["at"] == 0
    assert json.loads(dial.follow(*settings(dial, **(one | {"steps": 95}))))["at"] is None


@pytest.mark.parametrize("own", [{"factor": 0.6}, {"block": 16}, {"strategy": "threshold"}, {"length": -1}])
def test_a_rule_set_by_hand_is_no_stop(dial, own):
    assert json.loads(dial.follow(*settings(dial, **own)))["at"] is None


@pytest.mark.parametrize("own", [{"temperature": 1.0}, {"top_p": 1.0}, {"top_k": 5}])
def test_where_tokens_are_drawn_in_another_way_the_dial_says_so(dial, own):
    found = json.loads(dial.follow(*settings(dial, **own)))
    assert found["at"] == 2
    assert found["note"] == "This was measured at temperature 0.5 and top-p 0.9, not with your settings."


@pytest.mark.parametrize("block", [8, 0])
def test_texts_end_where_they_did_when_the_points_were_measured(dial, monkeypatch, block):
    model = dial.models.find("toy-tuned")
    assert not read_request(dial.models, dial.limits, *settings(dial, block=block)).config.stop_at_eos
    monkeypatch.setitem(model.frontier.__dict__, "stop_at_eos", True)
    asked = read_request(dial.models, dial.limits, *settings(dial, block=block))
    assert asked.config.stop_at_eos is (block > 0), "the canvas as one block has no end before its own"


def test_a_model_without_a_frontier_has_no_dial(dial):
    assert dial.follow(*settings(dial, "toy-diffutran")) == ""
    assert dial.arguments(dial.models.find("toy-diffutran"))["value"] == ""
    with pytest.raises(Refused, match="toy-diffutran has no recorded frontier"):
        turned(dial, 0, model="toy-diffutran")


@pytest.mark.parametrize("stop", [-1, 4, 1.5, None, "0", True])
def test_a_stop_that_is_not_there_is_refused(dial, stop):
    with pytest.raises(Refused, match="stop is"):
        turned(dial, stop)


def test_quality_is_said_in_words_and_numbers_of_the_language():
    measured = toy_frontier(("threshold", 0.9, 32, 1.9, 0.984, False), ("factor", 1.0, 8, 4.0, 0.5, True))
    said = quality(measured, measured.points[0], stories=True)
    assert said == "Of 512 stories: 98.4 % consistent (98.4 to 100.0). One token per pass: 99.0 % consistent."
    assert quality(measured, measured.points[1], stories=False).startswith("Loses quality. Of 512 texts: 50.0 %")
    assert "One token per pass" not in quality(measured, measured.reference, stories=True)
    assert figure(Measure("nats/token", 1.8321, (1.8, 1.9)), ends=True) == "1.832 nats/token (1.800 to 1.900)"
    assert figure(Measure("<b>odd{x}", 2.0)) == "2.000 <b>odd{x}", "a stranger's name is text: dial.js writes no HTML"
    with texts.speaking("de"):
        assert quality(measured, measured.points[0], stories=True).startswith("Von 512 Geschichten: 98,4 % stimmig")
