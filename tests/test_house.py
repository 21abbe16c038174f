"""The house rules, held by machine: targets, pins, layers, sizes, docstrings, and a README that tells the truth."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffuapriel
from diffuapriel.cli import build_parser

ROOT = Path(diffuapriel.__file__).resolve().parent.parent
MODULES = sorted([*(ROOT / "diffuapriel").rglob("*.py"), *(ROOT / "app").rglob("*.py")])
README = ROOT / "README.md"
MOST_ASSET_BYTES = 16_000_000

# Imports run downwards only. What stands in one row may import from its own row, without circles.
LAYERS = (
    ("assets", "options", "config", "device", "storage", "hub", "ops", "diffusion"),
    ("tokenizer", "model"),
    ("tales", "sampling"),
    ("data", "trace", "model_card", "checkpoint"),
    ("pretrained", "interpret", "evaluation"),
    ("training",),
    ("benchmark",),
    ("commands", "cli", "__main__", "app", "lessons"),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
CORE = (
    "config",
    "ops.ssd",
    "model.denoiser",
    "diffusion.objective",
    "tokenizer",
    "tales.language",
    "sampling",
    "checkpoint",
)
EXTRAS = (
    "tqdm",
    "matplotlib",
    "psutil",
    "pyarrow",
    "datasets",
    "plotly",
    "gradio",
    "anywidget",
    "ipywidgets",
    "pandas",
    "triton",
    "mamba_ssm",
    "causal_conv1d",
    "einops",
    "lm_eval",
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unit(module: str) -> str:
    """'diffuapriel.benchmark.timing' -> 'race', 'app.main' -> 'app'."""
    first, _, rest = module.partition(".")
    return "app" if first == "app" else rest.partition(".")[0]


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def home(base: str, name: str) -> str:
    """The module that `from base import name` takes it from; the package itself hands names on."""
    if base == "diffuapriel":
        return f"diffuapriel.{name}" if name in LEVEL else diffuapriel._HOMES.get(name, base)
    return f"app.{name}" if base == "app" else base


def imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it but for type checking alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found.update(home(base, alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name.split(".")[0] in ("diffuapriel", "app") and unit(name)}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAKEFLAGS": ""}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )


# The Makefile and the requirements


@pytest.mark.parametrize(
    "target", ["demo", "test", "lab", "bench", "gpu", "lint", "lessons", "lessons-html", "notebooks", "help"]
)
def test_every_promised_target_is_there(target: str) -> None:
    dry = make("-n", target)
    assert dry.returncode == 0, dry.stderr


def test_from_an_empty_clone_torch_is_installed_first_and_alone() -> None:
    lines = make("-n", "-B", "demo").stdout.splitlines()
    steps = [line for line in lines if "-m venv" in line or "pip install" in line or "app/main.py" in line]
    torch_pin = re.search(r"^torch==\S+$", (ROOT / "requirements.txt").read_text(), re.M)
    assert torch_pin
    wanted = [
        "-m venv",
        f"pip install --no-compile {torch_pin.group()}",
        "pip install --no-compile -r requirements.txt",
        "--no-deps -e .",
    ]
    assert len(steps) == len(wanted) + 1
    for step, part in zip(steps, [*wanted, "app/main.py"], strict=True):
        assert part in step


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = "-V" ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    made = subprocess.run(
        ["make", "-f", ROOT / "Makefile", f"PYTHON={old}", ".venv/.installed"], cwd=_copy(tmp_path), **_TEXT
    )
    assert made.returncode == 2
    assert "Python 3.9.2; Python 3.11 or newer is needed" in made.stderr.splitlines()[0]


_TEXT = {"capture_output": True, "text": True}


def _copy(folder: Path) -> Path:
    """A folder that holds what the Makefile reads, so that no real .venv is touched."""
    for name in ("requirements.txt", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def test_torch_is_pinned_and_the_pin_is_in_the_tested_range() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "torch==2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.11,<2.16" in project["dependencies"]
    assert project["requires-python"] == ">=3.11"


def test_the_extras_ask_for_nothing_that_requirements_leave_out() -> None:
    files = ("requirements.txt", "requirements-eval.txt")
    installed = {line.strip() for file in files for line in (ROOT / file).read_text().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {need for needs in project["optional-dependencies"].values() for need in needs}
    assert asked <= installed


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest
    assert project["version"] == diffuapriel.__version__ == newest.group(1)


def test_the_ci_script_is_executable_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


# The code


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_run_downwards_only(path: Path) -> None:
    mine = unit(module_name(path))
    if not mine:
        return  # the package itself names its parts as strings and loads them on first use
    assert mine in LEVEL, f"{mine} has no place in the layers"
    upwards = {name for name in imports(path) if LEVEL[unit(name)] > LEVEL[mine]}
    assert not upwards


def test_there_are_no_circles_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        mine = unit(module_name(path))
        graph.setdefault(mine, set()).update(unit(name) for name in imports(path) if unit(name) != mine)
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in finished:
            for other in sorted(graph.get(name, ())):
                visit(other, (*trail, name))
            finished.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_sampler_does_not_know_the_model() -> None:
    for path in (ROOT / "diffuapriel" / "sampling").rglob("*.py"):
        assert "model" not in {unit(name) for name in imports(path)}, relative(path)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_everything_public_has_a_docstring(path: Path) -> None:
    def bare(body: list[ast.stmt], inside: str = "") -> list[str]:
        names = []
        for node in body:
            if (
                not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                or node.name[0] == "_"
            ):
                continue
            if not ast.get_docstring(node) and not _overload(node):
                names.append(inside + node.name)
            if isinstance(node, ast.ClassDef) and not _protocol(node):
                names += bare(node.body, f"{node.name}.")
        return names

    assert not bare(ast.parse(path.read_text(encoding="utf-8")).body)


def _overload(node: ast.AST) -> bool:
    """Whether a function only restates a signature: an @overload or a property's setter."""
    decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any(d.endswith(("overload", ".setter")) for d in decorators)


