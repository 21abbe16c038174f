"""Joins the ES modules of the page to one script, without a tool: an inline script and a worker can import no files.

A module becomes a function that returns its exports; its imports become constants. This understands what these files
use: `import { a, b } from "./file.js";` on one line, and `export` before a declaration.
"""

from __future__ import annotations

import re

from diffuapriel.page import read_source
from diffuapriel.trace.player import read_source as read_player

_IMPORT = re.compile(r'^import \{ (.+) \} from "\./(\w+)\.js";$', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|const|class) (\w+))", re.M)
_DEFAULT = re.compile(r"^export default .*$", re.M)


def script(name: str) -> str:
    """The module `name` and all that it imports, as one classic script.

    Raises RuntimeError for a source that would end the <script> element it is put into.
    """
    joined: dict[str, str] = {}
    _join(name, joined)
    text = '"use strict";\n' + "\n".join(joined.values())
    if "</script" in text.lower() or "<!--" in text:
        raise RuntimeError(f"a source of {name}.js would end its <script> element; write it another way")
    return text


def _join(name: str, joined: dict[str, str]) -> None:
    """Add a module behind those that it imports."""
    source = read_player("player.js") if name == "player" else read_source(f"{name}.js")
    for _, other in _IMPORT.findall(source):
        if other not in joined:
            _join(other, joined)
    exports = ", ".join(_EXPORT.findall(source))
    body = _IMPORT.sub(r"const { \1 } = $\2;", _DEFAULT.sub("", _EXPORT.sub("", source)))
    joined[name] = f"const ${name} = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();"
