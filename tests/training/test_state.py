"""The state of a run on disk is what was written, or is refused by name; so are a changed corpus and a broken log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint import filesystem

from diffuapriel.cli import main
from diffuapriel.training import loop
from diffuapriel.training.checkpoint import TrainState, read_train_state, save_state
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.data import batches
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import train
from diffuapriel.training.session import folder_lock

ALONE = SingleProcess(torch.device("cpu"))
CORPUS = {"fingerprint": "0123", "description": "3 documents"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The folder of a small state, saved at step 5 of 12."""
    return save(tmp_path_factory.mktemp("saved") / "state")


def save(folder: Path, corpus=CORPUS) -> Path:
    tensors = {f"model/{name}": torch.randn(40, 30) for name in ("a", "b")}
    save_state(folder, TrainState(5, 12, 1.5, corpus), config(), tensors, ALONE)
    return folder


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"steps": 12, **changes})


def read(folder: Path, corpus=CORPUS, **changes) -> TrainState | None:
    return read_train_state(folder, config(**changes), corpus, ALONE)


def test_what_was_saved_is_read(saved):
    assert read(saved) == TrainState(5, 12, 1.5, CORPUS)
    document = json.loads((saved / "state.json").read_text())
    assert document["files"].keys() == {file.name for file in saved.glob("*.safetensors")}


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_one_flipped_bit_is_refused_with_the_name_of_its_file(saved, data):
    file = data.draw(st.sampled_from(sorted(saved.iterdir())))
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(damaged)
        if file.suffix == ".json" and json_equal(whole, damaged):
            return  # a blank became another one
        with pytest.raises(ValueError, match=file.name):
            read(saved)
    finally:
        file.write_bytes(whole)


def json_equal(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def refuse_edited(folder: Path, change, match: str) -> None:
    file = folder / "state.json"
    whole = file.read_text()
    try:
        document = json.loads(whole)
        change(document)
        file.write_text(json.dumps(document))
        with pytest.raises(ValueError, match=match) as refused:
            read(folder)
        assert len(str(refused.value)) < 500
    finally:
        file.write_text(whole)


EDITS = [
    ("step", 3),
    ("step", 13),
    ("step", 10**9),
    ("step", -1),
    ("step", True),
    ("step", "5"),
    ("step", None),
    ("total_steps", None),
    ("total_steps", 10**9),
    ("total_steps", 12.0),
    ("seconds", "1"),
    ("seconds", float("nan")),
    ("seconds", -1),
    ("seconds", 10**400),
    ("files", {}),
    ("files", 3),
    ("files", ["../state.json"]),
    ("corpus", []),
    ("corpus", "x" * 10**6),
]


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_an_edited_state_is_refused_by_name(saved, name, value):
    refuse_edited(saved, lambda document: document.update({name: value}), r"state\.json is damaged or was edited")


@pytest.mark.parametrize(
    ("name", "value"), [edit for edit in EDITS if edit not in (("step", 3), ("total_steps", 12.0))]
)
def test_an_edited_state_without_checksums_is_refused_with_the_value(saved, name, value):
    def change(document):
        del document["sha256"]
        document.update({"format_version": 2, "files": list(document["files"]), name: value})

    refuse_edited(saved, change, rf"state\.json is damaged: {name} is .*; it must be")


@pytest.mark.parametrize(
    "name", ["format_version", "step", "total_steps", "seconds", "config", "files", "sha256", "corpus"]
)
def test_a_state_that_lacks_a_value_is_refused_by_name(saved, name):
    refuse_edited(saved, lambda document: document.pop(name), r"state\.json")


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '{"step": 1}', "[" * 10_000, "\0", "9" * 10_000, "\udcff"])
def test_a_state_that_is_no_state_is_refused_by_name(saved, text):
    file = saved / "state.json"
    whole = file.read_bytes()
    try:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=r"state\.json"):
            read(saved)
    finally:
        file.write_bytes(whole)


def test_each_rank_checks_files_of_its_own(saved, tmp_path):
    class Second(SingleProcess):
        rank, world_size = 1, 2

    (shard,) = saved.glob("shard-*")
    whole = shard.read_bytes()
    try:
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert read_train_state(saved, config(), CORPUS, Second(ALONE.device)) is not None
        with pytest.raises(ValueError, match=shard.name):
            read(saved)
    finally:
        shard.write_bytes(whole)


# ---- the corpus ----------------------------------------------------------------------------------


def test_another_corpus_is_refused_with_the_way_out(saved):
    other = {"fingerprint": "4567", "description": "4 documents"}
    with pytest.raises(ValueError, match=r"was '3 documents', and .*\(4 documents\).*--out.*--accept-changed-data"):
        read(saved, other)
    assert read(saved, other, accept_changed_data=True) == TrainState(5, 12, 1.5, other)


