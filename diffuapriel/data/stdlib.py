"""The Python standard library of this machine as a corpus: real code and English, with nothing to download.

Each `.py` file of the library is a document, except in `site-packages`. Test folders are added, in the order of their
names, only while the corpus is below 10 MB. Whole top-level modules are for validation, about one in ten, chosen by a
hash of their name, so files of one package are never in different splits.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

from diffuapriel.data.base import VALIDATION_EVERY, describe_left_out
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.tokenizer import Tokenizer

ENOUGH = 10_000_000  # bytes
FOREIGN = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}


def stdlib_corpus(tokenizer: Tokenizer, root: Path | None = None) -> DocumentCorpus:
    """The corpus of the standard library at `root`, by default that of the running Python."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = find_sources(root)
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    left_out: Counter[str] = Counter()
    for file in files:
        text = _read_source(file)
        if text:
            module = file.relative_to(root).parts[0].removesuffix(".py")
            splits["validation" if is_held_out(module) else "train"].append(text)
        else:
            left_out["sources without text"] += 1
    if not splits["train"] or not splits["validation"]:
        raise ValueError(f"{root} holds too few Python sources; is the standard library zipped?")
    size = sum(file.stat().st_size for file in files) / 1e6
    share = sum(map(len, splits["validation"])) / sum(len(text) for texts in splits.values() for text in texts)
    tests = sum(bool(TESTS & set(file.relative_to(root).parts)) for file in files)
    description = (
        f"{len(files) - left_out.total()} Python sources of {platform.python_version()}, "
        f"{size:.1f} MB ({tests} tests), {share:.1%} for validation{describe_left_out(left_out)}"
    )
    return DocumentCorpus("stdlib", tokenizer, **splits, description=description)


def find_sources(root: Path) -> list[Path]:
    """The files to read, in order."""
    files = [f for f in sorted(root.rglob("*.py")) if not FOREIGN & set(f.relative_to(root).parts)]
    chosen = [file for file in files if not TESTS & set(file.relative_to(root).parts)]
    size = sum(file.stat().st_size for file in chosen)
    for file in files:
        if size >= ENOUGH:
            break
        if TESTS & set(file.relative_to(root).parts):
            chosen.append(file)
            size += file.stat().st_size
    return sorted(chosen)


def is_held_out(module: str) -> bool:
    """Whether a top-level module is for validation: depends on its name alone, so it is the same on every machine."""
    return hashlib.blake2b(module.encode(), digest_size=8).digest()[0] % VALIDATION_EVERY == 0


def _read_source(file: Path) -> str:
    """The text of a source file, decoded as its coding line says; empty for the few that are broken on purpose."""
    try:
        with tokenize.open(file) as stream:
            return stream.read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return ""
