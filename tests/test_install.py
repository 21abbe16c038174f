"""start.py, the Makefile, the requirements and the wheel: a target installs what it needs, also without a network."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import diffuapriel

ROOT = Path(diffuapriel.__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
BIN = "Scripts" if os.name == "nt" else "bin"
WITHOUT_MAKE = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
MADE_OF = ("start.py", "Makefile", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
GENERATED = ("__pycache__", "*.egg-info", "build")


def load_start(root: Path) -> ModuleType:
    """start.py of a clone, as a module."""
    spec = importlib.util.spec_from_file_location("start", root / "start.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clone(folder: Path) -> Path:
    """What an installation reads, in an empty folder."""
    for name in (*MADE_OF, *(path.name for path in ROOT.glob("requirements*.txt"))):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "diffuapriel", folder / "diffuapriel", ignore=shutil.ignore_patterns(*GENERATED))
    return folder


def outside() -> dict[str, str]:
    """The environment of somebody who knows nothing of this clone."""
    hidden = ("PYTHONPATH", "DIFFUAPRIEL_ASSETS", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """start.py of an empty clone that notes pip's calls in `start.calls` and runs none."""
    module = load_start(clone(tmp_path))
    module.calls = []
    monkeypatch.chdir(tmp_path)  # where start.py goes, and back

    def pip(*arguments: str, **_: str) -> None:
        module.calls.append(list(arguments))

    def run(*command: str, **_: str) -> None:
        module.calls.append(list(command))
        module.PYTHON.parent.mkdir(parents=True)
        module.PYTHON.touch()

    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "works", module.PYTHON.exists)
    monkeypatch.setattr(module, "cpu_wheels", list)
    return module


def packages(lines: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", line)[0] for line in lines}


# Targets


@WITHOUT_MAKE
@pytest.mark.parametrize("target", ["help", *load_start(ROOT).HELP])
def test_every_target_of_start_py_is_one_of_make(target: str) -> None:
    dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert f"start.py {target}" in dry.stdout


@WITHOUT_MAKE
def test_make_hands_arguments_on() -> None:
    # These tests may themselves run below make, which would then name the folder that it enters.
    asked = ["make", "--no-print-directory", "-n", "test", "ARGS=-k canvas", "WORKERS=3"]
    dry = subprocess.run(asked, cwd=ROOT, capture_output=True, env={**os.environ, "MAKEFLAGS": ""})
    assert dry.stdout.decode().split()[-5:] == ["test", "-n", "3", "-k", "canvas"]


def test_the_promised_targets_are_there() -> None:
    promised = {
        "demo",
        "lab",
        "test",
        "bench",
        "gpu",
        "test-gpu",
        "lint",
        "lessons",
        "lessons-html",
        "notebooks",
    }
    assert promised <= set(load_start(ROOT).EXTRAS) <= set(load_start(ROOT).HELP)


def test_a_target_that_is_not_there_is_refused_in_one_line() -> None:
    asked = subprocess.run([sys.executable, ROOT / "start.py", "dmeo"], capture_output=True, text=True)
    assert asked.returncode == 1
    assert asked.stderr.startswith("start.py: there is no target 'dmeo'; choose one of demo, lab, test,")


def test_an_old_python_is_refused_in_one_line() -> None:
    code = f"import sys, runpy; sys.version_info = (3, 9, 2); sys.argv[1:] = ['demo']; \
        runpy.run_path({str(ROOT / 'start.py')!r}, run_name='__main__')"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == ["start.py: this is Python 3.9.2; Python 3.11 or newer is needed"]


def test_an_old_python_can_read_start_py_and_every_python_has_what_it_imports() -> None:
    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= sys.stdlib_module_names


# Requirements


def test_torch_is_pinned_and_the_pin_is_in_the_tested_range() -> None:
    lines = requirement_lines("requirements.txt")
    assert lines[0] == "torch==2.13.0"
    assert "torch>=2.11,<2.16" in PROJECT["dependencies"]
    assert PROJECT["requires-python"] == ">=3.11"


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] not in "#-"]


def test_the_requirement_files_hold_what_the_extras_ask_for() -> None:
    laptop = {line for extra in ("app", "notebooks", "train", "tensorboard", "data") for line in EXTRAS[extra]}
    core = {*PROJECT["dependencies"][1:], "torch==2.13.0", "setuptools>=77"}
    assert set(requirement_lines("requirements.txt")) == laptop | core
    assert set(requirement_lines("requirements-test.txt")) == set(EXTRAS["dev"])
    assert set(EXTRAS["eval"]) <= set(requirement_lines("requirements-eval.txt"))


