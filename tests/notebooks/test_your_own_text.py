"""Lesson 08 reads whatever folder it is given: every document, none twice, and enough pieces of a short text."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuapriel import assets
from diffuapriel.tokenizer import get_tokenizer

SOURCE = Path(__file__).resolve().parents[2] / "notebooks" / "src" / "08_your_own_text.py"
FUNCTIONS = ("pieces", "folder_texts", "find_groups", "lines_of", "with_hole")
MODULES = ("re", "pathlib", "itertools", "diffuapriel.data.files")


def lesson() -> dict[str, Any]:
    """The lesson's functions, without running it."""
    kept = []
    for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        if isinstance(node, ast.FunctionDef):
            names = [node.name]
        if set(names) & {*FUNCTIONS, *MODULES}:
            kept.append(node)
    found: dict[str, Any] = {"tokenizer": get_tokenizer("gpt2-4k"), "LENGTH": 16}
    exec(compile(ast.Module(kept, []), str(SOURCE), "exec"), found)
    return found


LESSON = lesson()
WORDS = ("the", "red", "house", "tree", "river", "runs", "sees", "finds", "old", "small", "child", "dog", "bird")


def prose(lines: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    return "".join(" ".join(rng.choices(WORDS, k=9)) + ".\n" for _ in range(lines))


def read(folder: Path) -> dict[str, str]:
    """The texts of the lesson; every name is that of a file, no text is blank."""
    texts = LESSON["folder_texts"](str(folder))
    assert len(texts) >= 10 and all(text.strip() for text in texts.values())
    for name in texts:
        (folder / f"{name}.copy").write_text("", encoding="utf-8")
    return texts


def test_files_of_the_same_name_in_different_folders_are_different_documents(tmp_path):
    diaries = [prose(30, seed=year) for year in range(14)]
    for year, text in enumerate(diaries):
        (tmp_path / str(2010 + year)).mkdir()
        (tmp_path / str(2010 + year) / "diary.txt").write_text(text)
    assert sorted(read(tmp_path).values()) == sorted(diaries)


def test_an_empty_file_is_no_document(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(prose(30, seed=number))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\n")
    assert len(read(tmp_path)) == 12


@pytest.mark.parametrize(
    "text",
    [
        prose(40),
        prose(40).replace("\n", " "),
        prose(3),
        "Ein Satz mit zehn Wörtern oder ein paar mehr davon.",
        "天地玄黃宇宙洪荒日月盈昃辰宿列張",
    ],
    ids=["lines", "a single line", "three lines", "one sentence", "no spaces"],
)
def test_a_folder_with_one_text_is_cut_into_pieces_that_are_the_text(tmp_path, text):
    (tmp_path / "essay.txt").write_text(text, encoding="utf-8")
    joined = "".join(read(tmp_path).values())
    assert joined.replace("\n", "") == text.replace("\n", "").strip()


def test_a_text_of_a_few_letters_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("buy milk")
    with pytest.raises(ValueError, match="too little text"):
        read(tmp_path)


@given(st.text(min_size=1), st.integers(1, 30))
def test_pieces_lose_nothing_but_the_space_at_the_end(text, count):
    found = LESSON["pieces"](text, count)
    joined = "".join(found)
    assert joined == text or joined == text.rstrip() or (text.startswith(joined) and not text[len(joined) :].strip())
    assert all(found)


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=3), st.integers(0, 50))
def test_a_hole_is_dug_into_any_text(texts, first):
    LESSON["texts"] = {str(i): text for i, text in enumerate(texts)}
    for name in LESSON["texts"]:
        before, word, after = LESSON["with_hole"](LESSON["lines_of"](name, first=first))
        assert len(word) <= 40 and len(before) <= 32 and len(after) <= 32


def test_the_fables_are_280_each_with_a_title_and_the_license_names_them():
    blocks = assets.path("fables.txt").read_text(encoding="utf-8").strip().split("\n\n")
    titles = [block.split("\n", 1)[0] for block in blocks]
    assert len(blocks) == len(set(titles)) == 280 and all("\n" in block for block in blocks)
    assert "assets/fables.txt" in (SOURCE.parents[2] / "LICENSE").read_text(encoding="utf-8")
