"""Readers get the whole length of a lesson's code, without a trace of the shortened one."""

from __future__ import annotations

import pytest

from tests.notebooks.test_lessons import build, made

lengths = build.lengths
CASES = {
    "STEPS = 12 if QUICK else 900\n": "STEPS = 900\n",
    "STEPS, ROWS = (12 if QUICK else 900), 64": "STEPS, ROWS = 900, 64",
    "x = f(4 if QUICK else 64)": "x = f(64)",
    "ä, N = use(f(1), g), 4 if QUICK else 100": "ä, N = use(f(1), g), 100",
    "A, B = (20, 2) if QUICK else (300, 6)": "A, B = (300, 6)",
    "for s in (2 if QUICK else 3, 4 if QUICK else 5):\n    pass": "for s in (3, 5):\n    pass",
    "from m import QUICK, check": "from m import check",
    "if a(b) and not QUICK:\n    c()": "if a(b):\n    c()",
    "if not QUICK:\n    a()\n    if b:\n        c()\nd()": "a()\nif b:\n    c()\nd()",
    "def f(n=3 if QUICK else 9):\n    return n": "def f(n=9):\n    return n",
    "untouched(  1 )": "untouched(  1 )",
}


@pytest.mark.parametrize(("code", "expected"), CASES.items())
def test_the_whole_form_of_code(code, expected) -> None:
    assert lengths.whole(code) == expected


def test_a_use_that_has_no_whole_form_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole form"):
        lengths.whole("print(QUICK)")


@pytest.mark.parametrize("source", build.sources(), ids=lambda source: source.stem)
def test_no_reader_meets_it(source) -> None:
    for version in build.LEFT_OUT:
        assert not [cell.source for cell in made(source, version) if "QUICK" in cell.source]


def test_the_shortened_lessons_stand_in_a_folder_of_their_own(tmp_path) -> None:
    build.write_shortened(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.ipynb")} == {source.stem for source in build.sources()}
    assert "12 if QUICK else 900" in (tmp_path / "01_masked_diffusion.ipynb").read_text(encoding="utf-8")
    assert (tmp_path / "diagrams" / "course.svg").exists()
