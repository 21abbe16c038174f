"""The lessons: made from their sources, committed without outputs, and running from the first cell to the last."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install jupyterlab")
pytest.importorskip("ipykernel.kernelspec", reason="needs ipykernel: pip install jupyterlab")
pytest.importorskip("jupytext", reason="needs jupytext: pip install jupytext")
pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install ipywidgets")
from jupyter_client.manager import KernelManager  # noqa: E402

from diffuapriel.lessons.answers import ANSWERS  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SCREEN, DRAWING = 36, 30  # lines of a cell, and of one that draws a figure


def load(name: str) -> ModuleType:
    """A module of notebooks/, which is no package: its scripts import each other by their bare names."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, NOTEBOOKS / f"{name}.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


sys.path.append(str(NOTEBOOKS))  # for the folders drawing/ and page/
build = load("build")
execute = load("execute")
LESSONS = [(source, version) for source in build.sources() for version in build.LEFT_OUT]
each_lesson = pytest.mark.parametrize(
    ("source", "version"), LESSONS, ids=[f"{source.stem}-{version}" for source, version in LESSONS]
)
each_source = pytest.mark.parametrize("source", build.sources(), ids=[path.stem for path in build.sources()])


@cache
def made(source: Path, version: str) -> list:
    """The cells, to be read and not to be changed."""
    return build.make_notebook(source, version).cells


@each_lesson
def test_the_notebook_is_what_its_source_makes(source: Path, version: str) -> None:
    made = build.to_text(build.make_notebook(source, version))
    committed = build.target(source, version)
    assert committed.exists() and committed.read_text(encoding="utf-8") == made, (
        f"{committed.relative_to(ROOT)} is stale: run `make notebooks`"
    )


def test_no_notebook_is_without_a_source() -> None:
    found = {path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert found == {build.target(source, version) for source, version in LESSONS}


@each_lesson
def test_it_is_committed_without_outputs(source: Path, version: str) -> None:
    notebook = json.loads(build.target(source, version).read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "widgets" not in notebook["metadata"]


@each_lesson
def test_no_cell_is_longer_than_a_screen(source: Path, version: str) -> None:
    for cell in made(source, version):
        limit = DRAWING if "go.Figure(" in cell.source else SCREEN
        assert len(cell.source.splitlines()) <= limit, cell.source.splitlines()[0]


@each_source
def test_both_versions_have_every_exercise(source: Path) -> None:
    tags = {
        version: [tag for cell in made(source, version) for tag in cell.metadata.get("tags", [])]
        for version in build.LEFT_OUT
    }
    assert set(tags["student"]) == {"exercise"} and set(tags["solution"]) == {"solution"}
    assert 2 <= len(tags["student"]) == len(tags["solution"]) <= 6


@each_source
def test_an_exercise_has_two_hints_and_is_checked(source: Path) -> None:
    cells = made(source, "student")
    for place, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            assert cells[place - 1].source.count("<summary>Hint") >= 2, cell.source
            assert "return None  # your line" in cell.source
            assert any(c.source.startswith("check.") for c in cells[place + 1 : place + 3]), cell.source


# What the reader builds

MAIN_PATH = build.sources()[:9]
EFFORT = re.compile(r"^\*(Must|May) · (easy|medium|hard) · \d+ minutes\*$", re.M)
# The computation that lessons 01 to 05 give beside what the reader writes, from text to loss and from masks to text.
SPINE = {
    "01": ("my_times", "my_sampler"),
    "02": ("my_memory", "my_decay", "my_quadratic", "my_chunked", "all_at_once"),
    "03": ("look_back", "Mamba2", "BothWays", "Backwards", "MyBlock", "MyDenoiser"),
    "04": ("Run", "one_step", "train_side_by_side"),
    "05": ("confidence", "margin", "certainty", "my_writer", "describe", "measure"),
}


def exercises(source: Path) -> list[tuple[int, str]]:
    """The place of each exercise among the cells, and the name of its function."""
    found = []
    for place, cell in enumerate(made(source, "student")):
        if "exercise" in cell.metadata.get("tags", []):
            (name,) = re.findall(r"^def (\w+)\(", cell.source, re.M)
            found.append((place, name))
    return found


def later_use(source: Path, place: int, name: str) -> str | None:
    """The name under which later cells run the reader's function, or None."""
    later = [cell.source for cell in made(source, "student")[place + 2 :] if cell.cell_type == "code"]
    uses = [re.search(rf"use\(check\.\w+, {name}\)", code) for code in later]
    return name if any(uses) else None


@each_source
def test_an_exercise_says_whether_to_do_it_how_hard_it_is_and_how_long_it_takes(source: Path) -> None:
    text = "\n".join(cell.source for cell in made(source, "student") if cell.cell_type == "markdown")
    asked = text.split("### Exercise ")[1:]
    assert len(asked) == len(exercises(source))
    for number, part in enumerate(asked, 1):
        assert part.startswith(f"{number}: ") and EFFORT.search(part), part[:80]
        task = EFFORT.split(part)[-1].partition("<details>")[0]
        assert len(task.split()) >= 8, f"what is to be written? {part[:80]}"
        kinds = re.findall(r"<summary>Hint \d: the (\w+)</summary>", " ".join(part.split()))
        assert kinds == ["idea", "shape", "code"], part[:80]


@each_source
def test_answers_to_predictions_stand_in_no_cell(source: Path) -> None:
    code = "\n".join(cell.source for cell in made(source, "student") if cell.cell_type == "code")
    assert not re.findall(r"\.reveal\(\s*[\"'][A-D][\"']\s*[,)]", code)
    names = re.findall(r"= predict\(.*name=\"([^\"]+)\"", code)
    assert names == [f"{source.stem[:2]}.{n}" for n in range(1, len(names) + 1)]
    assert len(names) == code.count("= predict(") and set(names) <= set(ANSWERS)
    for name in names:
        if not ANSWERS[name][0]:  # then the run decides
            assert re.search(rf"guess_{name[-1]}\.reveal\(\s*[^)\s]", code), name
    assert re.search(r"^score\(\)$", code, re.M)


def test_answers_to_exercises_are_what_later_cells_run() -> None:
    given = [(source, *exercise) for source in build.sources() for exercise in exercises(source)]
    used = [name for source, place, name in given if later_use(source, place, name)]
    assert len(given) >= 30 and len(used) >= 20
    assert len(used) == len(given), "the others: " + ", ".join({name for *_, name in given} - set(used))


def lines_of(node: ast.stmt, code: str) -> int:
    """The lines of a function or class that compute: no docstring, no comment, no declaration of parameters."""
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    count = 0
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            count += 0 if part.name in ("__init__", "__post_init__") else lines_of(part, code)
        elif not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)):
            text = code.splitlines()[part.lineno - 1 : part.end_lineno]
            count += sum(bool(line.strip()) and not line.strip().startswith("#") for line in text)
    return count


