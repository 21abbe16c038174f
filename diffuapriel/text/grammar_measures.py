"""Sums over all texts of a grammar: entropy, number of texts, enumeration, proof of the unique reading.

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
from collections.abc import Callable, Iterator
from functools import cache

from diffuapriel.text.grammar import Branch, Grammar, Literal, Node, Registers, Slot


def live_registers(grammar: Grammar) -> list[tuple[int, ...]]:
    """For each node, the registers that choices at or after it depend on."""
    live: dict[int, frozenset[int]] = {-1: frozenset()}
    for node in grammar.nodes:  # made from the end to the start: what follows a node comes before it here
        following = node.nodes if isinstance(node, Branch) else [node.next]
        after = frozenset().union(*(live[-1 if n is None else n.index] for n in following))
        if isinstance(node, Slot):
            after -= {node.bind}
            if node.free:
                after |= set(node.inputs)
            elif node.bind is not None and node.bind in live[-1 if node.next is None else node.next.index]:
                after |= set(node.inputs)  # a computed value that a later choice looks at
        live[node.index] = after
    return [tuple(sorted(live[node.index])) for node in grammar.nodes]


def _recursion(grammar: Grammar, combine: Callable[[list[float], list], float], end) -> float:
    """Fold the walks: `combine(probabilities, results of the continuations)`, `end` after the last node."""
    live = live_registers(grammar)
    known: dict[tuple, float] = {}

    def value(node: Node | None, registers: Registers):
        while isinstance(node, Literal) or (isinstance(node, Slot) and not node.free and node.bind is None):
            node = node.next
        if node is None:
            return end
        pattern: dict[tuple, int] = {}
        key = (
            node.index,
            *(
                registers[i]
                if grammar.kinds[i] in grammar.ordered_kinds
                else pattern.setdefault((grammar.kinds[i], registers[i]), len(pattern))
                for i in live[node.index]
            ),
        )
        if key not in known:
            known[key] = expand(node, registers)
        return known[key]

    def expand(node: Node, registers: Registers):
        if isinstance(node, Branch):
            return combine(node.probabilities, [value(following, registers) for following in node.nodes])
        after = () if node.next is None else live[node.next.index]
        needed = node.bind in after
        if not node.free and not needed:
            return value(node.next, registers)
        values = node.options(registers)[0]
        if needed:
            results = []
            for drawn in values:
                changed = list(registers)
                changed[node.bind] = drawn
                results.append(value(node.next, changed))
        else:
            results = [value(node.next, registers)] * len(values)
        return combine([1 / len(values)] * len(values), results)

    return value(grammar.start, [None] * len(grammar.names))


def entropy(grammar: Grammar) -> float:
    """Entropy of one text in nats, exact. Supposes that readings are unique (`find_ambiguity`)."""
    return _recursion(grammar, lambda ps, hs: sum(p * (h - math.log(p)) for p, h in zip(ps, hs)), 0.0)


def count(grammar: Grammar) -> int:
    """Number of distinct texts. Supposes that readings are unique (`find_ambiguity`)."""
    return _recursion(grammar, lambda _, counts: sum(counts), 1)  # type: ignore[return-value]


def enumerate_texts(grammar: Grammar) -> Iterator[tuple[str, float]]:
    """Every text with its log-probability: for small grammars."""
    stack: list[tuple[Node | None, Registers, str, float]] = [
        (grammar.start, [None] * len(grammar.names), "", 0.0)
    ]
    while stack:
        node, registers, text, log_p = stack.pop()
        if node is None:
            yield text, log_p
        elif isinstance(node, Literal):
            stack.append((node.next, registers, text + node.text, log_p))
        elif isinstance(node, Branch):
            for p, following in zip(node.probabilities, node.nodes):
                stack.append((following, registers, text, log_p + math.log(p)))
        else:
            values, surfaces = node.options(registers)
            for drawn, surface in zip(values, surfaces):
                changed = list(registers)
                if node.bind is not None:
                    changed[node.bind] = drawn
                stack.append((node.next, changed, text + surface, log_p - math.log(len(values))))


def length_bounds(grammar: Grammar, measure: Callable[[str], int]) -> tuple[int, int]:
    """Bounds (lowest, highest) on the summed `measure` of a text's pieces, over all texts."""

    @cache
    def bounds(index: int) -> tuple[int, int]:
        if index < 0:
            return 0, 0
        node = grammar.nodes[index]
        if isinstance(node, Branch):
            each = [bounds(-1 if n is None else n.index) for n in node.nodes]
            return min(low for low, _ in each), max(high for _, high in each)
        forms = [node.pieces] if isinstance(node, Literal) else node.readings
        sizes = [sum(measure(piece) for piece in form) for form in forms]
        low, high = bounds(-1 if node.next is None else node.next.index)
        return low + min(sizes), high + max(sizes)

    return bounds(-1 if grammar.start is None else grammar.start.index)


