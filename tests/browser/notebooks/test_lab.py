"""Every lesson in JupyterLab: it runs from top to bottom, widgets and figures are drawn, players play.

What the page writes to the console as an error, and what it asks of other machines, is held against the lesson.
DIFFUAPRIEL_PICTURES=1 keeps pictures of them all.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("jupyterlab", reason="needs jupyterlab: pip install jupyterlab")
pytest.importorskip("plotly", reason="needs plotly: pip install plotly")
pytest.importorskip("anywidget", reason="needs anywidget: pip install anywidget")
from nbformat import NotebookNode
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.notebooks.jupyterlab import serving_notebooks
from tests.browser.visiting import ARTIFACTS
from tests.browser.visitor import Visitor
from tests.notebooks.test_lessons import NOTEBOOKS, build

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE_MS = 120_000  # to open, or for a widget to appear
RUN_MS = 420_000  # for all cells
WIDTH, HEIGHT, MOST = 1200, 900, 16_000  # pixels; Chromium takes no picture of more rows than MOST
LESSONS = build.sources()

# The numbers of cells that have run, that wait or run, and that failed.
COUNT = """() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map((p) => p.textContent);
  const faults = ["error", "stderr"].map((kind) => `[data-mime-type="application/vnd.jupyter.${kind}"]`);
  const failed = document.querySelectorAll(faults.join()).length;
  return [prompts.filter((p) => /\\d/.test(p)).length, prompts.filter((p) => p.includes("*")).length, failed];
}"""

# Closes the notebook and leaves no names and widgets in its kernel; ends a kernel that is busy, and returns null.
EMPTY = """async () => {
  const { currentWidget } = jupyterapp.shell, { kernel } = currentWidget.sessionContext.session;
  const code = "%reset -f\\nimport ipywidgets\\nipywidgets.Widget.close_all()\\n%reset -f";
  const idle = kernel.status === "idle";
  await (idle ? kernel.requestExecute({ code, store_history: false }).done : kernel.shutdown());
  currentWidget.dispose();
  return idle ? { id: kernel.id, name: kernel.name } : null;
}"""


class Lab:
    """A JupyterLab, the page it is open in and a kernel, all slow to start: notebooks have them one after another."""

    def __init__(self, address: str, folder: Path, visitor: Visitor) -> None:
        self.address, self.folder, self.visitor = address, folder, visitor
        self.page: Page | None = None
        self.kernel: dict[str, str] | None = None

    def open(self, notebook: NotebookNode, name: str) -> Page:
        """The page, with the notebook as nobody has run it."""
        (self.folder / "solutions" / f"{name}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
        if self.page is None:
            self.page = self.visitor.open(viewport={"width": WIDTH, "height": HEIGHT})
            self.page.set_default_timeout(PATIENCE_MS)
            self.page.goto(f"{self.address}/doc/tree/solutions/{name}.ipynb")
        else:
            self.page.evaluate(
                "async given => { await jupyterapp.commands.execute('docmanager:open', given); }",
                {"path": f"solutions/{name}.ipynb", "kernel": self.kernel},
            )
            self.kernel = None
        return self.page

    def close(self) -> None:
        """Close the notebook and empty its kernel; fail for what the page did wrong meanwhile."""
        if self.page:
            self.kernel = self.page.evaluate(EMPTY)
        self.visitor.complain()


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all lessons."""
    notebooks = tmp_path_factory.mktemp("notebooks")
    (notebooks / "solutions").mkdir()
    shutil.copytree(NOTEBOOKS / "diagrams", notebooks / "diagrams")
    with (
        serving_notebooks(notebooks, tmp_path_factory.mktemp("lab")) as address,
        closing(Visitor(browser)) as visitor,
    ):
        yield Lab(address, notebooks, visitor)


@pytest.fixture
def opened(lab: Lab) -> Iterator[Callable[[NotebookNode, str], Page]]:
    """Opens a notebook, and closes it after the test."""
    yield lab.open
    lab.close()