def test_the_reader_writes_at_least_a_third_of_the_spine() -> None:
    by_reader = given = 0
    for source in MAIN_PATH[1:6]:
        own = others = 0
        names = set(SPINE[source.stem[:2]])
        for cell in made(source, "solution"):
            if cell.cell_type != "code":
                continue
            for node in ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.M)).body:
                if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    continue
                if "solution" in cell.metadata.get("tags", []):
                    own += lines_of(node, cell.source)
                elif node.name in names:
                    names.remove(node.name)
                    others += lines_of(node, cell.source)
        assert not names, f"{source.stem} has no {names}"
        assert own / (own + others) >= 0.25, source.stem
        by_reader, given = by_reader + own, given + others
    assert by_reader / (by_reader + given) >= 1 / 3


@each_source
def test_the_head_says_what_one_learns_what_one_needs_and_how_long_it_takes(source: Path) -> None:
    head, *rest = [cell.source for cell in made(source, "student") if cell.cell_type == "markdown"]
    assert head.startswith(f"# {source.stem[:2]} · ")
    for part in ("**You will be able to**", "**You need**", "| part | minutes |"):
        assert part in head, part
    sections = [line[3:] for text in rest for line in text.splitlines() if re.match(r"## \d+\. ", line)]
    rows = re.findall(r"^\| (\d+\. .*?) \| \d", head, re.M)
    assert rows == sections and len(rows) >= 3
    assert build.measured(source.stem) in head and "{{" not in head
    closing = "\n".join(rest)
    assert "## Going further" in closing and "arXiv" in closing


