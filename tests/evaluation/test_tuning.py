"""Measuring quality against tokens per pass, and what a checkpoint records of it."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffuapriel.checkpoint import inspect_checkpoint, save_checkpoint
from diffuapriel.cli import main
from diffuapriel.config import ModelConfig
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.evaluation import tuning
from diffuapriel.evaluation.tuning import tune, written_nats
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.pipelines import pipeline
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frontier import Frontier, Measure
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace
from tests.sampling.models import Exact, Letters, random_joint


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


def test_texts_of_a_model_of_blocks_stop_at_their_end_and_others_fill_the_canvas(monkeypatch):
    asked = []

    def measured(model, corpus, config, *_):
        asked.append((config.strategy, config.block_length, config.stop_at_eos))
        return 2.0, (1.9, 2.1), (Measure("consistent", 0.9, (0.0, 1.0)),)

    monkeypatch.setattr(tuning, "_measure", measured)
    monkeypatch.setitem(tuning.VALUES, "threshold", (0.9,))
    corpus, model = TalesCorpus(get_tokenizer("gpt2-4k"), 1), lambda *_: None
    how = {"length": 16, "samples": 8, "rules": ["threshold", "speculative"], "block_lengths": (4, 0)}
    model.config = SimpleNamespace(block_lengths=(1, 4, 0))
    assert tune(model, corpus, **how).stop_at_eos
    of_blocks = [("low_confidence", 4, True), ("threshold", 4, True), ("threshold", None, False)]
    assert asked == [*of_blocks, ("speculative", 4, True), ("speculative", 16, True)]
    asked.clear()
    assert not tune(lambda *_: None, corpus, **how | {"rules": ["threshold"]}).stop_at_eos
    assert not any(stops for *_, stops in asked)


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
    info = inspect_checkpoint(folder)
    assert report["choice"] == info.generation == recorded and report["weights"] == info.files
    assert info.frontier == Frontier.from_dict(report).worth_offering()
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


def test_texts_end_as_they_did_when_the_rule_was_measured_unless_told_otherwise(folder, tmp_path):
    info = inspect_checkpoint(folder)
    shape = dataclasses.replace(info.config, block_lengths=(1, 4), time_conditioning=False)
    blocks = str(tmp_path / "blocks")
    save_checkpoint(blocks, Denoiser(shape), card="# blocks\n\n## Limits\n\n- few\n", extra=info.extra)
    measure = ["tune", blocks, "--samples", "8", "--rule", "threshold", "--block-length", "4", "--tolerance", "1"]
    assert main([*measure, "--out", str(tmp_path / "out")]) == 0
    found = inspect_checkpoint(blocks)
    assert found.generation["stop_at_eos"] and found.frontier.stop_at_eos
    trace = tmp_path / "trace.json"
    for flags, stops in (([], True), (["--no-stop-at-eos"], False), (["--strategy", "random"], False)):
        assert main(["sample", "--checkpoint", blocks, "--length", "8", "--trace", str(trace), *flags]) == 0
        assert Trace.from_json(trace.read_text()).meta["stop_at_eos"] is stops
    pipe = pipeline(blocks, "cpu")
    assert pipe(length=8, return_trace=True).traces[0].meta["stop_at_eos"]
    assert next(iter(pipe.write("Once")))


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


def test_a_record_that_is_no_frontier_is_refused_by_the_name_of_the_file(folder, tmp_path):
    assert inspect_checkpoint(folder).frontier is None
    file = tmp_path / "mine" / "config.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"extra": {"frontier": {"points": []}}}))
    with pytest.raises(ValueError, match=r"config\.json: extra\.frontier: .* is no frontier of diffuapriel tune"):
        _ = inspect_checkpoint(folder).frontier


def test_the_file_and_the_card_have_one_choice_of_the_default_rule(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tuning.VALUES, "factor", (100.0,))
    command = ["tune", folder, "--samples", "8", "--rule", "threshold", "--rule", "factor", "--block-length", "4"]
    for rule in ("factor", "threshold"):
        out = tmp_path / rule
        assert main([*command, "--tolerance", "1", "--default-rule", rule, "--out", str(out)]) == 0
        report = json.loads((out / "frontier.json").read_text())
        assert report["default_rule"] == report["choice"]["strategy"] == rule
        assert inspect_checkpoint(folder).generation == report["choice"]
    assert main(["tune", folder, "--record-from", str(out / "frontier.json"), "--default-rule", "factor"]) == 0
    assert inspect_checkpoint(folder).generation["strategy"] == "factor"


def test_figures_of_another_machine_are_recorded_for_the_weights_that_were_measured_only(folder, tmp_path, capsys):
    measure = ["tune", folder, "--samples", "8", "--rule", "threshold", "--block-length", "4", "--tolerance", "1"]
    elsewhere = tmp_path / "elsewhere" / "copy"
    shutil.copytree(folder, elsewhere)
    assert main([*measure[:1], str(elsewhere), *measure[2:], "--out", str(tmp_path / "out")]) == 0
    figures = tmp_path / "out" / "frontier.json"

    assert main(["tune", folder, "--record-from", str(figures)]) == 0, "a copy under another name has the same weights"
    assert f"chosen: threshold 0, blocks of 4; recorded in {folder}" in capsys.readouterr().out
    assert inspect_checkpoint(folder).extra == inspect_checkpoint(elsewhere).extra
    assert (tmp_path / "mine" / "README.md").read_bytes() == (elsewhere / "README.md").read_bytes()

    document = json.loads(figures.read_text())
    older = {key: value for key, value in document.items() if key != "weights"}
    for changes, words in (
        (document | {"weights": {"model.safetensors": "0" * 64}}, "measured on other weights than those of mine"),
        (older, "holds figures of 'copy', measured on other weights than those of mine; measure these: diffuapriel"),
        (document | {"points": []}, "there are 0 points"),
    ):
        figures.write_text(json.dumps(changes))
        assert main(["tune", folder, "--record-from", str(figures)]) == 1
        assert words in " ".join(capsys.readouterr().err.split())
    figures.write_text(json.dumps(older | {"checkpoint": "mine"}))
    assert main(["tune", folder, "--record-from", str(figures)]) == 0
    assert main([*measure, "--record-from", str(figures)]) == 1
    assert "cannot be combined with --record-from" in capsys.readouterr().err


def test_a_bundled_model_is_changed_only_if_that_is_asked_for(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFUAPRIEL_ASSETS", str(tmp_path / "assets"))
    bundle = tmp_path / "assets" / "checkpoints" / "mine"
    shutil.copytree(folder, bundle)
    command = ["tune", "mine", "--samples", "8", "--rule", "threshold", "--block-length", "4", "--tolerance", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "its card is unchanged; --bundled changes it" in capsys.readouterr().out
    assert inspect_checkpoint("mine").frontier is None
    record = ["tune", "mine", "--record-from", str(tmp_path / "out" / "frontier.json")]
    assert main(record) == 0 and inspect_checkpoint("mine").frontier is None
    assert main([*record, "--bundled"]) == 0
    assert f"recorded in {bundle}" in capsys.readouterr().out
    assert inspect_checkpoint("mine").generation == {"strategy": "threshold", "threshold": 0.0, "block_length": 4}
