"""Which models are offered, when they are loaded, and that one runs at a time."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from app.server import models as registry
from app.server.limits import Refused
from app.server.models import FIRST_MODEL, ModelEntry, Models, preferred
from app.strings.language import texts
from diffuapriel import checkpoint
from diffuapriel.benchmark import memory


def test_checkpoints_come_first_and_presets_follow(models):
    assert models.trained[:2] == ["toy-diffuapriel", "toy-diffutran"]
    assert "diffutran nano, random weights" in models.untrained
    assert models.everything == [*models.trained, *models.untrained]
    assert models.opening_pair() == ("toy-diffuapriel", "toy-diffutran")


def test_without_a_checkpoint_untrained_models_stand_in(monkeypatch):
    monkeypatch.setattr(checkpoint, "bundled", lambda: [])
    models = Models()
    assert models.trained == models.untrained[:3]
    assert models.opening_pair() == (models.untrained[0], models.untrained[2])


def test_a_bundled_model_that_is_not_whole_is_left_out_and_said(checkpoints, tmp_path, monkeypatch, caplog):
    whole = Path(checkpoints[0])
    broken = tmp_path / "checkpoints" / "broken"
    broken.mkdir(parents=True)
    (broken / "config.json").write_bytes((whole / "config.json").read_bytes())
    monkeypatch.setenv("DIFFUAPRIEL_ASSETS", str(tmp_path))
    models = Models([str(whole)])
    assert models.trained == [whole.name]
    assert "The bundled model broken is left out: " in caplog.text and "model.safetensors is missing" in caplog.text
    with pytest.raises(FileNotFoundError, match="is missing"):
        Models([str(broken)])


def test_tales_and_stories_are_offered_first_then_the_other_architectures():
    names = ["tales-diffutran", "stories-diffuapriel", "stories-diffuapriel-small", "tales-diffuapriel-h"]
    assert preferred([*names, FIRST_MODEL]) == [FIRST_MODEL, names[2], names[1], names[3], names[0]]


def test_a_model_says_what_it_has_read():
    models = Models()
    assert models.find("tales-diffuapriel").reading == texts.READ_TALES
    read = "tinystories, storybooks, fairytales, childrens books"
    assert models.find("stories-diffuapriel").reading == f"Has read {read}, and nothing else."
    assert models.find(models.untrained[0]).reading == texts.READ_NOTHING


@pytest.mark.parametrize("damage", [7, [7], [{}], [{"name": 7}], {"name": "x"}])
def test_a_damaged_list_of_sources_is_no_list_of_sources(checkpoints, damage):
    info = checkpoint.inspect_checkpoint(checkpoints[0])
    assert dataclasses.replace(info, extra={"sources": damage}).sources == ()


def test_the_page_opens_with_the_first_checkpoint_and_races_two_of_a_size(checkpoints):
    assert Models().default == FIRST_MODEL
    assert Models(checkpoints).default == "toy-diffuapriel"
    assert Models().opening_pair() == (FIRST_MODEL, "tales-blocks-diffutran")


def test_nothing_is_loaded_before_it_is_asked_for_and_then_once(models):
    assert not models._loaded
    model_entry = models.find("toy-diffuapriel")
    assert models.load(model_entry) is models.load(model_entry)
    assert models.load(model_entry).config.architecture == "diffuapriel"


def test_only_so_many_stay_loaded(models, monkeypatch):
    monkeypatch.setattr(registry, "KEPT", 1)
    for name in ("toy-diffuapriel", "toy-diffutran"):
        models.load(models.find(name))
    assert list(models._loaded) == ["toy-diffutran"]


def test_a_preset_too_large_for_this_machine_is_refused_with_the_figure(models, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_000_000)
    with pytest.raises(Refused, match=r"loading diffutran nano, random weights needs about 10.1 MB"):
        models.load(models.find("diffutran nano, random weights"))


@pytest.mark.parametrize("label", ["", None, 3, "../../etc", "toy-diffuapriel/../x", ["toy-diffuapriel"]])
def test_only_listed_models_can_be_chosen(models, label):
    with pytest.raises(Refused, match="permitted: toy-diffuapriel"):
        models.find(label)


def test_a_foreign_folder_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        Models([str(tmp_path)])


def test_an_entry_knows_its_architecture_and_what_windows_it_was_trained_on():
    models = Models()
    found = models.find("tales-diffuapriel")
    assert (found.architecture, found.window, found.tales_level) == ("diffuapriel", 128, 3)
    found = models.find("diffutran nano, random weights")
    assert (found.architecture, found.window, found.tales_level) == ("diffutran", 0, None)


def test_two_checkpoints_of_one_name_are_told_apart(checkpoints, tmp_path):
    import shutil

    twin = tmp_path / Path(checkpoints[0]).name
    shutil.copytree(checkpoints[0], twin)
    assert Models([checkpoints[0], str(twin)]).trained[:2] == ["toy-diffuapriel", "toy-diffuapriel (2)"]


def test_a_run_is_offered_by_its_name_and_no_message_tells_its_folder(checkpoints, tmp_path):
    import shutil

    run = tmp_path / "runs" / "mine"
    shutil.copytree(checkpoints[0], run / "checkpoint")
    models = Models([str(run)])
    mine = models.find("mine")
    assert models.load(mine).name == "mine"
    models._loaded.clear()
    (run / "checkpoint" / "model.safetensors").unlink()
    with pytest.raises(Refused) as refused:
        models.load(mine)
    assert str(refused.value) == "mine/model.safetensors is missing"


def test_one_turn_at_a_time(models, monkeypatch):
    monkeypatch.setattr(registry, "TURN_SECONDS", 0.05)
    with models.turn():
        assert models.busy
        with pytest.raises(Refused, match="busy"), models.turn():
            pass
    assert not models.busy


def test_a_turn_is_given_back_after_an_error(models):
    with pytest.raises(RuntimeError), models.turn():
        raise RuntimeError
    assert not models.busy


def test_a_turn_may_end_on_another_thread(models):
    turn = models.turn()
    turn.__enter__()
    thread = threading.Thread(target=turn.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert not models.busy


@pytest.mark.parametrize(
    ("corpus", "level"), [("tales", 3), ("tales:1", 1), ("tales:x", None), ("stdlib", None), ("", None)]
)
def test_the_level_of_tales_is_read_from_the_corpus(corpus, level):
    assert ModelEntry("x", "x", True, "gpt2-4k", corpus).tales_level == level


def test_a_list_shows_sizes_and_which_bundled_model_writes_best(checkpoints):
    bundled = Models()
    shown = {label: text for text, label in bundled.choices(bundled.trained)}
    assert shown["stories-diffuapriel-small"] == "stories-diffuapriel-small · 35M, writes best, slow"
    assert shown["tales-diffuapriel-h"] == "tales-diffuapriel-h · 6.7M"
    own = Models(checkpoints)
    assert own.choices(["toy-diffutran", "diffutran nano, random weights"]) == [
        ("toy-diffutran · 2.5M", "toy-diffutran"),
        ("diffutran nano, random weights", "diffutran nano, random weights"),
    ]
    assert not any("best" in text for text, _ in own.choices(own.trained))