@each_source
def test_there_are_two_to_four_questions_and_each_is_answered(source: Path) -> None:
    code = "\n".join(cell.source for cell in made(source, "student") if cell.cell_type == "code")
    asked = re.findall(r"^(guess_\d) = predict\(", code, re.M)
    assert 2 <= len(asked) <= 4
    for name in asked:
        question, _, answer = code.partition(f"{name} = predict(")
        assert name not in question and f"{name}.reveal(" in answer


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One kernel for all lessons: the Python of these tests, whatever else is installed. Training is shortened."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in execute.kernel_environment(tmp_path_factory.mktemp("kernel")).items():
            patch.setenv(name, value)
        patch.setenv("DIFFUAPRIEL_QUICK", "1")
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@each_lesson
def test_every_cell_runs(source: Path, version: str, kernel: KernelManager) -> None:
    if version == "solution" and shutil.which("chromium") and importlib.util.find_spec("playwright"):
        pytest.skip("JupyterLab runs the solved lessons, in tests/browser/notebooks/test_lab.py")
    notebook = build.make_notebook(source, version, shortened=True)
    folder = build.target(source, version).parent
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"))  # of the lesson before
    execute.execute(notebook, folder, timeout=300, km=kernel)  # raises where a cell fails

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    states = re.findall(r'class="da-verdict-(\w+)"', "".join(pages))
    exercises = sum(bool(cell.metadata.get("tags")) for cell in notebook.cells)
    assert "wrong" not in states
    if version == "student":
        assert states.count("open") == exercises  # an exercise left open stops nobody who runs the whole notebook
    else:
        assert states.count("right") >= exercises and "open" not in states
    figures = [data for data in shown if "application/vnd.plotly.v1+json" in data]
    assert len(figures) == sum("plain-picture" in page for page in pages), "a picture stands in for each figure"
    if "Player" in source.read_text(encoding="utf-8"):
        assert any("da-snapshot" in page for page in pages), "a player leaves a picture in the saved notebook"


# The minutes


def test_the_measured_minutes_stand_in_the_head_and_in_the_teacher_s_table(tmp_path, monkeypatch) -> None:
    source = build.sources()[0]
    kept = {"machine": "3 cores (Abacus)", "minutes": {source.stem: 1.25}}
    monkeypatch.setattr(build, "MINUTES", tmp_path / "minutes.json")
    assert "not been measured" in build.measured(source.stem)
    (tmp_path / "minutes.json").write_text(json.dumps(kept), encoding="utf-8")
    assert "1.2 minutes on 3 cores (Abacus)" in build.make_notebook(source, "student").cells[0].source
    table = build.teaching("before <!-- minutes -->old<!-- end of the minutes --> after")
    assert re.search(rf"^\| {source.stem[:2]} · .* \| \d+ \| 1.25 \|$", table, re.M) and "old" not in table
    assert table.startswith("before ") and table.endswith(" after")


def test_a_lesson_that_was_measured_on_another_machine_says_so(tmp_path, monkeypatch) -> None:
    first, second = (source.stem for source in build.sources()[:2])
    document = {
        "machine": "3 cores (Abacus)",
        "minutes": {first: 1, second: 2},
        "elsewhere": {second: "1 core (Quipu)"},
    }
    monkeypatch.setattr(build, "MINUTES", tmp_path / "minutes.json")
    (tmp_path / "minutes.json").write_text(json.dumps(document), encoding="utf-8")
    assert "on 3 cores (Abacus)" in build.measured(first) and "on 1 core (Quipu)" in build.measured(second)
    table = build.teaching("<!-- minutes -->old<!-- end of the minutes -->")
    assert "| 1 |" in table and "| 2 (on 1 core (Quipu)) |" in table
    monkeypatch.setattr(execute, "run", lambda source: (3, {"1": 2.6, "2": 0.4}))
    monkeypatch.setattr(execute, "machine", lambda: "5 cores (Napier)")
    monkeypatch.setattr(build, "main", lambda: None)
    monkeypatch.setattr(execute, "shortened", lambda: False)
    assert execute.main([first[:2]]) == 0
    assert build.measured(first).endswith("3.0 minutes on 5 cores (Napier).") and "Quipu" in build.measured(second)
    assert build.read_minutes()[0] == "3 cores (Abacus)" and build.read_sections() == {first: {"1": 2.6, "2": 0.4}}
    head = build.make_notebook(build.sources()[0], "student").cells[0].source
    rows = re.findall(r"^\| \d+\. .* \|$", head, re.M)
    assert "(3 of them waiting)" in rows[0] and not any("waiting" in row for row in rows[1:])


