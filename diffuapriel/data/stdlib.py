"""The Python standard library of this machine as a corpus: real code and English, nothing to download.

All `.py` files of the library, each a document, without `site-packages`; test folders only where the rest
is below 10 MB (they are added in the order of their names, until it is not). Held out are whole top-level
modules, about one in ten, chosen by a hash of their name: two files of one package never face each other
across the split.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from pathlib import Path

from diffuapriel.data.documents import HELD_OUT, DocumentCorpus
from diffuapriel.tokenizer import Tokenizer

ENOUGH = 10_000_000  # bytes
FOREIGN = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}


def stdlib_corpus(tokenizer: Tokenizer, root: Path | None = None) -> DocumentCorpus:
    """The corpus of the standard library at `root` (default: of the running Python)."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = find_sources(root)
    parts: dict[str, list[str]] = {"train": [], "heldout": []}
    for file in files:
        text = _read_source(file)
        if text:
            module = file.relative_to(root).parts[0].removesuffix(".py")
            parts["heldout" if is_held_out(module) else "train"].append(text)
    if not parts["train"] or not parts["heldout"]:
        raise ValueError(f"{root} holds no Python sources to speak of; is the standard library zipped?")
    size = sum(file.stat().st_size for file in files) / 1e6
    share = sum(map(len, parts["heldout"])) / sum(len(text) for texts in parts.values() for text in texts)
    tests = sum(bool(TESTS & set(file.relative_to(root).parts)) for file in files)
    description = (
        f"{len(files)} Python sources of {root}, {size:.1f} MB, {tests} of them tests; {share:.0%} held out"
    )
    return DocumentCorpus("stdlib", tokenizer, **parts, description=description)


def find_sources(root: Path) -> list[Path]:
    """The files to read, in order: see the top of this file."""
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
    """Whether a top-level module is in the held-out part: by its name alone, on every machine."""
    return hashlib.blake2b(module.encode(), digest_size=8).digest()[0] % HELD_OUT == 0


def _read_source(file: Path) -> str:
    """The text of a source, by its own coding line; empty for the few that are broken on purpose."""
    try:
        with tokenize.open(file) as stream:
            return stream.read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return ""
