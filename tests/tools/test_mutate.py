"""Files damaged at random are read whole or refused in one clean line; `python -m tools.mutate` damages thousands."""

from __future__ import annotations

import random

import pytest

from tools.mutate import KINDS, Kind, mutate, outcomes

COUNTS = {"config": 150, "safetensors": 150, "trace": 150, "state": 25, "parquet": 150}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_whole_or_refused_in_one_clean_line(name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    found = list(outcomes(name, range(COUNTS[name])))
    assert [(i, one.fault, one.message[:200]) for i, one in enumerate(found) if one.fault] == []
    assert any(one.read for one in found) and not all(one.read for one in found)


def fails(error: BaseException) -> Kind:
    def read(folder: object) -> None:
        raise error

    return KINDS["trace"]._replace(read=read)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("trace.json is damaged"), ""),
        (FileNotFoundError("trace.json is missing"), ""),
        (KeyError("trace.json"), "KeyError"),
        (RecursionError("trace.json"), "RecursionError"),
        (KeyboardInterrupt("trace.json"), "KeyboardInterrupt"),
        (ValueError("damaged"), "a message without the file"),
        (ValueError("trace.json" + "x" * 1000), "a long message"),
    ],
    ids=str,
)
def test_what_is_no_clean_refusal_is_a_fault(error: BaseException, fault: str, monkeypatch) -> None:
    monkeypatch.setitem(KINDS, "trace", fails(error))
    assert [one.fault for one in outcomes("trace", range(1))] == [fault]


def test_memory_is_watched(monkeypatch) -> None:
    monkeypatch.setattr("tools.mutate.MAX_BYTES", 20e6)
    held = []
    monkeypatch.setitem(KINDS, "trace", KINDS["trace"]._replace(read=lambda folder: held.append(b"x" * 40_000_000)))
    assert [one.fault for one in outcomes("trace", range(1))] == ["too much memory"]


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_does_the_same_damage(name: str) -> None:
    data = (
        b'{"a": [1, 2, {"b": "text"}]}' * (name != "safetensors") or (8).to_bytes(8, "little") + b'{"a":1} ' + b"0000"
    )
    once, again = ([mutate(data, KINDS[name], random.Random(i)) for i in range(50)] for _ in range(2))
    assert once == again and len(set(once)) > 25
