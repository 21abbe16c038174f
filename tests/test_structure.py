"""The house rules of CONTRIBUTING.md, checked on every file of the package and the app."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import diffuapriel

ROOT = Path(diffuapriel.__file__).resolve().parent.parent
FOLDERS = ("diffuapriel", "app")
COPIES = ".ipynb_checkpoints"  # JupyterLab makes one beside each file that is opened in it
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if COPIES not in file.parts)
CODE = sorted([*FILES, *(ROOT / "tools").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
MOST_LINES = 45_800  # of Python in the package and the app together
MOST_FILES = 14  # in one folder
MOST_OF_ONE_PREFIX = 2  # files of one folder whose names begin with the same word

# Imports run downwards only. A package may import from its own row and from the rows above it in this table.
LAYERS = (
    ("assets", "charts", "config", "device", "options", "storage", "hub", "ops", "diffusion"),
    ("tokenizer", "model"),
    ("tales", "sampling"),
    ("data", "trace", "model_card", "checkpoint"),
    ("pretrained", "pipelines", "interpret", "evaluation", "page"),
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
    "sampling.sampler",
    "sampling.generate",
    "trace.trace",
    "checkpoint",
    "pipelines",
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
    "onnx",
    "onnxscript",
    "onnxruntime",
)


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_name(file: Path) -> str:
    return relative(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(file): file for file in FILES}


def package_of(module: str) -> str:
    """'diffuapriel.ops.ssd' -> 'ops', 'app.main' -> 'app'; '' for the package itself."""
    first, _, rest = module.partition(".")
    return "app" if first == "app" else rest.partition(".")[0]


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of this project that a module imports: anywhere in it, lazily or for type checking alone included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports are not used here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                whole = diffuapriel._HOMES.get(alias.name, whole) if node.module == "diffuapriel" else whole
                found.add(whole if whole in MODULES else node.module or "")
    return frozenset(found & set(MODULES)) - {module}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downwards_only(module: str) -> None:
    mine = package_of(module)
    if not mine:
        return  # the package itself names its parts as strings and loads them on first use
    assert mine in LEVEL, f"{mine} has no place in LAYERS"
    others = {name: package_of(name) for name in imports(module)}
    assert [name for name, package in others.items() if package and LEVEL[package] > LEVEL[mine]] == []


def test_there_is_no_circle_between_files() -> None:
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in finished:
            for other in sorted(imports(module)):
                visit(other, (*trail, module))
            finished.add(module)

    for module in sorted(MODULES):
        visit(module, ())
    assert finished == set(MODULES)


def test_there_is_no_circle_between_packages() -> None:
    edges: dict[str, set[str]] = {}
    for module in MODULES:
        mine = package_of(module)
        edges.setdefault(mine, set()).update(map(package_of, imports(module)))
    ordered: list[str] = []
    while len(ordered) < len(edges):
        free = sorted(p for p in edges if p not in ordered and edges[p] - {p, ""} <= set(ordered))
        assert free, f"a circle among {sorted(set(edges) - set(ordered))}"
        ordered += free


def test_the_sampler_does_not_know_the_model() -> None:
    for module in MODULES:
        if package_of(module) == "sampling":
            assert "model" not in {package_of(name) for name in imports(module)}, module


def test_no_package_reads_another_s_files_by_path() -> None:
    """A file of a package is named by `resources.files` or `Path(__file__)` in that package only."""
    for module, file in MODULES.items():
        text = file.read_text(encoding="utf-8")
        for named in re.findall(r"resources\.files\(\"([\w.]+)\"\)", text):
            assert package_of(named) == package_of(module) != "", f"{module} reads files of {named}"
        climbs = re.findall(r"Path\(__file__\)[\w.()\[\]]*\.parents?\b(?:\.parent|\[)", text)
        assert not climbs or module in ("app.main", "diffuapriel.assets"), f"{module} leaves its own folder"


def test_no_folder_is_crowded() -> None:
    counts = Counter(file.parent for file in CODE)
    assert {relative(folder): n for folder, n in counts.items() if n > MOST_FILES} == {}


def test_no_prefix_stands_in_for_a_folder() -> None:
    for folder in {file.parent for file in FILES}:
        prefixes = Counter(file.stem.partition("_")[0] for file in folder.glob("[a-z]*_*.py"))
        assert [p for p, n in prefixes.items() if n > MOST_OF_ONE_PREFIX] == [], relative(folder)


def test_no_class_name_is_used_twice() -> None:
    homes: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_the_package_and_the_app_stay_within_their_lines() -> None:
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES) < MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_module_says_what_it_is_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("module", ["diffuapriel", *sorted(set(diffuapriel._HOMES.values()))])
def test_the_public_interface_has_docstrings(module: str) -> None:
    """Every public class and function of a module that `diffuapriel` exports from."""
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name}"


def test_the_core_imports_without_the_extras() -> None:
    code = (
        "import sys\n"
        f"for name in {EXTRAS!r}: sys.modules[name] = None\n"
        f"for name in {CORE!r}: __import__('diffuapriel.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_and_its_command_line_is_instant() -> None:
    code = "import sys, diffuapriel.cli; diffuapriel.cli.build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
