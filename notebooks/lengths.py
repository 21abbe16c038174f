"""The two lengths of a lesson: whole, and shortened, where every cell runs in seconds and nothing is learned.

A source holds both, as `12 if QUICK else 900`, the shortened one first. Readers get the whole one: `whole` takes the
other branch and leaves no trace of `QUICK`. The tests, and `DIFFUAPRIEL_QUICK=1 make lab`, run the cells as they are.
"""

from __future__ import annotations

import ast
import re
import textwrap


def whole(code: str) -> str:
    """The code of a cell as it is where `QUICK` is False.

    Raises ValueError for a use of `QUICK` other than `A if QUICK else B`, `... and not QUICK` and `if not QUICK:`.
    """
    if "QUICK" not in code:
        return code
    code = re.sub(r"\bQUICK, ", "", code)
    while node := next((n for n in ast.walk(ast.parse(code)) if _kept(n)), None):
        start, end = _place(code, node)
        kept = ast.get_source_segment(code, _kept(node)) or ""
        if isinstance(node, ast.If):
            first, last = _place(code, node.body[0])[0], _place(code, node.body[-1])[1]
            kept = textwrap.dedent(" " * node.body[0].col_offset + code[first:last])
        elif code[start - 1] == "(" and code[end : end + 1] == ")" and not re.search(r"[\w\])]\($", code[:start]):
            start, end = start - 1, end + 1
        code = code[:start] + kept + code[end:]
    if "QUICK" in code:
        raise ValueError(f"QUICK is used in a way that has no whole form: {code}")
    return code


def _kept(node: ast.AST) -> ast.AST | None:
    """What remains of a node that asks for QUICK, or None for any other."""
    if isinstance(node, ast.IfExp) and ast.unparse(node.test) == "QUICK":
        return node.orelse
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) and len(node.values) == 2:
        return node.values[0] if ast.unparse(node.values[1]) == "not QUICK" else None
    return node if isinstance(node, ast.If) and ast.unparse(node.test) == "not QUICK" and not node.orelse else None


def _place(code: str, node: ast.AST) -> tuple[int, int]:
    """Where a node stands in the code, in characters."""
    lines = code.encode().splitlines(keepends=True)

    def at(line: int, column: int) -> int:
        return len(b"".join([*lines[: line - 1], lines[line - 1][:column]]).decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
