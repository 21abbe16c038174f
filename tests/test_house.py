"""Sizes, the license, and the same bytes in every clone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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


# The same bytes in every clone


def git(*words: str) -> bytes:
    done = subprocess.run(["git", "-c", "core.autocrlf=true", *words], cwd=ROOT, capture_output=True, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="this is no clone")
def test_a_clone_by_git_for_windows_has_the_same_bytes() -> None:
    """Its default, core.autocrlf=true, rewrites the line ends of what .gitattributes does not protect."""
    for line in git("ls-files", "--eol").decode().splitlines():
        stored, _, attributes = line.partition("\t")[0].split(maxsplit=2)
        safe = attributes.strip() == "attr/-text" or (stored != "i/-text" and attributes.strip().endswith("eol=lf"))
        assert safe, line
    hashed = ["assets/gpt2.tiktoken", "assets/tales-words.txt", "assets/checkpoints/tales-diffuapriel/config.json"]
    for name in hashed:
        assert git("cat-file", "--filters", f"HEAD:{name}") == git("cat-file", "blob", f"HEAD:{name}"), name
