"""The grammar of the tales as JSON values, for the checker of the page (tales.js)."""

from __future__ import annotations

from typing import Any

from diffuapriel.tales.grammar.grammar import Branch, Grammar, Literal, Node, index_of
from diffuapriel.tales.grammar.parser import REASONS


def grammar_values(grammar: Grammar) -> dict[str, Any]:
    """Nodes by their index, the words of every kind, the kind of every register, and the messages."""
    kinds = {
        name: {
            "forms": {form: [list(pair) for pair in words.items()] for form, words in kind.forms.items()},
            "stray": dict(kind.stray),
        }
        for name, kind in grammar.lexicon.kinds.items()
    }
    return {
        "start": index_of(grammar.start),
        "nodes": [_node_values(node) for node in grammar.nodes],
        "kinds": kinds,
        "registers": list(grammar.kinds),
        "reasons": REASONS,
    }


def _node_values(node: Node) -> dict[str, Any]:
    if isinstance(node, Branch):
        return {"type": "branch", "nodes": [index_of(following) for following in node.nodes]}
    if isinstance(node, Literal):
        return {"type": "literal", "text": node.text, "next": index_of(node.next)}
    source = node.source
    given = None if source.given is None else [[value, list(values)] for value, values in source.given.items()]
    return {
        "type": "slot",
        "kind": node.kind,
        "form": node.form,
        "count": node.count,
        "lead": node.lead,
        "bind": node.bind,
        "next": index_of(node.next),
        "source": {
            "operation": source.operation,
            "a": source.a,
            "b": source.b,
            "excluded": list(source.excluded),
            "values": list(source.values),
            "given": given,
        },
    }
