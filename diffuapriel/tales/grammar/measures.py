"""Sums over all texts of a grammar: entropy, number of texts, bounds on their length, enumeration.

A walk's future depends on its past only through the registers that later choices still look at (the
*live* ones, found by the usual backward data-flow rule). So with s = (node, values of its live registers),
the chain rule of entropy is a recursion over few states,

    H(s) = sum over choices c of p(c | s) * (-log p(c | s) + H(s after c)),

exact, and cheap with each state computed once. Registers that are only said again are not live: a
repeated name costs nothing. Of interchangeable values (names, colors) only the pattern of equality
matters, "the first and the third are the same", so they are renumbered by first occurrence in s. The
number of texts obeys the same recursion with (sum of N) in place of H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
    spellings,
)

T = TypeVar("T")


def live_registers(grammar: Grammar) -> list[tuple[int, ...]]:
    """For each node, the registers that choices at or after it depend on."""
    live: dict[int, frozenset[int]] = {END: frozenset()}
    for node in grammar.nodes:  # made from the end to the start: what follows a node comes before it here
        after = frozenset().union(*(live[index_of(n)] for n in followers(node)))
        if isinstance(node, Slot):
            needed = node.bind in after
            after -= {node.bind}
            if needed or not node.source.certain:
                after |= set(node.inputs)
        live[node.index] = after
    return [tuple(sorted(live[node.index])) for node in grammar.nodes]


class _Fold(Generic[T]):
    """The recursion above: `combine(probabilities, results after each choice)`, and `end` at the end."""

    def __init__(
        self, grammar: Grammar, combine: Callable[[Sequence[float], Sequence[T]], T], end: T
    ) -> None:
        self.grammar, self.combine, self.end = grammar, combine, end
        self.live = live_registers(grammar)
        self.known: dict[tuple[Any, ...], T] = {}

    def whole(self) -> T:
        """The result of the whole grammar."""
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
    """Entropy of one text in nats, exact. Supposes that readings are unique (see grammar_ambiguity.py)."""

    def chain(chances: Sequence[float], after: Sequence[float]) -> float:
        return sum(p * (h - math.log(p)) for p, h in zip(chances, after, strict=True))

    return _Fold(grammar, chain, 0.0).whole()


def count(grammar: Grammar) -> int:
    """Number of distinct texts. Supposes that readings are unique (see grammar_ambiguity.py)."""
    return _Fold(grammar, lambda _, after: sum(after), 1).whole()


def enumerate_texts(grammar: Grammar) -> Iterator[tuple[str, float]]:
    """Every text with its log-probability: for small grammars."""
    stack: list[tuple[Node | None, Registers, str, float]]
    stack = [(grammar.start, [None] * len(grammar.names), "", 0.0)]
    while stack:
        node, registers, text, log_p = stack.pop()
        if node is None:
            yield text, log_p
        elif isinstance(node, Literal):
            stack.append((node.next, registers, text + node.text, log_p))
        elif isinstance(node, Branch):
            for p, following in zip(node.probabilities, node.nodes, strict=True):
                stack.append((following, registers, text, log_p + math.log(p)))
        else:
            values, surfaces = node.options(registers)
            log_p -= math.log(len(values))
            for value, surface in zip(values, surfaces, strict=True):
                stack.append((node.next, bound(registers, node, value), text + surface, log_p))


def length_bounds(grammar: Grammar, measure: Callable[[str], int]) -> tuple[int, int]:
    """Bounds (lowest, highest) on the summed `measure` of a text's pieces, over all texts."""

    @cache
    def bounds(index: int) -> tuple[int, int]:
        if index < 0:
            return 0, 0
        node = grammar.nodes[index]
        if isinstance(node, Branch):
            each = [bounds(index_of(n)) for n in node.nodes]
            return min(low for low, _ in each), max(high for _, high in each)
        sizes = [sum(measure(piece) for piece in form) for form in spellings(node)]
        low, high = bounds(index_of(node.next))
        return low + min(sizes), high + max(sizes)

    return bounds(index_of(grammar.start))
