"""A link restores the settings of a tab; what it says is checked like any other value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import pytest

from app.inside.request import inside_settings
from app.quality.curves import curve_settings
from app.quality.score import score_settings
from app.race.request import LENGTHS, race_settings, sweep_settings
from app.server.limits import Limits, Refused, Settings
from app.ui.permalink import MOST_CHARACTERS, query_of, restored, value_of
from app.unmask.request import unmask_settings
from diffuapriel.sampling.config import ADAPTIVE

EVIL = "<img src=x onerror=alert(1)>"
UNMASK = [
    "Mia found a [MASK:6] & more.",
    "toy-diffuapriel",
    96,
    128,
    "low_confidence",
    0.75,
    0,
    0.9,
    7,
    24,
    "zero",
    0.8,
    0.5,
    0.2,
]
RACE = ["toy-diffuapriel", "toy-diffutran", "", 128, 32, "low_confidence", 2, 0, 16, 4096]
INSIDE = ["Ruth had five [MASK].", ["toy-diffuapriel", "toy-diffutran"], 0.25, "gradient"]
QUALITY = [
    "One day, Sam",
    "toy-diffutran",
    4,
    "toy-diffuapriel",
    ["low_confidence", "random"],
    [8, 32],
    8,
    0.9,
    0,
]
NUMBERS = {
    *("length", "steps", "temperature", "top_k", "top_p", "seed", "block", "threshold", "factor", "entropy_bound"),
    "repeats",
}


@dataclass
class Linked:
    """A tab's settings and the components that they belong to."""

    settings: Settings
    components: list[Any]

    def query(self, tab: str, sent: list) -> str:
        return query_of(tab, self.settings, sent)

    def restored(self, tab: str, query: dict) -> list:
        return restored(tab, self.settings, self.components, query)


def parts(names: list[str]) -> list:
    """Components as on the page: numbers come from sliders."""
    with gr.Blocks():
        return [gr.Slider() if name in NUMBERS else gr.Textbox() for name in names]


@pytest.fixture
def unmask(models) -> Linked:
    settings = unmask_settings(models, Limits())
    assert list(settings) == [
        *("text", "model", "length", "steps", "strategy"),
        *("temperature", "top_k", "top_p", "seed", "block", "block_start", *ADAPTIVE),
    ]
    return Linked(settings, parts(list(settings)))


@pytest.fixture
def race(models) -> Linked:
    settings = race_settings(models, Limits()) | sweep_settings(models, Limits())
    with gr.Blocks():
        longest = gr.Radio([(f"{n:,}", n) for n in LENGTHS])
    return Linked(settings, [*parts(list(settings)[:-1]), longest])


@pytest.fixture
def inside(models) -> Linked:
    with gr.Blocks():
        labels = gr.Dropdown(models.trained, multiselect=True)
        components = [gr.Textbox(), labels, gr.Slider(), gr.Radio(["gradient"])]
    return Linked(inside_settings(models, Limits()), components)


@pytest.fixture
def quality(models) -> Linked:
    with gr.Blocks():
        score = [gr.Textbox(), gr.Textbox(), gr.Slider(1, 32)]
        curves = [
            gr.Dropdown(models.trained),
            gr.CheckboxGroup(["low_confidence", "random"]),
            gr.CheckboxGroup([("8", 8), ("32", 32), ("128", 128)]),
            gr.Slider(4, 64),
            gr.Slider(),
            gr.Number(),
        ]
    settings = score_settings(models, Limits()) | curve_settings(models, Limits())
    return Linked(settings, [*score, *curves])


def values(updates: list) -> list:
    return [update.get("value", "as it was") for update in updates[:-2]]


def query(text: str) -> dict[str, list[str]]:
    return parse_qs(text.removeprefix("?"), keep_blank_values=True)


def test_what_a_link_says_comes_back(unmask, race, inside, quality):
    every = (
        ("unmask", unmask, UNMASK),
        ("race", race, RACE),
        ("inside", inside, INSIDE),
        ("quality", quality, QUALITY),
    )
    for tab, linked, sent in every:
        link = linked.query(tab, sent)
        assert link.startswith(f"?tab={tab}&")
        updates = linked.restored(tab, query(link))
        assert values(updates) == sent
        assert updates[-1]["selected"] == tab