def _protocol(node: ast.ClassDef) -> bool:
    return any("Protocol" in ast.unparse(base) for base in node.bases)


def test_the_core_imports_without_the_extras() -> None:
    code = (
        "import sys\n"
        f"for name in {EXTRAS!r}: sys.modules[name] = None\n"
        f"for name in {CORE!r}: __import__('diffuapriel.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, **_TEXT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_and_its_command_line_is_instant() -> None:
    code = "import sys, diffuapriel.cli; diffuapriel.cli.build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, **_TEXT)
    assert done.stdout.strip() == "False", done.stderr


# What is shipped and what is promised


def test_no_asset_is_larger_than_16_mb() -> None:
    for path in (ROOT / "assets").rglob("*"):
        assert not path.is_file() or path.stat().st_size <= MOST_ASSET_BYTES, relative(path)


def test_the_license_covers_the_rank_table() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License")
    assert "assets/gpt2.tiktoken" in text and "Copyright (c) 2019 OpenAI" in text


def readme_commands() -> list[str]:
    """The command lines of the README's code blocks, without comments."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_of_the_readme_exists(line: str) -> None:
    words = shlex.split(line, comments=True)
    while "=" in words[0]:
        words = words[1:]  # NAME=value before a command
    if words[0] == "make":
        assert make("-n", *words[1:]).returncode == 0
    elif words[0] in ("diffuapriel", ".venv/bin/diffuapriel"):
        build_parser().parse_args(words[1:])
    elif words[0] == ".venv/bin/torchrun":
        build_parser().parse_args(words[words.index("diffuapriel") + 1 :])
    elif words[0] in ("python", ".venv/bin/python") and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in ("git", "cd", "pip")


def test_every_file_that_the_readme_names_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text))
    assert [link for link in sorted(links) if not (ROOT / link).exists()] == []


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, **_TEXT)
        assert done.returncode == 0, done.stderr
        assert "[MASK]" not in done.stdout.splitlines()[-1], "the last frame has no holes left"