def test_the_minutes_of_sections_are_those_of_their_cells() -> None:
    def ran(began: str, ended: str):
        timing = {"iopub.execute_input": f"2026-01-01T00:{began}Z", "shell.execute_reply": f"2026-01-01T00:{ended}Z"}
        return nbformat.v4.new_code_cell("1", metadata={"execution": timing})

    texts = [nbformat.v4.new_markdown_cell(text) for text in ("# 00 · A head", "## 1. One\n", "words", "## 2. Two")]
    head, one, words, two = texts
    cells = [head, ran("00:00", "00:30"), one, ran("01:00", "01:30"), words, ran("02:00", "03:00"), two]
    cells += [nbformat.v4.new_code_cell("not run"), ran("03:00", "03:06")]
    assert execute.by_section(nbformat.v4.new_notebook(cells=cells)) == {"1": 1.5, "2": 0.1}


@each_source
def test_the_waiting_in_a_head_is_that_of_the_measured_run(source: Path) -> None:
    taken, sections = build.read_minutes()[1][source.stem], build.read_sections()[source.stem]
    assert set(sections) <= set(build.head_of(source)[1])
    assert sum(sections.values()) <= taken + 0.05 * (1 + len(sections)), "the cells run no longer than the lesson"
    for number, waiting in re.findall(
        r"^\| (\d+)\. .* \((\d+) of them waiting\) \|$", made(source, "student")[0].source, re.M
    ):
        assert abs(sections[number] - int(waiting)) <= 0.5


def test_a_lesson_takes_at_most_eight_minutes_of_machine_time() -> None:
    minutes = build.read_minutes()[1]
    assert minutes and {name: value for name, value in minutes.items() if value > 8} == {}


def test_the_teacher_s_tables_and_that_of_the_docs_are_fresh() -> None:
    for page, made_of in ((build.TEACHING, build.teaching), (build.LESSONS, build.lessons)):
        text = page.read_text(encoding="utf-8")
        assert made_of(text) == text, f"{page} is stale: run `make notebooks`"


def test_the_page_of_the_docs_lists_every_lesson_with_its_minutes_and_needs() -> None:
    rows = re.findall(
        r"^\| \[(\d\d) .*\| \[solved\]\(\S+\) \| (\d+) \| (.+) \|$", build.LESSONS.read_text("utf-8"), re.M
    )
    assert [lesson for lesson, *_ in rows] == [source.stem[:2] for source in build.sources()]
    for (lesson, minutes, needs), source in zip(rows, build.sources(), strict=True):
        assert int(minutes) == sum(build.head_of(source)[1].values()) > 20 and needs.endswith("."), lesson


