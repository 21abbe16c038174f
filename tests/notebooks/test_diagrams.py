"""The diagrams of the lessons: fresh, readable in both themes, without overlaps, and complete in themselves."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
from PIL import ImageFont  # noqa: E402

from tests.notebooks.test_lessons import NOTEBOOKS, build  # noqa: E402

from drawing.svg import COLORS, FILLED, THEMES, WIDTH  # noqa: E402  # isort: skip  (of notebooks/, which is then known)

FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")  # wide: others need less room
SMALLEST = 15  # pixels, of a picture 800 wide
SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]  # left, top, right, bottom
each_diagram = pytest.mark.parametrize("name", list(build.DIAGRAMS))


def root(name: str) -> ElementTree.Element:
    return ElementTree.fromstring((NOTEBOOKS / "diagrams" / f"{name}.svg").read_text(encoding="utf-8"))


def extent(text: ElementTree.Element) -> Box:
    """Where a text stands, with the room its letters need."""
    size, words = float(text.attrib["font-size"]), text.text or ""
    wide = ImageFont.truetype(FONT, 100).getlength(words) * size / 100
    x, y = float(text.attrib["x"]), float(text.attrib["y"])
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[text.attrib["text-anchor"]]
    return left, y - 0.76 * size, left + wide, y + 0.22 * size


def overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5


def boxes(name: str) -> list[Box]:
    found = []
    for rect in root(name).iter(f"{SVG}rect"):
        if "x" in rect.attrib:
            x, y, wide, high = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + wide, y + high))
    return found


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(color: str, below: str, share: float) -> str:
    """A half transparent color on another one."""
    pairs = [(int(color[i : i + 2], 16), int(below[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def test_there_are_twelve_and_more_and_no_file_is_left_over() -> None:
    assert len(build.DIAGRAMS) >= 12
    files = {path.stem for path in (NOTEBOOKS / "diagrams").iterdir()}
    assert files == set(build.DIAGRAMS)


@each_diagram
def test_a_diagram_is_fresh_and_complete_in_itself(name: str) -> None:
    text = (NOTEBOOKS / "diagrams" / f"{name}.svg").read_text(encoding="utf-8")
    assert text == build.DIAGRAMS[name].render(), "stale: run `make notebooks`"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and "<script" not in text
    assert len(root(name).findtext(f"{SVG}desc") or "") > 40, "described for those who do not see it"


@each_diagram
def test_its_texts_are_large_enough_within_the_picture_and_do_not_overlap(name: str) -> None:
    picture = root(name)
    texts = [text for text in picture.iter(f"{SVG}text") if text.text]
    height = float(picture.attrib["height"])
    for text in texts:
        assert float(text.attrib["font-size"]) >= SMALLEST
        left, top, right, bottom = extent(text)
        assert left >= 8 and right <= WIDTH - 8 and top >= 4 and bottom <= height - 4, text.text
    for one, other in itertools.combinations(texts, 2):
        assert not overlap(extent(one), extent(other)), (one.text, other.text)


@each_diagram
def test_a_text_lies_within_a_box_or_outside_it(name: str) -> None:
    for text in root(name).iter(f"{SVG}text"):
        if not text.text:
            continue
        left, top, right, bottom = extent(text)
        for box in boxes(name):
            inside = box[0] <= left and right <= box[2] and box[1] <= top and bottom <= box[3]
            assert inside or not overlap((left, top, right, bottom), box), (text.text, box)


def test_the_slides_show_every_diagram_and_need_nothing_else() -> None:
    import slides

    page = slides.page()
    assert set(slides.SLIDES) == set(build.DIAGRAMS)
    assert page.count("<section") == page.count("data:image/svg+xml;base64,") == len(slides.SLIDES)
    assert "http" not in page and "url(" not in page


@pytest.mark.parametrize("theme", THEMES)
def test_texts_and_shapes_stand_out_in_both_themes(theme: str) -> None:
    colors = THEMES[theme]
    for ink in ("ink", "quiet"):
        assert contrast(colors[ink], colors["card"]) >= 7
    for color in COLORS.values():
        assert contrast(color, colors["card"]) >= 3, "a border"
        assert contrast(colors["ink"], mixed(color, colors["card"], FILLED)) >= 7, "a text on a filling"


@pytest.mark.parametrize("version", build.LEFT_OUT)
def test_every_diagram_of_a_lesson_exists_and_is_described(version: str) -> None:
    for source in build.sources():
        for cell in build.make_notebook(source, version).cells:
            for words, address in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", cell.source):
                assert (build.target(source, version).parent / address).is_file(), (source.stem, address)
                assert len(words) > 20, (source.stem, address)
