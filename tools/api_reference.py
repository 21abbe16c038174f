"""Make docs/api.md from the docstrings: `python -m tools.api_reference`. With --check, only say whether it is current.

The page holds the names that `diffuapriel` exports and the modules of MODULES: signatures and docstrings as they are in
the code. A docstring's first line is shown as text, the rest as it is laid out.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import diffuapriel

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
MODULES = (
    "diffuapriel.ops.ssd",
    "diffuapriel.diffusion.objective",
    "diffuapriel.sampling.frames",
    "diffuapriel.trace.gif",
    "diffuapriel.trace.steering",
    "diffuapriel.training.config",
    "diffuapriel.training.loop",
    "diffuapriel.evaluation.nelbo",
    "diffuapriel.evaluation.masks",
    "diffuapriel.evaluation.likelihood",
    "diffuapriel.evaluation.surprisal",
    "diffuapriel.evaluation.samples",
    "diffuapriel.evaluation.tales",
    "diffuapriel.evaluation.text.copying",
    "diffuapriel.evaluation.text.quality",
    "diffuapriel.evaluation.text.tasks",
    "diffuapriel.benchmark.entry",
    "diffuapriel.benchmark.generation",
    "diffuapriel.benchmark.sweep",
    "diffuapriel.interpret.influence",
    "diffuapriel.interpret.attention_maps",
    "diffuapriel.interpret.half_life",
)
HEAD = """# Python API

Made from the docstrings by `python -m tools.api_reference`. The names of the first section can be imported from
`diffuapriel` itself.
"""


def public(module: str, only: set[str] | None = None) -> list[str]:
    """The entries of a module: its public classes with their public methods, and its public functions."""
    file = ROOT / (module.replace(".", "/") + ".py")
    entries = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if only is not None and node.name not in only:
            continue
        entries.append(entry(node, f"`{node.name}`", 3))
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part):
                    entries.append(entry(part, f"`{node.name}.{part.name}`", 4))
    return entries


def entry(node: ast.ClassDef | ast.FunctionDef, title: str, level: int) -> str:
    """One heading, signature and docstring."""
    lines = ["#" * level + " " + title, ""]
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        lines += ["```text", f"{node.name}({ast.unparse(node.args)}){returns}", "```", ""]
    first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
    lines.append(inspect.cleandoc(first).replace("|", "\\|"))
    if rest:
        lines += ["", "```text", rest.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## diffuapriel\n"]
    homes: dict[str, set[str]] = {}
    for name, module in diffuapriel._HOMES.items():
        homes.setdefault(module, set()).add(name)
    for module in sorted(homes):
        parts += public(module, homes[module])
    for module in MODULES:
        parts += [f"## {module}\n", *public(module)]
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it. Returns 1 where it is not current."""
    made = page()
    if "--check" not in arguments:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        print("docs/api.md is not current; make it again: python -m tools.api_reference")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
