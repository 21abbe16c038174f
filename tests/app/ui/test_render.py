"""Model text and model names reach the page as text, whatever they hold."""

from __future__ import annotations

import pytest

from app.race.charts import latency_panel
from app.race.store import SavedResult
from app.ui import render
from app.ui.tale_check import excerpt, judge, split
from diffuapriel.benchmark.result import EntryFacts
from diffuapriel.benchmark.sweep import Point, SweepResult
from diffuapriel.charts.plotly import draw
from diffuapriel.tokenizer import get_tokenizer

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TOKENIZER = get_tokenizer("gpt2-4k")


@pytest.mark.parametrize(
    "page",
    [
        render.note(EVIL),
        render.note(EVIL, bad=True),
        render.notes([EVIL]),
        render.progress(0.5, EVIL),
        render.lead(EVIL, EVIL),
        excerpt(EVIL, 3),
        judge(TOKENIZER.encode(EVIL), TOKENIZER, 1).html,
    ],
)
def test_markup_in_a_text_stays_text(page):
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;" in page


def test_stories_end_at_end_of_text():
    ids = [
        *TOKENIZER.encode("One."),
        TOKENIZER.eos_id,
        *TOKENIZER.encode("Two"),
        TOKENIZER.eos_id,
        TOKENIZER.eos_id,
    ]
    whole, cut = split(ids, TOKENIZER.eos_id), split(ids[:-2], TOKENIZER.eos_id)
    for found in (whole, cut):
        assert [TOKENIZER.decode(story.ids) for story in found] == ["One.", "Two"]
    assert whole[-1].closed and not cut[-1].closed


def test_a_true_tale_is_grammatical_and_consistent():
    import random

    from diffuapriel.tales import language as tales

    story = tales.generate(3, random.Random(1))
    page = judge([*TOKENIZER.encode(story), TOKENIZER.eos_id], TOKENIZER, 3).html
    assert "✓ Fits the story grammar" in page
    assert "✓ Consistent" in page
    assert "<mark" not in page


def test_a_broken_tale_shows_where():
    import random

    from diffuapriel.tales import language as tales

    story = tales.generate(1, random.Random(0)) + " zebra"
    page = judge(TOKENIZER.encode(story), TOKENIZER, 1).html
    assert "✗ Does not fit the story grammar" in page
    assert "▸" in page
    assert "zebra" in page


def test_a_tale_cut_by_the_canvas_says_so():
    import random

    from diffuapriel.tales import language as tales

    words = tales.generate(1, random.Random(0)).rsplit(" ", 1)[0]
    assert "cut off by the end of the canvas" in judge(TOKENIZER.encode(words), TOKENIZER, 1).html


def test_an_empty_canvas_has_no_story():
    assert "No story" in judge([TOKENIZER.eos_id] * 4, TOKENIZER, 1).html


def sweep(a: dict[int, float], b: dict[int, float]) -> SavedResult:
    points = [Point(name, n, ms, ms, ms, 1.0, 1) for name, curve in (("A", a), ("B", b)) for n, ms in curve.items()]
    told = {"architecture": "diffuapriel", "tokenizer": "", "parameters": 1, "weights": "", "dtype": ""}
    facts = [EntryFacts(name=name, device="cpu", attention="", **told) for name in ("A", "B")]
    result = SweepResult(("A", "B"), tuple(points), (), 1, 1, "", 1, "")
    return SavedResult(sweep=result, facts=tuple(facts))


def test_the_chart_marks_the_crossover():
    figure = draw(latency_panel([sweep({256: 2.0, 512: 2.0}, {256: 1.0, 512: 4.0})]))
    (mark,) = figure.layout.annotations
    assert "crossover at" in mark.text
    assert 256 < 10**mark.x < 512
    assert figure.layout.shapes[0].x0 == pytest.approx(10**mark.x)


def test_the_chart_of_curves_that_do_not_cross_has_no_mark():
    figure = draw(latency_panel([sweep({256: 1.0, 512: 1.0}, {256: 2.0, 512: 2.0})]))
    assert len(figure.data) == 2
    assert "slope 0.00" in figure.data[0].name
