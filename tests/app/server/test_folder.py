"""The app's folder for uploads and downloads: the user's own, private, and empty afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.server import folder
from app.server.folder import remove_abandoned, tidy, use_own_folder


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    """A machine on which no app has run yet: its folder for temporary files."""
    monkeypatch.delenv(folder.VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(folder.atexit, "register", lambda *_: None)
    return tmp_path


def test_it_is_named_after_the_user_and_closed_to_others(fresh):
    made = use_own_folder()
    assert made == fresh / f"diffuapriel-{folder.user()}" / f"app-{os.getpid()}"
    assert os.environ[folder.VARIABLE] == str(made)
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent)] == [0o700, 0o700]


def test_a_folder_of_somebody_else_is_not_used(fresh):
    other = fresh / f"diffuapriel-{folder.user()}"
    other.mkdir(mode=0o755)
    other.chmod(0o755)  # others may read it, so somebody else may have made it
    made = use_own_folder()
    assert made.parent == fresh and made.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(fresh):
    target = fresh / "target"
    target.mkdir(mode=0o700)
    (fresh / f"diffuapriel-{folder.user()}").symlink_to(target)
    use_own_folder()
    assert not list(target.iterdir())


def test_a_folder_that_the_user_names_is_used_as_it_is(fresh, monkeypatch):
    monkeypatch.setenv(folder.VARIABLE, "/somewhere")
    assert use_own_folder() == Path("/somewhere")


def test_a_second_user_does_not_meet_the_first_one_s_folder(tmp_path):
    """Gradio's default belongs to whoever came first."""
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio").chmod(0)
    code = "import app.main, os, pathlib; p = pathlib.Path(os.environ['GRADIO_TEMP_DIR']); (p / 'x').touch(); print(p)"
    environment = {key: value for key, value in os.environ.items() if key != folder.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "diffuapriel-"))
    assert not Path(done.stdout.strip()).exists(), "it is removed at the end"


def test_what_a_killed_app_left_is_removed_by_the_next_one(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"app-{ended.pid}", f"app-{os.getpid()}", "app-x", "other"):
        (tmp_path / name).mkdir()
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"app-{os.getpid()}", "app-x", "other"])


def test_parts_of_broken_uploads_go_and_then_the_oldest_files(tmp_path):
    files = {"old-part": 0, "new-part": 9_000, "a/first": 5_000, "b/second": 6_000, "c/third": 7_000}
    for name, changed in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (folder.time.time() - 10_000 + changed,) * 2)
    assert tidy(tmp_path, most_bytes=10_000, part_seconds=3_000) == 400
    assert not (tmp_path / "old-part").exists() and (tmp_path / "new-part").exists()
    assert tidy(tmp_path, most_bytes=250, part_seconds=3_000) == 200
    assert [path.exists() for path in (tmp_path / "a/first", tmp_path / "b/second", tmp_path / "c/third")] == [
        False,
        False,
        True,
    ]