@pytest.mark.parametrize("source", LESSONS, ids=[source.stem for source in LESSONS])
def test_a_lesson_runs_and_shows_everything(opened, source: Path) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    notebook = build.make_notebook(source, "solution", shortened=True)
    page = opened(notebook, source.stem)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code = [cell.source for cell in cells]
    folded = sum("jupyter" in cell.metadata for cell in cells)  # these show no number
    run_all(page, len(code) - folded)
    text = "\n".join(code)
    questions = len(re.findall(r"= predict\(", text))
    expect(page.locator(".widget-toggle-buttons:visible")).to_have_count(questions)
    exercises_are_solved(page, sum(bool(cell.metadata.get("tags")) for cell in notebook.cells))
    figures_are_drawn(page, at_least="show(" in text)
    players_play(page, at_least="Player" in text)
    if os.environ.get("DIFFUAPRIEL_PICTURES"):
        keep_picture(page, source.stem)


def run_all(page: Page, cells: int) -> None:
    """As a reader would: once the kernel is there, by the menu."""
    expect(page.get_by_text(re.compile(r"ipykernel\) \| Idle"))).to_be_visible()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    # Once a second: to look at every redraw would slow the page down.
    page.wait_for_function(
        f"() => {{ const [ran, waiting, failed] = ({COUNT})(); return failed || (!waiting && ran === {cells}); }}",
        timeout=RUN_MS,
        polling=1000,
    )
    shown = page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()
    assert not shown, "\n".join(shown)
    complaints = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    assert not complaints, "\n".join(complaints)


def exercises_are_solved(page: Page, at_least: int) -> None:
    """Every checker says that the solution is right."""
    for state in ("wrong", "open"):
        assert page.locator(f".da-verdict-{state}").all_inner_texts() == []
    assert page.locator(".da-verdict-right").count() >= at_least


def figures_are_drawn(page: Page, at_least: int) -> None:
    """Each figure is drawn, and the plain picture that stands in for it is not seen."""
    pictures = page.locator(".plain-picture")
    expect(page.locator(".js-plotly-plot .main-svg:first-of-type")).to_have_count(pictures.count())
    assert pictures.count() >= at_least
    for picture in pictures.all():
        expect(picture).to_be_hidden()


def players_play(page: Page, at_least: int) -> None:
    """The live players stand where their snapshots would; each one of a run plays from masks to text."""
    snapshots = page.locator("[id^=da-snapshot]")
    players = page.locator(".da-player")
    expect(players).to_have_count(snapshots.count())
    assert players.count() >= at_least
    for snapshot in snapshots.all():
        expect(snapshot).to_be_hidden()
    for player in players.all():
        if player.locator(".da-token").count():
            plays(player)


def plays(player: Locator) -> None:
    player.scroll_into_view_if_needed()
    final = player.locator(".da-mask").count()
    player.get_by_role("button", name="To the start").click()
    expect(player.locator(".da-mask")).not_to_have_count(final)
    player.get_by_label("Speed").select_option("8")
    player.get_by_role("button", name="Play").click()
    expect(player.locator(".da-mask")).to_have_count(final)


def keep_picture(page: Page, name: str) -> None:
    """Pictures of the whole notebook in test-artifacts, each of at most MOST rows: for people, eight seconds each."""
    scroller = page.locator(".jp-WindowedPanel-outer")
    height = scroller.evaluate("panel => panel.scrollHeight")
    rows = min(height + 120, MOST)
    page.set_viewport_size({"width": WIDTH, "height": rows})
    page.wait_for_function(  # the page follows a little later
        f"() => document.querySelector('.jp-WindowedPanel-outer').clientHeight > {rows - 400}"
    )
    seen = scroller.evaluate("panel => panel.clientHeight")
    ARTIFACTS.mkdir(exist_ok=True)
    for part, top in enumerate(range(0, height, seen)):
        scroller.evaluate("(panel, top) => { panel.scrollTop = top; }", top)
        page.screenshot(path=ARTIFACTS / f"lab-{name}{f'-{part + 1}' if part else ''}.png")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})  # the next lesson has the same page
