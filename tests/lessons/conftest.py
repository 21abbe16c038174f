"""Nothing that a test guesses or solves is kept among the reader's own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def progress_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    progress = pytest.importorskip("diffuapriel.lessons.progress")
    monkeypatch.setattr(progress, "folder", lambda: tmp_path / "lessons")
    monkeypatch.setattr(progress, "_session", {kind: {} for kind in progress.KINDS})
