"""The frontier of quality and tokens per pass: what counts as a loss, what is chosen, and what a checkpoint records."""

import json
import math

import numpy as np
import pytest
import torch

from diffuapriel.checkpoint import inspect_checkpoint, save_checkpoint
from diffuapriel.cli import main
from diffuapriel.config import ModelConfig
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.evaluation import tuning
from diffuapriel.evaluation.tuning import Frontier, Measure, TunePoint, tune, written_nats
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.pipelines import pipeline
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace
from tests.sampling.models import Exact, Letters, random_joint


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
    assert frontier(fast, faster).png().startswith(b"\x89PNG")


def test_bolder_values_of_a_rule_are_not_measured_once_one_loses(monkeypatch):
    asked = []

    def measured(model, corpus, config, *_):
        value = getattr(config, config.strategy, None)
        asked.append((config.strategy, value, config.block_length))
        quality = 0.9 if value is not None and value < 0.95 else 0.98
        return 2.0, (1.9, 2.1), (Measure("consistent", quality, (0.0, 1.0)),)

    monkeypatch.setattr(tuning, "_measure", measured)
    monkeypatch.setitem(tuning.VALUES, "threshold", (0.99, 0.95, 0.9, 0.8))
    corpus = TalesCorpus(get_tokenizer("gpt2-4k"), 1)
    found = tune(lambda *_: None, corpus, length=16, samples=8, rules=["threshold"], block_lengths=(0, 8))
    assert asked[0] == ("low_confidence", None, 16)
    assert asked[1:] == [("threshold", v, n) for n in (None, 8) for v in (0.99, 0.95, 0.9)]
    assert [p.loses for p in found.points] == [False, False, True] * 2


def test_with_an_exact_denoiser_the_likelihood_of_what_was_written_is_that_of_the_distribution():
    exact, tokenizer = Exact(random_joint(4, 3, seed=1)), Letters(3)  # the last of 4 tokens is <|endoftext|>
    config = SamplerConfig("low_confidence", steps=3, block_length=2)
    ids = np.array([[0, 1, 2], [2, 2, 0], [1, 3, 2]])
    nats, tokens = written_nats(exact, tokenizer, config, ids)
    joint = exact.joint.view(4, 4, 4)
    assert nats == pytest.approx([-math.log(joint[tuple(row)]) for row in ids]) and tokens == [3, 3, 3]
    _, tokens = written_nats(exact, tokenizer, config, np.array([[0, 3, 3], [3, 3, 3], [0, 1, 3]]))
    assert tokens == [2, 0, 3], "the first <|endoftext|> at the end counts, the padding behind it does not"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> str:
    """A small model with random weights, of free text, and a rule that reveals everything at once."""
    torch.manual_seed(0)
    model = Denoiser(ModelConfig("diffuapriel", 16, 2, 4098, "gpt2-4k", d_state=4, headdim=8, cond_dim=8))
    (tmp_path / "text.txt").write_text("The cat sat on the mat and looked at the moon.\n\n" * 60)
    extra = {"recipe": {"corpus": str(tmp_path / "text.txt"), "length": 12}}
    save_checkpoint(tmp_path / "mine", model, card="# mine\n\n## Limits\n\n- few\n", extra=extra)
    monkeypatch.setitem(tuning.VALUES, "threshold", (0.0,))
    return str(tmp_path / "mine")


def test_the_choice_is_recorded_once_and_is_the_default_of_sample_and_pipeline(folder, tmp_path, capsys):
    command = ["tune", folder, "--samples", "8", "--rule", "threshold", "--block-length", "4", "--tolerance", "1"]
    for _ in range(2):
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert f"chosen: threshold 0, blocks of 4; recorded in {folder}" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "frontier.json").read_text())
    recorded = {"strategy": "threshold", "threshold": 0.0, "block_length": 4}
    assert report["choice"] == inspect_checkpoint(folder).generation == recorded
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.count("## Tokens per pass") == 1 and card.endswith("## Limits\n\n- few\n")
    assert (tmp_path / "mine" / "frontier.png").read_bytes() == (tmp_path / "out" / "frontier.png").read_bytes()

    trace = tmp_path / "trace.json"
    for flags, expected in (([], recorded), (["--strategy", "random"], {"strategy": "random", "block_length": None})):
        assert main(["sample", "--checkpoint", folder, "--length", "8", "--trace", str(trace), *flags]) == 0
        meta = Trace.from_json(trace.read_text()).meta
        assert {name: meta[name] for name in expected} == expected
    pipe = pipeline(folder, "cpu")
    traces = pipe(length=8, return_trace=True).traces, pipe(length=8, threshold=1.0, return_trace=True).traces
    assert [len(of[0].frames) - 1 for of in traces] == [2, 8], "two blocks, or eight tokens"


def test_a_record_that_is_no_rule_is_refused(folder, tmp_path):
    file = tmp_path / "mine" / "config.json"
    document = json.loads(file.read_text())
    for wrong in (
        {"strategy": "random", "block_length": 0},
        {"strategy": "factor", "factor": -1, "block_length": 0},
        [1],
    ):
        file.write_text(json.dumps(document | {"extra": {"generation": wrong}}))
        with pytest.raises(ValueError, match=r"extra\.generation is .*; it must hold strategy, one of threshold"):
            _ = inspect_checkpoint(folder).generation
