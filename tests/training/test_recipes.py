"""Recipes are fair, and one command makes a measured checkpoint."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint
from diffuapriel.cli import main
from diffuapriel.config import ARCHITECTURES
from diffuapriel.training import recipes
from diffuapriel.training.recipes import RECIPES, Recipe, recipe_config, run_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_differs_between_architectures_in_nothing_but_the_learning_rate(name):
    configs = [recipe_config(name, architecture) for architecture in ARCHITECTURES]
    own = {"architecture": "", "folder": "", "model": None, "learning_rate": None}
    plain = [{**config.to_dict(), **own} for config in configs]
    assert plain[0] == plain[1] == plain[2]
    assert configs[0].tokens == configs[1].tokens == configs[2].tokens is not None
    assert len({config.folder for config in configs}) == 3
    assert len({config.model_config.tokenizer for config in configs}) == 1
    sizes = [config.model_config.parameters for config in configs]
    apart = (
        1.0205 if name in ("small-tales", "small-tales-long", "stories-small", "stories-blocks") else 1.02
    )  # gpt2-4k leaves the preset's shapes 2.01 % apart
    assert max(sizes) <= apart * min(sizes)


def test_bundled_weights_fit_16_megabytes_in_bfloat16():
    for name in ("tales-laptop", "tales-gpu", "stories-tiny"):
        assert 2.05 * recipe_config(name, "diffutran").model_config.parameters < 16e6


@pytest.mark.parametrize("preset", ["240m", "0.5b", "1.3b"])
def test_the_paper_s_budgets_are_trained_as_the_paper_says_on_twenty_tokens_a_parameter(preset):
    config = recipe_config(f"dclm-{preset}", "diffuapriel")
    assert config.corpus == "hf:mlfoundations/dclm-baseline-1.0" and config.length == 1024
    assert config.model_config.tokenizer == "gpt2" and config.preset == preset
    assert config.betas == (0.9, 0.95) and config.weight_decay == 0.1 and config.schedule == "log-linear"
    assert config.tokens / config.model_config.parameters == pytest.approx(20, rel=0.15)
    assert all(config.global_batch_size % ranks == 0 for ranks in (1, 2, 4, 8, 16, 32, 64))


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe is 'tales-toaster'; permitted: tales-laptop, tales-gpu"):
        recipe_config("tales-toaster", "diffutran")


@pytest.fixture
def toy_recipe(monkeypatch, tiny_model):
    """Twelve steps of a tiny model, and measurements of a few sequences."""
    options = {
        "model": tiny_model(),
        "corpus": "tales:1",
        "length": 32,
        "batch_size": 4,
        "tokens": 12 * 4 * 32,
        "warmup_steps": 5,
    }
    toy = Recipe(
        about="for tests",
        options=options,
        level=1,
        num_sequences=8,
        num_mc_samples=2,
        stories=2,
        batch_size=4,
    )
    monkeypatch.setitem(recipes.RECIPES, "toy", toy)


def test_a_folder_that_its_checkpoint_may_not_replace_is_refused_before_a_recipe_trains(
    toy_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(recipes, "train", None)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"contains 'thesis\.tex', which a save would delete"):
        run_recipe("toy", "diffuapriel", tmp_path, progress=False, folder=str(tmp_path / "run"))


def test_a_recipe_trains_measures_the_very_file_and_writes_its_card(toy_recipe, tmp_path, capsys):
    out = run_recipe("toy", "diffuapriel", tmp_path / "toy", progress=False, folder=str(tmp_path / "run"))
    assert out == tmp_path / "toy"
    model, tokenizer = load_checkpoint(out)
    extra = inspect_checkpoint(out).extra
    assert extra["recipe"]["recipe"] == "toy" and extra["recipe"]["tokens"] == 12 * 4 * 32
    again = recipes.measure(out, recipes.RECIPES["toy"], recipe_config("toy", "diffuapriel"), progress=False)
    assert extra["evaluation"]["nats_per_token"] == again["evaluation"]["nats_per_token"]
    card = (out / "README.md").read_text()
    for piece in (
        "| excess nelbo |",
        "| grammatical |",
        "| consistent |",
        "own distribution",
        "MIT",
        "loss.png",
        "diffuapriel train --recipe toy --architecture diffuapriel --out toy",
    ):
        assert piece in card
    assert (out / "loss.png").exists()
    assert "NELBO" in capsys.readouterr().out


def test_a_recipe_of_blocks_is_measured_at_every_block_length(toy_recipe, tmp_path, tiny_model):
    model = dataclasses.replace(tiny_model(), block_lengths=(4, 0), time_conditioning=False)
    out = tmp_path / "toy"
    run_recipe("toy", "diffuapriel", out, progress=False, folder=str(tmp_path / "run"), model=model)
    blocks = inspect_checkpoint(out).extra["blocks"]
    assert [block["block_length"] for block in blocks] == [4, 0]
    assert [block["evaluation"]["block_length"] for block in blocks] == [4, None]
    assert blocks[0]["samples"].keys() == {"low_confidence", "random", "threshold"}
    card = (out / "README.md").read_text()
    assert "| block lengths | 4, the whole window |" in card and "| whole window | " in card
    assert "threshold: grammatical, consistent" in card


def test_the_command_stops_by_the_clock_and_goes_on(toy_recipe, tmp_path, capsys):
    words = ["train", "--recipe", "toy", "--out", str(tmp_path / "toy"), "--quiet", "--run-folder"]
    short = [*words, str(tmp_path / "run"), "--stop-after-minutes", "0.01"]
    assert main([*short, "--tokens", "500000"]) == 0
    assert "run the same command again" in capsys.readouterr().out and not (tmp_path / "toy").exists()
    assert main([*short, "--tokens", "1"]) == 1
    assert "belongs to a run with tokens = 500000, not 1" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "run2")]) == 0
    assert f"diffuapriel sample --checkpoint {tmp_path / 'toy'}" in capsys.readouterr().out


def test_the_command_on_the_cards_of_older_checkpoints_names_the_new_one():
    words = [sys.executable, "-m", "diffuapriel.training.recipes", "tales-gpu", "--architecture", "diffutran"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "diffuapriel train --recipe NAME" in done.stderr