def test_a_target_installs_only_what_it_needs() -> None:
    start = load_start(ROOT)
    demo, lab, test = (packages(start.needs(target)) for target in ("demo", "lab", "test"))
    heavy = {
        "triton",
        "pyright",
        "playwright",
        "pytest",
        "pyarrow",
        "datasets",
        "tensorboard",
        "lightning-fabric",
    }
    assert not (demo | lab) & heavy and heavy < test
    assert "gradio" in demo - lab and "jupyterlab" in lab - demo
    assert demo | lab < test


def test_torch_is_installed_first_and_alone_and_nothing_compiled(start: ModuleType) -> None:
    start.install("demo")
    made, torch, others, itself = start.calls
    assert made[1:] == ["-m", "venv", "--clear", str(start.VENV)]
    assert torch == ["install", "--no-compile", "torch==2.13.0"]
    assert others[:3] == ["install", "--no-compile", "torch==2.13.0"] and "gradio>=6.31,<7" in others
    assert itself == ["install", "--no-compile", "--no-deps", "--no-build-isolation", "-e", "."]


def test_targets_add_up_and_what_is_installed_is_not_installed_again(start: ModuleType) -> None:
    start.install("demo")
    start.calls.clear()
    start.install("demo")
    start.install("bench")
    assert start.calls == []
    start.install("lab")
    assert {*EXTRAS["app"], *EXTRAS["notebooks"]} <= set(start.calls[1]), "bounds of both hold"
    start.install("test")
    start.calls.clear()
    for target in start.EXTRAS:
        start.install(target)
    assert start.calls == []


def test_a_changed_requirement_or_version_is_installed_again(start: ModuleType) -> None:
    start.install("demo", "lab")
    settings = start.ROOT / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("gradio>=6.31", "gradio>=6.32"), encoding="utf-8")
    start.calls.clear()
    start.install("lab")
    assert start.calls == [], "the lessons do not need it"
    start.install("demo")
    assert "gradio>=6.32,<7" in start.calls[1] and "gradio>=6.31,<7" not in start.calls[1]
    start.calls.clear()
    settings.write_text(text, encoding="utf-8")
    start.install("demo")
    assert "gradio>=6.31,<7" in start.calls[1]
    start.calls.clear()
    settings.write_text(re.sub(r'\nversion = ".*"', '\nversion = "9.9"', text), encoding="utf-8")
    start.install("demo")
    assert start.calls


def test_an_installation_that_failed_is_tried_again(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: str, **_: str) -> None:
        raise subprocess.CalledProcessError(1, list(arguments))

    with monkeypatch.context() as broken:
        broken.setattr(start, "pip", fail)
        with pytest.raises(subprocess.CalledProcessError):
            start.install("demo")
    start.install("demo")
    assert len(start.calls) == 1 + 3  # the environment before, the packages now


@pytest.mark.parametrize(
    ("platform", "gpu", "configured", "there"),
    [
        ("linux", False, "global.cert='x'", True),
        ("linux", False, ":env:.find-links='/wheels'", False),
        ("linux", False, "global.index-url='https://mirror'", False),
        ("linux", True, "", False),
        ("darwin", False, "", False),
        ("win32", False, "", False),
    ],
)
def test_on_linux_without_a_gpu_pip_sees_pytorch_s_own_cpu_wheels(
    monkeypatch: pytest.MonkeyPatch, platform: str, gpu: bool, configured: str, there: bool
) -> None:
    start = load_start(ROOT)
    monkeypatch.setattr(start.sys, "platform", platform)
    monkeypatch.setattr(start, "has_gpu", lambda: gpu)
    answer = subprocess.CompletedProcess([], 0, configured)
    monkeypatch.setattr(start.subprocess, "run", lambda *_, **__: answer)
    assert bool(start.cpu_wheels()) is there


# Optional packages


