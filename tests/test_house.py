"""Targets, pins, sizes, and a README that tells the truth."""

from __future__ import annotations

from pathlib import Path

import diffuapriel

ROOT = Path(diffuapriel.__file__).resolve().parent.parent
README = ROOT / "README.md"
MOST_ASSET_BYTES = 16_000_000


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# What is shipped and what is promised


def test_no_asset_is_larger_than_16_mb() -> None:
    for path in (ROOT / "assets").rglob("*"):
        assert not path.is_file() or path.stat().st_size <= MOST_ASSET_BYTES, relative(path)


def test_the_license_covers_the_rank_table() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License")
    assert "assets/gpt2.tiktoken" in text and "Copyright (c) 2019 OpenAI" in text
