"""What the page opens with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffuapriel.checkpoint import CheckpointInfo
from diffuapriel.config import ModelConfig
from diffuapriel.page.build import default_options
from diffuapriel.sampling.frontier import Frontier, Measure, TunePoint

BLOCKS = ModelConfig("diffuapriel", 16, 1, 300, "gpt2-4k", headdim=16, block_lengths=(1, 16), time_conditioning=False)


def point(strategy: str, value: float | None, speed: float, *, loses: bool = False) -> TunePoint:
    return TunePoint(strategy, value, 16, speed, (speed, speed), (Measure("consistent", 0.9),), loses)


def info(**extra) -> CheckpointInfo:
    return CheckpointInfo("tales-blocks", Path("tales-blocks"), BLOCKS, extra, {})


def test_without_a_record_a_model_of_blocks_of_one_token_drafts_and_verifies() -> None:
    assert default_options(info()).strategy == "speculative"
    whole = replace(info(), config=replace(BLOCKS, block_lengths=()))
    assert default_options(whole).strategy == "low_confidence"
    rule = {"strategy": "threshold", "threshold": 0.8, "block_length": 16}
    assert default_options(info(generation=rule)).threshold == 0.8


def test_the_fastest_recorded_point_without_loss_comes_first_whatever_the_default_rule() -> None:
    points = point("threshold", 0.97, 2.0), point("threshold", 0.9, 2.5, loses=True), point("speculative", None, 4.0)
    frontier = Frontier(point("low_confidence", None, 1.0), points, 64, 128, 0.5, None, 0.02, 0, "threshold")
    recorded = frontier.to_dict()
    options = default_options(info(generation=recorded.pop("choice"), frontier=recorded))
    assert (options.strategy, options.block_length, options.temperature, options.top_p) == (
        "speculative",
        16,
        0.5,
        None,
    )
    recorded = replace(frontier, points=points[:2]).to_dict()
    assert default_options(info(generation=recorded.pop("choice"), frontier=recorded)).threshold == 0.97
