"""The Quality tab's handlers: scores and curves, what streams in, Stop and refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from types import SimpleNamespace

import gradio as gr
import pytest

from app.quality import score as scores
from app.quality.curves import drawn, quality_chart, read_curves, writers
from app.quality.tab import QualityTab
from app.server.guard import guarded_stream
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.strings.language import texts
from diffuapriel import checkpoint
from diffuapriel.charts.palette import COLORS
from diffuapriel.evaluation.steps_quality import QualityPoint
from diffuapriel.evaluation.surprisal import TextScore
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import get_tokenizer
from tests.app.toys import toy_blocks

TOKENIZER = get_tokenizer("gpt2-4k")
STORY = tales.generate(1, random.Random(0))
SCORE = {"text": STORY, "model": "toy-diffutran", "rounds": 2}
CURVES = {
    "model": "toy-diffutran",
    "strategies": ["low_confidence"],
    "steps": [2, 1],
    "windows": 4,
    "top_p": 0.9,
    "seed": 0,
}
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def tab(models) -> QualityTab:
    return QualityTab(models, Limits(max_tokens=40))


@pytest.fixture
def model_entry(models):
    """A model of tales that was trained on windows of 24 tokens."""
    return dataclasses.replace(models.find("toy-diffutran"), window=24)


def typed(text, model_entry, limits=None):
    return scores.score_request(text, model_entry, TOKENIZER, limits or Limits())


def score(nats: list[float], draws: int = 16) -> TextScore:
    n = len(nats)
    return TextScore(
        nats=sum(nats),
        nats_per_token=sum(nats) / n,
        ci95=(0.9 * sum(nats) / n, 1.1 * sum(nats) / n),
        surprisal=list(nats),
        standard_error=[0.5] * n,
        entropy=[1.0] * n,
        alternatives=[[(5, 0.5), (6, 0.25)]] * n,
        num_mc_samples=draws,
    )


# A typed text


def test_a_story_ends_with_endoftext_and_fills_the_window_of_its_model(model_entry):
    found = typed(f" {STORY}\n", model_entry)
    story = TOKENIZER.encode(STORY)
    assert found.tokens == [*story, TOKENIZER.eos_id]
    assert len(found.ids) == 24 and set(found.ids[len(story) :]) == {TOKENIZER.eos_id}
    assert found.filling == 24 - len(story) - 1
    assert found.exact == pytest.approx(-tales.log_prob(STORY, 1)) and found.level == 1
    assert found.byte_count == len(STORY)


def test_a_text_that_is_no_story_has_no_exact_value_and_a_long_one_no_filling(model_entry):
    assert typed("It rains.", model_entry).exact is None
    assert typed("nut " * 30, model_entry).filling == 0


def test_a_model_of_other_text_reads_the_text_as_it_is(model_entry):
    found = typed("Ünï.", dataclasses.replace(model_entry, corpus="stdlib"))
    assert found.ids == TOKENIZER.encode("Ünï.") and found.filling == 0
    assert found.byte_count == 6 and found.exact is None and found.level is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "the text takes 0 tokens; it may take 1 to 256"),
        (" \n", "the text takes 0 tokens"),
        (None, "the text takes 0 tokens"),
        ("nut " * 300, "it may take 1 to 256"),
        (["a"], "it must be text"),
        ("a" * 30_000, "the text has 30,000 characters"),
    ],
)
def test_a_text_that_cannot_be_scored_is_refused(model_entry, text, names):
    with pytest.raises(Refused, match=names):
        typed(text, model_entry)


def test_every_token_is_colored_by_its_surprise_and_says_what_the_model_expected(model_entry):
    asked = typed(STORY, model_entry)
    count = len(asked.tokens)
    message = json.loads(scores.rows_of(score([0.0, math.log(2), *[5.0] * (count - 2)]), asked, TOKENIZER))
    (lane,) = message["lanes"]
    assert lane["label"] == "toy-diffutran"
    assert lane["levels"][:3] == [7, 4, 0]
    assert "0.69 nats" in lane["titles"][1] and "50%" in lane["titles"][1]
    assert "".join(message["tokens"]).startswith(STORY) and message["chosen"] is None
    nothing = dataclasses.replace(score([1.0] * count), surprisal=[None] * count)
    unknown = json.loads(scores.rows_of(nothing, asked, TOKENIZER))["lanes"][0]
    assert set(unknown["levels"]) == {-1} and "not masked yet" in unknown["titles"][0]


def test_the_table_holds_the_bound_beside_the_exact_value(model_entry):
    asked = typed(STORY, model_entry)
    page = scores.figures(score([asked.exact / len(asked.tokens) + 0.5] * len(asked.tokens)), asked, TOKENIZER)
    assert f"<td>{asked.exact:.1f}</td><td>known from the grammar</td>" in page
    assert "<td>+0.500</td>" in page
    bits = (asked.exact + 0.5 * len(asked.tokens)) / math.log(2) / len(STORY)
    assert f"<td>{bits:.3f}</td><td>{0.9 * bits:.3f} to {1.1 * bits:.3f}</td>" in page
    assert "✓ Fits the story grammar" in page and "✓ Consistent" in page


def test_markup_in_a_text_stays_text(model_entry):
    asked = typed(EVIL, model_entry)
    page = scores.figures(score([1.0] * len(asked.tokens)), asked, TOKENIZER)
    assert "<script" not in page and "Not judged" in page
    assert "<" not in scores.rows_of(score([1.0] * len(asked.tokens)), asked, TOKENIZER)
    chart = scores.surprisal_chart(score([1.0, 1.0]), [EVIL, "a"])
    assert list(chart.data[0].customdata) == ["&lt;script&gt;alert(1)&lt;/script&gt;", "a"]


def test_an_error_bar_never_reaches_below_zero():
    bars = scores.surprisal_chart(score([0.1, 3.0]), ["a", "b"]).data[0]
    assert list(bars.y) == [0.1, 3.0]
    assert list(bars.error_y.array) == pytest.approx([0.98, 0.98])
    assert list(bars.error_y.arrayminus) == pytest.approx([0.1, 0.98])


def test_a_score_streams_in_round_by_round(tab, visitor):
    updates = list(tab.score(**SCORE, request=visitor))
    assert len(updates) == 3
    assert "<progress" in updates[1][4] and "16 of 32 masks" in updates[1][4]
    table, rows, chart, numbers, status = updates[-1]
    assert numbers["num_mc_samples"] == 32 and len(numbers["surprisal"]) == len(numbers["tokens"])
    assert numbers["nats_per_token"] == pytest.approx(math.log(4097), rel=0.02), "an untrained model knows nothing"
    assert numbers["exact_nats"] == pytest.approx(-tales.log_prob(STORY, 1))
    assert json.loads(rows["value"])["tokens"] == numbers["tokens"] and rows["visible"]
    assert len(chart["value"].data[0].y) == len(numbers["tokens"])
    assert "NELBO" in table and "32 random masks" in status
    assert not tab.models.busy and len(tab.score_stops) == 0


def test_a_score_that_is_stopped_keeps_its_rounds_and_one_that_is_left_frees_the_model(tab, visitor):
    stream = tab.score(**(SCORE | {"rounds": 32}), request=visitor)
    for update in stream:
        tab.score_stops.stop(visitor.session_hash)
        last = update
    assert last[3]["num_mc_samples"] == 16 and "<progress" not in last[4]
    stream = tab.score(**(SCORE | {"rounds": 32}), request=visitor)
    next(stream), next(stream)
    assert tab.models.busy
    stream.close()
    assert not tab.models.busy and len(tab.score_stops) == 0


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 33}, "rounds is 33; it must be a whole number from 1 to 32"),
        ({"model": EVIL}, "model is"),
        ({"text": "nut " * 80}, "it may take 1 to 40"),
    ],
)
def test_bad_values_of_a_score_are_refused_by_name(tab, visitor, changes, names):
    with pytest.raises(Refused, match=names):
        list(tab.score(**(SCORE | changes), request=visitor))
    assert not tab.models.busy


# Steps against quality


def test_points_stream_in_and_the_chart_grows(tab, visitor):
    updates = list(tab.curves(**CURVES, request=visitor))
    sizes = [len(u[0]["value"].data[0].x) for u in updates if isinstance(u[0], dict) and "value" in u[0]]
    assert sizes[0] == 1 and sizes[-1] == 2
    assert any("<progress" in u[2] for u in updates)
    chart, points, status = updates[-1]
    assert [p["steps"] for p in points] == [1, 2] and points[0]["num_sequences"] == 4
    assert points[0]["grammatical"] == 0.0 and 0 < points[0]["grammatical_ci95"][1] < 1
    assert "3 forward passes of 4 × 40 tokens" in status
    assert chart["visible"] and not tab.models.busy and len(tab.curve_stops) == 0


def test_curves_that_are_stopped_keep_their_points(tab, visitor):
    stream = tab.curves(**(CURVES | {"steps": [1, 32]}), request=visitor)
    for update in stream:
        if isinstance(update[0], dict) and update[0].get("visible"):
            tab.curve_stops.stop(visitor.session_hash)
    assert [p["steps"] for p in update[1]] == [1]
    assert texts.QUALITY_STOPPED in update[2]
    assert not tab.models.busy


def test_curves_that_are_stopped_before_a_point_draw_nothing(tab, visitor):
    tab.curve_stops.arm(visitor.session_hash)
    tab.curve_stops.stop(visitor.session_hash)
    *_, (chart, points, _) = tab.curves(**CURVES, request=visitor)
    assert not chart["visible"] and points == []


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"strategies": []}, "strategies are \\[\\]; choose one to 8"),
        ({"strategies": "low_confidence"}, "strategies are 'low_confidence'"),
        ({"strategies": [EVIL]}, "strategy is"),
        ({"steps": []}, "steps are"),
        ({"steps": [0]}, "steps is 0"),
        ({"steps": [10**6]}, "steps is 1000000"),
        ({"steps": [1] * 9}, "choose one to 8"),
        ({"windows": 3}, "windows is 3; it must be a whole number from 4 to 64"),
        ({"top_p": 0}, "top-p is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"model": None}, "model is None"),
        ({"model": "diffutran nano, random weights"}, "model is"),
    ],
)
def test_bad_values_of_curves_are_refused_by_name(tab, visitor, changes, names):
    with pytest.raises(Refused, match=names):
        list(tab.curves(**(CURVES | changes), request=visitor))
    assert not tab.models.busy


def test_only_models_of_tales_are_offered_and_their_own_window_is_drawn():
    models = Models()
    assert {"tales-diffuapriel", "tales-diffutran"} <= set(writers(models)) <= set(models.trained)
    asked = read_curves(models, Limits(), "tales-diffuapriel", ["random"], [4], 8, 1.0, 0)
    assert (asked.level, asked.length, asked.configs[0].top_p) == (3, 128, None)


def test_without_a_checkpoint_there_is_nothing_to_draw_curves_of(monkeypatch, visitor):
    monkeypatch.setattr(checkpoint, "bundled", lambda: [])
    models = Models()
    assert writers(models) == []
    with pytest.raises(Refused, match="model is None"):
        read_curves(models, Limits(), None, ["random"], [4], 8, 1.0, 0)


def point(strategy: str, calls: float, rate: float | None) -> QualityPoint:
    span = None if rate is None else (max(0.0, rate - 0.2), min(1.0, rate + 0.2))
    return QualityPoint(strategy, int(calls), calls, 8, 9, rate, span, rate, span, 3.5, (3.4, 3.6))


def test_the_curves_have_german_numbers_on_the_german_page():
    event = SimpleNamespace(points=[point("random", 8, 0.5), point("random", 1024, 1.0)])
    assert list(drawn(event, ["random"], 3.7)["value"].layout.xaxis.ticktext) == ["8", "1,024"]
    with texts.speaking("de"):
        layout = drawn(event, ["random"], 3.7)["value"].layout
    assert list(layout.xaxis.ticktext) == ["8", "1.024"] and layout.separators == ",."


def test_the_curves_show_intervals_and_the_true_entropy():
    points = [point("low_confidence", 8, 0.5), point("random", 8, None), point("low_confidence", 32, 1.0)]
    figure = quality_chart(points, ["low_confidence", "random"], truth=3.7)
    first = figure.data[0]
    assert list(first.y) == [50.0, 100.0]
    assert list(first.error_y.array) == pytest.approx([20.0, 0.0])
    assert list(first.error_y.arrayminus) == pytest.approx([20.0, 20.0])
    assert len(figure.data[3].y) == 0 and len(figure.data[5].y) == 1, "no story, no share; but an entropy"
    level = figure.data[-1]  # in the legend, so that no marker lies on its name
    assert (set(level.y), level.name) == ({3.7}, "tales of the grammar")
    assert list(figure.layout.xaxis.tickvals) == [8, 32]
    curves = figure.data[:-1]
    assert len({trace.line.color for trace in curves}) == len({trace.marker.symbol for trace in curves}) == 2
    assert not {trace.line.color for trace in curves} & set(COLORS.values())


def test_a_refusal_is_a_message(tab, visitor):
    with pytest.raises(gr.Error, match="windows is 3"):
        list(guarded_stream(tab.curves, str)(**(CURVES | {"windows": 3}), request=visitor))


# A model of blocks


def test_a_model_of_blocks_is_scored_exactly_token_after_token(tmp_path, visitor):
    tab = QualityTab(Models([toy_blocks(tmp_path)]), Limits(max_tokens=40))
    *_, (table, rows, _, numbers, status) = tab.score(STORY, "toy-blocks", 4, visitor)
    assert numbers["block_length"] == 1 and numbers["num_mc_samples"] == 1
    assert sum(numbers["surprisal"]) <= numbers["nats"] + 1e-6  # the filling is scored too
    assert all(error < 1e-3 for error in numbers["standard_error"])
    assert "Exact, in one pass" in status and table.count("one token after the other") == 3
    assert rows["visible"]


def test_without_block_length_1_it_is_bounded_in_its_shortest_blocks(tmp_path, visitor):
    tab = QualityTab(Models([toy_blocks(tmp_path, block_lengths=(4, 0))]), Limits(max_tokens=40))
    *_, (table, _, _, numbers, status) = tab.score(STORY, "toy-blocks", 1, visitor)
    assert (numbers["block_length"], numbers["num_mc_samples"]) == (4, 16)
    assert "In blocks of 4:" in status and "one token after the other" not in table


def test_the_curves_of_a_model_of_blocks_are_those_of_its_blocks(tmp_path, visitor):
    tab = QualityTab(Models([toy_blocks(tmp_path, block_lengths=(4, 0))]), Limits(max_tokens=16))
    *_, (_, [point], status) = tab.curves("toy-blocks", ["random"], [2], 4, 1.0, 0, visitor)
    assert point["calls"] == 4 and "In blocks of 4:" in status  # four blocks, a call for each