def run_without(modules: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process that cannot import some modules."""
    blocked = f"import sys\nfor name in {sorted(modules)!r}: sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", blocked + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DIFFUAPRIEL_QUICK": "1"},
    )


TESTS_ONLY = {
    "triton",
    "pyarrow",
    "datasets",
    "lightning_fabric",
    "tensorboard",
    "pytest",
    "hypothesis",
    "lm_eval",
}
WRITE = """
from diffuapriel import Canvas, Sampler, SamplerConfig, get_schedule, load_checkpoint
model, tokenizer = load_checkpoint("tales-diffuapriel")
sampler = Sampler(SamplerConfig(steps=2), get_schedule("log-linear"), tokenizer.mask_id)
assert len(list(sampler.stream(model, Canvas.from_text("Mia found a [MASK:4].", tokenizer)))) >= 2
"""


@pytest.mark.slow
def test_the_app_needs_nothing_but_its_extra() -> None:
    code = """
from app.main import build
from app.server.models import Models
build(Models([], "cpu"))
import app.race.picture, matplotlib.figure, psutil
"""
    lessons = {"jupyterlab", "ipywidgets", "anywidget", "IPython", "nbconvert", "nbformat", "jupytext"}
    done = run_without(TESTS_ONLY | lessons, code + WRITE)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_lessons_import_nothing_but_their_extra() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "notebooks" / "src").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    asked = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test).startswith("hasattr(")]
    optional = {id(part) for node in asked for part in ast.walk(node)}  # the lesson goes on without them
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {ast.unparse(node) for node in imports if id(node) not in optional}
    done = run_without(TESTS_ONLY | {"gradio", "pandas"}, "\n".join(sorted(found)))
    assert done.returncode == 0, done.stderr


UNIX_ONLY = {"fcntl", "resource", "termios", "pty", "tty", "pwd", "grp"}


def test_no_module_needs_unix_to_be_imported() -> None:
    for path in (file for folder in ("diffuapriel", "app") for file in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert not found & UNIX_ONLY, path


# Without a network


def stub(folder: Path, requirement: str) -> None:
    """A wheel that satisfies a requirement and holds nothing."""
    name = re.split(r"[^\w-]", requirement)[0].replace("-", "_")
    bound = re.search(r"[>=]=([\d.]+)", requirement)
    assert bound
    label = f"{name}-{bound.group(1)}"
    with zipfile.ZipFile(folder / f"{label}-py3-none-any.whl", "w") as wheel:
        info = f"{label}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {bound.group(1)}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def repack(folder: Path, name: str) -> None:
    """A wheel of a pure package that is installed here."""
    package = importlib.metadata.distribution(name)
    files = [file for file in package.files or () if ".." not in file.parts and file.suffix != ".pyc"]
    with zipfile.ZipFile(folder / f"{name}-{package.version}-py3-none-any.whl", "w") as wheel:
        for file in files:
            if file.name not in ("INSTALLER", "REQUESTED"):
                wheel.write(file.locate(), file.as_posix())


def test_the_lessons_open_at_the_first_with_the_project_s_code_in_reach_and_no_question_about_news(
    start, tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("DIFFUAPRIEL_QUICK", raising=False)
    monkeypatch.setattr(start, "install", lambda *targets: None)
    monkeypatch.setattr(start, "become", lambda *command: start.calls.append(command))
    start.main(["lab"])
    (command,) = start.calls
    assert command[:4] == ("-m", "jupyter", "lab", "notebooks/00_start_here.ipynb")
    given = dict(option.removeprefix("--").split("=", 1) for option in command[4:])
    assert Path(given["ServerApp.root_dir"]) == tmp_path
    settings = ROOT / Path(given["LabApp.app_settings_dir"]).relative_to(tmp_path)
    overrides = json.loads((settings / "overrides.json").read_text(encoding="utf-8"))
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"  # "none" asks
    listed = {path.name for path in (ROOT / "notebooks").iterdir() if not path.name.startswith(".")}
    listed = {name for name in listed if not any(fnmatch.fnmatch(name, glob) for glob in start.NOT_LESSONS)}
    assert {name for name in listed if not name.endswith(".ipynb")} == {"solutions", "HANDOUT.md"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["demo", "lab"])
def test_with_wheels_at_hand_a_target_is_installed_without_a_network(tmp_path: Path, target: str) -> None:
    folder, wheels = tmp_path / "a clone", tmp_path / "wheels"
    folder.mkdir()
    wheels.mkdir()
    clone(folder)
    for line in load_start(ROOT).needs(target):
        (repack(wheels, "setuptools") if line.startswith("setuptools") else stub(wheels, line))
    environment = outside() | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "start.py", "install", target],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = subprocess.run(
        [folder / ".venv" / BIN / "diffuapriel", "--version"],
        cwd=tmp_path,
        env=outside(),
        capture_output=True,
        text=True,
    )
    assert diffuapriel.__version__ in told.stdout, told.stderr
    again = subprocess.run([sys.executable, "start.py", "install", target], cwd=folder, capture_output=True)
    assert again.returncode == 0 and again.stdout == b""


def test_wheels_are_downloaded_for_the_targets_asked_for(start: ModuleType) -> None:
    start.main(["wheels", "lab"])
    _, torch, others = start.calls
    folder = str(start.ROOT / "wheels")
    assert torch == ["download", "-d", folder, "torch==2.13.0"]
    assert others[:6] == ["download", "-d", folder, "--find-links", folder, "torch==2.13.0"]
    assert set(start.needs("lab")) <= set(others)


def test_a_folder_of_wheels_is_the_only_source(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    (start.ROOT / "wheels").mkdir()
    start.main(["--wheels", "wheels", "install", "lab"])
    assert os.environ["PIP_NO_INDEX"] == "1"
    assert Path(os.environ["PIP_FIND_LINKS"]) == (start.ROOT / "wheels").resolve()
    with pytest.raises(SystemExit, match="nowhere is not a folder"):
        start.main(["--wheels", "nowhere", "install", "lab"])


# The wheel

TABLES = ("gpt2.tiktoken", "tales-words.txt")  # of the tokenizers


@pytest.mark.slow
def test_an_installed_wheel_writes_a_story_away_from_the_clone(tmp_path: Path) -> None:
    source, empty, environment = tmp_path / "source", tmp_path / "empty", tmp_path / "environment"
    source.mkdir()
    empty.mkdir()
    clone(source)
    for name in (*TABLES, "checkpoints/tales-diffuapriel", "checkpoints/stories-diffuapriel"):
        kept, copy = ROOT / "assets" / name, source / "assets" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if kept.is_dir() else shutil.copy)(kept, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    built = subprocess.run(command, capture_output=True, text=True, env=outside() | {"PIP_NO_INDEX": "1"})
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "diffuapriel",
        f"diffuapriel-{PROJECT['version']}.dist-info",
    }
    sources = {"diffuapriel/py.typed", "diffuapriel/ops/hopper/scan.cu"}
    assert sources | {f"diffuapriel/_assets/{table}" for table in TABLES} <= set(names)
    assert {Path(name).suffix for name in names if "/player/" in name} == {".py", ".js", ".css", ".html"}
    assert wheel.stat().st_size < 30_000_000

    venv.create(environment, with_pip=False)
    python = environment / BIN / "python"
    here, there = (
        Path(
            subprocess.check_output(
                [run, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        for run in (sys.executable, python)
    )
    (there / "borrowed.pth").write_text(
        f"{here}\n", encoding="utf-8"
    )  # PyTorch and the like; not this clone's editable install
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    placed = subprocess.run(command, capture_output=True, text=True, env=outside())
    assert placed.returncode == 0, placed.stderr

    told = subprocess.run(
        [
            environment / BIN / "diffuapriel",
            "sample",
            "Mia found a [MASK:6].",
            "--steps",
            "3",
            "--trace",
            "story.html",
        ],
        cwd=empty,
        env=outside(),
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "Mia found a" in told.stdout and "[MASK]" not in told.stdout
    assert "JSON.parse(embedded.textContent)" in (empty / "story.html").read_text(encoding="utf-8")
    where = subprocess.check_output(
        [python, "-c", "import diffuapriel.checkpoint as c; print(c.__file__, c.bundled())"],
        cwd=empty,
        env=outside(),
    )
    assert str(environment).encode() in where and b"['stories-diffuapriel', 'tales-diffuapriel']" in where


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"^## (\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest
    assert PROJECT["version"] == diffuapriel.__version__ == newest.group(1)


@pytest.mark.skipif(os.name == "nt", reason="there is no bash")
def test_the_ci_script_is_executable_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


# For contributors


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in text and "arXiv:2511.15927" in text


def test_every_path_that_the_contributors_guide_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [word for word in re.findall(r"`([\w./-]+)`", text) if "/" in word and "NN_" not in word]
    assert len(paths) > 15
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_the_workflows_call_the_same_targets() -> None:
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    commands = re.findall(r"run: (.*)", text)
    assert commands == ["make lint", "make test", "python start.py test"]
    assert all(system in text for system in ("ubuntu-latest", "macos-latest", "windows-latest"))
    publishing = (ROOT / ".github" / "workflows" / "lessons.yml").read_text(encoding="utf-8")
    assert re.findall(r"run: (.*)", publishing) == ["make lessons-html"]
    assert re.findall(r"path: (.*)", publishing)[-1] == "lessons-html"