def find_ambiguity(grammar: Grammar) -> str | None:
    """A beginning of text that can be read in two ways and still end in one, or None: the proof that
    every text has at most one permissive reading, hence at most one derivation.

    Forgetting the registers, the grammar is a finite automaton over pieces. Two different readings of one
    text are a walk through pairs of its positions: start together, part, and meet again. The search over
    all pairs is exhaustive; that the strict language is a part of the permissive one does the rest.
    A position is (node, number of the reading, pieces of it already read).
    """

    def forms_of(index: int) -> list[tuple[str, ...]]:
        node = grammar.nodes[index]
        return [node.pieces] if isinstance(node, Literal) else node.readings

    @cache
    def entries(index: int) -> tuple[tuple[int, int, int], ...]:
        """Positions at which reading can go on when the node is entered; (-1, 0, 0) is the end."""
        if index < 0:
            return ((-1, 0, 0),)
        node = grammar.nodes[index]
        if isinstance(node, Branch):
            return tuple(e for n in node.nodes for e in entries(-1 if n is None else n.index))
        return tuple((index, number, 0) for number in range(len(forms_of(index))))

    def piece_at(position: tuple[int, int, int]) -> str:
        index, number, done = position
        return "" if index < 0 else forms_of(index)[number][done]

    @cache
    def advance(position: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
        index, number, done = position
        if index < 0:
            return ()
        if done + 1 < len(forms_of(index)[number]):
            return ((index, number, done + 1),)
        node = grammar.nodes[index]
        return entries(-1 if node.next is None else node.next.index)

    def parted(one, other, identical: bool) -> Iterator[tuple]:
        """Pairs from two tuples of positions; from one tuple twice, the pairs that differ."""
        spelled: dict[str, list[int]] = {}
        for j, position in enumerate(other):
            spelled.setdefault(piece_at(position), []).append(j)
        for i, position in enumerate(one):
            for j in spelled.get(piece_at(position), ()):
                if not identical or i < j:
                    yield position, other[j]

    origin: dict[tuple, tuple | None] = {}  # (one, other, parted) -> where it came from
    start = entries(-1 if grammar.start is None else grammar.start.index)
    agenda: list[tuple] = []

    def meet(one, other, apart: bool, source: tuple | None) -> None:
        state = (one, other, apart) if not apart or one <= other else (other, one, apart)
        if state not in origin:
            origin[state] = source
            agenda.append(state)

    def open_pairs(ones, others, apart: bool, source: tuple | None) -> None:
        if not apart:
            for position in ones:
                meet(position, position, False, source)
        for one, other in parted(ones, others, identical=not apart):
            meet(one, other, True, source)

    open_pairs(start, start, False, None)
    while agenda:
        state = agenda.pop()
        one, other, apart = state
        if apart and one == other:
            spelled, step = [], origin[state]
            while step is not None:
                spelled.append(piece_at(step[0]))
                step = origin[step]
            return "".join(spelled[::-1])
        open_pairs(advance(one), advance(other), apart, state)
    return None
