"""Whatever goes wrong in a run is a message, and the app goes on serving."""

from __future__ import annotations

import html
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import diffuapriel.benchmark.generation
from app.main import build, launch
from app.server.guard import as_message
from app.server.models import Models
from diffuapriel.sampling.strategies import SELECTORS
from tests.app.conftest import Served
from tests.app.server.stranger import call, doors, small_values


@pytest.fixture(scope="module")
def folders(checkpoints, tmp_path_factory) -> list[Path]:
    """Checkpoints of one's own, which may be damaged."""
    shelf = tmp_path_factory.mktemp("shelf")
    return [Path(shutil.copytree(folder, shelf / Path(folder).name)) for folder in checkpoints]


@pytest.fixture(scope="module")
def served(folders) -> Iterator[Served]:
    """The app on them."""
    models = Models([str(folder) for folder in folders])
    page = build(models)
    yield Served(launch(page), models, page)
    page.close(verbose=False)


def run(served: Served, name: str, **changed):
    """Call an endpoint with small values, some of them changed."""
    parameters = doors(served.url)[name]
    values = small_values(name, parameters)
    for number, parameter in enumerate(parameters):
        values[number] = changed.get(parameter["parameter_name"], values[number])
    return call(served.url, name, values)


def it_goes_on(served: Served) -> bool:
    return not served.models.busy and run(served, "unmask").event == "complete"


def out_of_memory(message: str):
    def events(*_, **__):
        yield from ()
        raise torch.OutOfMemoryError(message)

    return events


def test_a_race_that_runs_out_of_memory_is_a_message(served, monkeypatch):
    message = "CUDA out of memory. Tried to allocate 20.00 GiB"
    with monkeypatch.context() as patch:
        patch.setattr(diffuapriel.benchmark.generation, "race_events", out_of_memory(message))
        answer = run(served, "race")
    assert answer.event == "error"
    assert answer.data["title"] == "Not enough memory"
    assert message in answer.refusal
    assert it_goes_on(served)
    assert run(served, "race").event == "complete"


def test_what_ran_out_of_memory_lets_go_of_its_tensors():
    kept = []

    def work():
        tensor = torch.zeros(8)
        kept.append(weakref.ref(tensor))
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 TB")

    try:
        work()
    except RuntimeError as error:
        assert kept[0]() is not None
        told = as_message(error)
        assert kept[0]() is None
    assert told.title == "Not enough memory"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[Errno 13] Permission denied: '/home/lee/runs/mine/x.json'", "[Errno 13] Permission denied: 'x.json'"),
        (r"C:\Users\lee\x.json is missing", "x.json is missing"),
        ("3 tokens/step and 4 steps/second", "3 tokens/step and 4 steps/second"),
    ],
)
def test_no_message_tells_a_folder_of_this_machine(said, told):
    assert told in html.unescape(as_message(OSError(said)).message)
    assert as_message(ValueError(said)).message == html.escape(told)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "gone"])
def test_a_checkpoint_damaged_under_the_running_app_is_a_message(served, folders, damage):
    weights = folders[1] / "model.safetensors"
    whole = weights.read_bytes()
    served.models._loaded.clear()
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\xff" * len(whole))
    try:
        answer = run(served, "unmask", model=folders[1].name)
        assert answer.event == "error"
        assert "model.safetensors" in answer.refusal
        assert it_goes_on(served)
    finally:
        weights.write_bytes(whole)
    served.models._loaded.clear()
    assert run(served, "unmask", model=folders[1].name).event == "complete"
    served.models._loaded.clear()


def test_a_checkpoint_damaged_after_it_was_loaded_harms_nobody(served, folders):
    weights = folders[0] / "model.safetensors"
    whole = weights.read_bytes()
    assert it_goes_on(served)
    try:
        with open(weights, "r+b") as file:  # in place: weights mapped into memory would be cut off
            file.truncate(100)
        assert it_goes_on(served)
    finally:
        weights.write_bytes(whole)


def test_an_exception_in_a_strategy_is_a_message(served, monkeypatch, caplog):
    def broken(now):
        raise ZeroDivisionError("<b>no scores</b>")

    with monkeypatch.context() as patch:
        patch.setitem(SELECTORS, "margin", broken)
        answer = run(served, "unmask", strategy="margin")
    assert answer.event == "error"
    assert answer.data["title"] == "Something went wrong"
    assert "ZeroDivisionError: ‹b›no scores‹/b›. The app is still running" in answer.refusal
    assert "no scores" in caplog.text
    assert it_goes_on(served)
    assert run(served, "unmask", strategy="margin").event == "complete"
