"""Two versions of the code, each in its own process, take turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.race_versions import race, unpack

CLI = """
import time
def main(argv):
    print("{name}", *argv)
    time.sleep({seconds})
    return 0
"""


def test_each_version_runs_its_own_code_and_the_first_round_is_not_timed(tmp_path: Path, capsys) -> None:
    folders = {}
    for name, seconds in (("old", 0.05), ("new", 0)):
        package = tmp_path / name / "diffuapriel"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "checkpoint.py").write_text("def load_checkpoint(): ...\n")
        (package / "cli.py").write_text(CLI.format(name=name, seconds=seconds))
        folders[name] = tmp_path / name
    found = race(folders, {"old": ["sample", "--then"], "new": ["sample", "--now"]}, rounds=2, threads=1)
    assert [len(found[name]) for name in folders] == [2, 2] and min(seconds.clock for seconds in found["old"]) >= 0.05
    printed = capsys.readouterr().out
    assert "old: old sample --then --seed 0" in printed and "new: new sample --now --seed 0" in printed


def test_an_unknown_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the version 'no-such' is not in this repository"):
        unpack("no-such", tmp_path)
