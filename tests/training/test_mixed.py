"""Runs on a mix: they go on exactly across the change of weights, on any number of ranks, and report every part."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from diffuapriel.checkpoint import inspect_checkpoint
from diffuapriel.cli import main
from diffuapriel.training import recipes
from diffuapriel.training.logging import draw_curve, read_log
from diffuapriel.training.loop import train
from diffuapriel.training.recipes import Recipe
from tests.training.test_distributed import agree
from tests.training.test_resume import losses, stop_before

MIX = """
parts:
  - {corpus: cats.jsonl, name: cats, weight: 50, final_weight: 0}
  - {corpus: dogs.jsonl, name: dogs, weight: 30, final_weight: 90}
  - {corpus: 'tales:1', name: tales, weight: 20, final_weight: 10}
final_fraction: 0.25
"""
NAMES = ("cats", "dogs", "tales")


@pytest.fixture
def mix(tmp_path: Path) -> str:
    for name in ("cats", "dogs"):
        lines = [json.dumps({"text": f"The {name} number {i} sat on a mat and looked at the moon."}) for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "mix.yaml").write_text(MIX)
    return f"mix:{tmp_path / 'mix.yaml'}"


@pytest.mark.parametrize("step", [4, 8, 10])
def test_stopped_before_at_or_after_the_change_a_run_goes_on_exactly(options, mix, tmp_path, monkeypatch, step):
    """The weights change after 9 of the 12 steps."""
    train(options(corpus=mix, folder=str(tmp_path / "whole")), progress=False)
    with monkeypatch.context() as patch:
        stop_before(patch, step, signal.SIGTERM)
        stopped = train(options(corpus=mix, folder=str(tmp_path / "parts")), progress=False)
    assert stopped.step == step + 1
    assert train(options(corpus=mix, folder=str(tmp_path / "parts")), progress=False).finished
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_two_ranks_read_the_rows_of_one_and_go_on_exactly_after_a_kill(crew, options, mix, tmp_path):
    def config(name):
        saves = 0.0 if name == "killed" else 1e6
        shape = {"steps": 16, "batch_size": 3, "gradient_accumulation_steps": 2, "save_seconds": saves}
        return options(corpus=mix, folder=str(tmp_path / name), **shape)

    crew.run(config("one"))
    crew.run(config("two"), ranks=2)
    agree(config("one").folder, config("two").folder)
    assert crew.stop(config("killed"), signal.SIGKILL, ranks=2, rank=1, wait=0.05) == [-signal.SIGKILL] * 2
    crew.run(config("killed"), ranks=2)
    assert losses(config("killed").folder) == losses(config("two").folder)


def test_every_part_is_validated_and_its_use_is_reported(options, mix):
    result = train(options(corpus=mix, validate_every=6, num_validation_sequences=4), progress=False)
    middle, end = (record for record in read_log(options().folder) if "validation" in record)
    assert list(result.parts) == [use.name for use in result.uses] == list(NAMES)
    for name, use in zip(NAMES, result.uses):
        part = result.parts[name]
        share = part.tokens / (part.num_sequences * part.length)
        assert end[f"validation/{name}"] == part.nats_per_token * share
        assert end[f"epochs/{name}"] == use.epochs
        assert name == "tales" or 0 < middle[f"epochs/{name}"] <= use.epochs
    assert middle["epochs/cats"] < end["epochs/cats"] and sum(use.tokens for use in result.uses) == result.tokens
    extra = inspect_checkpoint(result.checkpoint).extra
    assert extra["mix"]["final_fraction"] == 0.25
    assert extra["parts"]["dogs"]["tokens"] == result.uses[1].tokens
    card = (result.checkpoint / "README.md").read_text()
    assert all(f"\n| {name} | " in card for name in NAMES)


def test_the_curve_of_a_mix_has_a_line_for_every_part(monkeypatch):
    drawn = []
    from matplotlib.axes import Axes

    plain = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *a, **k: drawn.append((list(a[1]), k.get("label"))) or plain(self, *a, **k)
    )
    records = [{"step": step, "validation": 3.0, "validation/cats": step, "validation/dogs": 2.0} for step in (1, 2)]
    draw_curve([{"step": 1, "loss": 4.0}, *records], 10, "title")
    assert ([1, 2], "cats") in drawn and ([2.0, 2.0], "dogs") in drawn


def test_a_run_whose_length_is_a_time_cannot_change_its_weights(options, mix):
    with pytest.raises(ValueError, match="give its length in steps or tokens, not in minutes"):
        train(options(corpus=mix, minutes=1), progress=False)
    assert not Path(options().folder).exists()


def test_other_weights_in_the_same_folder_are_refused(options, mix, tmp_path):
    train(options(corpus=mix, steps=2), progress=False)
    (tmp_path / "mix.yaml").write_text(MIX.replace("weight: 30", "weight: 31"))
    with pytest.raises(ValueError, match="belongs to a run on other text"):
        train(options(corpus=mix, steps=2), progress=False)


def test_a_part_with_little_validation_text_is_not_scored_twice(options, mix):
    result = train(options(corpus=mix, steps=2, num_validation_sequences=64), progress=False)
    assert result.validation.num_sequences == 64 == result.parts["tales"].num_sequences
    assert result.parts["cats"].num_sequences < 10  # six sentences, windows of 24 tokens


def test_evaluate_finds_the_mix_of_a_checkpoint_whose_file_is_gone(options, mix, tmp_path, capsys):
    result = train(options(corpus=mix, steps=2), progress=False)
    (tmp_path / "mix.yaml").unlink()
    words = ["evaluate", str(result.checkpoint), "--sequences", "4", "--mc-samples", "1", "--samples", "0"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("bits/byte [") == 3 and out.count("xz -9") == 2
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["corpus"] == mix and list(report["parts"]) == list(NAMES)
    assert report["parts"]["cats"]["xz"]["text_bytes"] > 0 and report["parts"]["tales"]["xz"] is None
    assert main([*words, "--corpus", mix]) == 1, "a corpus that is asked for is read"
    assert "a mix is written mix:FILE.yaml" in capsys.readouterr().err


def test_a_mix_is_tokenized_and_trained_on_from_the_command_line(mix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tokenize", "mix:mix.yaml", "--tokenizer", "gpt2-4k", "--out", "cache"]) == 0
    out = capsys.readouterr().out
    assert out.count("SHA-256") == 2 and out.endswith("diffuapriel train --corpus mix:cache/mix.yaml ...\n")
    quick = "--length 16 --batch-size 2 --quiet --num-validation-sequences 2"
    assert main(["train", "--corpus", "mix:cache/mix.yaml", "--tokens", "64", "--out", "run", *quick.split()]) == 0
    out = capsys.readouterr().out
    assert "dogs" in out and "times" in out
    assert torch.tensor(losses(tmp_path / "run")).isfinite().all()


def test_a_recipe_measures_the_parts_of_a_mix(mix, tiny_model, tmp_path, monkeypatch):
    how = {"model": tiny_model(), "corpus": mix, "length": 32, "batch_size": 4, "tokens": 4 * 4 * 32, "warmup_steps": 2}
    toy = Recipe("for tests", how, level=None, num_sequences=4, num_mc_samples=1, batch_size=4)
    monkeypatch.setitem(recipes.RECIPES, "toy", toy)
    out = recipes.run_recipe("toy", "diffuapriel", tmp_path / "toy", progress=False, folder=str(tmp_path / "run"))
    assert out is not None
    info = inspect_checkpoint(out)
    assert info.mix and list(info.extra["parts"]) == list(NAMES)
    assert info.extra["parts"]["cats"]["tokens"] > 0
    assert info.extra["parts"]["cats"]["evaluation"]["num_mc_samples"] == 1
    assert "\n| cats | " in (out / "README.md").read_text()