@pytest.mark.parametrize("old, new", [("confidence", "low_confidence"), ("remask", "remdm")])
def test_a_link_with_the_old_name_of_a_strategy_is_restored(unmask, old, new):
    strategy = list(unmask.settings).index("strategy")
    assert unmask.restored("unmask", query(f"?tab=unmask&strategy={old}"))[strategy]["value"] == new


def test_a_link_can_be_read(race):
    assert race.query("race", RACE) == (
        "?tab=race&a=toy-diffuapriel&b=toy-diffutran&c=&length=128&steps=32&strategy=low_confidence&repeats=2&seed=0"
        "&block=16"
        "&longest=4096"
    )


def test_a_link_of_another_tab_and_other_parameters_change_nothing(unmask):
    link = query(unmask.query("unmask", UNMASK))
    assert all("value" not in update for update in unmask.restored("race", link))
    assert all("value" not in update for update in unmask.restored("unmask", {"__theme": ["dark"]}))
    updates = unmask.restored("unmask", {"tab": ["unmask"], "steps": ["8"], "__theme": ["dark"]})
    assert values(updates) == ["as it was"] * 3 + [8] + ["as it was"] * 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "0"),
        ("steps", "1e9"),
        ("steps", "nan"),
        ("steps", "9" * 5000),
        ("length", EVIL),
        ("temperature", "inf"),
        ("model", "../../etc/passwd"),
        ("strategy", EVIL),
        ("text", "a" * 20_001),
        ("seed", "-1"),
        ("top_p", ""),
    ],
)
def test_a_link_with_a_value_that_cannot_be_is_refused_as_a_whole(unmask, name, value):
    asked = query(unmask.query("unmask", UNMASK)) | {name: [value]}
    *updates, status, tabs = unmask.restored("unmask", asked)
    assert all("value" not in update for update in updates)
    assert (
        "Nothing was taken from the link." in status
        and "From the link:" in status
        and "da-bad" in status
        and "<img" not in status
    )
    assert tabs["selected"] == "unmask"


def test_a_longest_length_that_is_not_offered_is_refused(race):
    *_, status, _ = race.restored("race", {"tab": ["race"], "longest": ["4097"]})
    assert "permitted: 1024, 2048" in status


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("steps", ["8", "9"]),
        ("steps", ["8"] * 4),
        ("strategies", [EVIL]),
        ("windows", ["1"]),
        ("writer", ["x"]),
    ],
)
def test_lists_are_checked_value_by_value(quality, name, given):
    *updates, status, _ = quality.restored("quality", {"tab": ["quality"], name: given})
    assert all("value" not in update for update in updates)
    assert "From the link:" in status and "<img" not in status


def test_no_link_is_made_of_bad_values_or_of_too_long_a_text(unmask):
    with pytest.raises(Refused, match="steps is 0"):
        unmask.query("unmask", [*UNMASK[:3], 0, *UNMASK[4:]])
    with pytest.raises(Refused, match="save the trace instead"):
        unmask.query("unmask", ["x" * MOST_CHARACTERS, *UNMASK[1:]])


def test_text_stays_text_where_it_looks_like_a_number(unmask):
    by_name = dict(zip(unmask.settings, unmask.components, strict=True))
    assert value_of(["128"], by_name["text"]) == "128"
    assert value_of(["128"], by_name["steps"]) == 128
    assert value_of(["0.5"], by_name["top_p"]) == 0.5


def test_a_link_opens_its_tab(checkpoints):
    from app.main import build
    from app.server.models import Models

    page = build(Models(checkpoints))
    tabs = next(block for block in page.blocks.values() if isinstance(block, gr.Tabs))
    loads = [fn for fn in page.fns.values() if any(target[1] == "load" for target in fn.targets)]
    assert sum(tabs in fn.outputs for fn in loads) == 4
