"""Ways into a lesson without an installation: the cell that installs the package, and the badges of a lesson's head.

`build.py` puts the cell behind the head of each lesson, folded away. It does nothing where the package is there. In a
clone it installs the clone; elsewhere, as on Colab, it clones first. Binder installs by binder/postBuild.

Badges and clone need the repository's address: `Repository` among the `[project.urls]` of pyproject.toml. Without one
there are no badges, and the cell says what is missing. This command sets it and builds the lessons:

    python notebooks/build.py --repository https://github.com/OWNER/NAME
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from nbformat import NotebookNode, from_dict, v4

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
HEAD = "[project.urls]\n"
# What the cells import beside the package's dependencies; who runs them has a Jupyter already.
PACKAGES = ("anywidget", "ipywidgets", "matplotlib", "plotly", "psutil", "tqdm")
CODE = """\
# @title Installs the package where it is missing, as on Colab. Elsewhere this cell does nothing.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("diffuapriel") is None:
    folders = (Path.cwd(), *Path.cwd().parents)
    clones = [folder for folder in folders if (folder / "diffuapriel" / "__init__.py").exists()]
    clone, address = clones[0] if clones else Path.cwd() / "project", "{address}"
    if not clones:
        assert address, "Clone the project, and open this notebook in its folder notebooks."
        subprocess.run(["git", "clone", "--depth", "1", address, str(clone)], check=True)
    print("Installing the package, which takes some minutes ...")
    needed = ["-e", str(clone), *"{packages}".split()]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needed], check=True)
    sys.path.insert(0, str(clone))  # this Python was started before
if "google.colab" in sys.modules:
    # Without this, Colab shows no player.
    importlib.import_module("google.colab.output").enable_custom_widget_manager()"""


def repository(project: Path = PROJECT) -> str:
    """The repository's address in pyproject.toml, or "". Raises ValueError as `checked`."""
    urls = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {})
    return checked(urls["Repository"]) if "Repository" in urls else ""


def checked(address: str) -> str:
    """The address without a slash at its end. Raises ValueError if it is not https://github.com/OWNER/NAME."""
    address = address.rstrip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"the repository is {address!r}; it must be https://github.com/OWNER/NAME")
    return address


def write_repository(address: str, project: Path = PROJECT) -> None:
    """Write the repository's address into pyproject.toml. Raises ValueError as `checked`."""
    line = f'Repository = "{checked(address)}"\n'
    text = re.sub(r"^Repository = .*\n", "", project.read_text(encoding="utf-8"), flags=re.M)
    project.write_text(text.replace(HEAD, HEAD + line, 1), encoding="utf-8")


def cell(address: str) -> NotebookNode:
    """The code cell that installs the package, without an id of its own."""
    code = CODE.replace("{address}", address).replace("{packages}", " ".join(PACKAGES))
    return v4.new_code_cell(code, metadata=from_dict({"cellView": "form", "jupyter": {"source_hidden": True}}))


def badges(address: str, path: str) -> str:
    """Markdown that opens a notebook, given by its path in the repository, elsewhere; "" without an address."""
    if not address:
        return ""
    name, file = address.removeprefix("https://github.com/"), f"blob/HEAD/{path}"
    colab = f"https://colab.research.google.com/github/{name}/{file}"
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/{path}"
    return f"Without an installation: [Colab]({colab}) · [Binder]({binder}) · [GitHub]({address}/{file})"