def test_a_kept_run_of_other_cells_is_not_taken(tmp_path, monkeypatch) -> None:
    source = build.sources()[0]
    monkeypatch.setattr(execute, "KEPT", tmp_path)
    assert execute.executed(source) is None
    notebook = build.make_notebook(source, "solution")
    (tmp_path / f"{source.stem}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
    assert execute.executed(source) is not None
    notebook.cells[-2].source += "\n1 + 1"
    notebook.cells[-2].cell_type = "code"
    notebook.cells[-2].update(outputs=[], execution_count=None)
    (tmp_path / f"{source.stem}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
    assert execute.executed(source) is None


def test_a_lesson_that_is_not_there_is_refused_with_those_that_are(capsys) -> None:
    assert execute.main(["99"]) == 2
    assert "no lesson begins with 99; the lessons are 0" in capsys.readouterr().err


def test_a_mention_of_another_lesson_leads_to_it() -> None:
    name = build.sources()[2].stem
    made = build.linked("Lesson 02, [lesson 02](there), <details>lesson 02</details>, lesson 01, lesson 99.", "01_own")
    assert made.count("(") == 3 and f"[Lesson 02]({name}.ipynb), [lesson 02](there), <details>lesson 02<" in made
    assert "lesson 99." in made and "[lesson 99]" not in made
    assert build.linked("lesson 02", name) == "lesson 02"


@each_lesson
def test_its_last_cell_leads_to_its_neighbors_the_map_the_code_and_the_app(source: Path, version: str) -> None:
    names = [other.stem for other in build.sources()]
    place, end = names.index(source.stem), made(source, version)[-1].source
    links = re.findall(r"\]\(([^)#]+)", end)
    for link in links:
        assert (build.target(source, version).parent / link).resolve().exists(), link
    wanted = {f"{name}.ipynb" for name in (*names[:place][-1:], *names[place + 1 :][:1], "00_start_here")}
    assert wanted <= set(links)
    assert any(link.startswith("../") for link in links), f"crosslinks.py names no file for {source.stem}"
    (anchor,) = re.findall(r"#([^)]+)\)", end)
    assert f"## {anchor.replace('-', ' ')}" in build.sources()[0].read_text(encoding="utf-8")
    labels = json.loads((ROOT / "app" / "strings" / "en.json").read_text(encoding="utf-8"))
    for tab in re.findall(r"\*(\w+)\*", end):
        assert tab in [labels[name] for name in labels if name.endswith("_TAB")]


def test_shortened_lessons_find_the_project_two_folders_up() -> None:
    end = build.make_notebook(build.sources()[1], "student", shortened=True).cells[-1].source
    assert "](../../diffuapriel/" in end and "solutions/" not in end


PAGES = [
    *build.sources(),
    build.TEACHING,
    NOTEBOOKS / "HANDOUT.md",
    ROOT / "README.md",
    ROOT / "docs" / "quickstart.md",
    build.LESSONS,
]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_are_told_for_windows_too(page: Path) -> None:
    """A page that names a command of Linux and macOS names that of Windows, or says how the two differ."""
    text = page.read_text(encoding="utf-8")
    if re.search(r"\bmake (lab|demo|page|lessons|test)\b", text):
        assert "python start.py" in text
    if ".venv/bin/" in text:
        assert ".venv\\Scripts\\" in text


# The handout and the style


def test_the_papers_of_the_handout_are_those_that_the_lessons_cite() -> None:
    text = (NOTEBOOKS / "HANDOUT.md").read_text(encoding="utf-8").partition("## Papers")[2]
    rows = re.findall(r"^\| (\d\d) \| ([\d, ]+) \| (.*) \|$", text, re.M)
    assert len(rows) > 20
    for lesson, sections, papers in rows:
        (source,) = [source for source in build.sources() if source.stem.startswith(lesson)]
        assert set(sections.split(", ")) <= set(build.head_of(source)[1]), (lesson, sections)
        cited = source.read_text(encoding="utf-8")
        for paper in re.findall(r"\d{4}\.\d{4,5}", papers):
            assert f"arXiv:{paper}" in cited, (lesson, paper)


def test_the_projects_begin_where_something_is() -> None:
    text = build.TEACHING.read_text(encoding="utf-8").partition("### Other projects")[2].partition("\n## ")[0]
    files = re.findall(r"`((?:\w+/)*\w+\.(?:py|md))`", text)
    assert len(files) >= 5 and all((ROOT / file).exists() for file in files)
    for file, title in re.findall(r"`(docs/\w+\.md)`, \*(.*?)\*", text):
        assert f"# {title}\n" in (ROOT / file).read_text(encoding="utf-8")


@each_source
def test_the_english_is_plain(source: Path) -> None:
    """Rates are "per", and no turn of phrase that a reader of English as a second language stumbles over."""
    text = " ".join(source.read_text(encoding="utf-8").replace("\n# ", " ").split())
    rate = r"\b(?:nats|bits|bytes) an? (?:story|token|mask|byte)\b"
    idiom = r"\bso many\b|\bshall\b|look the part|gives? it away|turns? round|once a step|\bbe they\b"
    assert not re.findall(f"{rate}|{idiom}", text)


# The paths


def test_the_sections_of_each_path_fit_into_its_time() -> None:
    minutes = {source.stem[:2]: build.head_of(source)[1] for source in build.sources()}
    for name, (limit, other, parts) in build.paths.PATHS.items():
        taken = [minutes[lesson][number] for lesson, own in parts.items() for number in own.split() or minutes[lesson]]
        assert 0.7 * limit <= other + sum(taken) <= limit, (name, other + sum(taken))


def test_the_script_of_three_hours_runs_forward_and_names_the_sections_of_its_path() -> None:
    text = build.TEACHING.read_text(encoding="utf-8")
    script = text.partition("## Three hours, minute by minute")[2].partition("\n## ")[0]
    times = [int(hour) * 60 + int(minute) for hour, minute in re.findall(r"^\| (\d):(\d\d) \|", script, re.M)]
    assert times == sorted(times) and times[0] == 0 and times[-1] == build.paths.PATHS["Three hours"][0]
    for lesson in build.paths.PATHS["Three hours"][2]:
        assert f"**{lesson}**" in script
