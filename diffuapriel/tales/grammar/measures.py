"""Sums over all texts of a grammar: its entropy and the number of its texts.

The future of a walk depends on its past only through the registers that later choices still read (the *live* ones,
found by backward data-flow analysis). With s = (node, values of its live registers), the chain rule of entropy is a
recursion over few states,

    H(s) = sum over choices c of p(c | s) * (-log p(c | s) + H(s after c)),

which is exact, and cheap because each state is computed once. Registers that are only repeated later are not live: a
repeated name costs nothing. For interchangeable values (names, colors) only equality matters ("the first and the third
are the same"), so they are renumbered by first occurrence in s. The number of texts follows the same recursion, with
the sum of N in place of H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from diffuapriel.tales.grammar.grammar import (
    END,
    Branch,
    Grammar,
    Literal,
    Node,
    Registers,
    Slot,
    Value,
    followers,
    index_of,
)

T = TypeVar("T")


def live_registers(grammar: Grammar) -> list[tuple[int, ...]]:
    """For each node, the registers that choices at or after it read."""
    live: dict[int, frozenset[int]] = {END: frozenset()}
    for node in grammar.nodes:  # ordered from the end: every node after its followers
        after = frozenset().union(*(live[index_of(n)] for n in followers(node)))
        if isinstance(node, Slot):
            needed = node.bind in after
            after -= {node.bind}
            if needed or not node.source.certain:
                after |= set(node.inputs)
        live[node.index] = after
    return [tuple(sorted(live[node.index])) for node in grammar.nodes]


class _Fold(Generic[T]):
    """The recursion above, with `combine(probabilities, results after each choice)` and the value `end` at the end."""

    def __init__(self, grammar: Grammar, combine: Callable[[Sequence[float], Sequence[T]], T], end: T) -> None:
        self.grammar, self.combine, self.end = grammar, combine, end
        self.live = live_registers(grammar)
        self.known: dict[tuple[Any, ...], T] = {}

    def whole(self) -> T:
        return self._after(self.grammar.start, [None] * len(self.grammar.names))

    def _after(self, node: Node | None, registers: Registers) -> T:
        while isinstance(node, Literal):
            node = node.next
        if node is None:
            return self.end
        state = self._state(node, registers)
        if state not in self.known:
            self.known[state] = self._expand(node, registers)
        return self.known[state]

    def _state(self, node: Node, registers: Registers) -> tuple[Any, ...]:
        seen: dict[tuple[str, Value], int] = {}
        state: list[Any] = [node.index]
        for i in self.live[node.index]:
            kind, value = self.grammar.kinds[i], registers[i]
            ordered = kind in self.grammar.ordered_kinds
            state.append(value if ordered else seen.setdefault((kind, value), len(seen)))
        return tuple(state)

    def _expand(self, node: Branch | Slot, registers: Registers) -> T:
        if isinstance(node, Branch):
            return self.combine(node.probabilities, [self._after(n, registers) for n in node.nodes])
        needed = node.next is not None and node.bind in self.live[node.next.index]
        if node.source.certain and not needed:
            return self._after(node.next, registers)
        values = node.options(registers)[0]
        chances = [1 / len(values)] * len(values)
        if not needed:
            return self.combine(chances, [self._after(node.next, registers)] * len(values))
        return self.combine(chances, [self._after(node.next, bound(registers, node, v)) for v in values])


def bound(registers: Registers, slot: Slot, value: Value) -> Registers:
    """A copy of the registers after a slot has taken a value."""
    changed = list(registers)
    if slot.bind is not None:
        changed[slot.bind] = value
    return changed


def entropy(grammar: Grammar) -> float:
    """Exact entropy of one text in nats, if derivations are unique (proved by tools/grammar_ambiguity.py)."""

    def chain(chances: Sequence[float], after: Sequence[float]) -> float:
        return sum(p * (h - math.log(p)) for p, h in zip(chances, after, strict=True))

    return _Fold(grammar, chain, 0.0).whole()


def count(grammar: Grammar) -> int:
    """Number of distinct texts, if derivations are unique (proved by tools/grammar_ambiguity.py)."""
    return _Fold(grammar, lambda _, after: sum(after), 1).whole()
