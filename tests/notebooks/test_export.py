"""The pages of the lessons: whole, escaped, and asking nothing of any other machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("nbconvert", reason="needs nbconvert: pip install nbconvert")
pytest.importorskip("latex2mathml", reason="needs latex2mathml: pip install latex2mathml")
pytest.importorskip("plotly", reason="needs plotly: pip install plotly")
pytest.importorskip("anywidget", reason="needs anywidget: pip install anywidget")
pytest.importorskip("bs4", reason="needs bs4: pip install bs4")
import nbformat
from bs4 import BeautifulSoup

from tests.notebooks.exporting import HOSTILE, example, export
from tests.notebooks.test_lessons import build, execute


@pytest.fixture(scope="module")
def page() -> BeautifulSoup:
    return BeautifulSoup(export.lesson_page(example(), "09 · Made <up>"), "html.parser")


def carried(page: BeautifulSoup, kind: str) -> list:
    return [json.loads(found.string) for found in page.select(f".{kind} script[type='application/json']")]


def test_nothing_on_it_is_fetched_from_anywhere_but_beside_it(page) -> None:
    addresses = [
        tag[name] for tag in page.find_all(True) for name in ("src", "href", "srcset", "data") if tag.get(name)
    ]
    elsewhere = [a for a in addresses if not a.startswith(("#", "data:"))]
    assert sorted(elsewhere) == ["01_masked_diffusion.html", "index.html", "plotly.min.js"]
    styles = "".join(style.string for style in page.find_all("style"))
    assert "@import" not in styles and "url(http" not in styles.replace('"', "").replace("'", "")


def test_the_player_is_carried_once_and_each_run_as_data(page) -> None:
    script = page.select_one("script[type=module]").string
    assert script.count("export function mount(") == 1 and '"PLAYER"' not in script and '"DARK"' not in script
    (state,) = carried(page, "lesson-player")
    assert state["message"]["schema"] == "diffuapriel-feed" and len(state["message"]["frames"]) == 9
    assert page.find(id=state["snapshot_id"]), "without scripts the last canvas is what one sees"
    assert page.find("script", type="application/vnd.jupyter.widget-state+json") is None


def test_a_figure_is_carried_with_its_plain_picture(page) -> None:
    (figure,) = carried(page, "lesson-figure")
    assert figure["data"][0]["name"] == "a curve"
    assert len(page.select("img.plain-picture")) == 1


def test_formulas_are_mathml_and_dollars_in_code_are_not(page) -> None:
    formulas = page.find_all("math")
    assert len(formulas) == 4  # two in the text, one in the hint, one in an output
    assert [formula["display"] for formula in formulas].count("block") == 1
    codes = [code.get_text() for code in page.select(".jp-MarkdownCell code")]
    assert codes == ["$5", "$a $b"]
    text = page.get_text()
    assert "price = '$x_t$'  # $5" in text and "it costs $5$" in text


def test_a_formula_that_cannot_be_read_stays_tex() -> None:
    from page.text import to_html

    assert r"<code>x^</code>" in to_html("See $x^$.", trusted=True)


def test_a_link_to_a_file_of_the_project_becomes_its_name() -> None:
    from page.text import to_html

    made = BeautifulSoup(
        to_html("[docs/blocks.md](../../docs/blocks.md), [next](02_b.ipynb#3.-C)", trusted=True), "html.parser"
    )
    assert made.find("code").get_text() == "docs/blocks.md"
    assert [a["href"] for a in made.find_all("a")] == ["02_b.html#3.-C"]


@pytest.mark.parametrize("source", build.sources(), ids=[source.stem for source in build.sources()])
def test_every_formula_of_the_lessons_can_be_read(source: Path) -> None:
    from page.text import to_html

    for cell in build.make_notebook(source, "solution").cells:
        if cell.cell_type == "markdown":
            made = BeautifulSoup(to_html(cell.source, trusted=True), "html.parser")
            for formula in made.find_all("math"):
                assert "\\" not in formula.get_text(), formula.get_text()
            for code in made.find_all("code"):
                code.extract()
            assert "\\" not in made.get_text() and "$" not in made.get_text(), cell.source


def test_a_guess_is_a_choice_and_the_answer_is_folded(page) -> None:
    labels = [label.get_text().strip() for label in page.select(".lesson-guess label")]
    assert labels == ["A", "B", HOSTILE]
    answer = page.select_one("details.lesson-answer")
    assert answer.get_text().startswith("The answerThe answer is: B.") and not answer.has_attr("open")
    assert page.select_one("details.lesson-solution").find("pre")


def test_a_bar_shows_where_it_ended_and_a_slider_that_it_needs_a_kernel(page) -> None:
    bar = page.select_one(".lesson-bar")
    assert bar.get_text(" ").split() == ["100%", "12/12", "[00:02<00:00,", "5.1it/s]"]
    assert bar.find("progress")["value"] == "12"
    assert len(page.select(".lesson-live")) == 1


def test_what_a_model_wrote_never_becomes_markup(page) -> None:
    assert "harmed" not in "".join(str(img) for img in page.find_all("img"))
    scripts = [script for script in page.find_all("script") if "harmed" in (script.string or "")]
    assert all("<" not in script.string for script in scripts) and len(scripts) == 2  # the run and the figure
    assert page.get_text().count(HOSTILE) >= 5
    assert page.title.string == "09 · Made <up>"


# The command


@pytest.fixture
def one_lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lesson 01 with a kept run in which every cell printed one line; returns the run's file."""
    source = next(path for path in build.sources() if path.stem.startswith("01"))
    monkeypatch.setattr(build, "sources", lambda: [source])
    monkeypatch.setattr(execute, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(export, "PAGES", tmp_path / "lessons-html")
    ran: list[Path] = []

    def run(path: Path) -> float:
        ran.append(path)
        notebook = build.make_notebook(path, "solution")
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="a printed line")]
        notebook.cells[0].source = "the text as it was then"
        execute.KEPT.mkdir(exist_ok=True)
        (execute.KEPT / f"{path.stem}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
        return 1.0

    monkeypatch.setattr(execute, "run", run)
    monkeypatch.setattr(execute, "ran", ran, raising=False)
    return execute.KEPT / f"{source.stem}.ipynb"


def test_a_lesson_is_run_once_and_its_text_is_the_newest(one_lesson, tmp_path, capsys) -> None:
    assert export.main(["01"]) == 0
    assert export.main([]) == 0
    assert len(execute.ran) == 1
    folder = tmp_path / "lessons-html"
    names = {path.name for path in folder.iterdir()}
    assert names == {"01_masked_diffusion.html", "index.html", "plotly.min.js", "slides.html"}
    page = (folder / "01_masked_diffusion.html").read_text(encoding="utf-8")
    assert "a printed line" in page and "as it was then" not in page and "You will be able to" in page
    index = BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert index.find("a")["href"] == "01_masked_diffusion.html"
    assert index.find("a").get_text() == "01 · Masked diffusion from nothing"
    assert index.find("p").get_text().startswith("Most language models")
    assert index.find("small").get_text().startswith("73 minutes in class. You need Python, a little PyTorch")
    assert "running it first" in capsys.readouterr().out


def test_a_shortened_run_is_not_exported_as_a_whole_one(one_lesson, monkeypatch) -> None:
    monkeypatch.delenv("DIFFUAPRIEL_QUICK", raising=False)
    (source,) = build.sources()
    execute.run(source)
    notebook = build.make_notebook(source, "solution", shortened=True)
    notebook.metadata["shortened"] = True
    nbformat.write(notebook, one_lesson)
    assert export.run_of(source) is None
    monkeypatch.setenv("DIFFUAPRIEL_QUICK", "1")
    found = export.run_of(source)
    assert found is not None
    assert not any("Installs the package" in cell.source for cell in found.cells), "a page installs nothing"


def test_a_lesson_that_is_not_there_is_refused_with_those_that_are(one_lesson, capsys) -> None:
    assert export.main(["99"]) == 2
    assert "no lesson begins with 99; the lessons are 01_masked_diffusion" in capsys.readouterr().err
    assert not export.PAGES.exists()
