"""Quality against tokens per pass: what counts as a loss, what is chosen, what is offered, and what a file may hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from diffuapriel.evaluation.tuning import frontier_png
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frontier import Frontier, Measure, TunePoint


def point(strategy: str, value: float | None, speed: float, quality: float, loses: bool = False) -> TunePoint:
    return TunePoint(strategy, value, 32, speed, (speed, speed), (Measure("consistent", quality, (0.0, 1.0)),), loses)


ONE = point("low_confidence", None, 1.0, 0.98)


def frontier(*points: TunePoint) -> Frontier:
    return Frontier(ONE, points, 64, 128, 1.0, 0.9, 0.02, 0)


@pytest.mark.parametrize(
    ("value", "higher_is_better", "worse"),
    [(0.95, True, False), (0.94, True, True), (1.05, False, True), (1, False, False)],
)
def test_a_figure_is_worse_beyond_the_tolerance_as_a_share_of_the_reference(value, higher_is_better, worse):
    now, before = (
        Measure("m", v, higher_is_better=higher_is_better) for v in (value, 1.0 if not higher_is_better else 0.97)
    )
    assert now.is_worse(before, 0.03) == worse


def test_the_fastest_point_without_loss_is_chosen_and_none_that_is_no_faster():
    fast, faster = point("threshold", 0.9, 2.5, 0.98), point("factor", 1.0, 4.0, 0.5, loses=True)
    assert frontier(point("threshold", 0.97, 1.7, 0.98), fast, faster).choice is fast
    assert frontier(point("threshold", 0.99, 0.9, 1.0), faster).choice is None
    assert fast.generation == {"strategy": "threshold", "threshold": 0.9, "block_length": 32}
    table = frontier(fast, faster).table().splitlines()
    assert "chosen" in table[2] and "loses quality" in table[3] and "chosen" not in table[3]
    assert frontier_png(frontier(fast, faster)).startswith(b"\x89PNG")


def test_what_is_offered_is_faster_than_the_reference_and_not_beaten_in_both():
    slow, even = point("factor", 0.1, 0.9, 0.99), point("factor", 0.25, 1.5, 0.97)
    better, fast = point("threshold", 0.97, 2.0, 0.97), point("threshold", 0.9, 2.5, 0.96)
    lost_early = point("entropy_bound", 0.4, 2.2, 0.99, loses=True)  # in another figure than the first
    bold, bolder, worst = (
        point("factor", value, speed, quality, loses=True)
        for value, speed, quality in ((0.5, 4.0, 0.5), (1.0, 3.9, 0.4), (2.0, 6.0, 0.1))
    )
    unknown = point("threshold", 0.5, 9.0, float("nan"), loses=True)
    found = frontier(worst, bolder, bold, lost_early, fast, better, even, slow, unknown).worth_offering()
    assert found.points == (better, fast, bold, worst)
    assert found.choice is fast and found.reference is ONE
    down = [replace(p, quality=(replace(p.quality[0], higher_is_better=False),)) for p in (better, fast)]
    assert frontier(*down).worth_offering().points == (down[1],), "of nats/token the lower one is better"


def test_the_default_can_be_of_another_rule_than_the_fastest_which_is_offered_beside_it():
    fast, faster = point("threshold", 0.9, 2.5, 0.97), point("speculative", None, 5.0, 0.98)
    both = replace(frontier(fast, faster, point("factor", 0.5, 2.0, 0.9)), default_rule="threshold")
    assert frontier(fast, faster).choice is faster and both.choice is fast
    assert both.worth_offering().points == (fast, faster)
    beaten = replace(frontier(fast, point("factor", 0.5, 2.6, 0.98)), default_rule="threshold").worth_offering()
    assert beaten.choice is fast and len(beaten.points) == 2, "what was chosen is offered, though another rule beats it"
    assert Frontier.from_dict(json.loads(json.dumps(both.to_dict())), known=(1, 32)).choice == fast


def test_texts_that_stop_are_measured_recorded_and_written_so_unless_the_canvas_is_one_block():
    fast, whole = point("threshold", 0.9, 2.0, 0.98), replace(point("threshold", 0.9, 1.5, 0.98), block_length=None)
    stopped = replace(frontier(fast, whole), stop_at_eos=True)
    recorded = {"strategy": "threshold", "threshold": 0.9, "block_length": 32, "stop_at_eos": True}
    assert stopped.rule(fast) == stopped.to_dict()["choice"] == recorded
    assert stopped.rule(whole) == whole.generation | {"block_length": 0}
    assert [stopped.sampler(p, (32, 0)).stop_at_eos for p in (fast, whole)] == [True, False]
    assert "64 samples up to 128 tokens per point, stopped at their first <|endoftext|>, temp" in stopped.card()
    again = json.loads(json.dumps(stopped.to_dict()))
    assert Frontier.from_dict(again, known=(32, 0)) == stopped
    del again["stop_at_eos"]
    assert not Frontier.from_dict(again, known=(32, 0)).stop_at_eos, "files of older versions filled whole canvases"


def test_the_card_holds_the_points_that_are_offered():
    fast, beaten, bold = (
        point("threshold", v, s, q, s > 3) for v, s, q in ((0.9, 2, 0.98), (1, 1.5, 0.9), (0, 4, 0.5))
    )
    card = frontier(fast, beaten, bold).card()
    assert [line.split(" | ")[0] for line in card.splitlines()[2:5]] == [
        "| low_confidence, blocks of 32",
        "| threshold 0.9, blocks of 32",
        "| threshold 0, blocks of 32",
    ]
    assert "| chosen |" in card and "| loses quality |" in card and "64 samples of 128 tokens per point" in card


def test_a_frontier_survives_json_and_knows_the_options_of_its_points():
    measured = frontier(point("threshold", 0.97, 1.7, 0.98), point("factor", 1.0, 4.0, 0.5, loses=True))
    assert Frontier.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured
    assert measured.sampler(measured.points[1]) == SamplerConfig(
        "factor", factor=1.0, steps=128, block_length=32, top_p=0.9
    )
    assert measured.sampler(ONE, known=(32, 0)).block_start == "zero"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("samples"), "'samples' is missing"),
        (lambda d: d.update(samples=0), "tokens per pass of 0"),
        (lambda d: d.update(temperature="hot"), "'hot' is no number"),
        (lambda d: d.update(temperature=-1.0), "temperature is -1.0"),
        (lambda d: d.update(points=[]), "there are 0 points"),
        (lambda d: d.update(default_rule="luck"), "default_rule is 'luck'"),
        (lambda d: d["points"][0].update(strategy="luck"), "strategy is 'luck'"),
        (lambda d: d["points"][0].update(value=7.0), "threshold is 7.0"),
        (lambda d: d["points"][0].update(block_length=7), "block_length is 7; this model was trained for 32, 0"),
        (lambda d: d["points"][0].update(tokens_per_pass=0.0), "0.0 tokens per pass"),
        (lambda d: d["points"][0].update(quality=[]), "the figures of a point are []"),
        (lambda d: d["points"][0]["quality"][0].update(name="<b>"), "the figures of a point are ['<b>']"),
        (lambda d: d["points"][0]["quality"][0].update(ci95=[0.9]), "not enough values"),
    ],
)
def test_a_file_that_holds_no_frontier_is_refused_with_the_reason(change, words):
    document = json.loads(json.dumps(frontier(point("threshold", 0.97, 1.7, 0.98)).to_dict()))
    change(document)
    with pytest.raises(ValueError, match="is no frontier of diffuapriel tune") as caught:
        Frontier.from_dict(document, known=(32, 0))
    assert words in str(caught.value)
    for wrong in (None, [], 7, {"points": 7}):
        with pytest.raises(ValueError, match="is no frontier of diffuapriel tune"):
            Frontier.from_dict(wrong)
