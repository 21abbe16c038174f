"""Run lessons at full length and save their outputs: `make lessons`, or `make lessons ARGS="01 04"`.

    runs/lessons/NN_name.ipynb    the solution version with its outputs, for `make lessons-html`
    notebooks/minutes.json        run times of lessons and of their sections, which `make notebooks` writes into heads

Stops at the first cell that fails and prints it. DIFFUAPRIEL_QUICK=1 shortens the training; then no minutes are saved.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import build
import nbclient
from ipykernel.kernelspec import install
from jupyter_client.manager import KernelManager
from nbformat import NotebookNode

ROOT = build.NOTEBOOKS.parent
KEPT = ROOT / "runs" / "lessons"
TIMEOUT = 1_800  # seconds per cell


def kernel_environment(folder: Path) -> dict[str, str]:
    """Environment variables that make the kernel "python3" the running Python, whatever else is installed."""
    install(prefix=str(folder))
    return {
        "JUPYTER_PATH": str(folder / "share" / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(ROOT),
        "GOMP_SPINCOUNT": "20000",  # waiting threads go to sleep early (see diffuapriel/__init__.py)
    }


@contextmanager
def kernel() -> Iterator[None]:
    """Apply `kernel_environment` within the block."""
    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ.update(kernel_environment(Path(folder)))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def execute(notebook: NotebookNode, folder: Path, timeout: int = TIMEOUT, km: KernelManager | None = None) -> float:
    """Run every cell in `folder`, in place, and return the minutes. Raises CellExecutionError if a cell fails.

    km: the kernel to run in; without one, a new kernel that ends with the run.
    """
    began = time.monotonic()
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, km=km, timeout=timeout, kernel_name="python3", resources=resources).execute()
    return (time.monotonic() - began) / 60


def executed(source: Path) -> NotebookNode | None:
    """The saved run of a lesson's solved version, or None if its code cells differ from those of the source.

    A shortened run counts only if this run is shortened too.
    """
    import nbformat

    path = KEPT / f"{source.stem}.ipynb"
    if not path.exists():
        return None
    kept = nbformat.read(path, as_version=4)
    now = build.make_notebook(source, "solution", shortened=kept.metadata.get("shortened", False))
    code = [[cell.source for cell in made.cells if cell.cell_type == "code"] for made in (kept, now)]
    return kept if code[0] == code[1] and kept.metadata.get("shortened", False) <= shortened() else None


def shortened() -> bool:
    """Whether training is shortened, as in the project's tests."""
    return os.environ.get("DIFFUAPRIEL_QUICK") == "1"


def machine() -> str:
    """The processor, for example "2 cores (AMD EPYC)"."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    words = name.replace("(R)", "").replace("(TM)", "").split()
    return f"{os.cpu_count()} cores ({' '.join(words[:4])})"


def by_section(notebook: NotebookNode) -> dict[str, float]:
    """The minutes that the cells of each section of an executed lesson ran, by its number."""
    minutes: dict[str, float] = {}
    section = "0"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (\d+)\. ", cell.source, re.M)][-1]
        elif timing := cell.metadata.get("execution"):
            ends = (timing["iopub.execute_input"], timing["shell.execute_reply"])
            began, ended = (datetime.fromisoformat(moment) for moment in ends)
            minutes[section] = minutes.get(section, 0.0) + (ended - began).total_seconds() / 60
    return {section: round(taken, 1) for section, taken in minutes.items() if section != "0"}


def run(source: Path) -> tuple[float, dict[str, float]]:
    """Execute the solved version of a lesson, save it, and return the minutes: of all, and of each section."""
    notebook = build.make_notebook(source, "solution", shortened=shortened())
    notebook.metadata["shortened"] = shortened()
    minutes = execute(notebook, build.FOLDERS["solution"])
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{source.stem}.ipynb").write_text(build.to_text(notebook), encoding="utf-8")
    return minutes, by_section(notebook)


def choose(prog: str, description: str, arguments: list[str] | None) -> list[Path]:
    """The lessons whose names begin with one of the arguments (default: all). Prints an error if none does."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("lessons", nargs="*", help="beginnings of names, such as 01 (default: all)")
    wanted = parser.parse_args(arguments).lessons
    chosen = [s for s in build.sources() if not wanted or s.stem.startswith(tuple(wanted))]
    if not chosen:
        names = ", ".join(source.stem for source in build.sources())
        print(f"error: no lesson begins with {', '.join(wanted)}; the lessons are {names}", file=sys.stderr)
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen lessons and save their minutes; returns the exit code."""
    chosen = choose("make lessons", "Run lessons whole and measure the minutes.", arguments)
    if not chosen:
        return 2
    before, minutes = build.read_minutes()
    sections = build.read_sections()
    with kernel():
        for source in chosen:
            try:
                took, parts = run(source)
            except nbclient.exceptions.CellExecutionError as error:
                print(f"error: {source.stem} failed\n{error}", file=sys.stderr)
                return 1
            print(f"{source.stem:24} {took:5.1f} minutes", flush=True)
            minutes[source.stem], sections[source.stem] = round(took, 1), parts
    if not shortened():
        document: dict[str, Any] = {"machine": machine(), "minutes": dict(sorted(minutes.items()))}
        document["sections"] = dict(sorted(sections.items()))
        if len(chosen) < len(build.sources()):  # the others keep the machine that they were measured on
            document["machine"] = before or machine()
            others = build.elsewhere() | {source.stem: machine() for source in chosen}
            document["elsewhere"] = {name: where for name, where in sorted(others.items()) if where != before}
        build.MINUTES.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        build.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