def write_corpus(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"Document number {i} speaks of apples.\n" * 60)


def test_a_run_does_not_go_on_with_other_text_unless_asked_to(options, tmp_path, monkeypatch):
    write_corpus(tmp_path / "texts")
    monkeypatch.setattr(loop, "validate", lambda *given: (None, {}))
    monkeypatch.setattr(loop, "export", lambda *given: None)
    how = {"corpus": str(tmp_path / "texts"), "steps": 4}
    stop_before(monkeypatch, 1)
    assert not train(options(**how), progress=False).finished
    (tmp_path / "texts" / "0.txt").write_text("Zebras and trains.\n" * 60)
    with pytest.raises(ValueError, match="belongs to a run on other text"):
        train(options(**how), progress=False)
    stop_before(monkeypatch, 99)
    assert train(options(**how, accept_changed_data=True), progress=False).finished
    assert train(options(**how), progress=False).finished, "from then on the run's text is the new one"


def stop_before(monkeypatch, step: int, then=lambda: os.kill(os.getpid(), signal.SIGINT)) -> None:
    def interrupted(corpus, config, processes, *, start):
        for i, ids in enumerate(batches(corpus, config, processes, start=start), start):
            if i == step:
                then()
            yield ids

    monkeypatch.setattr(loop, "batches", interrupted)


# ---- faults while saving -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_ends_in_one_line_and_leaves_the_last_state(tmp_path, monkeypatch, capsys, fault):
    """torch wraps both in an exception whose text is a traceback, and which is no Exception."""
    folder = save(tmp_path / "state")

    def write(*given, **how):
        raise fault

    monkeypatch.setattr(filesystem, "_write_files_from_queue", write)
    with pytest.raises(type(fault)) as raised:
        save(folder)
    assert not isinstance(fault, OSError) or str(folder) in str(raised.value)
    assert read(folder) == TrainState(5, 12, 1.5, CORPUS)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# ---- the folder ----------------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_state_is_refused_before_training(options):
    folder = Path(options().folder)
    folder.mkdir()
    (folder / "state").write_text("mine")
    with pytest.raises(FileExistsError, match="state is a file, where a run keeps a folder"):
        train(options(), progress=False)


HOLDER = (
    "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
)


@pytest.mark.skipif(os.name == "nt", reason="no lock there")
def test_a_deleted_lock_is_taken_again_unless_another_run_was_faster(tmp_path):
    with folder_lock(tmp_path) as keep:
        keep()
        (tmp_path / "lock").unlink()
        keep()
        assert (tmp_path / "lock").exists()
        keep()
        (tmp_path / "lock").unlink()
        command = [sys.executable, "-c", HOLDER, tmp_path / "lock"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline()
            with pytest.raises(RuntimeError, match="another run is writing to"):
                keep()
            other.kill()


# ---- the log -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"7", b"[]", b"\xff\xfe", b'{"step": "x"}', b'{"loss": 1}', b"null", b"[" * 10**5, b'{"step": 1, "loss": []}'],
)
def test_a_log_with_foreign_lines_is_refused_with_its_place(tmp_path, line):
    good = b'{"step": 1, "loss": 2.0}\n'
    (tmp_path / "log.jsonl").write_bytes(good + line + b"\n" + good)
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2 is no record of a run"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(good + line[: len(line) // 2])  # cut off by a kill
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_a_run_whose_log_was_deleted_goes_on_and_says_so(options, monkeypatch, caplog):
    monkeypatch.setattr(loop, "validate", lambda *given: (None, {}))
    monkeypatch.setattr(loop, "export", lambda *given: None)
    stop_before(monkeypatch, 2)
    train(options(steps=5), progress=False)
    (Path(options().folder) / "log.jsonl").unlink()
    stop_before(monkeypatch, 99)
    assert train(options(steps=5), progress=False).finished
    assert "has lost 3 of the 3 steps before" in caplog.text


def test_train_says_what_it_reads_and_what_it_leaves_out(tmp_path, capsys, monkeypatch):
    write_corpus(tmp_path / "texts")
    (tmp_path / "texts" / ".hidden.txt").write_text("hidden")
    monkeypatch.setattr(loop, "validate", lambda *given: (None, {}))
    monkeypatch.setattr(loop, "export", lambda *given: None)
    monkeypatch.setattr("diffuapriel.commands.train._print", lambda text: None)
    words = f"train --corpus {tmp_path / 'texts'} --steps 1 --length 8 --batch-size 2 --out {tmp_path / 'run'}"
    main(words.split())
    assert "5 documents, 10,800 characters, 20.0% of them for validation; left out: hidden files and folders: 1" in (
        capsys.readouterr().out
    )
